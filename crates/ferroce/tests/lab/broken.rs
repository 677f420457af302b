// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modules that are broken, each in one way, made of whole ones.

use ferroce_kmod::check::{Reason, Stage};
use ferroce_kmod::elf::{Elf, Section};

/// A way to break a module, and what is to come of it.
pub struct Case {
    pub name: &'static str,
    /// What is broken, of the lab's modules.
    pub module: &'static str,
    pub break_it: fn(Vec<u8>) -> Vec<u8>,
    pub params: &'static [(&'static str, &'static str)],
    pub stage: Stage,
    pub reason: Reason,
}

const fn case(
    name: &'static str,
    break_it: fn(Vec<u8>) -> Vec<u8>,
    stage: Stage,
    reason: Reason,
) -> Case {
    Case {
        name,
        module: "hello",
        break_it,
        params: &[],
        stage,
        reason,
    }
}

/// `e_machine` in an ELF header, `sh_type` and `sh_size` in a section's.
const E_MACHINE: usize = 18;
const SH_TYPE: usize = 4;
const SH_SIZE: usize = 32;

pub fn cases() -> Vec<Case> {
    use Stage::{CopyAndCheck, Init, Relocations, Symbols};
    let long_name = Case {
        params: &[("name", "a name of more than thirty-one bytes")],
        ..case("parameter", |bytes| bytes, Init, Reason::BadParameter)
    };
    vec![
        case("empty", |_| Vec::new(), CopyAndCheck, Reason::Malformed),
        case(
            "short",
            |bytes| bytes[..40].to_vec(),
            CopyAndCheck,
            Reason::Malformed,
        ),
        case(
            "truncated",
            |bytes| bytes[..bytes.len() / 2].to_vec(),
            CopyAndCheck,
            Reason::Malformed,
        ),
        case(
            "text",
            |_| b"This is no module, but a text that is longer than an ELF header.".repeat(9),
            CopyAndCheck,
            Reason::Malformed,
        ),
        case(
            "section-cut-off",
            |bytes| patch(bytes, ".modinfo", |_, header| header[SH_SIZE + 4] = 1),
            CopyAndCheck,
            Reason::Malformed,
        ),
        case(
            "stripped",
            |bytes| patch(bytes, ".symtab", |_, header| header[SH_TYPE] = 1),
            CopyAndCheck,
            Reason::Malformed,
        ),
        case(
            "processor",
            |mut bytes| {
                bytes[E_MACHINE] = 183; // EM_AARCH64
                bytes
            },
            CopyAndCheck,
            Reason::Machine,
        ),
        case(
            "struct-module",
            |bytes| {
                patch(bytes, ".gnu.linkonce.this_module", |_, header| {
                    header[SH_SIZE] ^= 0x40;
                })
            },
            CopyAndCheck,
            Reason::StructModule,
        ),
        case(
            "release",
            |bytes| replace(bytes, b"vermagic=7.", b"vermagic=6."),
            CopyAndCheck,
            Reason::Vermagic,
        ),
        case(
            "vermagic-word",
            |bytes| replace(bytes, b" mod_unload ", b" mod_unlaod "),
            CopyAndCheck,
            Reason::Vermagic,
        ),
        case(
            "no-vermagic",
            |bytes| replace(bytes, b"vermagic=", b"magicver="),
            CopyAndCheck,
            Reason::Vermagic,
        ),
        case(
            "livepatch",
            |bytes| replace(bytes, b"description=", b"livepatch=Y\0"),
            CopyAndCheck,
            Reason::Livepatch,
        ),
        case(
            "missing-symbol",
            |bytes| replace(bytes, b"\0param_ops_string\0", b"\0param_ops_strung\0"),
            Symbols,
            Reason::UnknownSymbol,
        ),
        case(
            "proprietary",
            |bytes| replace(bytes, b"\0license=GPL\0", b"\0license=MIT\0"),
            Symbols,
            Reason::GplOnly,
        ),
        Case {
            module: "visitor",
            // Its need is found by the kernel's tools, and here is not there.
            ..case(
                "missing-module",
                |bytes| replace(bytes, b"\0greeter_greet\0", b"\0greeter_grunt\0"),
                Symbols,
                Reason::UnknownSymbol,
            )
        },
        case(
            "relocation",
            |bytes| relocation(bytes, 9), // R_X86_64_GOTPCREL
            Relocations,
            Reason::UnknownRelocation,
        ),
        case(
            "thread-local",
            |bytes| relocation(bytes, 23), // R_X86_64_TPOFF32
            Relocations,
            Reason::UnknownRelocation,
        ),
        long_name,
    ]
}

/// Replaces a text that is there once by one as long.
pub fn replace(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let found: Vec<usize> = (0..bytes.len().saturating_sub(from.len()))
        .filter(|at| bytes[*at..].starts_with(from))
        .collect();
    let [at] = found[..] else {
        panic!(
            "{} is there {} times",
            String::from_utf8_lossy(from),
            found.len()
        );
    };
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// Changes the header of a section.
fn patch(mut bytes: Vec<u8>, name: &str, change: fn(&Section, &mut [u8])) -> Vec<u8> {
    const HEADER: usize = 64;
    const E_SHOFF: usize = 40;
    let original = bytes.clone();
    let elf = Elf::parse(&original).expect("it was whole");
    let section = elf.section(name).expect("it has the section");
    let table = usize::from_le_bytes(*bytes[E_SHOFF..].first_chunk().unwrap());
    let start = table + section.index * HEADER;
    change(&section, &mut bytes[start..start + HEADER]);
    bytes
}

/// Makes the first relocation of code one of another kind.
fn relocation(mut bytes: Vec<u8>, kind: u8) -> Vec<u8> {
    const R_INFO: usize = 8;
    let original = bytes.clone();
    let elf = Elf::parse(&original).expect("it was whole");
    let first = elf.relocations().next().expect("it has relocations");
    bytes[first.section.offset() as usize + R_INFO] = kind;
    bytes
}
