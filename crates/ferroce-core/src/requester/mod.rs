// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requester of a connection (IBTA 9.7, 9.8): makes packets of send work requests, and completes
//! those by the responses.
//!
//! No call here waits or allocates. The front end has one requester a QP under a lock; every call may be
//! made under a spinlock, with bottom halves off. After each of them, and whenever there is something
//! to send, it calls [`Requester::poll_transmit`] until that returns no packet any more, and then arms
//! its timer for [`Requester::next_deadline`].
//!
//! A batch ends when `poll_transmit` has no packet any more: a [`Region`] is kept within a batch, so that
//! a key is looked up once for many packets, and none is kept beyond.

mod slot;

use core::ops::DerefMut;

use crate::local::{LocalMemory, Region};
use crate::qp::QpAttr;
use crate::ring::Origin;
use crate::verbs::{QpType, SendFlags, SendOpcode, WcStatus};
use crate::wire::Packet;

pub use slot::Slot;

/// Whose requests are sent: a QP's own memory and queues.
pub trait Host: LocalMemory {
    /// The copy of the entry in a slot: [`SendRequest::decode`](crate::ring::SendRequest::decode) reads
    /// it. It does not change between [`Requester::posted`] and the slot's completion.
    fn entry(&self, slot: u32) -> &[u8];

    /// A request is done: in the order they were posted in, and the slot is free. Without success the QP
    /// goes to [`after_send_error`](crate::qp::state::after_send_error), and no other request completes
    /// before [`Requester::flush`].
    fn complete(&self, completed: &Completed);
}

/// How a send work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Its slot.
    pub slot: u32,
    /// The caller's number for it.
    pub wr_id: u64,
    /// What it was.
    pub opcode: SendOpcode,
    /// Its properties: whether a completion is to be written if it succeeded.
    pub flags: SendFlags,
    /// How it ended.
    pub status: WcStatus,
    /// Bytes of the message.
    pub length: u32,
}

/// What there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A packet: the first bytes of the buffer. There may be more.
    Packet(usize),
    /// A packet of so many bytes, for which the buffer is too short. Nothing has changed.
    NeedsRoom(usize),
    /// Nothing, before something else happens.
    Nothing,
    /// The request in this slot concerns this host alone, and it is its turn: nothing is sent before
    /// [`Requester::executed`].
    Local(u32),
    /// Memory on demand is not there ([`Fault::Later`](crate::local::Fault::Later)): to be called again
    /// when it may be.
    Later,
}

/// What came of a response packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It told something new.
    Taken,
    /// It is of no use: a duplicate, or not to any request (a ghost; IBTA 9.7.1).
    Ignored,
    /// The peer misses packets, which are sent again.
    SequenceError,
    /// The peer has no receive: some packets are sent again, later.
    NotReady,
    /// Responses were lost, which are asked for again.
    ImpliedNak,
    /// It ended a request with an error, or is going to when those before are done.
    Failed(WcStatus),
}

/// The requester of a QP. `S` is one [`Slot`] for each entry of the send queue.
pub struct Requester<S, R> {
    slots: S,
    region: Option<R>,
}

impl<S: DerefMut<Target = [Slot]>, R: Region> Requester<S, R> {
    /// Of a QP that becomes ready to send. `slots` are as many as the send queue has entries, a power of
    /// two; their contents mean nothing.
    pub fn new(_qp_type: QpType, _origin: Origin, _attr: &QpAttr, slots: S) -> Self {
        Self {
            slots,
            region: None,
        }
    }

    /// Takes over what can be changed of a QP in SQD or RTS: timeouts, retries, the path MTU (if nothing
    /// is under way).
    pub fn configure(&mut self, _attr: &QpAttr) {
        todo!()
    }

    /// Notes that the next slot has an entry. They go round: 0, 1, …, 0; the front end keeps from filling
    /// one that is not free.
    pub fn posted(&mut self) {
        let _ = (&self.slots.len(), &self.region);
        todo!()
    }

    /// Fills `buffer` with the next packet, from the BTH to the padding. `now` is in nanoseconds, and
    /// never runs backwards.
    pub fn poll_transmit<H: Host<Region = R>>(
        &mut self,
        _now: u64,
        _host: &H,
        _buffer: &mut [u8],
    ) -> Transmit {
        todo!()
    }

    /// Takes a response packet of the peer's.
    pub fn on_packet<H: Host<Region = R>>(
        &mut self,
        _now: u64,
        _packet: &Packet<'_>,
        _host: &H,
    ) -> Response {
        todo!()
    }

    /// When [`on_deadline`](Self::on_deadline) is to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<u64> {
        todo!()
    }

    /// Does what is due, which may be nothing. Returns the status of the request that failed for want of
    /// answers, if one did.
    pub fn on_deadline<H: Host<Region = R>>(&mut self, _now: u64, _host: &H) -> Option<WcStatus> {
        todo!()
    }

    /// Notes that the front end has executed a request of its own host's: [`Transmit::Local`].
    pub fn executed<H: Host<Region = R>>(
        &mut self,
        _slot: u32,
        _result: Result<(), WcStatus>,
        _host: &H,
    ) {
        todo!()
    }

    /// Has no other request begun (in SQD), or again has them begun.
    pub fn hold(&mut self, _hold: bool) {
        todo!()
    }

    /// Whether all requests that were begun are complete.
    pub fn is_drained(&self) -> bool {
        todo!()
    }

    /// Whether no request is posted that is not complete.
    pub fn is_empty(&self) -> bool {
        todo!()
    }

    /// Whether a request has failed: nothing is sent any more.
    pub fn has_failed(&self) -> bool {
        todo!()
    }

    /// Completes all requests with [`WrFlushErr`](WcStatus::WrFlushErr), and those posted later at the
    /// next call (in ERR and SQE).
    pub fn flush<H: Host<Region = R>>(&mut self, _host: &H) {
        todo!()
    }
}
