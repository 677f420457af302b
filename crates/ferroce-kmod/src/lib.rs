// SPDX-License-Identifier: MIT OR Apache-2.0
//! Linux kernel modules made legible: what is in one, whether a kernel would
//! load it and why not, and the loading itself.
//!
//! The kernel loads a module in stages (`load_module()` in
//! `kernel/module/main.c`), and this crate goes through the same ones, outside
//! the kernel:
//!
//! 1. *copy and check*: [`mod@file`] reads and decompresses (or [`decompress`], as the
//!    kernel), [`signature`] takes a
//!    signature off, [`elf`] checks the file;
//! 2. *layout*: [`layout`] puts the sections into the kernel's kinds of memory;
//! 3. *symbols*: [`linkage`] says what a module takes and offers;
//! 4. *relocations*: [`arch`] knows what a loader can apply;
//! 5. *init*: [`params`] knows what values a parameter takes.
//!
//! [`info`] gathers what these tell of one file. [`check`] goes through the
//! stages for a [`kernel`], and says where it would stop and why. [`live`] is
//! for the running kernel: loading, unloading, the log. [`exec`] carries the same
//! stages through in user space.

#![deny(unsafe_code)]

pub mod arch;
pub mod check;
pub mod decompress;
pub mod elf;
pub mod error;
pub mod exec;
pub mod file;
pub mod info;
pub mod kernel;
pub mod layout;
pub mod linkage;
pub mod live;
pub mod modinfo;
pub mod params;
pub mod signature;

pub use error::{Error, Malformed, Result};
