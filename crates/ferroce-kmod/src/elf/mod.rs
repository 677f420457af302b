// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module as an ELF file that the kernel's loader would accept.
//!
//! The checks are those of `elf_validity_cache_copy()` in `kernel/module/main.c`
//! of Linux 7.2, in its order and with what it logs; those that need to know
//! the kernel are in [`crate::check`]. Where the kernel trusts a file, because
//! a user who may load a module may do anything, this does not: each access
//! beyond is checked, too.

mod headers;

use std::borrow::Cow;

use object::elf::{self, FileHeader64, Rela64, SectionHeader64, Sym64};
use object::read::ReadRef;
use object::LittleEndian as LE;

use crate::arch::Machine;
use crate::error::Malformed;
use headers::{contents, file_header, header_offset, section_headers, section_names};

/// The section with `NAME=VALUE` texts.
pub const MODINFO: &str = ".modinfo";
/// The section with the module's `struct module`.
pub const THIS_MODULE: &str = ".gnu.linkonce.this_module";
/// The section with data that each processor has a copy of.
pub const PER_CPU: &str = ".data..percpu";

/// What the loader calls a module whose name it does not know yet.
pub(crate) const NAMELESS: &str = "(missing .modinfo section or name field)";

/// The section index of symbols that live patches resolve
/// (include/uapi/linux/elf.h).
pub const SHN_LIVEPATCH: elf::SymbolSection = elf::SymbolSection(0xff20);

/// A parsed module, which borrows the file's bytes.
#[derive(Debug, Clone)]
pub struct Elf<'a> {
    /// What processor it is for.
    pub machine: Machine,
    /// All sections, the empty one of index 0 included.
    pub sections: Vec<Section<'a>>,
    file: &'a [u8],
    symbols: &'a [Sym64<LE>],
    strings: &'a [u8],
    symtab: usize,
}

/// A section.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// Its place in the section header table.
    pub index: usize,
    name: &'a [u8],
    header: &'a SectionHeader64<LE>,
    data: &'a [u8],
}

/// A symbol.
#[derive(Debug, Clone, Copy)]
pub struct Symbol<'a> {
    /// Its place in the symbol table.
    pub index: usize,
    name: &'a [u8],
    raw: &'a Sym64<LE>,
}

/// A relocation with an explicit addend, the only kind on 64-bit machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// Where to write, from the start of the section that is relocated.
    pub offset: u64,
    /// What to compute (`R_X86_64_*`, `R_AARCH64_*`).
    pub kind: u32,
    /// The symbol whose value goes in.
    pub symbol: usize,
    /// What is added to it.
    pub addend: i64,
}

/// The relocations of one section.
#[derive(Debug, Clone, Copy)]
pub struct RelocationSection<'a> {
    /// The section that lists them.
    pub section: Section<'a>,
    /// The section they change.
    pub target: Section<'a>,
    entries: &'a [Rela64<LE>],
}

impl RelocationSection<'_> {
    /// Each of them, in the order in which the kernel applies them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Relocation> + '_ {
        self.entries.iter().map(|entry| Relocation {
            offset: entry.r_offset.get(LE),
            kind: entry.r_type(LE, false).0,
            symbol: entry.r_sym(LE, false) as usize,
            addend: entry.r_addend.get(LE),
        })
    }
}

/// Text of a module, which is mostly ASCII, but may be anything: bytes that are
/// no UTF-8 become `\xff` and the like, as the kernel's log has them.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text += chunk.valid();
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text.into()
}

/// The bytes up to the first NUL, or all.
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

impl<'a> Section<'a> {
    /// Its name.
    pub fn name(&self) -> Cow<'a, str> {
        text(self.name)
    }

    /// Whether that is its name.
    pub fn is(&self, name: &str) -> bool {
        self.name == name.as_bytes()
    }

    /// Whether its name begins so.
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.name.starts_with(prefix.as_bytes())
    }

    /// `sh_type`.
    pub fn kind(&self) -> elf::SectionType {
        self.header.sh_type.get(LE)
    }

    /// `sh_flags`.
    pub fn flags(&self) -> u64 {
        self.header.sh_flags.get(LE).0
    }

    /// Whether all these flags are set.
    pub fn has(&self, flags: elf::SectionFlags) -> bool {
        self.flags() & flags.0 == flags.0
    }

    /// Whether a section of relocations is for live patching alone, by its flags
    /// (SHF_RELA_LIVEPATCH in include/uapi/linux/elf.h).
    pub fn is_livepatch(&self) -> bool {
        self.flags() & 0x0010_0000 != 0
    }

    /// `sh_size`, in bytes; in memory, for a section without contents.
    pub fn size(&self) -> u64 {
        self.header.sh_size.get(LE)
    }

    /// `sh_offset`: where its contents are in the file.
    pub fn offset(&self) -> u64 {
        self.header.sh_offset.get(LE)
    }

    /// `sh_addralign`; 0 and 1 mean none.
    pub fn align(&self) -> u64 {
        self.header.sh_addralign.get(LE)
    }

    /// Its contents in the file; nothing for `SHT_NOBITS`.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}

impl<'a> Symbol<'a> {
    /// Its name.
    pub fn name(&self) -> Cow<'a, str> {
        text(self.name)
    }

    /// Its name as it is in the file.
    pub fn name_bytes(&self) -> &'a [u8] {
        self.name
    }

    /// `st_shndx`.
    pub fn shndx(&self) -> u16 {
        self.raw.st_shndx.get(LE).0
    }

    /// Whether it is to be found elsewhere. The first symbol, which stands for
    /// none, is not.
    pub fn is_undefined(&self) -> bool {
        self.index != 0 && self.shndx() == elf::SHN_UNDEF.0
    }

    /// Whether it may stay undefined.
    pub fn is_weak(&self) -> bool {
        self.raw.st_bind() == elf::STB_WEAK
    }

    /// Whether it stands for a section.
    pub fn is_section(&self) -> bool {
        self.raw.st_type() == elf::STT_SECTION
    }

    /// `st_value`: the offset in its section, before the loader is done.
    pub fn value(&self) -> u64 {
        self.raw.st_value.get(LE)
    }
}

impl<'a> Elf<'a> {
    /// Parses a file; the error is the first that the kernel would meet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, machine) = file_header(bytes)?;
        let headers = section_headers(bytes, header)?;
        let names = section_names(bytes, header, headers)?;
        let sections: Vec<_> = headers
            .iter()
            .enumerate()
            .map(|(index, header)| Section {
                index,
                // The name of the empty section has no meaning (elf(5)).
                name: match index {
                    0 => &[],
                    _ => until_nul(names.get(header.sh_name.get(LE) as usize..).unwrap_or(&[])),
                },
                header,
                data: contents(bytes, header),
            })
            .collect();
        let mut elf = Self {
            machine,
            sections,
            file: bytes,
            symbols: &[],
            strings: &[],
            symtab: 0,
        };
        elf.check_unique(header)?;
        elf.find_symbols(header)?;
        elf.check_versions(header)?;
        elf.check_strings(header)?;
        Ok(elf)
    }

    /// The first section of that name; the empty section is none.
    pub fn section(&self, name: &str) -> Option<Section<'a>> {
        self.sections.iter().skip(1).find(|s| s.is(name)).copied()
    }

    /// The first section of that name that is to be in memory, the only kind
    /// that the kernel's `find_sec()` finds.
    pub fn allocated(&self, name: &str) -> Option<Section<'a>> {
        let wanted = |s: &&Section| s.has(elf::SHF_ALLOC) && s.is(name);
        self.sections.iter().skip(1).find(wanted).copied()
    }

    /// The contents of the first section of that name, or nothing.
    pub fn contents(&self, name: &str) -> &'a [u8] {
        self.section(name).map_or(&[], |s| s.data())
    }

    /// The file from a section's contents on, whatever its type is.
    pub(crate) fn from(&self, section: &Section) -> &'a [u8] {
        let start = usize::try_from(section.offset()).unwrap_or(usize::MAX);
        self.file.get(start..).unwrap_or(&[])
    }

    /// The symbol table's section.
    pub fn symtab(&self) -> Section<'a> {
        self.sections[self.symtab]
    }

    /// The section with the names of the symbols.
    pub fn strtab(&self) -> Section<'a> {
        self.sections[self.symtab().header.sh_link.get(LE) as usize]
    }

    /// A symbol by its place in the table.
    pub fn symbol(&self, index: usize) -> Option<Symbol<'a>> {
        let raw = self.symbols.get(index)?;
        let name = self.strings.get(raw.st_name.get(LE) as usize..)?;
        Some(Symbol {
            index,
            name: until_nul(name),
            raw,
        })
    }

    /// All symbols, the empty one of index 0 included.
    pub fn symbols(&self) -> impl Iterator<Item = Symbol<'a>> + '_ {
        (0..self.symbols.len()).filter_map(|index| self.symbol(index))
    }

    /// The relocations that the kernel applies: those of sections that are to
    /// be in memory, and of the per-CPU section (`apply_relocations()`).
    pub fn relocations(&self) -> impl Iterator<Item = RelocationSection<'a>> + '_ {
        self.relocation_sections().filter(|relocations| {
            let target = relocations.target;
            let wanted = target.has(elf::SHF_ALLOC) || target.is(PER_CPU);
            let section = relocations.section;
            let is_rela = section.kind() == elf::SHT_RELA && !section.is_livepatch();
            is_rela && wanted && target.index != 0
        })
    }

    /// All relocation sections that are for a section, in the order in which the
    /// loader goes through them; which it applies depends on the layout.
    pub fn relocation_sections(&self) -> impl Iterator<Item = RelocationSection<'a>> + '_ {
        self.sections.iter().skip(1).filter_map(|section| {
            if !matches!(section.kind(), elf::SHT_RELA | elf::SHT_REL) {
                return None;
            }
            let target = *self.sections.get(section.header.sh_info.get(LE) as usize)?;
            let count = match section.kind() {
                elf::SHT_RELA => section.data().len() / size_of::<Rela64<LE>>(),
                _ => 0,
            };
            Some(RelocationSection {
                section: *section,
                target,
                entries: section.data().read_slice_at(0, count).ok()?,
            })
        })
    }

    /// The relocation at a place, as data with addresses in it needs.
    pub fn relocation_at(&self, section: usize, offset: u64) -> Option<Relocation> {
        self.relocations()
            .filter(|r| r.target.index == section)
            .flat_map(|r| r.iter().find(|r| r.offset == offset))
            .next()
    }

    /// Where a relocation points inside of the module: section and offset.
    pub fn pointee(&self, relocation: &Relocation) -> Option<(Section<'a>, u64)> {
        let symbol = self.symbol(relocation.symbol)?;
        if symbol.is_undefined() {
            return None;
        }
        let section = *self.sections.get(symbol.shndx() as usize)?;
        let offset = symbol.value().checked_add_signed(relocation.addend)?;
        Some((section, offset))
    }

    /// `elf_validity_cache_index_info()` and `elf_validity_cache_index_mod()`.
    fn check_unique(&self, header: &FileHeader64<LE>) -> Result<(), Malformed> {
        let count = |name| self.sections.iter().skip(1).filter(|s| s.is(name)).count();
        let table = header.e_shoff.get(LE);
        if count(MODINFO) > 1 {
            let what = "there is more than one section .modinfo";
            return Err(Malformed::new(table, "section headers", what)
                .says("Only one .modinfo section must exist."));
        }
        // What the kernel calls the module in messages before it knows better.
        let info = crate::modinfo::Modinfo::of(self);
        let name = info.get("name").unwrap_or(NAMELESS);
        let says = |line| format!("module {name}: {line}");
        let module = match (self.section(THIS_MODULE), count(THIS_MODULE)) {
            (Some(section), 1) => section,
            (_, count) => {
                let what = format!(
                    "there are {count} sections {THIS_MODULE}, which every module has one of"
                );
                return Err(Malformed::new(table, "section headers", what).says(says(
                    "Exactly one .gnu.linkonce.this_module section must exist.",
                )));
            }
        };
        let at = header_offset(header, module.index);
        if module.kind() == elf::SHT_NOBITS {
            let what = format!("{THIS_MODULE} has no contents");
            return Err(Malformed::new(at + 4, "sh_type", what).says(says(
                ".gnu.linkonce.this_module section must have a size set",
            )));
        }
        if !module.has(elf::SHF_ALLOC) {
            let what = format!("{THIS_MODULE} is not to be in memory");
            return Err(Malformed::new(at + 8, "sh_flags", what).says(says(
                ".gnu.linkonce.this_module must occupy memory during process execution",
            )));
        }
        Ok(())
    }

    /// `elf_validity_cache_index_sym()` and `elf_validity_cache_index_str()`.
    fn find_symbols(&mut self, header: &FileHeader64<LE>) -> Result<(), Malformed> {
        let tables = self.sections.iter().skip(1);
        let mut tables = tables.filter(|s| s.kind() == elf::SHT_SYMTAB);
        let (Some(table), None) = (tables.next(), tables.next()) else {
            let what = "there is not exactly one symbol table; was it stripped?";
            let info = crate::modinfo::Modinfo::of(self);
            let name = info.get("name").unwrap_or(NAMELESS);
            return Err(
                Malformed::new(header.e_shoff.get(LE), "section headers", what)
                    .says(format!("{name}: module has no symbols (stripped?)")),
            );
        };
        let link = table.header.sh_link.get(LE);
        let at = header_offset(header, table.index) + 40;
        let strings = match self.sections.get(link as usize) {
            Some(strings) if link != 0 => strings,
            _ => {
                let what = format!(
                    "the symbols' names are in section {link}, which is none of the {}",
                    self.sections.len()
                );
                let count = self.sections.len();
                // %d.
                let link = link.cast_signed();
                return Err(Malformed::new(at, "sh_link of the symbol table", what).says(format!(
                    "Invalid ELF sh_link!=SHN_UNDEF({link}) or (sh_link({link}) >= hdr->e_shnum({count})"
                )));
            }
        };
        if strings.kind() != elf::SHT_STRTAB {
            let what = format!("the symbols' names are in section {link}, no string table");
            let kind = strings.kind().0;
            return Err(Malformed::new(at, "sh_link of the symbol table", what)
                .says(format!("Invalid ELF symbol string table type: {kind}")));
        }
        let count = table.data().len() / size_of::<Sym64<LE>>();
        self.symbols = table
            .data()
            .read_slice_at(0, count)
            .map_err(|()| Malformed::new(table.offset(), "symbol table", "it is cut off"))?;
        self.strings = strings.data();
        self.symtab = table.index;
        Ok(())
    }

    /// `elf_validity_cache_index_versions()`.
    fn check_versions(&self, header: &FileHeader64<LE>) -> Result<(), Malformed> {
        let crcs = self.allocated("__version_ext_crcs");
        let names = self.allocated("__version_ext_names");
        let (crcs, names) = match (crcs, names) {
            (None, None) => return Ok(()),
            (Some(crcs), Some(names)) => (crcs, names),
            _ => {
                let what = "__version_ext_crcs and __version_ext_names go together";
                return Err(Malformed::new(
                    header.e_shoff.get(LE),
                    "section headers",
                    what,
                ));
            }
        };
        let named = names.data().iter().filter(|b| **b == 0).count();
        if named < crcs.data().len() / 4 {
            let what = "there are more checksums than names";
            return Err(Malformed::new(names.offset(), "__version_ext_names", what));
        }
        Ok(())
    }

    /// `elf_validity_cache_strtab()`.
    fn check_strings(&self, header: &FileHeader64<LE>) -> Result<(), Malformed> {
        let section = self.strtab();
        let at = section.offset();
        let malformed = |what, says| Err(Malformed::new(at, ".strtab", what).says(says));
        let (Some(first), Some(last)) = (self.strings.first(), self.strings.last()) else {
            let at = header_offset(header, section.index) + 32;
            return Err(
                Malformed::new(at, "sh_size of .strtab", "the symbols have no names")
                    .says("empty symbol string table"),
            );
        };
        if *first != 0 {
            return malformed(
                "it does not begin with a NUL",
                "symbol string table missing leading NUL",
            );
        }
        if *last != 0 {
            return malformed(
                "it does not end with a NUL",
                "symbol string table isn't NUL terminated",
            );
        }
        for (index, symbol) in self.symbols.iter().enumerate() {
            let name = symbol.st_name.get(LE);
            if name as usize >= self.strings.len() {
                let at = self.symtab().offset() + (index * size_of::<Sym64<LE>>()) as u64;
                let what = format!("symbol {index} has its name beyond the string table");
                return Err(Malformed::new(at, "st_name", what));
            }
        }
        Ok(())
    }
}
