// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues (IBTA 10.2.9).

use core::ops::DerefMut;

use crate::local::Receive;
use crate::receive::{Looked, ReceiveQueue};
use crate::ring::{RecvQueue, WqGeometry};

/// A shared receive queue. `B` is the memory of a [`ReceiveQueue`].
pub struct SharedReceiveQueue<B> {
    queue: ReceiveQueue<B>,
    /// An event tells when there are fewer requests than this; zero if not armed (IBTA 10.2.9.3).
    limit: u32,
}

/// The limit is beyond the queue's size, or what is posted does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl<B: DerefMut<Target = [u8]>> SharedReceiveQueue<B> {
    /// One with this limit.
    pub const fn new(queue: ReceiveQueue<B>, limit: u32) -> Self {
        Self { queue, limit }
    }

    /// The queue.
    pub const fn queue(&self) -> &ReceiveQueue<B> {
        &self.queue
    }

    /// As [`ReceiveQueue::recover`].
    pub fn recover(&mut self) -> bool {
        self.queue.recover()
    }

    /// The limit.
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes the next receive, as [`ReceiveQueue::take_into`] does. Returns whether the event of the limit is
    /// due as well.
    pub fn take_into(
        &mut self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
    ) -> (Looked, bool) {
        let looked = self.queue.take_into(copy, accept);
        let has_taken = matches!(looked, Looked::Taken(_));
        (looked, has_taken && self.reaches_limit())
    }

    /// Sets the limit. Returns whether its event is due: there may be fewer requests already.
    pub fn set_limit(&mut self, limit: u32) -> Result<bool, Invalid> {
        self.limit = self.limit_after(Some(limit), self.queue.size())?;
        Ok(self.reaches_limit())
    }

    /// Whether it could [move](Self::move_to) to a ring of another size now, before there is memory for one.
    pub fn check_move(
        &mut self,
        size: WqGeometry<RecvQueue>,
        limit: Option<u32>,
    ) -> Result<(), Invalid> {
        self.limit_after(limit, size)?;
        match self.queue.available() > size.entries() {
            true => Err(Invalid),
            false => Ok(()),
        }
    }

    /// Moves all that is posted to another ring, in its order, and sets the limit if one is asked for. What is
    /// not used after this, the former ring or the other one, is in `new`. Returns whether the event of the
    /// limit is due.
    pub fn move_to(
        &mut self,
        new: &mut ReceiveQueue<B>,
        limit: Option<u32>,
    ) -> Result<bool, Invalid> {
        let limit = self.limit_after(limit, new.size())?;
        self.queue.move_to(new).map_err(|_| Invalid)?;
        core::mem::swap(&mut self.queue, new);
        self.limit = limit;
        Ok(self.reaches_limit())
    }

    /// The limit that a Modify SRQ leads to, in a queue of this size.
    fn limit_after(
        &self,
        requested: Option<u32>,
        size: WqGeometry<RecvQueue>,
    ) -> Result<u32, Invalid> {
        let limit = requested.unwrap_or(self.limit);
        match limit > size.entries() {
            true => Err(Invalid),
            false => Ok(limit),
        }
    }

    /// Whether there are fewer requests than the limit: once.
    fn reaches_limit(&mut self) -> bool {
        let is_reached = self.limit > 0 && self.queue.available() < self.limit;
        if is_reached {
            self.limit = 0;
        }
        is_reached
    }
}
