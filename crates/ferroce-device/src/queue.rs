// SPDX-License-Identifier: MIT OR Apache-2.0
//! A work queue as the device has it.

use core::ops::DerefMut;

use crate::ring::{Executor, Queue, RingError};

/// The ring of a work queue, and a copy of the entry that is being looked at.
///
/// `B` is the memory of the copy, which has room for an entry. It may own the memory of the ring too.
pub struct WorkQueue<Q, B> {
    /// The ring.
    pub ring: Executor<Q>,
    /// The copy.
    pub buffer: B,
}

impl<Q: Queue, B: DerefMut<Target = [u8]>> WorkQueue<Q, B> {
    /// Copies the next entry to the buffer, if there is one. Returns its length in bytes.
    pub fn fetch(&mut self) -> Result<Option<usize>, RingError> {
        Ok(self.ring.fetch(&mut self.buffer)?.map(<[u8]>::len))
    }

    /// The first `length` bytes of the buffer.
    pub fn entry(&self, length: usize) -> &[u8] {
        self.buffer.get(..length).unwrap_or(&[])
    }
}
