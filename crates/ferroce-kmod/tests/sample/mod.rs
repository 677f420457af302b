// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small module with one of everything, made without a kernel.

use object::elf;
use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

/// A file that passes the kernel's checks of a file.
pub fn module() -> Vec<u8> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let text = section(&mut object, ".text", SectionKind::Text, &[0; 32]);
    let exit = section(&mut object, ".exit.text", SectionKind::Text, &[0; 16]);
    let texts = b"vermagic=1.2.3 SMP mod_unload \0name=sample\0license=GPL\0depends=\0\
                  parm=level:How loud\0parmtype=level:byte\0import_ns=OTHER\0";
    section(&mut object, ".modinfo", SectionKind::ReadOnlyData, texts);
    let mut this_module = [0; 128];
    this_module[24..30].copy_from_slice(b"sample");
    let this_module = section(
        &mut object,
        ".gnu.linkonce.this_module",
        SectionKind::Data,
        &this_module,
    );
    let strings = section(
        &mut object,
        "__ksymtab_strings",
        SectionKind::ReadOnlyData,
        b"sample_call\0SAMPLE\0level\0",
    );
    let table = section(
        &mut object,
        "__ksymtab",
        SectionKind::ReadOnlyData,
        &[0; 12],
    );
    let flags = section(&mut object, "__kflagstab", SectionKind::ReadOnlyData, &[1]);
    let param = section(&mut object, "__param", SectionKind::ReadOnlyData, &[0; 40]);
    let level = section(&mut object, ".data", SectionKind::Data, &[0; 16]);

    let per_cpu = section(&mut object, ".data..percpu", SectionKind::Data, &[0; 8]);

    let init = symbol(&mut object, "init_module", Some((text, 0)));
    let exit = symbol(&mut object, "cleanup_module", Some((exit, 0)));
    symbol(&mut object, "__ksymtab_sample_call", Some((table, 0)));
    symbol(&mut object, "__flags_sample_call", Some((flags, 0)));
    symbol(&mut object, "__kstrtabns_sample_call", Some((strings, 12)));
    let name = symbol(&mut object, "level_name", Some((strings, 19)));
    let value = symbol(&mut object, "level", Some((level, 0)));
    let printk = symbol(&mut object, "_printk", None);
    let ops = symbol(&mut object, "param_ops_byte", None);
    relocate(&mut object, text, 4, printk, elf::R_X86_64_PLT32);
    relocate(&mut object, text, 16, init, elf::R_X86_64_64);
    relocate(&mut object, param, 0, name, elf::R_X86_64_64);
    relocate(&mut object, param, 16, ops, elf::R_X86_64_64);
    relocate(&mut object, param, 32, value, elf::R_X86_64_64);
    relocate(&mut object, level, 8, name, elf::R_X86_64_64);
    relocate(&mut object, per_cpu, 0, name, elf::R_X86_64_64);
    relocate(&mut object, this_module, 96, init, elf::R_X86_64_64);
    relocate(&mut object, this_module, 120, exit, elf::R_X86_64_64);
    object.write().expect("it can be written")
}

fn section(object: &mut Object, name: &str, kind: SectionKind, data: &[u8]) -> SectionId {
    let id = object.add_section(Vec::new(), name.into(), kind);
    object.append_section_data(id, data, 8);
    id
}

fn symbol(object: &mut Object, name: &str, place: Option<(SectionId, u64)>) -> SymbolId {
    object.add_symbol(Symbol {
        name: name.into(),
        value: place.map_or(0, |(_, offset)| offset),
        size: 0,
        kind: SymbolKind::Data,
        scope: SymbolScope::Linkage,
        weak: false,
        section: place.map_or(SymbolSection::Undefined, |(id, _)| {
            SymbolSection::Section(id)
        }),
        flags: SymbolFlags::None,
    })
}

fn relocate(
    object: &mut Object,
    section: SectionId,
    offset: u64,
    symbol: SymbolId,
    kind: elf::RelocationType,
) {
    let relocation = Relocation {
        offset,
        symbol,
        addend: 0,
        flags: RelocationFlags::Elf { r_type: kind },
    };
    object.add_relocation(section, relocation).expect("it fits");
}

/// Changes `st_shndx` of the symbol of that name.
pub fn set_shndx(module: &mut [u8], name: &[u8], shndx: u16) {
    const ENTRY: usize = 24;
    const SHNDX: usize = 6;
    let elf = ferroce_kmod::elf::Elf::parse(module).unwrap();
    let symbol = elf.symbols().find(|s| s.name_bytes() == name).unwrap();
    let at = elf.symtab().offset() as usize + symbol.index * ENTRY + SHNDX;
    module[at..at + 2].copy_from_slice(&shndx.to_le_bytes());
}
