// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is alive: a table that the broker writes and all processes map.

use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::mapping::Mapping;
use crate::segment::check;

/// How many processes there may be at a time. A process has a slot, and the numbers of its queue pairs
/// begin with that. The first one is nobody's, so that QP numbers 0 and 1 are not (IBTA 3.5.10), nor the
/// last one (multicast).
pub const SLOTS: usize = 1 << 10;

/// Bytes of the table.
pub const LENGTH: usize = SLOTS * size_of::<AtomicU32>();

/// The table. In each slot is the serial number of the process that has it, or zero. Serial numbers do not
/// come again before 2^21 other processes were there.
pub struct Registry {
    mapping: Mapping,
}

impl Registry {
    /// Maps the table.
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        check(file, LENGTH)?;
        Ok(Self {
            mapping: Mapping::shared(file.as_raw_fd(), LENGTH)?,
        })
    }

    fn slots(&self) -> &[AtomicU32; SLOTS] {
        // SAFETY: The mapping is as long as that, its file cannot become shorter, and it begins at a page.
        // All of it is atomic numbers, for which any bytes will do.
        unsafe { self.mapping.base().cast().as_ref() }
    }

    /// Who has a slot.
    pub fn serial_at(&self, slot: u32) -> Option<u32> {
        let serial = self.slots().get(slot as usize)?.load(Ordering::Acquire);
        (serial != 0).then_some(serial)
    }

    /// Gives a slot to a process, or to none.
    pub fn set(&self, slot: u32, serial: u32) {
        if let Some(place) = self.slots().get(slot as usize) {
            place.store(serial, Ordering::Release);
        }
    }

    /// Whether a process is alive.
    pub fn is_alive(&self, serial: u32) -> bool {
        self.serial_at(slot_of(serial)) == Some(serial)
    }

    /// All who are alive.
    pub fn alive(&self) -> impl Iterator<Item = u32> {
        let slots = 0..SLOTS as u32;
        slots.filter_map(|slot| self.serial_at(slot))
    }
}

/// The slot of a serial number.
pub const fn slot_of(serial: u32) -> u32 {
    serial % SLOTS as u32
}
