// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requesters and responders over a network that is simulated, and packets that rdma_rxe made.
//!
//! [`simulator`] has the random runs of connections, [`datagrams`] those of datagrams. One of them is run
//! again, with all that happens, by
//!
//! ```sh
//! FERROCE_SEED=1234 cargo test --release -p ferroce-core --test wire -- simulator --nocapture
//! ```
//!
//! and `FERROCE_LONG=1` has ten times as many.

// Thousands of seeds and no unsafe code: Miri would take hours, and find nothing.
#![cfg(not(miri))]

mod agenda;
mod captures;
mod datagrams;
mod directed;
mod front;
mod layout;
mod memory;
mod network;
mod plan;
mod simulator;
mod world;
