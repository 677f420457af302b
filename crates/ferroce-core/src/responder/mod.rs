// SPDX-License-Identifier: MIT OR Apache-2.0
//! The responder of a connection (IBTA 9.7, 9.8): carries out the requests of its peer, and answers.
//!
//! As the [requester](crate::requester), it never waits; the front end calls it under the same lock. After
//! a batch of [`Responder::on_packet`] it calls [`Responder::poll_transmit`] until there is no packet any
//! more: acknowledgements are gathered until then, and a [`Region`] is kept until then, or until
//! [`Responder::end_batch`], and not beyond.
//!
//! What the front end lends is a [`local::Responder`], as for delivery on one
//! host. The QP is failed by [`fail`](crate::local::Responder::fail); what is to be sent before that
//! and about it still is, so `poll_transmit` is called in ERR too.

mod answers;
mod duplicates;
mod message;
mod refusal;
mod requests;
mod resource;
mod unreliable;

use core::ops::DerefMut;

use crate::local::{self, Cursor, Region};
use crate::qp::QpAttr;
use crate::verbs::QpType;
use crate::wire::{Nak, Packet, Psn, Service, Syndrome};

use message::{HeldReceive, Progress};
pub use resource::Resource;
use resource::Resources;

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
    /// It was refused, and the QP failed. Without a NAK the peer is not told (UC).
    Refused(Option<Nak>),
    /// It was dropped without a word: an old one that cannot be answered again, or one of a message that
    /// a UC responder gives up.
    Dropped,
}

/// The responder of a QP. `S` is one [`Resource`] for each RDMA READ and atomic that may be under way.
pub struct Responder<S, R> {
    qp_type: QpType,
    dest_qp: u32,
    /// Bytes of payload of a packet.
    mtu: u32,
    resources: Resources<S>,
    /// The PSN that is expected.
    epsn: Psn,
    /// The PSN after the last request that is acknowledged, and not answered by a response.
    acknowledged: Psn,
    /// How many messages have been completed, 24 bits.
    msn: u32,
    /// The peer has been told, by a NAK, to begin again with what is expected: until that comes,
    /// nothing else is said (IBTA 9.7.5.2.4).
    nak_sent: bool,
    /// The message that has begun to arrive.
    message: Option<Progress>,
    /// The receive that it goes to; of UC it may wait for the next one.
    receive: HeldReceive,
    /// What is to be said once the responses before are sent.
    answer: Option<(Psn, Syndrome)>,
    /// The peer has asked for a READ again, and got nothing since.
    read_repeated: bool,
    failed: bool,
    /// In the receive.
    scatter: Cursor<R>,
    /// The rest of the range that is written to, and where in the message it begins.
    writing: Option<(u32, R)>,
    /// The rest of the range that is read, and where in the READ it begins.
    reading: Option<(u32, R)>,
}

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Of a QP that becomes ready to receive. `resources` are at least `max_dest_rd_atomic`; their
    /// contents mean nothing.
    pub fn new(qp_type: QpType, attr: &QpAttr, resources: S) -> Self {
        Self {
            qp_type,
            dest_qp: attr.dest_qp_num,
            mtu: attr.path_mtu.bytes(),
            resources: Resources::new(resources, attr.max_dest_rd_atomic),
            epsn: Psn::new(attr.rq_psn),
            acknowledged: Psn::new(attr.rq_psn),
            msn: 0,
            nak_sent: false,
            message: None,
            receive: HeldReceive::none(),
            answer: None,
            read_repeated: false,
            failed: false,
            scatter: Cursor::new(),
            writing: None,
            reading: None,
        }
    }

    /// Takes a request packet of the peer's.
    pub fn on_packet<Q: local::Responder<Region = R>>(
        &mut self,
        packet: &Packet<'_>,
        qp: &Q,
    ) -> Request {
        let opcode = packet.bth.opcode;
        let is_own = opcode.service() == Service::of(self.qp_type);
        if self.failed || !is_own || opcode.kind().is_response() {
            return Request::Dropped;
        }
        if self.qp_type != QpType::Rc {
            return self.on_unreliable(packet, qp);
        }
        let psn = packet.bth.psn;
        match psn.since(self.epsn) {
            0 => {}
            1.. => {
                if !self.nak_sent {
                    self.nak_sent = true;
                    let nak = Syndrome::Nak(Nak::PsnSequenceError);
                    self.answer = Some((self.epsn, nak));
                }
                return Request::OutOfSequence;
            }
            _ => return self.on_duplicate(packet, qp),
        }
        self.nak_sent = false;
        qp.established();
        match self.execute(packet, qp) {
            Ok(psns) => {
                self.epsn = self.epsn + psns;
                if opcode.kind().is_answered() {
                    return Request::Taken;
                }
                self.acknowledged = self.epsn;
                let is_nak = !matches!(self.answer, None | Some((_, Syndrome::Ack(_))));
                if packet.bth.ack_req || is_nak {
                    self.acknowledge();
                }
                Request::Taken
            }
            Err(refusal) => self.refuse(psn, refusal, qp),
        }
    }

    /// Has an acknowledgement sent of all that has been carried out by then, up to the last request that
    /// is not answered by a response: only that acknowledges itself (IBTA 9.7.5.1.1), and rdma_rxe
    /// takes an acknowledgement that has its PSN for it.
    fn acknowledge(&mut self) {
        // The PSN is filled in when it is sent.
        self.answer = Some((self.acknowledged, Syndrome::UNLIMITED));
    }

    /// One more message is complete.
    fn count_message(&mut self) {
        self.msn = self.msn.wrapping_add(1);
    }

    /// Ends a batch with packets left to send: gives up the regions that are kept.
    pub fn end_batch(&mut self) {
        self.scatter.forget();
        self.writing = None;
        self.reading = None;
    }
}
