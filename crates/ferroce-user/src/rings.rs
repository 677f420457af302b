// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which parts of the segment are rings.

use std::collections::BTreeMap;

use ferroce_core::uapi;

use crate::process::Process;
use crate::segment::{LENGTH, RINGS};
use crate::{Errno, Result};

/// Rings begin at pages of this length, so that their memory can be given back.
pub const PAGE: usize = 4096;

/// What is free.
pub struct RingSpace {
    /// Free parts by their beginnings; no two touch.
    free: BTreeMap<usize, usize>,
}

impl Default for RingSpace {
    fn default() -> Self {
        let free = BTreeMap::from([(RINGS, LENGTH - RINGS)]);
        Self { free }
    }
}

impl RingSpace {
    fn take(&mut self, length: usize) -> Option<usize> {
        let (start, room) = self.free.iter().find(|(_, room)| **room >= length)?;
        let (start, room) = (*start, *room);
        self.free.remove(&start);
        if room > length {
            self.free.insert(start + length, room - length);
        }
        Some(start)
    }

    fn give_back(&mut self, mut start: usize, mut length: usize) {
        if let Some((before, room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            (start, length) = (*before, room + length);
            self.free.remove(&start);
        }
        if let Some(room) = self.free.remove(&(start + length)) {
            length += room;
        }
        self.free.insert(start, length);
    }
}

/// Memory of rings, zero at first, given back when this is dropped.
pub struct Rings {
    process: &'static Process,
    /// In bytes from the beginning of the segment.
    pub offset: usize,
    /// In bytes.
    pub length: usize,
}

impl Rings {
    /// Memory for so many bytes.
    pub fn new(process: &'static Process, length: usize) -> Result<Self> {
        let length = length.next_multiple_of(PAGE);
        let offset = process.rings.lock().take(length);
        Ok(Self {
            process,
            offset: offset.ok_or(Errno(libc::ENOMEM))?,
            length,
        })
    }

    /// What the plug-in is told.
    pub fn mapping(&self) -> uapi::Mapping {
        uapi::Mapping {
            offset: self.offset as u64,
            length: self.length as u64,
        }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        // In a child it is the parent's.
        if self.process.is_current() {
            self.process.own.segment.clear(self.offset, self.length);
            self.process
                .rings
                .lock()
                .give_back(self.offset, self.length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_one_piece_again() {
        let mut space = RingSpace::default();
        let parts: Vec<usize> = (1..5).map(|n| space.take(n * PAGE).unwrap()).collect();
        for number in [2, 0, 3, 1] {
            space.give_back(parts[number], (number + 1) * PAGE);
        }
        assert_eq!(space.free, BTreeMap::from([(RINGS, LENGTH - RINGS)]));
        assert_eq!(space.take(LENGTH), None);
    }
}
