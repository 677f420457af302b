// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues, a queue pair's own and shared ones.

use ferroce_core::ring::{Doorbell, Poster, RecvQueue, RecvRequest, Sge};

use super::PostError;

/// A receive queue.
pub struct Receiver(Poster<RecvQueue>);

impl Receiver {
    /// A new one.
    pub fn new(poster: Poster<RecvQueue>) -> Self {
        Self(poster)
    }

    /// Stages a work request, to be published with others.
    pub fn push(&mut self, wr_id: u64, sges: &[Sge]) -> Result<(), PostError> {
        Ok(self.0.push(&RecvRequest { wr_id }, sges)?)
    }

    /// Publishes what is staged.
    pub fn publish(&mut self) -> Doorbell {
        self.0.publish()
    }

    /// Goes on where another receive queue was, whose requests the driver has moved to this one's ring.
    pub fn resume(&mut self, before: &Self) {
        self.0.resume(&before.0);
    }
}

impl AsMut<Self> for Receiver {
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}
