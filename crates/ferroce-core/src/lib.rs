// SPDX-License-Identifier: MIT OR Apache-2.0
//! The protocol core of ferroce: no I/O, no clock, no allocation, no dependency.
//!
//! - [`verbs`]: the types and numbers every other part speaks in.
//! - [`local`]: executes a work request straight against a peer on the same host.
//! - [`qp`]: the state machine of a queue pair, and what may be changed when.
//! - [`ring`]: the queues a process and the kernel share.
//! - [`wire`]: the packets of RoCEv2.
//! - [`requester`], [`responder`]: the two ends of a connection over the wire.
//! - [`card`]: what a card on a PCI bus has in its memory.
//! - [`uapi`], [`user`]: what the parts agree on of which the device consists, with the kernel and without.
//!
//! The kernel module compiles these same files, mounted at its own crate root, in edition 2021:
//! paths between modules start with `crate::`, and a folder's own file is its `mod.rs`, which is
//! how a file named by `#[path]` looks for its children.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod card;
pub mod local;
pub mod qp;
pub mod requester;
pub mod responder;
// Atomics over memory that another address space writes: the one place that needs `unsafe`.
#[allow(unsafe_code)]
pub mod ring;
mod rules;
pub mod uapi;
pub mod user;
pub mod verbs;
pub mod wire;

#[cfg(test)]
mod tests {
    use core::hint::black_box;

    // A distribution's kernel compiles these files with overflow checks, in which a panic is the kernel's.
    #[test]
    #[should_panic(expected = "attempt to add with overflow")]
    fn the_core_is_tested_with_overflow_checks() {
        black_box(black_box(u32::MAX) + 1);
    }

    #[test]
    #[should_panic(expected = "a debug assertion")]
    fn the_core_is_tested_with_debug_assertions() {
        debug_assert!(black_box(false), "a debug assertion");
    }
}
