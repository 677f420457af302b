// SPDX-License-Identifier: GPL-2.0

//! Numbered objects: QP numbers, memory keys, address handles.

use crate::net::lock::Bh;
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        lock::{Backend, Lock},
        LockClassKey,
    },
};

/// Objects by number. A number is [reserved](Self::reserve) first, so that an object can know its
/// own before it is complete, and [found](Self::get) only once the object is in place.
///
/// `B` is the kind of spinlock, which decides from where it can be used.
#[pin_data]
pub(crate) struct Table<T, B: Backend = Bh> {
    #[pin]
    slots: Lock<Slots<T>, B>,
    first: u32,
    limit: u32,
}

/// The slots, which stay where they are: the table grows by segments, each as large as all before it.
struct Slots<T> {
    segments: [KVVec<Slot<T>>; SEGMENTS],
    len: usize,
    /// The first and the last of the free slots. A number that was given up is used again as late as
    /// possible: what still goes to its former owner then finds nobody.
    free: Option<(usize, usize)>,
}

enum Slot<T> {
    /// With the free slot that is used after this one.
    Free(Option<usize>),
    Reserved,
    Taken(T),
}

/// How many slots the first segment has.
const FIRST_SEGMENT: usize = 16;

/// As many as it takes for 2^24 slots.
const SEGMENTS: usize = 21;

/// The segment of a slot, and its place there.
fn place(index: usize) -> (usize, usize) {
    match index.checked_ilog2() {
        Some(log) if index >= FIRST_SEGMENT => {
            let segment = log - FIRST_SEGMENT.ilog2() + 1;
            (segment as usize, index - (1 << log))
        }
        _ => (0, index),
    }
}

impl<T> Slots<T> {
    fn get_mut(&mut self, index: usize) -> Option<&mut Slot<T>> {
        let (segment, at) = place(index);
        self.segments.get_mut(segment)?.get_mut(at)
    }

    /// Takes the slot that has been free for longest.
    fn reserve(&mut self) -> Option<usize> {
        let (index, last) = self.free?;
        let slot = self.get_mut(index)?;
        if let Slot::Free(next) = core::mem::replace(slot, Slot::Reserved) {
            self.free = next.map(|next| (next, last));
        }
        Some(index)
    }

    /// Adds `index` to the free slots, and with it those up to `last` that it leads to.
    fn add_free(&mut self, index: usize, last: usize) {
        let first = match self.free {
            Some((first, before)) => {
                if let Some(slot) = self.get_mut(before) {
                    *slot = Slot::Free(Some(index));
                }
                first
            }
            None => index,
        };
        self.free = Some((first, last));
    }

    /// Puts something else in a slot that is not free, and returns what was there.
    fn replace(&mut self, index: usize, slot: Slot<T>) -> Option<Slot<T>> {
        let becomes_free = matches!(slot, Slot::Free(_));
        let place = self.get_mut(index)?;
        if matches!(place, Slot::Free(_)) {
            return None;
        }
        let before = core::mem::replace(place, slot);
        if becomes_free {
            self.add_free(index, index);
        }
        Some(before)
    }
}

/// A number that is reserved, and given up with this value unless it is kept.
pub(crate) struct Reserved<'a, T: Clone, B: Backend> {
    table: &'a Table<T, B>,
    number: u32,
}

impl<T: Clone, B: Backend> Table<T, B> {
    /// A table for the numbers from `first` on, below `limit`, with the class of its lock.
    pub(crate) fn new(
        first: u32,
        limit: u32,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        let slots = Slots {
            segments: [const { KVVec::new() }; SEGMENTS],
            len: 0,
            free: None,
        };
        pin_init!(Self {
            slots <- Lock::new(slots, name, key),
            first,
            limit,
        })
    }

    /// Reserves a number. `ENOSPC` if all are in use. If the table has to grow, it does so with
    /// `flags`.
    pub(crate) fn reserve(&self, flags: Flags) -> Result<Reserved<'_, T, B>> {
        loop {
            let len = {
                let mut slots = self.slots.lock();
                if let Some(index) = slots.reserve() {
                    return Ok(Reserved {
                        table: self,
                        number: self.first + index as u32,
                    });
                }
                slots.len
            };
            self.grow(len, flags)?;
        }
    }

    /// Makes room for more than `len`.
    fn grow(&self, len: usize, flags: Flags) -> Result {
        let limit = (self.limit - self.first) as usize;
        let larger = (2 * len).max(FIRST_SEGMENT).min(limit);
        if larger <= len {
            return Err(ENOSPC);
        }
        // Allocated before the lock is taken, under which nothing may sleep.
        let mut segment = KVVec::with_capacity(larger - len, flags)?;
        for next in len + 1..=larger {
            segment.push_within_capacity(Slot::Free((next < larger).then_some(next)))?;
        }
        let mut slots = self.slots.lock();
        // Another thread may have made room in the meantime.
        if slots.len == len {
            let (number, _) = place(len);
            if let Some(place) = slots.segments.get_mut(number) {
                core::mem::swap(place, &mut segment);
            }
            slots.len = larger;
            slots.add_free(len, larger - 1);
        }
        // What is not used is freed after this, with the lock released.
        drop(slots);
        Ok(())
    }

    fn index(&self, number: u32) -> Option<usize> {
        number.checked_sub(self.first).map(|i| i as usize)
    }

    /// What is at a number.
    pub(crate) fn get(&self, number: u32) -> Option<T> {
        let index = self.index(number)?;
        match self.slots.lock().get_mut(index) {
            Some(Slot::Taken(object)) => Some(object.clone()),
            _ => None,
        }
    }

    /// Puts an object at a number that is reserved.
    pub(crate) fn put(&self, number: u32, object: T) {
        self.set(number, Slot::Taken(object));
    }

    /// Takes away what is at a number, which stays reserved.
    pub(crate) fn take(&self, number: u32) {
        self.set(number, Slot::Reserved);
    }

    /// Gives a number up, with what is there.
    pub(crate) fn remove(&self, number: u32) {
        self.set(number, Slot::Free(None));
    }

    fn set(&self, number: u32, slot: Slot<T>) {
        if let Some(index) = self.index(number) {
            let before = self.slots.lock().replace(index, slot);
            // Dropped with the lock released.
            drop(before);
        }
    }
}

impl<T: Clone, B: Backend> Reserved<'_, T, B> {
    /// The number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Keeps the number, for [`Table::put`] and [`Table::remove`] to be called later.
    pub(crate) fn keep(self) -> u32 {
        let number = self.number;
        core::mem::forget(self);
        number
    }
}

impl<T: Clone, B: Backend> Drop for Reserved<'_, T, B> {
    fn drop(&mut self) {
        self.table.remove(self.number);
    }
}
