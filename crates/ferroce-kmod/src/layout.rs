// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the sections go in memory: `layout_sections()` in
//! `kernel/module/main.c` and `layout_symtab()` in `kernel/module/kallsyms.c`.

use object::elf;
use serde::Serialize;

use crate::elf::{Elf, Section, Symbol, PER_CPU};

/// What the kernel takes memory in units of on the architectures known here.
/// arm64 kernels with larger pages exist; these are not.
pub const PAGE: u64 = 4096;

/// SHF_RO_AFTER_INIT in include/uapi/linux/elf.h: the loader sets it by a section's
/// name, and takes it from the file.
const RO_AFTER_INIT: u64 = 0x0020_0000;

/// A kind of memory, `enum mod_mem_type` in include/linux/module.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Code.
    Text,
    /// Data that is written.
    Data,
    /// Data that is not.
    Rodata,
    /// Data that only the module's init writes.
    RoAfterInit,
    /// Code of which nothing is left after init.
    InitText,
    /// Data of that kind that is written, and the whole symbol table.
    InitData,
    /// Data of that kind that is not written.
    InitRodata,
}

impl Class {
    /// All of them, in the order in which they are allocated.
    pub const ALL: [Self; 7] = [
        Self::Text,
        Self::Data,
        Self::Rodata,
        Self::RoAfterInit,
        Self::InitText,
        Self::InitData,
        Self::InitRodata,
    ];

    /// Its name for a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Data => "data",
            Self::Rodata => "read-only data",
            Self::RoAfterInit => "read-only after init",
            Self::InitText => "init text",
            Self::InitData => "init data",
            Self::InitRodata => "init read-only data",
        }
    }

    /// Whether it is freed when init is done.
    pub fn is_init(self) -> bool {
        matches!(self, Self::InitText | Self::InitData | Self::InitRodata)
    }
}

/// The options of a kernel that change the layout.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// CONFIG_KALLSYMS: symbols stay in memory.
    pub kallsyms: bool,
    /// CONFIG_KALLSYMS_ALL: those of data as well.
    pub kallsyms_all: bool,
    /// CONFIG_MODULE_UNLOAD: code for unloading stays.
    pub unload: bool,
    /// CONFIG_SMP: per-CPU data is apart.
    pub smp: bool,
    /// CONFIG_HAVE_STATIC_CALL_INLINE: static call sites are sorted at load time.
    pub static_call_inline: bool,
}

impl Default for Options {
    /// What distributions build.
    fn default() -> Self {
        Self {
            kallsyms: true,
            kallsyms_all: true,
            unload: true,
            smp: true,
            static_call_inline: true,
        }
    }
}

/// Where a section is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The kind of memory.
    pub class: Class,
    /// The offset in it.
    pub offset: u64,
}

/// The memory that a module takes.
#[derive(Debug, Clone)]
pub struct Layout {
    sizes: [u64; 7],
    places: Vec<Option<Place>>,
    per_cpu: u64,
    oddities: Vec<String>,
}

impl Layout {
    /// Lays a module out. The kernel does so whatever the section headers say.
    pub fn of(elf: &Elf, options: Options) -> Self {
        let mut layout = Self {
            sizes: [0; 7],
            places: vec![None; elf.sections.len()],
            per_cpu: 0,
            oddities: Vec::new(),
        };
        if options.smp {
            layout.per_cpu = elf.section(PER_CPU).map_or(0, |s| s.size());
        }
        layout.lay_out_sections(elf, options, false);
        layout.lay_out_sections(elf, options, true);
        if options.kallsyms {
            layout.lay_out_symbols(elf, options);
        }
        layout
    }

    /// Alignments and sizes that do not mean to the kernel what they say: there
    /// may be less room for a section than it needs.
    pub fn oddities(&self) -> &[String] {
        &self.oddities
    }

    /// Bytes of a kind, before they are rounded up to pages.
    pub fn size(&self, class: Class) -> u64 {
        self.sizes[class as usize]
    }

    /// Pages of a kind.
    pub fn pages(&self, class: Class) -> u64 {
        self.size(class).div_ceil(PAGE)
    }

    /// Bytes that stay as long as the module does, in whole pages: what
    /// /proc/modules says.
    pub fn resident(&self) -> u64 {
        let stay = Class::ALL.iter().filter(|c| !c.is_init());
        stay.map(|c| self.pages(*c) * PAGE).sum()
    }

    /// Bytes that each processor has of its own.
    pub fn per_cpu(&self) -> u64 {
        self.per_cpu
    }

    /// Where a section is, if it is in memory.
    pub fn place(&self, section: usize) -> Option<Place> {
        self.places.get(section).copied().flatten()
    }

    /// Where a kind of memory begins when all are one after the other.
    pub fn base(&self, class: Class) -> u64 {
        let before = Class::ALL.iter().take_while(|c| **c != class);
        before.map(|c| self.pages(*c) * PAGE).sum()
    }

    /// Where a section begins then.
    pub fn address(&self, section: usize) -> Option<u64> {
        let place = self.place(section)?;
        Some(self.base(place.class) + place.offset)
    }

    /// `__layout_sections()`.
    fn lay_out_sections(&mut self, elf: &Elf, options: Options, init: bool) {
        const CORE: [Class; 4] = [Class::Text, Class::Rodata, Class::RoAfterInit, Class::Data];
        // There is no such thing as read-only after init in init.
        const INIT: [Class; 4] = [
            Class::InitText,
            Class::InitRodata,
            Class::InitData,
            Class::InitData,
        ];
        for (kind, class) in if init { INIT } else { CORE }.into_iter().enumerate() {
            // The loader takes SHF_ALLOC off the first, which is none.
            for section in elf.sections.iter().skip(1) {
                if self.places[section.index].is_none()
                    && Some(kind) == Self::kind(section, options)
                    && init == Self::is_init(section, options)
                {
                    self.places[section.index] = Some(Place {
                        class,
                        offset: self.append(class, section),
                    });
                }
            }
        }
    }

    /// Which of the kernel's four passes takes a section, by its flags as
    /// `rewrite_section_headers()` and `module_mark_ro_after_init()` leave them.
    fn kind(section: &Section, options: Options) -> Option<usize> {
        const DROPPED: [&str; 4] = [
            ".modinfo",
            "__versions",
            "__version_ext_crcs",
            "__version_ext_names",
        ];
        let dropped = DROPPED.iter().any(|name| section.is(name));
        let per_cpu = options.smp && section.is(PER_CPU);
        if !section.has(elf::SHF_ALLOC) || dropped || per_cpu {
            return None;
        }
        if section.has(elf::SHF_EXECINSTR) {
            return Some(0);
        }
        if !section.has(elf::SHF_WRITE) {
            return Some(1);
        }
        let after_init = section.flags() & RO_AFTER_INIT != 0
            || section.is(".data..ro_after_init")
            || section.is("__jump_table")
            || (options.static_call_inline && section.is(".static_call_sites"));
        Some(if after_init { 2 } else { 3 })
    }

    /// `module_init_layout_section()`.
    fn is_init(section: &Section, options: Options) -> bool {
        section.starts_with(".init") || (!options.unload && section.starts_with(".exit"))
    }

    /// `layout_symtab()`: the whole table in init, and what stays in data.
    fn lay_out_symbols(&mut self, elf: &Elf, options: Options) {
        // sizeof(struct mod_kallsyms), and its alignment.
        const KALLSYMS: (u64, u64) = (32, 8);
        let (symtab, strtab) = (elf.symtab(), elf.strtab());
        let offset = self.append(Class::InitData, &symtab);
        self.places[symtab.index] = Some(Place {
            class: Class::InitData,
            offset,
        });
        let (mut count, mut names, mut all) = (0, 0, 0);
        for symbol in elf.symbols() {
            all += 1;
            if symbol.index == 0 || self.stays(elf, &symbol, options) {
                count += 1;
                names += symbol.name_bytes().len() as u64 + 1;
            }
        }
        const SYMBOL: u64 = 24;
        let start = align(self.size(Class::Data), symtab.align());
        self.sizes[Class::Data as usize] = u64::from((start + count * (SYMBOL + 1) + names) as u32);
        let offset = self.append(Class::InitData, &strtab);
        self.places[strtab.index] = Some(Place {
            class: Class::InitData,
            offset,
        });
        let start = align(self.size(Class::InitData), KALLSYMS.1);
        self.sizes[Class::InitData as usize] = u64::from((start + KALLSYMS.0 + all) as u32);
    }

    /// `is_core_symbol()`.
    fn stays(&self, elf: &Elf, symbol: &Symbol, options: Options) -> bool {
        let Some(section) = elf.sections.get(usize::from(symbol.shndx())) else {
            return false;
        };
        if section.index == 0 || symbol.name_bytes().is_empty() {
            return false;
        }
        if options.kallsyms_all && options.smp && section.is(PER_CPU) {
            return true;
        }
        let place = self.place(section.index);
        place.is_some_and(|p| !p.class.is_init())
            && (options.kallsyms_all || section.has(elf::SHF_EXECINSTR))
    }

    /// `module_get_offset_and_type()`.
    fn append(&mut self, class: Class, section: &Section) -> u64 {
        let (name, size, alignment) = (section.name(), section.size(), section.align());
        if alignment != 0 && (!alignment.is_power_of_two() || alignment > u64::from(u32::MAX)) {
            let what =
                format!("section {name}: an alignment of {alignment:#x} is none to the kernel");
            self.oddities.push(what);
        }
        let offset = align(self.size(class), alignment);
        let end = offset.wrapping_add(size);
        if size > u64::from(u32::MAX) || end > u64::from(u32::MAX) {
            let what =
                format!("section {name} has {size:#x} bytes, more than the kernel can count");
            self.oddities.push(what);
        }
        // `unsigned int size` in struct module_memory.
        self.sizes[class as usize] = u64::from(end as u32);
        offset
    }
}

/// `ALIGN()` of an `unsigned int`, whatever the alignment is.
fn align(size: u64, align: u64) -> u64 {
    let mask = (align.max(1) as u32).wrapping_sub(1);
    u64::from((size as u32).wrapping_add(mask) & !mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alignment_is_what_the_kernels_sum_makes_of_it() {
        assert_eq!(align(5, 0), 5);
        assert_eq!(align(5, 8), 8);
        // (5 + 2) & ~2, and (5 + 0xffffffff) & 0.
        assert_eq!(align(5, 3), 5);
        assert_eq!(align(5, 1 << 63), 0);
    }
}
