// SPDX-License-Identifier: GPL-2.0

//! What a queue pair lends to its requester.

use crate::{
    counter::PortCounter,
    cq,
    local::{AccessError, LocalMemory},
    mr::{Range, Uncached},
    qp::state,
    queue_pair::{Own, Qp},
    rdma,
    requester::{self, Completed},
    ring::{Cqe, Sge},
    rings::SlotReturner,
    verbs::{QpState, SendFlags, SendOpcode, WcStatus},
};
use core::cell::{Cell, RefCell};

/// A queue pair's own memory, and its queues.
pub(super) struct Host<'a> {
    pub(super) qp: &'a rdma::Qp<Qp>,
    /// Copies of the entries of the send queue.
    pub(super) entries: &'a [u8],
    /// Bytes of each.
    pub(super) stride: usize,
    pub(super) returner: &'a RefCell<SlotReturner>,
    /// Set when a request has failed, and the queue pair with it.
    pub(super) has_failed: &'a Cell<bool>,
}

impl LocalMemory for Host<'_> {
    type Region = Range;

    fn local(&self, sge: Sge, write: bool) -> Result<Range, AccessError> {
        Own(self.qp, Uncached).local(sge, write)
    }
}

impl requester::Host for Host<'_> {
    fn entry(&self, slot: u32) -> &[u8] {
        let at = slot as usize * self.stride;
        self.entries.get(at..at + self.stride).unwrap_or_default()
    }

    fn complete(&self, completed: &Completed) {
        // Before the completion is written: whoever sees that may post at once, and has room.
        if let Ok(mut returner) = self.returner.try_borrow_mut() {
            returner.returner.hand_back();
        }
        let qp = self.qp;
        match completed.status {
            WcStatus::Success => self.count(completed),
            WcStatus::WrFlushErr => {}
            _ => {
                let ends = qp.change(|attrs| {
                    let before = attrs.attr.state;
                    attrs.attr.state = state::after_send_error(qp.qp_type, before);
                    before != attrs.attr.state && attrs.attr.state == QpState::Err
                });
                self.has_failed.set(self.has_failed.get() || ends);
            }
        }
        let is_signaled = qp.caps.signal_all || completed.flags.contains(SendFlags::SIGNALED);
        if completed.status == WcStatus::Success && !is_signaled {
            return;
        }
        let opcode = match completed.status {
            WcStatus::WrFlushErr => SendOpcode::Send,
            _ => completed.opcode,
        };
        let mut cqe = Cqe::new(
            completed.wr_id,
            qp.number,
            opcode.completion(),
            completed.status,
        );
        if completed.status == WcStatus::Success {
            cqe.byte_len = completed.length;
        }
        cq::complete(&qp.send_cq, &cqe, false);
    }
}

impl Host<'_> {
    fn count(&self, completed: &Completed) {
        let counters = &self.qp.device().counters;
        let bytes = match completed.opcode {
            SendOpcode::RdmaRead | SendOpcode::CompareSwap | SendOpcode::FetchAdd => {
                PortCounter::RcvdBytes
            }
            SendOpcode::LocalInvalidate | SendOpcode::BindMw | SendOpcode::RegMr => return,
            _ => PortCounter::SentBytes,
        };
        counters.count(PortCounter::RdmaSends);
        counters.add(bytes, completed.length.into());
    }
}
