// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a responder remembers of RDMA READs and atomics, to answer them now and once more.

use core::ops::DerefMut;

use crate::local::AtomicChange;
use crate::ring::Remote;
use crate::wire::{Psn, Reth};

/// What a responder remembers of one RDMA READ, atomic, FLUSH or ATOMIC WRITE (IBTA 9.7.5.1.1,
/// responder resources).
#[derive(Clone, Copy, Debug, Default)]
pub struct Resource {
    /// The PSN of the request, and of the first response.
    pub(super) first: Psn,
    /// Its responses.
    pub(super) packets: u32,
    pub(super) answer: Answer,
    /// The responses to be sent: from here.
    pub(super) next: u32,
    /// To here.
    pub(super) stop: u32,
    /// The first response to the request as it was made last.
    pub(super) start: u32,
    /// The request was answered before, and came again.
    pub(super) is_repeated: bool,
}

/// What the responses bring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// That it was done: a READ response of no bytes.
    #[default]
    Done,
    /// A range of memory.
    Read(Reth),
    /// What was there before.
    Atomic {
        remote: Remote,
        change: AtomicChange,
        before: u64,
    },
}

impl Resource {
    /// Whether there are responses to be sent.
    pub(super) fn is_pending(&self) -> bool {
        self.next != self.stop
    }

    /// The place of a PSN among its responses.
    pub(super) fn index_of(&self, psn: Psn) -> Option<u32> {
        let index = u32::try_from(psn.since(self.first)).ok()?;
        (index < self.packets).then_some(index)
    }

    /// All responses are to be sent from some index on, `count` of them.
    pub(super) fn answer_from(&mut self, index: u32, count: u32) {
        self.start = index;
        self.next = index;
        self.stop = index.saturating_add(count).min(self.packets);
    }
}

/// The last so many requests, in order.
pub(super) struct Resources<S> {
    slots: S,
    /// How many of the slots are used: `max_dest_rd_atomic`.
    capacity: usize,
    /// The place of the next one.
    next: usize,
    /// How many are remembered, in the places before.
    remembered: usize,
    /// How many have responses to be sent.
    pending: usize,
    /// The place of the oldest of those, once it was looked for.
    current: Option<usize>,
}

/// More requests than there are resources have no answer yet.
pub(super) struct Exhausted;

impl<S: DerefMut<Target = [Resource]>> Resources<S> {
    pub(super) fn new(slots: S, capacity: u8) -> Self {
        let capacity = usize::from(capacity).min(slots.len());
        Self {
            slots,
            capacity,
            next: 0,
            remembered: 0,
            pending: 0,
            current: None,
        }
    }

    /// The places of those that are remembered, from the oldest on.
    fn places(&self) -> impl DoubleEndedIterator<Item = usize> {
        let capacity = self.capacity.max(1);
        let oldest = self.next + capacity - self.remembered;
        (oldest..oldest + self.remembered).map(move |place| place % capacity)
    }

    /// Remembers one more, whose responses are all to be sent, and forgets the oldest for it, with what of
    /// that is repeated.
    pub(super) fn push(&mut self, resource: Resource) -> Result<(), Exhausted> {
        if !self.has_room() {
            return Err(Exhausted);
        }
        let place = self.slots.get_mut(self.next).ok_or(Exhausted)?;
        if self.remembered == self.capacity {
            self.remembered -= 1;
            if place.is_pending() {
                self.pending -= 1;
                self.current = None;
            }
        }
        *place = resource;
        place.answer_from(0, resource.packets);
        self.pending += 1;
        self.remembered += 1;
        self.next = (self.next + 1) % self.capacity.max(1);
        Ok(())
    }

    /// Whether one more can be remembered: there is room for it, or the oldest has been answered. A peer
    /// that keeps to the number it was told has the answer to that by now, and its repetition is of no use.
    pub(super) fn has_room(&self) -> bool {
        let is_answered = |oldest: &Resource| !oldest.is_pending() || oldest.is_repeated;
        self.remembered < self.capacity
            || (self.capacity > 0 && self.slots.get(self.next).is_some_and(is_answered))
    }

    /// The one that a PSN belongs to, and the place of that among its responses. The last one: an older one
    /// may have had the same PSN before all of them had been used.
    pub(super) fn find(&self, psn: Psn) -> Option<(usize, u32, Resource)> {
        self.places().rev().find_map(|place| {
            let resource = self.slots.get(place)?;
            Some((place, resource.index_of(psn)?, *resource))
        })
    }

    /// Has `count` of the responses sent again, from `index` on.
    pub(super) fn repeat(&mut self, place: usize, index: u32, count: u32) {
        if let Some(resource) = self.slots.get_mut(place) {
            if !resource.is_pending() {
                self.pending += 1;
                resource.is_repeated = true;
            }
            resource.answer_from(index, count);
            self.current = None;
        }
    }

    /// How many have responses to be sent.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.pending).unwrap_or(u32::MAX)
    }

    /// The oldest one that has responses to be sent.
    pub(super) fn pending(&mut self) -> Option<Resource> {
        if self.pending == 0 {
            return None;
        }
        if self.current.is_none() {
            let is_pending =
                |place: &usize| self.slots.get(*place).is_some_and(Resource::is_pending);
            let found = self.places().find(is_pending);
            self.current = found;
        }
        self.slots.get(self.current?).copied()
    }

    /// A response of [`pending`](Self::pending) has been sent. Returns whether it was the last one.
    pub(super) fn sent(&mut self) -> bool {
        let current = self.current.and_then(|place| self.slots.get_mut(place));
        let Some(resource) = current else {
            return true;
        };
        resource.next += 1;
        if resource.is_pending() {
            return false;
        }
        self.pending -= 1;
        self.current = None;
        true
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.remembered = 0;
        self.pending = 0;
        self.current = None;
    }
}
