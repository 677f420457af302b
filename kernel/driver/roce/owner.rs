// SPDX-License-Identifier: GPL-2.0

//! What a queue pair lends to its send queue.

use crate::{
    counter::PortCounter,
    cq,
    effects::Effects,
    local::{AccessError, LocalMemory},
    mr::{Range, Uncached},
    queue_pair::{Own, Qp},
    rdma,
    remote::Owner,
    ring::{Cqe, Sge},
    rings::SlotReturner,
};
use core::cell::RefCell;

/// A queue pair's own memory, and its queues.
pub(super) struct SendOwner<'a> {
    pub(super) qp: &'a rdma::Qp<Qp>,
    pub(super) returner: &'a RefCell<SlotReturner>,
}

impl LocalMemory for SendOwner<'_> {
    type Region = Range;

    fn local(&self, sge: Sge, write: bool) -> Result<Range, AccessError> {
        Own(self.qp, Uncached).local(sge, write)
    }
}

impl Owner for SendOwner<'_> {
    fn hand_back(&self) {
        if let Ok(mut returner) = self.returner.try_borrow_mut() {
            returner.returner.hand_back();
        }
    }

    fn complete(&self, cqe: &Cqe) {
        cq::complete(&self.qp.send_cq, cqe, false);
    }

    fn fail(&self) -> Effects {
        self.qp.change(|attrs| attrs.fail_send(self.qp.kind))
    }

    fn count(&self, what: PortCounter, number: u64) {
        self.qp.device().counters.add(what, number);
    }
}
