// SPDX-License-Identifier: GPL-2.0

//! Numbered objects: QP numbers, memory keys, address handles.

use crate::{
    net::lock::Bh,
    numbers::{step, Config, Full, Numbers, Place, Slot, Slots},
    rdma::{
        self,
        rcu::{RcuArc, RcuSlot},
    },
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        lock::{Backend, Lock},
        LockClassKey, SetOnce,
    },
};

/// Objects by [number](Numbers). They are found without a lock.
///
/// `E` is what there is for each number, such as an [`RcuSlot`]; it stays for as long as the table. `B` is the kind
/// of spinlock under which numbers are reserved and given up, which decides from where that can be done.
#[pin_data]
pub(crate) struct Table<E, B: Backend = Bh> {
    config: Config,
    /// That of the first number.
    first: E,
    /// Those of the others, by segments, each as large as all before it.
    entries: [SetOnce<KVVec<E>>; SEGMENTS],
    #[pin]
    numbers: Lock<Numbers<(), Segments>, B>,
}

/// Which numbers are in use, by the same segments.
struct Segments {
    segments: [KVVec<Slot<()>>; SEGMENTS],
    len: u32,
}

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

impl Slots<()> for Segments {
    fn count(&self) -> u32 {
        self.len
    }

    fn get(&self, index: u32) -> Option<&Slot<()>> {
        let (segment, at) = place(index);
        self.segments.get(segment)?.get(at)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<()>> {
        let (segment, at) = place(index);
        self.segments.get_mut(segment)?.get_mut(at)
    }
}

/// A number that is reserved, and given up with this value unless it is kept.
pub(crate) struct Reserved<'a, E, B: Backend> {
    table: &'a Table<E, B>,
    number: u32,
    variant: u8,
}

impl<E: Default, B: Backend> Table<E, B> {
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
            config,
            first: E::default(),
            entries: [const { SetOnce::new() }; SEGMENTS],
            numbers <- Lock::new(Numbers::new(segments, *config), name, key),
        })
    }

    /// Reserves a number. `ENOMEM` if all are in use. If the table has to grow, it does so with
    /// `flags`.
    pub(crate) fn reserve(&self, flags: Flags) -> Result<Reserved<'_, E, B>> {
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
        let mut entries = KVVec::with_capacity(added, flags)?;
        for _ in 0..added {
            segment.push_within_capacity(Slot::Unused)?;
            entries.push_within_capacity(E::default())?;
        }
        let mut numbers = self.numbers.lock();
        let slots = numbers.slots_mut();
        // Another thread may have made room in the meantime.
        if slots.len == len {
            let (number, _) = place(len);
            if let (Some(place), Some(of_numbers)) =
                (slots.segments.get_mut(number), self.entries.get(number))
            {
                core::mem::swap(place, &mut segment);
                // Nobody else has, so nothing is freed here.
                of_numbers.populate(core::mem::take(&mut entries));
            }
            slots.len = larger;
        }
        // What is not used is freed after this, with the lock released.
        drop(numbers);
        Ok(())
    }
}

impl<E, B: Backend> Table<E, B> {
    /// What there is for a number that was reserved once; perhaps for others too.
    pub(crate) fn entry(&self, number: u32) -> Option<&E> {
        match self.config.place(number)? {
            Place::First => Some(&self.first),
            Place::At(index) => {
                let (segment, at) = place(index);
                self.entries.get(segment)?.as_ref()?.get(at)
            }
        }
    }

    /// Gives a number up, whose last use had this variant. Nothing is there any more.
    pub(crate) fn give_up(&self, number: u32, variant: u8) {
        self.numbers.lock().give_up(number, variant);
    }
}

impl<T, B: Backend> Table<RcuSlot<T>, B> {
    /// What is at a number.
    pub(crate) fn get(&self, number: u32) -> Option<RcuArc<T>> {
        self.entry(number)?.get()
    }

    /// Puts an object at a number that is reserved.
    pub(crate) fn put(&self, number: u32, object: RcuArc<T>) {
        self.replace(number, Some(object));
    }

    /// Takes away what is at a number, which stays reserved.
    pub(crate) fn take(&self, number: u32) {
        self.replace(number, None);
    }

    /// Gives a number up, with what is there.
    pub(crate) fn remove(&self, number: u32) {
        self.take(number);
        self.give_up(number, 0);
    }

    fn replace(&self, number: u32, object: Option<RcuArc<T>>) {
        if let Some(slot) = self.entry(number) {
            slot.replace(object);
        }
    }
}

impl<E, B: Backend> Reserved<'_, E, B> {
    /// The number.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// A byte that is another at each use of the number, for a name that consists of both. The first one
    /// is random. What a use ends with is told by [`Table::give_up`].
    pub(crate) fn variant(&self) -> u8 {
        self.variant
    }

    /// Keeps the number, for an object to be put there, and [`Table::give_up`] to be called, later.
    pub(crate) fn keep(self) -> u32 {
        let number = self.number;
        core::mem::forget(self);
        number
    }
}

impl<E, B: Backend> Drop for Reserved<'_, E, B> {
    fn drop(&mut self) {
        self.table.give_up(self.number, self.variant);
    }
}
