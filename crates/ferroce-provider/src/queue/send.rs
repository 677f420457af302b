// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send queue of a queue pair.

use ferroce_core::ring::{Doorbell, Payload, Poster, SendQueue, SendRequest};
use ferroce_core::verbs::{QpType, SendOpcode};

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
        Ok(self.poster.push(request, payload)?)
    }
}

impl Sender {
    /// The send queue of a new queue pair.
    pub fn new(qp_type: QpType, poster: Poster<SendQueue>) -> Self {
        Self {
            queue: Queue { qp_type, poster },
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
    pub fn publish(&mut self) -> Doorbell {
        self.queue.poster.publish()
    }

    /// Forgets what is staged and not published.
    pub fn abort(&mut self) {
        self.queue.poster.abort();
    }

    /// Stages the work request that the batch has put together, if there is one.
    pub(super) fn finish_request(&mut self) {
        let Self { queue, batch } = self;
        batch.finish_request(|request, payload| queue.push(request, payload));
    }
}
