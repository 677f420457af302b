// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use crate::ring::{CqError, Cqe, Producer};

/// A completion queue as the device has it. `M` is what the memory of the ring lives in.
pub struct CompletionQueue<M> {
    /// The ring.
    pub producer: Producer,
    /// Completions tell when they were written.
    pub timestamps: bool,
    /// Dropped after the ring.
    pub memory: M,
}

/// What a completion leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// The event that the process has asked for is due.
    pub notify: bool,
    /// The completion is lost.
    pub is_lost: bool,
    /// It is the first one that is lost, which an event tells (IBTA 11.6.3.1).
    pub has_overrun: bool,
}

impl<M> CompletionQueue<M> {
    /// Writes a completion. `now` is the host's clock, in nanoseconds: with the lock held, so that the
    /// times are in the order of the completions.
    pub fn complete(&mut self, cqe: &Cqe, solicited: bool, now: impl FnOnce() -> u64) -> Completed {
        let pushed = self.push(cqe, solicited, now);
        Completed {
            notify: pushed.is_ok() && self.producer.notify(),
            is_lost: pushed.is_err(),
            has_overrun: pushed == Err(CqError::Overrun),
        }
    }

    /// Writes a completion as [`complete`](Self::complete) does, after which there is
    /// [`notify`](Producer::notify) to be called, unless nobody can wait for an event.
    pub fn push(
        &mut self,
        cqe: &Cqe,
        solicited: bool,
        now: impl FnOnce() -> u64,
    ) -> Result<(), CqError> {
        if !self.timestamps {
            return self.producer.push(cqe, solicited);
        }
        let timestamp = now();
        self.producer.push(&Cqe { timestamp, ..*cqe }, solicited)
    }

    /// The process has asked for an event, and says that there are completions it has not taken. Returns
    /// whether the event is due.
    pub fn notify_waiting(&mut self) -> bool {
        self.producer.notify_waiting()
    }

    /// Moves to a ring of another size. Returns the former one, with `false` if more completions wait than
    /// the new one has room for: then it is the new one that is returned.
    pub fn resize(&mut self, mut new: Self) -> (Self, bool) {
        let fits = self.producer.move_to(&mut new.producer).is_ok();
        if fits {
            core::mem::swap(self, &mut new);
        }
        (new, fits)
    }
}
