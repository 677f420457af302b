// SPDX-License-Identifier: MIT OR Apache-2.0
//! The responder of a connection (IBTA 9.7, 9.8): carries out the requests of its peer, and answers.
//!
//! As the [requester](crate::requester), it never waits; the front end calls it under the same lock. After
//! a batch of [`Responder::on_packet`], and when a packet was sent, it calls
//! [`Responder::poll_transmit`] until there is none any more: acknowledgements are gathered until then,
//! and a [`Region`] is kept until then and not beyond.
//!
//! What the front end lends is a [`local::Responder`](crate::local::Responder), as for delivery on one
//! host. It fails the QP by [`fail`](crate::local::Responder::fail); what is to be sent before and about
//! that still is, so `poll_transmit` is called in ERR too.

mod resource;

use core::ops::DerefMut;

use crate::local::{self, Region};
use crate::qp::QpAttr;
use crate::requester::Transmit;
use crate::verbs::QpType;
use crate::wire::{Nak, Packet};

pub use resource::Resource;

/// What came of a request packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// It was carried out.
    Taken,
    /// It has been carried out before, and is answered again.
    Duplicate,
    /// Packets before it are missing.
    OutOfSequence,
    /// There is no receive for it, or memory on demand is not there yet: the peer tries again later.
    NotReady,
    /// It was refused, and the QP failed. Without a NAK the peer has not been told (UC).
    Refused(Option<Nak>),
    /// It was dropped without a word: an old one that cannot be answered again, or one of a message that
    /// a UC responder gives up.
    Dropped,
}

/// The responder of a QP. `S` is one [`Resource`] for each RDMA READ and atomic that may be under way.
pub struct Responder<S, R> {
    resources: S,
    region: Option<R>,
}

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Of a QP that becomes ready to receive. `resources` are at least `max_dest_rd_atomic`; their
    /// contents mean nothing.
    pub fn new(_qp_type: QpType, _attr: &QpAttr, resources: S) -> Self {
        Self {
            resources,
            region: None,
        }
    }

    /// Takes a request packet of the peer's.
    pub fn on_packet<P: local::Responder<Region = R>>(
        &mut self,
        _packet: &Packet<'_>,
        _peer: &P,
    ) -> Request {
        let _ = (&self.resources.len(), &self.region);
        todo!()
    }

    /// Fills `buffer` with the next response packet, from the BTH to the padding.
    pub fn poll_transmit<P: local::Responder<Region = R>>(
        &mut self,
        _peer: &P,
        _buffer: &mut [u8],
    ) -> Transmit {
        todo!()
    }

    /// Completes the receive of a message that has begun to arrive with
    /// [`WrFlushErr`](crate::verbs::WcStatus::WrFlushErr), if there is one: on the way to ERR or RESET,
    /// before the other receives are flushed.
    pub fn flush<P: local::Responder<Region = R>>(&mut self, _peer: &P) {
        todo!()
    }
}
