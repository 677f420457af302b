// SPDX-License-Identifier: GPL-2.0

//! Numbered objects: QP numbers, memory keys, address handles.

use crate::{net::lock::Bh, rdma};
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
/// A number that was given up is not used again before [`Self::reuse_after`] other numbers were
/// reserved: what is still sent to its former owner finds nobody. Only where no number is left that was
/// never used is it used again earlier.
///
/// The first number is never reserved: it is for one object that everybody knows by it, or for none.
/// Which of the others comes first is random, so that nobody can tell the numbers of a device from those
/// of another.
///
/// `B` is the kind of spinlock, which decides from where it can be used.
#[pin_data]
pub(crate) struct Table<T, B: Backend = Bh> {
    #[pin]
    slots: Lock<Slots<T>, B>,
    first: u32,
    /// How many numbers there are after the first.
    count: u32,
    /// Which of them belongs to the first slot.
    start: u32,
    reuse_after: u32,
    /// What is added to the [variant](Reserved::variant) of a number at each use: odd, so that all 256
    /// come before one comes again.
    step: u8,
}

/// The slots, which stay where they are: the table grows by segments, each as large as all before it.
struct Slots<T> {
    /// That of the first number.
    first: Slot<T>,
    segments: [KVVec<Slot<T>>; SEGMENTS],
    len: u32,
    /// How many slots were used at least once: those at the beginning.
    used: u32,
    /// The first and the last of the slots that were given up, in the order in which they were.
    free: Option<(u32, u32)>,
    /// How many numbers were reserved so far, modulo 2^32.
    reserved: u32,
}

// What is in a slot may be moved: nobody has a pinned reference to it.
impl<T> Unpin for Slots<T> {}

enum Slot<T> {
    /// It was never used.
    Unused,
    Free {
        /// The slot that was given up after this one.
        next: Option<u32>,
        /// [`Slots::reserved`] at the time.
        since: u32,
        /// The variant of the last use.
        variant: u8,
    },
    Reserved,
    Taken(T),
}

/// How many slots the first segment has.
const FIRST_SEGMENT: u32 = 16;

/// As many as it takes for 2^24 slots.
const SEGMENTS: usize = 21;

/// Where a slot is.
#[derive(Clone, Copy)]
enum Place {
    First,
    /// In the segments.
    At(u32),
}

/// The segment of a slot, and its place there.
fn place(index: u32) -> (usize, usize) {
    match index.checked_ilog2() {
        Some(log) if index >= FIRST_SEGMENT => {
            let segment = log - FIRST_SEGMENT.ilog2() + 1;
            (segment as usize, (index - (1 << log)) as usize)
        }
        _ => (0, index as usize),
    }
}

impl<T> Slots<T> {
    fn get_mut(&mut self, at: Place) -> Option<&mut Slot<T>> {
        match at {
            Place::First => Some(&mut self.first),
            Place::At(index) => {
                let (segment, at) = place(index);
                self.segments.get_mut(segment)?.get_mut(at)
            }
        }
    }

    /// Takes a slot, of `count` that there can be, and returns its index and the variant of its last use.
    fn reserve(&mut self, reuse_after: u32, count: u32) -> Option<(u32, Option<u8>)> {
        let reserved = if self.used == count || self.has_old(reuse_after) {
            self.take_free()?
        } else if self.used < self.len {
            let index = self.used;
            *self.get_mut(Place::At(index))? = Slot::Reserved;
            self.used += 1;
            (index, None)
        } else {
            return None;
        };
        self.reserved = self.reserved.wrapping_add(1);
        Some(reserved)
    }

    /// Whether enough numbers were reserved since the first of the free slots was given up.
    fn has_old(&mut self, reuse_after: u32) -> bool {
        let reserved = self.reserved;
        let first = self
            .free
            .and_then(|(first, _)| self.get_mut(Place::At(first)));
        match first {
            Some(Slot::Free { since, .. }) => reserved.wrapping_sub(*since) >= reuse_after,
            _ => false,
        }
    }

    /// Takes the slot that was given up first.
    fn take_free(&mut self) -> Option<(u32, Option<u8>)> {
        let (index, last) = self.free?;
        match core::mem::replace(self.get_mut(Place::At(index))?, Slot::Reserved) {
            Slot::Free { next, variant, .. } => {
                self.free = next.map(|next| (next, last));
                Some((index, Some(variant)))
            }
            _ => None,
        }
    }

    /// Puts something else in a slot that is in use, and returns what was there.
    fn replace(&mut self, at: Place, slot: Slot<T>) -> Option<Slot<T>> {
        let place = self.get_mut(at)?;
        match place {
            Slot::Unused | Slot::Free { .. } => None,
            Slot::Reserved | Slot::Taken(_) => Some(core::mem::replace(place, slot)),
        }
    }

    /// Adds a slot that is in use to those that were given up, and returns what was there.
    fn give_up(&mut self, index: u32, variant: u8) -> Option<Slot<T>> {
        let slot = Slot::Free {
            next: None,
            since: self.reserved,
            variant,
        };
        let before = self.replace(Place::At(index), slot)?;
        let first = match self.free {
            Some((first, last)) => {
                if let Some(Slot::Free { next, .. }) = self.get_mut(Place::At(last)) {
                    *next = Some(index);
                }
                first
            }
            None => index,
        };
        self.free = Some((first, index));
        Some(before)
    }
}

/// A number that is reserved, and given up with this value unless it is kept.
pub(crate) struct Reserved<'a, T: Clone, B: Backend> {
    table: &'a Table<T, B>,
    number: u32,
    variant: u8,
}

impl<T: Clone, B: Backend> Table<T, B> {
    /// A table for the numbers from `first` on, below `limit`, which is greater by two at least, with the
    /// class of its lock.
    pub(crate) fn new(
        (first, limit): (u32, u32),
        reuse_after: u32,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        let slots = Slots {
            first: Slot::Reserved,
            segments: [const { KVVec::new() }; SEGMENTS],
            len: 0,
            used: 0,
            free: None,
            reserved: 0,
        };
        let count = limit - first - 1;
        let start = u32::from_ne_bytes(rdma::random()) % count;
        let [step] = rdma::random();
        pin_init!(Self {
            slots <- Lock::new(slots, name, key),
            first,
            count,
            start,
            reuse_after,
            step: step | 1,
        })
    }

    /// Reserves a number. `ENOMEM` if all are in use. If the table has to grow, it does so with
    /// `flags`.
    pub(crate) fn reserve(&self, flags: Flags) -> Result<Reserved<'_, T, B>> {
        loop {
            let len = {
                let mut slots = self.slots.lock();
                let reserved = slots.reserve(self.reuse_after, self.count);
                if let Some((index, variant)) = reserved {
                    drop(slots);
                    return Ok(Reserved {
                        table: self,
                        number: self.number(index),
                        variant: match variant {
                            Some(last) => last.wrapping_add(self.step),
                            None => u8::from_ne_bytes(rdma::random()),
                        },
                    });
                }
                slots.len
            };
            self.grow(len, flags)?;
        }
    }

    /// Makes room for more than `len`.
    fn grow(&self, len: u32, flags: Flags) -> Result {
        let larger = len.saturating_mul(2).max(FIRST_SEGMENT).min(self.count);
        if larger <= len {
            return Err(ENOMEM);
        }
        // Allocated before the lock is taken, under which nothing may sleep.
        let added = (larger - len) as usize;
        let mut segment = KVVec::with_capacity(added, flags)?;
        for _ in 0..added {
            segment.push_within_capacity(Slot::Unused)?;
        }
        let mut slots = self.slots.lock();
        // Another thread may have made room in the meantime.
        if slots.len == len {
            let (number, _) = place(len);
            if let Some(place) = slots.segments.get_mut(number) {
                core::mem::swap(place, &mut segment);
            }
            slots.len = larger;
        }
        // What is not used is freed after this, with the lock released.
        drop(slots);
        Ok(())
    }

    /// The number of a slot.
    fn number(&self, index: u32) -> u32 {
        let to_end = self.count - self.start;
        let after_first = match index < to_end {
            true => self.start + index,
            false => index - to_end,
        };
        self.first + 1 + after_first
    }

    /// The slot of a number.
    fn place(&self, number: u32) -> Option<Place> {
        let Some(after_first) = number.checked_sub(self.first)?.checked_sub(1) else {
            return Some(Place::First);
        };
        if after_first >= self.count {
            return None;
        }
        Some(Place::At(match after_first.checked_sub(self.start) {
            Some(index) => index,
            None => after_first + (self.count - self.start),
        }))
    }

    /// What is at a number.
    pub(crate) fn get(&self, number: u32) -> Option<T> {
        let place = self.place(number)?;
        match self.slots.lock().get_mut(place) {
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
        self.remove_variant(number, 0);
    }

    /// The same, where the last use of the number had this variant.
    pub(crate) fn remove_variant(&self, number: u32, variant: u8) {
        if let Some(Place::At(index)) = self.place(number) {
            let before = self.slots.lock().give_up(index, variant);
            // Dropped with the lock released.
            drop(before);
        }
    }

    fn set(&self, number: u32, slot: Slot<T>) {
        if let Some(place) = self.place(number) {
            let before = self.slots.lock().replace(place, slot);
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

    /// A byte that is another at each use of the number, for a name that consists of both. The first one
    /// is random. What a use ends with is told by [`Table::remove_variant`].
    pub(crate) fn variant(&self) -> u8 {
        self.variant
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
        self.table.remove_variant(self.number, self.variant);
    }
}
