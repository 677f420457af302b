// SPDX-License-Identifier: MIT OR Apache-2.0
//! What makes ferroce a card: state machines for its objects, without a lock, an allocation, a clock or
//! I/O.
//!
//! A host has these objects in memory of its own, with a lock around each: the kernel module, and the
//! tests. A method takes `&mut self` and what it has to know, and returns what is to happen; the host
//! does that after it has released the lock. No method calls the host.
//!
//! - [`counter`]: what is counted at a port.
//! - [`numbers`]: which numbers of queue pairs and keys are in use.
//! - [`key`]: what a key is, and the access that one is used for.
//! - [`region`], [`window`]: memory that a key gives access to.
//! - [`attrs`]: what a queue pair takes from whom, and what a Modify QP and errors do to it.
//! - [`effects`]: what follows from that, and in which order.
//! - [`queue`], [`receive`]: work queues, and what becomes of a receive.
//! - [`send`], [`remote`]: the execution of a send queue, if the peer is on this host, or on another.
//! - [`transmit`]: how packets of both halves of a connection are sent.
//! - [`completion_queue`]: completion queues.
//! - [`shared_receive_queue`]: receive queues of several queue pairs.
//! - [`address`], [`datagram`], [`groups`]: where datagrams go, and what comes of them.
//! - [`arrival`]: what packets are for that have come from another host.
//! - [`kick`], [`in_use`]: who executes a queue, and who waits for whom, when several threads come at once.
//! - [`published`]: what is copied without a lock while it may change.
//!
//! The kernel module compiles these same files, mounted at its own crate root beside those of
//! `ferroce-core`, in edition 2021: paths between modules start with `crate::`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod address;
pub mod arrival;
pub mod attrs;
pub mod completion_queue;
pub mod counter;
pub mod datagram;
pub mod effects;
pub mod groups;
pub mod in_use;
pub mod key;
pub mod kick;
pub mod numbers;
pub mod published;
pub mod queue;
pub mod receive;
pub mod region;
pub mod remote;
pub mod send;
pub mod shared_receive_queue;
pub mod transmit;
pub mod window;

use ferroce_core::{local, qp, requester, responder, ring, verbs, wire};
