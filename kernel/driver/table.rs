// SPDX-License-Identifier: GPL-2.0

//! Numbered objects: QP numbers, memory keys, address handles.

use kernel::{
    new_mutex, new_spinlock,
    prelude::*,
    sync::{Mutex, SpinLock},
};

/// Objects by number. A number is [reserved](Self::reserve) first, so that an object can know its
/// own before it is complete, and [found](Self::get) only once the object is in place.
#[pin_data]
pub(crate) struct Table<T> {
    #[pin]
    slots: SpinLock<KVVec<Slot<T>>>,
    /// Where to look for a free slot next. A number that was given up is used again as late as
    /// possible: what still goes to its former owner then finds nobody.
    #[pin]
    next: Mutex<usize>,
    first: u32,
    limit: u32,
}

enum Slot<T> {
    Free,
    Reserved,
    Taken(T),
}

/// A number that is reserved, and given up with this value unless something was put there.
pub(crate) struct Reserved<'a, T> {
    table: &'a Table<T>,
    number: u32,
}

impl<T: Clone> Table<T> {
    /// A table for the numbers from `first` on, below `limit`.
    pub(crate) fn new(first: u32, limit: u32) -> impl PinInit<Self> {
        pin_init!(Self {
            slots <- new_spinlock!(KVVec::new(), "ferroce::Table::slots"),
            next <- new_mutex!(0, "ferroce::Table::next"),
            first,
            limit,
        })
    }

    /// Reserves a number. `ENOSPC` if all are in use.
    pub(crate) fn reserve(&self) -> Result<Reserved<'_, T>> {
        let mut next = self.next.lock();
        loop {
            let len = {
                let mut slots = self.slots.lock();
                let len = slots.len();
                let mut from_next = (0..len).map(|i| (*next + i) % len);
                let free = from_next.find(|i| matches!(slots.get(*i), Some(Slot::Free)));
                if let Some((i, slot)) = free.and_then(|i| Some((i, slots.get_mut(i)?))) {
                    *slot = Slot::Reserved;
                    *next = i + 1;
                    return Ok(Reserved {
                        table: self,
                        number: self.first + i as u32,
                    });
                }
                len
            };
            self.grow(len)?;
        }
    }

    /// Makes room for more. The caller holds `next`, so nobody else does.
    fn grow(&self, len: usize) -> Result {
        let limit = (self.limit - self.first) as usize;
        let larger = (2 * len).clamp(16, limit.max(16)).min(limit);
        if larger <= len {
            return Err(ENOSPC);
        }
        // Allocated before the lock is taken, under which nothing may sleep.
        let mut slots = KVVec::with_capacity(larger, GFP_KERNEL)?;
        {
            let mut current = self.slots.lock();
            for slot in current.iter_mut() {
                slots.push_within_capacity(core::mem::replace(slot, Slot::Free))?;
            }
            while slots.len() < larger {
                slots.push_within_capacity(Slot::Free)?;
            }
            core::mem::swap(&mut *current, &mut slots);
        }
        // The former ones are freed here, with the lock released.
        drop(slots);
        Ok(())
    }

    fn index(&self, number: u32) -> Option<usize> {
        number.checked_sub(self.first).map(|i| i as usize)
    }

    /// What is at a number.
    pub(crate) fn get(&self, number: u32) -> Option<T> {
        let index = self.index(number)?;
        match self.slots.lock().get(index) {
            Some(Slot::Taken(object)) => Some(object.clone()),
            _ => None,
        }
    }

    /// Puts an object at a number that is reserved.
    pub(crate) fn put(&self, number: u32, object: T) {
        self.set(number, Slot::Taken(object));
    }

    /// Gives a number up, with what is there.
    pub(crate) fn remove(&self, number: u32) {
        self.set(number, Slot::Free);
    }

    fn set(&self, number: u32, mut slot: Slot<T>) {
        if let Some(index) = self.index(number) {
            if let Some(place) = self.slots.lock().get_mut(index) {
                core::mem::swap(place, &mut slot);
            }
        }
        // What was there is dropped here, with the lock released.
    }
}

impl<T: Clone> Reserved<'_, T> {
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

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        if let Some(index) = self.number.checked_sub(self.table.first) {
            if let Some(place) = self.table.slots.lock().get_mut(index as usize) {
                *place = Slot::Free;
            }
        }
    }
}
