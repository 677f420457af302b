// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs, called as libibverbs calls them, on a device that is a file in memory.

mod device;
mod extended;
pub mod fake;
mod objects;
mod poll;
mod post;
mod refused;
pub mod rig;
