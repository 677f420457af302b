// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lab: a real Linux kernel, with Rust modules in it, up in a second.
//!
//! [`kernel`] fetches, configures and builds a kernel, and [`modules`] the
//! project's modules; both are cached. [`distribution`] gets a kernel that is
//! built. A [`session`] boots an [`image`] of either and runs a command in the
//! guest, whose first process is this same program ([`guest::enter`]). A [`vm`] is
//! another thing: a machine with a disk of its own, which stays.

pub mod backend;
pub mod boot;
pub mod cache;
mod channel;
pub mod distribution;
pub mod driver;
mod error;
mod fetch;
pub mod guest;
pub mod image;
mod job;
pub mod kernel;
pub mod modules;
pub mod pack;
pub mod prerequisites;
mod process;
pub mod progress;
pub mod provider;
mod reports;
pub mod session;
mod terminal;
pub mod vm;

pub use boot::Accelerator;
pub use error::{Error, Result};
pub use fetch::apt::Mirror;
