// SPDX-License-Identifier: GPL-2.0

//! Sending what a requester or a responder has to send.

use super::{
    gso::GsoBatch,
    path::{Path, PAUSE},
    tx_flow::TxFlow,
};
use crate::{
    net::InFlight,
    queue_pair::Qp,
    rdma,
    remote::Next,
    transmit::{Batch, Flow},
};

/// The way of one half of a queue pair's connection, with bottom halves off.
pub(super) struct Way<'a> {
    pub(super) qp: &'a rdma::Qp<Qp>,
    pub(super) tx_flow: &'a mut TxFlow,
}

/// Packets in the making, and how they go.
pub(super) struct Sending<'a> {
    qp: &'a rdma::Qp<Qp>,
    batch: GsoBatch<'a>,
    in_flight: &'a InFlight,
}

impl Flow for Way<'_> {
    type Batch<'b>
        = Sending<'b>
    where
        Self: 'b;

    fn keeps_order(&mut self) -> bool {
        self.tx_flow.keeps_order()
    }

    fn is_full(&self) -> bool {
        self.tx_flow.is_full()
    }

    fn begin(&mut self, length: usize, count: u32) -> Option<Sending<'_>> {
        let (path, in_flight) = self.tx_flow.path(self.qp);
        Some(Sending {
            qp: self.qp,
            batch: GsoBatch::new(path, length, count)?,
            in_flight,
        })
    }
}

impl Batch for Sending<'_> {
    fn count(&self) -> u32 {
        self.batch.count().into()
    }

    fn has_room(&self) -> bool {
        self.batch.has_room()
    }

    fn add<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (Option<usize>, R)) -> R {
        self.batch.add(fill)
    }

    fn send(self) {
        let count = self.batch.count();
        let (path, packet): (&mut Path, _) = self.batch.finish();
        path.send(self.qp.device(), packet, count, self.in_flight);
    }
}

/// Has a thread go on with a visit, if one is to.
pub(super) fn leave_to_thread(qp: &rdma::Qp<Qp>, next: Next) {
    if matches!(next, Next::More | Next::Local(..)) {
        qp.deferred.queue();
    }
}

/// When to come back by an alarm after a visit at a time, if so.
pub(super) fn again_at(next: Next, now: impl FnOnce() -> u64) -> Option<u64> {
    (next == Next::Busy).then(|| now() + PAUSE)
}
