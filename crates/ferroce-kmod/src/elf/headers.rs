// SPDX-License-Identifier: MIT OR Apache-2.0
//! The headers of a file, and the names of its sections: what has to be right
//! before anything else can be looked at.

use object::elf::{self, FileHeader64, SectionHeader64};
use object::read::ReadRef;
use object::LittleEndian as LE;

use crate::arch::Machine;
use crate::error::Malformed;

/// Where a section's header is in the file.
pub(super) fn header_offset(header: &FileHeader64<LE>, index: usize) -> u64 {
    header
        .e_shoff
        .get(LE)
        .saturating_add((index * size_of::<SectionHeader64<LE>>()) as u64)
}

pub(super) fn contents<'a>(bytes: &'a [u8], header: &SectionHeader64<LE>) -> &'a [u8] {
    match header.sh_type.get(LE) {
        elf::SHT_NOBITS => &[],
        // The kernel copies these, too, if they are to be in memory.
        elf::SHT_NULL if header.sh_flags.get(LE).0 & elf::SHF_ALLOC.0 == 0 => &[],
        // In bounds, as section_headers() has seen to, but for SHT_NULL.
        _ => bytes
            .read_bytes_at(header.sh_offset.get(LE), header.sh_size.get(LE))
            .unwrap_or(&[]),
    }
}

/// `elf_validity_ehdr()`, and what it takes for granted.
pub(super) fn file_header(bytes: &[u8]) -> Result<(&FileHeader64<LE>, Machine), Malformed> {
    let length = bytes.len();
    let Ok(header) = bytes.read_at::<FileHeader64<LE>>(0) else {
        let what = format!("{length} bytes are too few for an ELF header, which has 64");
        return Err(
            Malformed::new(0, "e_ident", what).says(format!("Invalid ELF header len {length}"))
        );
    };
    if header.e_ident.magic != elf::ELFMAG {
        return Err(Malformed::new(0, "e_ident", "this is not an ELF file")
            .says("Invalid ELF header magic: != \x7fELF"));
    }
    let machine = header.e_machine.get(LE);
    let wrong_machine = format!("Invalid architecture in ELF header: {}", machine.0);
    let kind = header.e_type.get(LE);
    if kind != elf::ET_REL {
        let name = kind.name().unwrap_or("unknown");
        let what = match header.e_ident.data {
            elf::ELFDATA2LSB => format!("a module is relocatable (ET_REL), this is {name}"),
            _ => "only little-endian files are understood, this is not".to_owned(),
        };
        return Err(Malformed::new(16, "e_type", what).says(format!(
            "Invalid ELF header type: {} != {}",
            kind.0,
            elf::ET_REL.0
        )));
    }
    match Machine::from_elf(machine) {
        Some(machine) => Ok((header, machine)),
        None => {
            let name = machine.name().unwrap_or("an unknown processor");
            let what = format!("modules for x86-64 and arm64 are understood, this is for {name}");
            Err(Malformed::new(18, "e_machine", what).says(wrong_machine))
        }
    }
}

/// `elf_validity_cache_sechdrs()`.
pub(super) fn section_headers<'a>(
    bytes: &'a [u8],
    header: &FileHeader64<LE>,
) -> Result<&'a [SectionHeader64<LE>], Malformed> {
    const SIZE: usize = size_of::<SectionHeader64<LE>>();
    let entry = header.e_shentsize.get(LE);
    if usize::from(entry) != SIZE {
        // The kernel takes EI_CLASS for granted.
        let what = match header.e_ident.class {
            elf::ELFCLASS32 => {
                "modules for 64-bit kernels are ELFCLASS64, this is a 32-bit one".to_owned()
            }
            _ => format!("section headers have {SIZE} bytes, not {entry}"),
        };
        return Err(Malformed::new(58, "e_shentsize", what).says("Invalid ELF section header size"));
    }
    let (offset, count) = (header.e_shoff.get(LE), header.e_shnum.get(LE));
    let headers = match bytes.read_slice_at(offset, count.into()) {
        Ok(headers) if offset < bytes.len() as u64 => headers,
        _ => {
            let what = format!(
                "the {count} section headers at {offset:#x} are beyond the end of the file, \
                 which has {:#x} bytes; is it cut off?",
                bytes.len()
            );
            return Err(
                Malformed::new(40, "e_shoff", what).says("Invalid ELF section header overflow")
            );
        }
    };
    let Some(first): Option<&SectionHeader64<LE>> = headers.first() else {
        return Err(Malformed::new(60, "e_shnum", "there are no sections"));
    };
    let kind = first.sh_type.get(LE);
    if kind != elf::SHT_NULL || first.sh_size.get(LE) != 0 || first.sh_addr.get(LE) != 0 {
        let what = "the first section is not an empty one";
        return Err(
            Malformed::new(offset, "section header 0", what).says(format!(
                "ELF Spec violation: section 0 type({})!=SH_NULL or non-zero len or addr",
                kind.0.cast_signed()
            )),
        );
    }
    for (index, section) in headers.iter().enumerate().skip(1) {
        let kind = section.sh_type.get(LE);
        if kind == elf::SHT_NULL || kind == elf::SHT_NOBITS {
            continue;
        }
        let (start, size) = (section.sh_offset.get(LE), section.sh_size.get(LE));
        if start
            .checked_add(size)
            .is_none_or(|end| end > bytes.len() as u64)
        {
            let what = format!(
                "section {index} has {size:#x} bytes at {start:#x}, beyond the end of the file, \
                 which has {:#x}; is it cut off?",
                bytes.len()
            );
            return Err(
                Malformed::new(header_offset(header, index) + 24, "sh_offset", what).says(format!(
                    "Invalid ELF section in module (section {index} type {})",
                    kind.0
                )),
            );
        }
    }
    Ok(headers)
}

/// `elf_validity_cache_secstrings()`.
pub(super) fn section_names<'a>(
    bytes: &'a [u8],
    header: &FileHeader64<LE>,
    headers: &[SectionHeader64<LE>],
) -> Result<&'a [u8], Malformed> {
    let (index, count) = (header.e_shstrndx.get(LE).0, headers.len());
    let table = match headers.get(usize::from(index)) {
        Some(table) if index != elf::SHN_UNDEF.0 => table,
        _ => {
            let what = format!("the sections' names are in section {index}, which is none");
            return Err(Malformed::new(62, "e_shstrndx", what).says(format!(
                "Invalid ELF section name index: {index} || e_shstrndx ({index}) >= e_shnum ({count})"
            )));
        }
    };
    let at = header_offset(header, index.into());
    let kind = table.sh_type.get(LE);
    if kind != elf::SHT_STRTAB {
        let what = "the section with the sections' names is no string table";
        return Err(Malformed::new(at + 4, "sh_type", what)
            .says(format!("Invalid ELF section name table type: {}", kind.0)));
    }
    let names = contents(bytes, table);
    match names.last() {
        None => {
            return Err(
                Malformed::new(at + 32, "sh_size", "the sections have no names")
                    .says("empty section name table"),
            )
        }
        Some(0) => {}
        Some(_) => {
            let what = "it does not end with a NUL";
            return Err(Malformed::new(table.sh_offset.get(LE), ".shstrtab", what)
                .says("ELF Spec violation: section name table isn't null terminated"));
        }
    }
    for (index, section) in headers.iter().enumerate() {
        let kind = section.sh_type.get(LE);
        if kind != elf::SHT_NULL && section.sh_name.get(LE) as usize >= names.len() {
            let what = format!("section {index} has its name beyond the string table");
            return Err(
                Malformed::new(header_offset(header, index), "sh_name", what).says(format!(
                    "Invalid ELF section name in module (section {index} type {})",
                    kind.0
                )),
            );
        }
    }
    Ok(names)
}
