// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of numbers that grow.

use core::sync::atomic::{AtomicU32, Ordering};

use ferroce_device::numbers::{step, Config, Full, Numbers, Slot, Slots};

use crate::{Errno, Result};

/// What objects there are, by their numbers.
pub type Table<T> = Numbers<T, Growing<T>>;

/// The memory of a table.
pub struct Growing<T>(Vec<Slot<T>>);

impl<T> Slots<T> for Growing<T> {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn get(&self, index: u32) -> Option<&Slot<T>> {
        self.0.get(index as usize)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.0.get_mut(index as usize)
    }
}

/// How many numbers come between two uses of the same, where there are many: what a peer still sends to a
/// former owner is not taken for the next one's.
const REUSE_AFTER: u32 = 1 << 10;

/// A table of so many numbers, from `first` on, which itself is nobody's.
pub fn new<T>(first: u32, count: usize) -> Table<T> {
    let count = count as u32 - 1;
    let (start, byte) = (random() as u32, random() as u8);
    let config = Config {
        first,
        count,
        start: start % count,
        reuse_after: REUSE_AFTER,
        step: step(byte),
    };
    Numbers::new(Growing(Vec::new()), config)
}

/// Reserves a number, with what its key begins with.
pub fn reserve<T>(table: &mut Table<T>) -> Result<(u32, u8)> {
    loop {
        match table.reserve() {
            Ok(reserved) => {
                let variant = reserved.variant.unwrap_or_else(|| random() as u8);
                return Ok((reserved.number, variant));
            }
            Err(Full::Slots(_)) => table.slots_mut().0.push(Slot::Unused),
            Err(Full::Numbers) => return Err(Errno(libc::ENOMEM)),
        }
    }
}

/// How many objects use another, which cannot be destroyed before they are.
#[derive(Debug, Default)]
pub struct Uses(AtomicU32);

impl Uses {
    /// Counts an object in.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an object out.
    pub fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// `EBUSY` if there are any.
    pub fn check_none(&self) -> Result<()> {
        match self.0.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Errno(libc::EBUSY)),
        }
    }
}

/// A number that nobody can guess; at an early time of the machine's they may.
pub fn random() -> u64 {
    let mut number = 0_u64;
    // SAFETY: There is room for so many bytes.
    unsafe {
        libc::getrandom(
            (&raw mut number).cast(),
            size_of_val(&number),
            libc::GRND_NONBLOCK,
        )
    };
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_below_their_end_and_come_again_late() {
        let mut table = new::<()>(1 << 14, 1 << 14);
        let (first, variant) = reserve(&mut table).unwrap();
        table.give_up(first, variant);
        let mut others = Vec::new();
        for _ in 0..1 << 10 {
            others.push(reserve(&mut table).unwrap().0);
        }
        assert!(!others.contains(&first));
        assert!(others
            .iter()
            .all(|number| (1 << 14) < *number && *number < 2 << 14));
        let (again, other) = reserve(&mut table).unwrap();
        assert_eq!(again, first);
        assert_ne!(other, variant);
    }
}
