// SPDX-License-Identifier: GPL-2.0

//! Numbered objects: QP numbers, memory keys, address handles.

use crate::{
    net::lock::Bh,
    numbers::{step, Config, Full, Numbers, Slot, Slots},
    rdma,
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        lock::{Backend, Lock},
        LockClassKey,
    },
};

/// Objects by [number](Numbers).
///
/// `B` is the kind of spinlock, which decides from where it can be used.
#[pin_data]
pub(crate) struct Table<T, B: Backend = Bh> {
    #[pin]
    numbers: Lock<Numbers<T, Segments<T>>, B>,
}

/// Slots that stay where they are: the table grows by segments, each as large as all before it.
struct Segments<T> {
    segments: [KVVec<Slot<T>>; SEGMENTS],
    len: u32,
}

// What is in a slot may be moved: nobody has a pinned reference to it.
impl<T> Unpin for Segments<T> {}

/// How many slots the first segment has.
const FIRST_SEGMENT: u32 = 16;

/// As many as it takes for 2^24 slots.
const SEGMENTS: usize = 21;

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

impl<T> Slots<T> for Segments<T> {
    fn count(&self) -> u32 {
        self.len
    }

    fn get(&self, index: u32) -> Option<&Slot<T>> {
        let (segment, at) = place(index);
        self.segments.get(segment)?.get(at)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        let (segment, at) = place(index);
        self.segments.get_mut(segment)?.get_mut(at)
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
        let segments = Segments {
            segments: [const { KVVec::new() }; SEGMENTS],
            len: 0,
        };
        let count = limit - first - 1;
        let [byte] = rdma::random();
        let config = Config {
            first,
            count,
            start: u32::from_ne_bytes(rdma::random()) % count,
            reuse_after,
            step: step(byte),
        };
        pin_init!(Self {
            numbers <- Lock::new(Numbers::new(segments, config), name, key),
        })
    }

    /// Reserves a number. `ENOMEM` if all are in use. If the table has to grow, it does so with
    /// `flags`.
    pub(crate) fn reserve(&self, flags: Flags) -> Result<Reserved<'_, T, B>> {
        loop {
            let reserved = self.numbers.lock().reserve();
            match reserved {
                Ok(reserved) => {
                    return Ok(Reserved {
                        table: self,
                        number: reserved.number,
                        variant: reserved
                            .variant
                            .unwrap_or_else(|| u8::from_ne_bytes(rdma::random())),
                    });
                }
                Err(Full::Numbers) => return Err(ENOMEM),
                Err(Full::Slots(len)) => self.grow(len, flags)?,
            }
        }
    }

    /// Makes room for more than `len`.
    fn grow(&self, len: u32, flags: Flags) -> Result {
        let limit = self.numbers.lock().max_len();
        let larger = len.saturating_mul(2).max(FIRST_SEGMENT).min(limit);
        if larger <= len {
            return Err(ENOMEM);
        }
        // Allocated before the lock is taken, under which nothing may sleep.
        let added = (larger - len) as usize;
        let mut segment = KVVec::with_capacity(added, flags)?;
        for _ in 0..added {
            segment.push_within_capacity(Slot::Unused)?;
        }
        let mut numbers = self.numbers.lock();
        let slots = numbers.slots_mut();
        // Another thread may have made room in the meantime.
        if slots.len == len {
            let (number, _) = place(len);
            if let Some(place) = slots.segments.get_mut(number) {
                core::mem::swap(place, &mut segment);
            }
            slots.len = larger;
        }
        // What is not used is freed after this, with the lock released.
        drop(numbers);
        Ok(())
    }

    /// What is at a number.
    pub(crate) fn get(&self, number: u32) -> Option<T> {
        self.numbers.lock().get(number).cloned()
    }

    /// Puts an object at a number that is reserved.
    pub(crate) fn put(&self, number: u32, object: T) {
        let before = self.numbers.lock().put(number, object);
        // Dropped with the lock released.
        drop(before);
    }

    /// Takes away what is at a number, which stays reserved.
    pub(crate) fn take(&self, number: u32) {
        let before = self.numbers.lock().take(number);
        // Dropped with the lock released.
        drop(before);
    }

    /// Gives a number up, with what is there.
    pub(crate) fn remove(&self, number: u32) {
        self.remove_variant(number, 0);
    }

    /// The same, where the last use of the number had this variant.
    pub(crate) fn remove_variant(&self, number: u32, variant: u8) {
        let before = self.numbers.lock().give_up(number, variant);
        // Dropped with the lock released.
        drop(before);
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
