// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues, and completions as libibverbs has them.

use std::sync::Arc;

use ferroce_core::ring::{Cqe, Notify, Poller};
use ferroce_core::verbs::{WcFlags, WcOpcode, WcStatus};
use ferroce_user::cq::Cq;

use crate::abi::{wc_flags, IbvWc};

/// A completion queue.
pub struct CompletionQueue {
    poller: Poller,
    /// The device's side, if that is in this process.
    device: Option<Arc<Cq>>,
    /// The completion that the extended verbs read.
    current: Cqe,
    /// Whether one is being read: from `start_poll` to `end_poll`.
    reading: bool,
}

/// The queue pair of completions that were [forgotten](CompletionQueue::forget): no program has one of that
/// number.
const NOBODY: u32 = 0;

/// There is no completion to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty;

impl CompletionQueue {
    /// A new one, of a device that is in this process, if there is one.
    pub fn new(poller: Poller, device: Option<Arc<Cq>>) -> Self {
        Self {
            poller,
            device,
            current: Cqe::new(0, 0, WcOpcode::Send, WcStatus::Success),
            reading: false,
        }
    }

    /// Takes completions, no more than `limit`, and returns how many. Each goes to `take`, with its
    /// index.
    pub fn poll(&mut self, limit: usize, mut take: impl FnMut(usize, IbvWc)) -> usize {
        self.look();
        let mut count = 0;
        while count < limit
            && let Some(cqe) = self.take()
        {
            take(count, work_completion(&cqe));
            count += 1;
        }
        if count != 0 {
            self.poller.hand_back();
        }
        count
    }

    /// Asks for an event. Returns whether there are completions to take: then the driver is to look, which
    /// raises the event at once.
    pub fn arm(&mut self, notify: Notify) -> bool {
        self.look();
        self.poller.arm(notify);
        self.poller.has_completion()
    }

    /// Begins to read completions one by one.
    pub fn start(&mut self) -> Result<&Cqe, Empty> {
        self.look();
        self.next()?;
        self.reading = true;
        Ok(&self.current)
    }

    /// Goes on to the next. If there is none, the last one stays.
    ///
    /// Its slot is free at once, since [`current`](Self::current) is a copy: what a program posts between
    /// two calls completes before the next one, and a loop that never finds the queue empty never comes to
    /// [`end`](Self::end).
    pub fn next(&mut self) -> Result<&Cqe, Empty> {
        self.current = self.take().ok_or(Empty)?;
        self.poller.hand_back();
        Ok(&self.current)
    }

    /// The completion being read.
    pub const fn current(&self) -> &Cqe {
        &self.current
    }

    /// Ends reading. `false` if it had not begun.
    pub fn end(&mut self) -> bool {
        core::mem::take(&mut self.reading)
    }

    /// Drops the completions of a queue pair that was reset or destroyed: the program could not tell what
    /// they are of. Its driver makes no more of them.
    pub fn forget(&mut self, qp_num: u32) {
        let mut disown = self.poller.begin_disown(qp_num);
        let all = self.poller.geometry().entries();
        while self.poller.disown(&mut disown, all) {}
    }

    /// The program waits for what it has posted.
    fn look(&self) {
        if let Some(device) = &self.device {
            device.look();
        }
    }

    fn take(&mut self) -> Option<Cqe> {
        loop {
            let position = self.poller.position();
            let cqe = self.poller.poll()?;
            if cqe.flags.contains(WcFlags::WITH_DATA)
                && let Some(device) = &self.device
            {
                device.place(position);
            }
            if cqe.qp_num != NOBODY {
                return Some(cqe);
            }
            // It was forgotten.
            self.poller.hand_back();
        }
    }

    /// Goes over to another ring, to which the driver has moved the completions not yet taken.
    pub fn resize(&mut self, mut poller: Poller) {
        poller.resume(&self.poller);
        self.poller = poller;
    }
}

/// A completion, as `ibv_poll_cq` gives it.
pub fn work_completion(cqe: &Cqe) -> IbvWc {
    IbvWc {
        wr_id: cqe.wr_id,
        status: cqe.status.number().into(),
        opcode: cqe.opcode.number().into(),
        vendor_err: cqe.vendor_err,
        byte_len: cqe.byte_len,
        imm_data: u32::from_ne_bytes(cqe.imm_or_rkey),
        qp_num: cqe.qp_num,
        src_qp: cqe.src_qp,
        wc_flags: flags(cqe),
        pkey_index: cqe.pkey_index,
        // RoCE has no LIDs (IBTA A17).
        slid: 0,
        sl: cqe.sl,
        dlid_path_bits: 0,
    }
}

/// The flags, as libibverbs numbers them: not all as the kernel does.
pub fn flags(cqe: &Cqe) -> u32 {
    [
        (WcFlags::GRH, wc_flags::GRH),
        (WcFlags::WITH_IMM, wc_flags::WITH_IMM),
        (WcFlags::WITH_INVALIDATE, wc_flags::WITH_INV),
    ]
    .into_iter()
    .filter(|(kernel, _)| cqe.flags.contains(*kernel))
    .fold(0, |flags, (_, flag)| flags | flag)
}
