// SPDX-License-Identifier: MIT OR Apache-2.0
//! What libc answers for RDMA devices that the kernel does not have.
//!
//! `ferroce run` has the dynamic linker load this library before all others (`LD_PRELOAD`), so that the
//! functions here are called in place of libc's of the same names. They answer for three things and pass
//! everything else on to libc, unchanged:
//!
//! - Paths below `/dev/infiniband` and `/sys/class/infiniband*` are looked up in a folder instead, which
//!   `ferroce run` has made and whose path is in the environment variable `FERROCE_DEVICES`
//!   ([`tree`], [`path`]).
//! - A device file in that folder is a regular file. It is shown as a character device, and write commands
//!   on it are carried out ([`device`], [`command`]). Who opens the connection manager's gets a socket to
//!   the broker ([`rdma_cm`]).
//! - `socket(AF_NETLINK, .., NETLINK_RDMA)` is refused: libibverbs then looks for devices in sysfs.
//!
//! # Any program
//! The library is loaded into whatever is started below `ferroce run`, so it keeps out of the way: it does
//! not allocate, does not print, starts no thread (and a process only if there is no broker, where a program
//! opens the connection manager's file), takes no lock, and has no state that a fork could find
//! half changed. What a call that is not about RDMA costs more is the comparison of a path's first bytes,
//! or one load. libc's own functions are found once, by the constructor or by the first call if that comes
//! earlier ([`real`]).
//!
//! # Unwinding
//! `pthread_cancel` unwinds the stack from within libc's `open`, `write` and others through these
//! functions. So they are `extern "C-unwind"`, and their frames have no destructors. Nothing in here panics.
//!
//! # Safety
//! The functions have the contracts of libc's of the same names; where a safety comment refers to the
//! caller, that is meant.

// All of it is private, and its documentation is for those who read the source.
#![allow(rustdoc::private_intra_doc_links)]
// The tests' program must not be its own shim: there the functions have no exported names.
#![cfg_attr(test, allow(dead_code))]
#![cfg(all(target_os = "linux", target_pointer_width = "64"))]

mod broker;
mod channel;
mod command;
mod device;
mod duplicate;
mod path;
mod rdma_cm;
mod real;
mod stat;
mod tree;

use core::ffi::c_int;

/// Called by the dynamic linker when the library has been loaded.
#[cfg_attr(not(test), used, unsafe(link_section = ".init_array"))]
pub static INIT: extern "C" fn() = init;

extern "C" fn init() {
    real::resolve();
    tree::root();
}

fn errno() -> c_int {
    // SAFETY: The function returns the address of this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn set_errno(errno: c_int) {
    // SAFETY: As above.
    unsafe { *libc::__errno_location() = errno };
}

/// Sets errno, and returns what a function returns with it.
fn fail(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}
