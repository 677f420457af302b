// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module's memory while its relocations are applied: the loader of x86
//! looks at what is there, and neither looks at where a section ends.

use crate::elf::{Elf, Section};
use crate::file::LARGEST;
use crate::layout::{Class, Layout, PAGE};

/// What `move_module()` leaves, and then the relocations.
pub struct Memory<'a> {
    layout: &'a Layout,
    /// The kinds of memory one after the other, in whole pages; nothing where
    /// they are too large to be written out.
    bytes: Option<Vec<u8>>,
    /// Per-CPU data, which is relocated in the loader's copy of the file.
    per_cpu: Option<(usize, Vec<u8>)>,
}

/// Where a relocation writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spot {
    /// In its section.
    Inside,
    /// Behind or before it, in memory of the module's.
    Beside,
    /// In memory that is not the module's.
    Outside,
}

impl<'a> Memory<'a> {
    pub fn new(elf: &Elf, layout: &'a Layout) -> Self {
        let last = Class::InitRodata;
        let size = layout.base(last) + layout.pages(last) * PAGE;
        let mut bytes = (size <= 2 * LARGEST).then(|| vec![0; size as usize]);
        for section in &elf.sections {
            let room = bytes.as_mut().and_then(|bytes| {
                let start = usize::try_from(layout.address(section.index)?).ok()?;
                bytes.get_mut(start..)?.get_mut(..section.data().len())
            });
            if let Some(room) = room {
                room.copy_from_slice(section.data());
            }
        }
        let per_cpu = elf.allocated(crate::elf::PER_CPU);
        let per_cpu = per_cpu.filter(|s| layout.place(s.index).is_none());
        Self {
            layout,
            bytes,
            per_cpu: per_cpu.map(|s| (s.index, s.data().to_vec())),
        }
    }

    /// Whether the loader applies the relocations for a section.
    pub fn has(&self, section: &Section) -> bool {
        let per_cpu = self.per_cpu.as_ref();
        self.layout.place(section.index).is_some()
            || per_cpu.is_some_and(|(index, _)| *index == section.index)
    }

    /// Where a relocation of so many bytes writes to.
    pub fn spot(&self, target: &Section, offset: u64, width: u64) -> Spot {
        let within = |start: u64, size: u64| {
            let end = start.checked_add(width);
            end.is_some_and(|end| end <= size)
        };
        let size = match self.layout.place(target.index) {
            Some(_) => target.size(),
            None => target.data().len() as u64,
        };
        if within(offset, size) {
            return Spot::Inside;
        }
        let beside = self.layout.place(target.index).is_some_and(|place| {
            let start = place.offset.wrapping_add(offset);
            within(start, self.layout.pages(place.class) * PAGE)
        });
        if beside {
            Spot::Beside
        } else {
            Spot::Outside
        }
    }

    /// The bytes there, as far as they are known.
    pub fn at(&mut self, target: &Section, offset: u64, width: usize) -> Option<&mut [u8]> {
        let (bytes, start) = match (&mut self.per_cpu, self.layout.address(target.index)) {
            (_, Some(start)) => (self.bytes.as_mut()?, start),
            (Some((index, bytes)), None) if *index == target.index => (bytes, 0),
            _ => return None,
        };
        let start = usize::try_from(start.wrapping_add(offset)).ok()?;
        bytes.get_mut(start..)?.get_mut(..width)
    }
}
