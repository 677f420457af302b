// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device memory: a part of the process's segment, which peers reach as they reach other memory of it.

use ferroce_core::verbs::limits;

use crate::keys::Memory;
use crate::process::Process;
use crate::rings::{Rings, PAGE};
use crate::table::Uses;
use crate::{Errno, Result};

/// Memory that a program has allocated on the device.
pub struct DeviceMemory {
    process: &'static Process,
    pages: Rings,
    /// In bytes; the pages are whole.
    length: u64,
    /// The regions over it.
    pub regions: Uses,
}

impl DeviceMemory {
    /// Allocates `length` bytes, at an address that is a multiple of 2^`alignment`.
    pub fn new(process: &'static Process, length: usize, alignment: u32) -> Result<Self> {
        process.check_current()?;
        let bytes = length as u64;
        // The segment is mapped wherever there is room.
        let can_align = alignment <= PAGE.trailing_zeros();
        if bytes == 0 || bytes > limits::MAX_DM_SIZE || !can_align {
            return Err(Errno(libc::EINVAL));
        }
        Ok(Self {
            process,
            pages: Rings::new(process, length)?,
            length: bytes,
            regions: Uses::default(),
        })
    }

    /// Where in the segment it is: the offset to map it with.
    pub fn offset(&self) -> u64 {
        self.pages.offset as u64
    }

    /// Its number: no other has the same.
    pub fn handle(&self) -> u32 {
        (self.pages.offset / PAGE) as u32
    }

    /// A part of it, for a region whose first byte has the address zero.
    pub fn part(&self, offset: u64, length: u64) -> Result<Memory> {
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > self.length) {
            return Err(Errno(libc::EINVAL));
        }
        let (base, _) = self.process.lend(&self.pages.mapping())?;
        Ok(Memory {
            start: base.as_ptr().expose_provenance() as u64 + offset,
            length,
            virt_addr: 0,
        })
    }
}
