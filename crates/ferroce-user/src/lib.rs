// SPDX-License-Identifier: MIT OR Apache-2.0
//! ferroce in user space: the card for the processes of one user on one host, with no kernel module.
//!
//! It is the second host of `ferroce-device`, beside the kernel module. Each process has a
//! [`segment`] with its rings and with what peers look at of its objects, and peers map it. Who posts
//! a request executes it: checks the peer's key, copies once, from memory to memory, and completes on both
//! sides.
//!
//! - [`segment`], `lock`, `registry`: what processes share.
//! - [`broker`], [`socket`]: how they find each other, and who notices their end.
//! - `cm`: the connection manager, by which they connect to an address.
//! - `peer`, `users`, `reach`: a process as others have it, who uses it, and the way to its memory.
//! - [`process`], `rings`, `table`, `helper`, [`events`]: this process.
//! - [`keys`], [`cq`], [`srq`], [`qp`], [`ah`]: the objects of the verbs.
//! - [`observe`]: who uses it.
//! - `side`, `send`, `batch`, `datagram`, `groups`, `beside`, `taken`: the execution of requests;
//!   `defer`, `turn`: when, and by which thread.
//!
//! # Trust
//! Peers are processes of one user, who could trace each other anyway. So what a process finds in a peer's
//! segment may be wrong, which it survives, but not secret. A key gives the access that it was made for all
//! the same.

pub mod ah;
mod batch;
mod beside;
pub mod broker;
mod cm;
pub mod cq;
mod datagram;
mod defer;
pub mod device;
pub mod device_memory;
pub mod events;
mod futex;
mod groups;
mod helper;
pub mod keys;
mod lock;
mod mapping;
pub mod observe;
mod peer;
pub mod process;
pub mod qp;
mod reach;
mod registry;
mod rings;
pub mod segment;
mod send;
mod side;
pub mod socket;
pub mod srq;
mod table;
mod taken;
mod turn;
mod users;

use core::ffi::c_int;
use std::io;

/// Why a verb fails, as an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub c_int);

/// The result of a verb.
pub type Result<T> = core::result::Result<T, Errno>;

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<ferroce_core::verbs::Errno> for Errno {
    fn from(errno: ferroce_core::verbs::Errno) -> Self {
        Self(errno.number())
    }
}

/// The clock of the device, in nanoseconds.
pub(crate) fn clock() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: The structure is there to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let nanos = time.tv_sec.wrapping_mul(1_000_000_000);
    nanos.wrapping_add(time.tv_nsec).cast_unsigned()
}
