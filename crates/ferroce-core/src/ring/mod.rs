// SPDX-License-Identifier: MIT OR Apache-2.0
//! The queues a process and the kernel share: work queues one way, completion queues the other.
//!
//! # Two sides that do not trust each other
//! | ring | written by | read by |
//! |---|---|---|
//! | send, receive, shared receive queue | [`Poster`]: the provider, or kernel verbs | [`Executor`]: the driver |
//! | completion queue | [`Producer`]: the driver | [`Poller`]: the provider, or kernel verbs |
//!
//! The other side may write anything, at any time, anywhere in the ring. So every access is an
//! atomic one; an index is masked before it addresses anything; a work request is copied out once,
//! and only the copy is looked at ([`SendRequest::decode`], [`RecvRequest::decode`]). What a hostile
//! poster can reach by this is a typed error on its own queue.
//!
//! # Indexes
//! They run freely through all of `u32`; entry counts are powers of two, so the low bits are the
//! slot and a difference of two indexes is a count. A ring starts all zero.
//!
//! # Who waits for whom
//! Each of these is a pair of accesses that names the other at its place in the code:
//!
//! - **A**, `producer`: the poster's release store publishes entries to the executor's acquire load.
//! - **B**, `consumer` of a work queue: the executor's release store hands slots back to the
//!   poster's acquire load.
//! - **C**, the doorbell: the poster stores `producer`, fences, loads `doorbell`; the executor
//!   stores `doorbell`, fences, loads `producer`. Of two such sequences at least one sees the
//!   other's store, so either the poster rings or the executor finds the work.
//! - **D**, `sequence` of a completion: the producer's release store publishes the entry to the
//!   poller's acquire load.
//! - **E**, `consumer` of a completion queue: as B, from the poller to the producer.
//! - **F**, arming: the producer stores `sequence`, fences, loads `arm`; the poller stores `arm`,
//!   fences, loads `sequence`. As C: either the event is raised or the poller finds the completion.

mod cq;
mod cqe;
mod executor;
mod geometry;
mod layout;
mod memory;
mod poster;
mod recv;
mod send;
mod wqe_error;

pub use cq::{CqError, CqPositions, Disown, Notify, Poller, Producer};
pub use cqe::Cqe;
pub use executor::{Executor, Idle, Returner, RingError, WqPositions, EXECUTOR_WORDS};
pub use geometry::{
    CqGeometry, GeometryError, QpCaps, QpLayout, Queue, RecvQueue, SendQueue, WqDescriptor,
    WqGeometry,
};
pub use layout::{
    Sge, ABI_VERSION, CQE_LEN, HEADER_LEN, MAX_RECV_STRIDE, MAX_SEND_STRIDE, RECV_HEADER_LEN,
    RING_ALIGN, SEND_HEADER_LEN, SGE_LEN,
};
pub use poster::{Doorbell, Payload, PostError, Poster};
pub use recv::RecvRequest;
pub use send::{BindMw, Data, Destination, Operation, Origin, RegMr, Remote, SendRequest, SgeList};
pub use wqe_error::WqeError;

#[cfg(test)]
mod tests;
