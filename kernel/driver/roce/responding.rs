// SPDX-License-Identifier: GPL-2.0

//! The half of a connection that answers requests.

use super::{
    alarm::Alarm,
    transmit::{again_at, Way},
    tx_flow::TxFlow,
};
use crate::{
    mr::Range,
    qp::QpAttr,
    queue_pair::{Peer, Qp},
    rdma,
    remote::{self, Next},
    responder::{Resource, Responder},
    transmit,
    wire::Packet,
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
            responder: Responder::new(qp.kind.qp_type, attr, resources),
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
        if let Some((counter, number)) = remote::counted(taken, request) {
            qp.device().counters.add(counter, number);
        }
    }

    /// The alarm has rung.
    pub(super) fn expired(&mut self) {
        self.alarm.rang();
    }

    /// Sends what there is to say to requests.
    pub(super) fn respond(&mut self, qp: &rdma::Qp<Qp>, peer: Peer<'_>) -> Next {
        let Self {
            responder, tx_flow, ..
        } = self;
        let mut way = Way { qp, tx_flow };
        let stopped = transmit::respond(qp.kind.qp_type, responder, &peer, &mut way);
        let next = Next::of_responder(stopped);
        if let Some(at) = again_at(next, rdma::clock) {
            self.alarm.set(at);
        }
        next
    }
}
