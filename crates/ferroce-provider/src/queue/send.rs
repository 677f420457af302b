// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send queue of a queue pair.

use ferroce_core::ring::{Doorbell, Payload, Poster, SendQueue, SendRequest};
use ferroce_core::verbs::{QpType, SendOpcode};
use ferroce_user::qp::LONGEST_LEFT;

use super::batch::Batch;
use super::PostError;

/// A send queue, and the type of the queue pair it belongs to.
pub struct Sender {
    queue: Queue,
    pub(super) batch: Batch,
}

/// What there is of it besides a batch in the making.
pub(super) struct Queue {
    qp_type: QpType,
    poster: Poster<SendQueue>,
    staged: Staged,
    /// The device is in this process: the thread that posts executes, or leaves it to the one that does.
    is_here: bool,
}

/// What was staged since something was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Staged {
    Nothing,
    /// One WRITE or READ that the device in user space may leave.
    Short,
    /// More than that.
    More,
}

/// Whether the executor is to be woken, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an executor that sleeps has to be woken"]
pub enum Wake {
    /// It is at work.
    Not,
    /// Now.
    Now,
    /// It may wait for what is posted next.
    Soon,
}

impl Queue {
    /// Stages a work request.
    pub(super) fn push(
        &mut self,
        request: &SendRequest,
        payload: Payload<'_>,
    ) -> Result<(), PostError> {
        let opcode = request.operation.opcode();
        if !opcode.permitted_on(self.qp_type) {
            return Err(PostError::NotPermitted(opcode, self.qp_type));
        }
        if self.qp_type.is_datagram() && request.destination.is_none() {
            return Err(PostError::NoAddressHandle);
        }
        let payload = match opcode {
            // rdma_rxe refuses a bind with data (rxe.c, `validate_send_wr()`), and elsewhere does not look.
            SendOpcode::BindMw => payload,
            _ if opcode.has_no_data() => Payload::NONE,
            _ => payload,
        };
        self.poster.push(request, payload)?;
        let is_short = matches!(opcode, SendOpcode::RdmaWrite | SendOpcode::RdmaRead)
            && length(payload) <= LONGEST_LEFT;
        self.staged = match (self.staged, is_short) {
            (Staged::Nothing, true) => Staged::Short,
            _ => Staged::More,
        };
        Ok(())
    }
}

fn length(payload: Payload<'_>) -> u64 {
    match payload {
        Payload::Sges(sges) => sges.iter().map(|sge| u64::from(sge.length)).sum(),
        Payload::Inline(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
    }
}

impl Sender {
    /// The send queue of a new queue pair.
    pub fn new(qp_type: QpType, poster: Poster<SendQueue>, is_here: bool) -> Self {
        Self {
            queue: Queue {
                qp_type,
                poster,
                staged: Staged::Nothing,
                is_here,
            },
            batch: Batch::default(),
        }
    }

    /// The type of the queue pair.
    pub const fn qp_type(&self) -> QpType {
        self.queue.qp_type
    }

    /// Stages a work request, to be published with others.
    pub fn push(&mut self, request: &SendRequest, payload: Payload<'_>) -> Result<(), PostError> {
        self.queue.push(request, payload)
    }

    /// Publishes what is staged.
    pub fn publish(&mut self) -> Wake {
        let queue = &mut self.queue;
        let staged = core::mem::replace(&mut queue.staged, Staged::Nothing);
        let is_asleep = match queue.is_here {
            true => queue.poster.publish_and_ring(),
            false => queue.poster.publish() == Doorbell::Ring,
        };
        match (is_asleep, staged) {
            (false, _) => Wake::Not,
            (true, Staged::Short) => Wake::Soon,
            (true, _) => Wake::Now,
        }
    }

    /// Forgets what is staged and not published.
    pub fn abort(&mut self) {
        self.queue.poster.abort();
        self.queue.staged = Staged::Nothing;
    }

    /// Stages the work request that the batch has put together, if there is one.
    pub(super) fn finish_request(&mut self) {
        let Self { queue, batch } = self;
        batch.finish_request(|request, payload| queue.push(request, payload));
    }
}
