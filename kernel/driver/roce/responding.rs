// SPDX-License-Identifier: GPL-2.0

//! The half of a connection that answers requests.

use super::{
    alarm::Alarm,
    path::PAUSE,
    transmit::{transmit, Next, Source, Stopped},
    tx_flow::TxFlow,
};
use crate::{
    counter::PortCounter,
    counters::Counters,
    mr::Range,
    qp::QpAttr,
    queue_pair::{Peer, Qp},
    rdma,
    requester::Transmit,
    responder::{Request, Resource, Responder},
    verbs::limits::ATOMIC_LENGTH,
    wire::{Headers, Kind, Packet},
};
use kernel::{prelude::*, sync::aref::ARef};

/// The responder, and its way to the peer.
pub(super) struct Responding {
    responder: Responder<KVVec<Resource>, Range>,
    tx_flow: TxFlow,
    alarm: Alarm,
}

impl Responding {
    /// Of a queue pair with these attributes. It may sleep.
    pub(super) fn new(qp: &rdma::Qp<Qp>, attr: &QpAttr) -> Result<KBox<Self>> {
        let flags = qp.flags();
        let mut resources = KVVec::new();
        let count = usize::from(attr.max_dest_rd_atomic).max(1);
        resources.resize(count, Resource::default(), flags)?;
        let responding = Self {
            responder: Responder::new(qp.qp_type, attr, resources),
            tx_flow: TxFlow::new(qp.device())?,
            alarm: Alarm::new(ARef::from(qp), |qp| qp.connection.respond_again(qp))?,
        };
        Ok(KBox::new(responding, flags)?)
    }

    /// The queue pair's attributes have changed.
    pub(super) fn changed(&mut self) {
        self.tx_flow.changed();
    }

    /// Completes the receive that a message is in the middle of, if there is one.
    pub(super) fn flush(&mut self, qp: &rdma::Qp<Qp>) {
        self.responder.flush(&Peer::by_packet(qp));
    }

    /// Takes a request.
    pub(super) fn take(&mut self, qp: &rdma::Qp<Qp>, peer: &Peer<'_>, request: &Packet<'_>) {
        let taken = self.responder.on_packet(request, peer);
        count(&qp.device().counters, taken, request);
    }

    /// The alarm has rung.
    pub(super) fn expired(&mut self) {
        self.alarm.rang();
    }

    /// Sends what there is to say to requests.
    pub(super) fn respond(&mut self, qp: &rdma::Qp<Qp>, peer: Peer<'_>) -> Next {
        let responder = &mut self.responder;
        let stopped = transmit(qp, &mut self.tx_flow, &mut Responses { responder, peer });
        // As of the requester.
        self.responder.end_batch();
        match stopped {
            Stopped::Idle | Stopped::Local(_) => Next::Idle,
            Stopped::More => Next::More,
            Stopped::Later => Next::Later,
            Stopped::Busy => {
                self.alarm.set(rdma::clock() + PAUSE);
                Next::Idle
            }
        }
    }
}

/// A responder as who sends its packets has it.
struct Responses<'a> {
    responder: &'a mut Responder<KVVec<Resource>, Range>,
    peer: Peer<'a>,
}

impl Source for Responses<'_> {
    fn has_sent_all(&self) -> bool {
        self.responder.has_sent_all()
    }

    fn batch_len(&mut self) -> u32 {
        self.responder.batch_len().unwrap_or(1)
    }

    fn poll(&mut self, room: &mut [u8]) -> Transmit {
        self.responder.poll_transmit(&self.peer, room)
    }
}

fn count(counters: &Counters, request: Request, packet: &Packet<'_>) {
    let counter = match request {
        Request::Taken => return count_bytes(counters, packet),
        Request::Duplicate => PortCounter::Duplicate,
        Request::OutOfSequence => PortCounter::OutOfSequence,
        Request::Dropped => PortCounter::Dropped,
        // Counted by the peer, where it is refused.
        Request::NotReady | Request::Refused(_) => return,
    };
    counters.count(counter);
}

/// Counts what came with a request, or is sent in answer to it.
fn count_bytes(counters: &Counters, packet: &Packet<'_>) {
    let (counter, length) = match (packet.bth.opcode.kind(), packet.headers) {
        (Kind::ReadRequest, Headers::Reth(reth)) => (PortCounter::SentBytes, reth.dma_len.into()),
        (_, Headers::Atomic(_)) => (PortCounter::SentBytes, ATOMIC_LENGTH.into()),
        _ => (PortCounter::RcvdBytes, packet.payload.len() as u64),
    };
    counters.add(counter, length);
}
