// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module's memory while its relocations are applied: the loader of x86
//! looks at what is there, and neither looks at where a section ends.

use std::ops::Range;

use object::elf as abi;

use crate::elf::{Elf, Section, SHN_LIVEPATCH, THIS_MODULE};
use crate::file::LARGEST;
use crate::layout::{Class, Layout, PAGE};

/// What `move_module()` leaves, and then the relocations.
pub struct Memory<'a> {
    layout: &'a Layout,
    /// The kinds of memory one after the other, in whole pages; nothing where
    /// they are too large to be written out.
    bytes: Option<Vec<u8>>,
    /// `struct module`, and where in it nothing is known of what the loader writes.
    module: Option<(usize, Range<u64>)>,
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

/// What is where a relocation is to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeroes, or what is too large to be written out.
    Zero,
    /// Something else.
    NotZero,
    /// What cannot be known.
    Unknown,
}

/// What `add_unformed_module()` has written to `struct module` by then:
/// MODULE_STATE_UNFORMED in `state`, and `list`. `name` is the file's own; all
/// that follows hangs on the kernel's configuration.
mod written {
    use std::ops::Range;

    pub const STATE: (u64, [u8; 4]) = (0, [3, 0, 0, 0]);
    pub const LIST: (u64, [u8; 16]) = (8, [0xff; 16]);
    pub const NAME: Range<u64> = 24..80;
}

/// sizeof(Elf64_Sym), with `st_value` at 8.
const SYMBOL: u64 = 24;

impl<'a> Memory<'a> {
    pub fn new(elf: &Elf, layout: &'a Layout) -> Self {
        let last = Class::InitRodata;
        let size = layout.base(last) + layout.pages(last) * PAGE;
        let bytes = (size <= 2 * LARGEST).then(|| vec![0; size as usize]);
        let module = elf.allocated(THIS_MODULE).and_then(|section| {
            let start = layout.address(section.index)?;
            let unknown = start + written::NAME.end..start + section.size();
            Some((section.index, unknown))
        });
        let per_cpu = elf.allocated(crate::elf::PER_CPU);
        let per_cpu = per_cpu.filter(|s| layout.place(s.index).is_none());
        let mut memory = Self {
            layout,
            bytes,
            module,
            per_cpu: per_cpu.map(|s| (s.index, s.data().to_vec())),
        };
        for section in &elf.sections {
            memory.put(section, 0, section.data());
        }
        memory.write_of_loader(elf);
        memory
    }

    /// What the loader has written to its copy of the file before relocations.
    fn write_of_loader(&mut self, elf: &Elf) {
        if let Some((index, _)) = self.module {
            let module = elf.sections[index];
            self.put(&module, written::STATE.0, &written::STATE.1);
            self.put(&module, written::LIST.0, &written::LIST.1);
        }
        // simplify_symbols(), whose addresses are not zero.
        let symtab = elf.symtab();
        for symbol in elf.symbols().skip(1) {
            let resolved = match abi::SymbolSection(symbol.shndx()) {
                abi::SHN_ABS | abi::SHN_COMMON | SHN_LIVEPATCH => false,
                abi::SHN_UNDEF => !symbol.is_weak(),
                _ => true,
            };
            if resolved {
                self.put(&symtab, symbol.index as u64 * SYMBOL + 8, &[0xff; 8]);
            }
        }
    }

    /// Writes to a section, as far as there is room.
    fn put(&mut self, target: &Section, offset: u64, bytes: &[u8]) {
        if let Some(room) = self.at(target, offset, bytes.len()) {
            room.copy_from_slice(bytes);
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

    /// What is there.
    pub fn content(&mut self, target: &Section, offset: u64, width: usize) -> Content {
        let unknown = self.is_unknown(target, offset, width as u64);
        match self.at(target, offset, width) {
            Some(bytes) if bytes.iter().any(|byte| *byte != 0) => Content::NotZero,
            Some(_) if unknown => Content::Unknown,
            _ => Content::Zero,
        }
    }

    /// Whether another section's relocation ends up in `struct module`. Its own are for
    /// fields that the loader leaves alone before (`init`, `exit`).
    fn is_unknown(&self, target: &Section, offset: u64, width: u64) -> bool {
        let (Some((module, unknown)), Some(start)) =
            (&self.module, self.layout.address(target.index))
        else {
            return false;
        };
        let start = start.wrapping_add(offset);
        *module != target.index
            && start < unknown.end
            && unknown.start < start.saturating_add(width)
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
