// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting and polling, without pointers and without the kernel.
//!
//! - [`send`]: the send queue of a queue pair, posted to by lists of work requests.
//! - [`batch`]: the same, by the extended verbs: a work request comes in pieces.
//! - [`receive`]: receive queues.
//! - [`completion`]: completion queues, and what a completion looks like to the program.

mod batch;
pub mod completion;
mod error;
pub mod receive;
pub mod send;
pub mod state;

pub use error::PostError;
