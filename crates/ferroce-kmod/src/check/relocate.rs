// SPDX-License-Identifier: MIT OR Apache-2.0
//! Relocations: `apply_relocations()` and the architectures'
//! `apply_relocate_add()`.

use std::collections::BTreeMap;

use object::elf as abi;
use rustix::io::Errno;

use super::memory::{Content, Memory, Spot};
use super::pointers::{self, Applied};
use super::{Finding, Reason};
use crate::arch::{Arch, Fit, Handling, Value};
use crate::elf::{Elf, Relocation, Section, THIS_MODULE};
use crate::kernel::Kernel;
use crate::layout::Layout;
use crate::linkage::Linkage;

/// sizeof(Elf64_Sym).
const SYMBOL: u64 = 24;

/// How often something is the matter, and where first.
struct Case {
    count: u64,
    place: String,
    symbol: String,
    says: Option<String>,
}

/// What may be the matter with a relocation, in the order of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Matter {
    WithoutAddend,
    Misnamed,
    Unsupported,
    OutOfPlace,
    Beside,
    InModule,
    InSymbols,
    SymbolOutside,
    NoSymbol,
    NotAddress,
    NotZero,
    Refused,
    Cut,
}

/// Goes through all relocations; tells how many there are of which kind.
pub fn check(
    kernel: &Kernel,
    elf: &Elf,
    layout: &Layout,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) -> String {
    let arch = kernel.arch.unwrap_or(match elf.machine {
        crate::arch::Machine::X86_64 => Arch::X86_64,
        crate::arch::Machine::Arm64 => Arch::Arm64,
    });
    // Those of another machine say nothing about this one's loader.
    if arch.machine() != elf.machine {
        return String::new();
    }
    let mut kinds = BTreeMap::<u32, u64>::new();
    // In the order in which the loader meets them.
    let mut cases = Vec::<((Matter, u32), Case)>::new();
    let mut memory = Memory::new(elf, layout);
    let mut applied = Applied::new();
    for section in elf.relocation_sections() {
        let target = section.target;
        if !memory.has(&target) {
            continue;
        }
        let mut whole = |matter, line: String| {
            let case = Case {
                count: 1,
                place: section.section.name().into_owned(),
                symbol: String::new(),
                says: Some(line),
            };
            cases.push(((matter, 0), case));
        };
        match livepatch(kernel, &section.section) {
            Livepatch::No => {}
            Livepatch::Skipped => continue,
            Livepatch::Misnamed => {
                let name = section.section.name();
                let line = format!("livepatch: section {name} has an incorrectly formatted name");
                whole(Matter::Misnamed, line);
                continue;
            }
        }
        if section.section.kind() == abi::SHT_REL {
            let line = format!("module {}: REL relocation unsupported", linkage.struct_name);
            whole(Matter::WithoutAddend, line);
        }
        for relocation in section.iter() {
            *kinds.entry(relocation.kind).or_default() += 1;
            if pointers::has(&target) {
                applied.insert((target.index, relocation.offset), relocation);
            }
            let matters = apply(kernel, elf, layout, arch, &target, &relocation, &mut memory);
            for (matter, says) in matters {
                let key = (matter, relocation.kind);
                match cases.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, case)) => case.count += 1,
                    None => cases.push((
                        key,
                        Case {
                            count: 1,
                            place: format!("{}+{:#x}", target.name(), relocation.offset),
                            symbol: symbol_name(elf, &relocation),
                            says,
                        },
                    )),
                }
            }
        }
    }
    for ((matter, kind), case) in cases {
        findings.push(finding(arch, linkage, matter, kind, case));
    }
    pointers::check(kernel, elf, layout, arch, &applied, findings);
    let total: u64 = kinds.values().sum();
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{} {count}", elf.machine.relocation_name(*kind)))
        .collect();
    match total {
        0 => "none".to_owned(),
        _ => kinds.join(", "),
    }
}

/// What `klp_apply_section_relocs()` makes of a section of relocations.
enum Livepatch {
    /// It is none of those, or is for the kernel itself: it is applied.
    No,
    /// It is applied when another module is loaded, or by no kernel without
    /// live patches.
    Skipped,
    Misnamed,
}

fn livepatch(kernel: &Kernel, section: &Section) -> Livepatch {
    if !section.is_livepatch() {
        return Livepatch::No;
    }
    if kernel.is_set("CONFIG_LIVEPATCH") != Some(true) {
        return Livepatch::Skipped;
    }
    // .klp.rela.OBJECT.SECTION
    let name = section.name();
    let rest = name.strip_prefix(".klp.rela.").unwrap_or_default();
    match rest.split('.').next().unwrap_or_default() {
        "" => Livepatch::Misnamed,
        "vmlinux" => Livepatch::No,
        _ => Livepatch::Skipped,
    }
}

/// Applies one, and tells what is the matter with it, with what the kernel logs
/// that needs its numbers.
fn apply(
    kernel: &Kernel,
    elf: &Elf,
    layout: &Layout,
    arch: Arch,
    target: &Section,
    relocation: &Relocation,
    memory: &mut Memory,
) -> Vec<(Matter, Option<String>)> {
    let handling = elf.machine.handling(relocation.kind);
    let mut matters = Vec::new();
    // All that it has relocations for are pointers.
    if target.is(THIS_MODULE) && handling != Handling::Data(Value::Absolute, Fit::Any, 8) {
        matters.push((Matter::NotAddress, None));
    }
    // The loader reads a symbol's value before it looks at the kind.
    let missing = elf.symbol(relocation.symbol).is_none();
    let entry = (relocation.symbol as u64).saturating_mul(SYMBOL);
    if missing && memory.spot(&elf.symtab(), entry, SYMBOL) == Spot::Outside {
        matters.push((Matter::SymbolOutside, None));
    }
    let width = match handling {
        Handling::Unsupported => {
            matters.push((Matter::Unsupported, None));
            return matters;
        }
        Handling::Nothing => return matters,
        Handling::Data(_, _, width) => usize::from(width),
        Handling::Instruction => 4,
    };
    if missing && matters.iter().all(|(m, _)| *m != Matter::SymbolOutside) {
        matters.push((Matter::NoSymbol, None));
    }
    let number = number(kernel, elf, layout, arch, target, relocation);
    let fit = match handling {
        Handling::Data(_, fit, _) => fit,
        _ => Fit::Any,
    };
    if let Some((number, false)) = number {
        let kind = relocation.kind;
        match (fit, arch) {
            (Fit::Unchecked, _) => matters.push((Matter::Cut, None)),
            (_, Arch::Arm64) => return vec![(Matter::Refused, None)],
            _ => {
                let line = format!("overflow in relocation type {kind} val {number:x}");
                return vec![(Matter::Refused, Some(line))];
            }
        }
    }
    if [elf.symtab().index, elf.strtab().index].contains(&target.index) {
        matters.push((Matter::InSymbols, None));
    }
    match memory.spot(target, relocation.offset, width as u64) {
        Spot::Inside => {}
        Spot::Beside => matters.push((Matter::Beside, None)),
        Spot::Outside => {
            matters.push((Matter::OutOfPlace, None));
            return matters;
        }
    }
    // Only x86 asks for zeroes: "Invalid relocation target".
    match memory.content(target, relocation.offset, width) {
        Content::NotZero if arch != Arch::Arm64 => {
            matters.push((Matter::NotZero, None));
            return matters;
        }
        Content::Unknown => matters.push((Matter::InModule, None)),
        _ => {}
    }
    if let Some(bytes) = memory.at(target, relocation.offset, width) {
        // An address that is not known is not zero.
        let number = number.map_or(u64::MAX, |(number, _)| number);
        if matches!(handling, Handling::Data(..)) {
            bytes.copy_from_slice(&number.to_le_bytes()[..width]);
        }
    }
    matters
}

/// The number that is written, as far as the addresses are known, and whether
/// it fits.
fn number(
    kernel: &Kernel,
    elf: &Elf,
    layout: &Layout,
    arch: Arch,
    target: &Section,
    relocation: &Relocation,
) -> Option<(u64, bool)> {
    let symbol = elf.symbol(relocation.symbol)?;
    // The kernel's sums wrap.
    let address = |section| Some(arch.module_base().wrapping_add(layout.address(section)?));
    let value = match abi::SymbolSection(symbol.shndx()) {
        abi::SHN_UNDEF => kernel.address(&symbol.name())?,
        abi::SHN_ABS => symbol.value(),
        index => address(index.0.into())?.wrapping_add(symbol.value()),
    };
    let handling = elf.machine.handling(relocation.kind);
    let place = match handling {
        Handling::Data(Value::Relative, ..) => address(target.index)?,
        // Per-CPU data has no place among the rest, and needs none.
        _ => 0,
    };
    let place = place.wrapping_add(relocation.offset);
    handling.compute(value, relocation.addend, place)
}

fn symbol_name(elf: &Elf, relocation: &Relocation) -> String {
    let Some(symbol) = elf.symbol(relocation.symbol) else {
        return format!("symbol {}", relocation.symbol);
    };
    match elf.sections.get(usize::from(symbol.shndx())) {
        Some(section) if symbol.is_section() => section.name().into_owned(),
        _ => format!("{:#}", rustc_demangle::demangle(&symbol.name())),
    }
}

fn finding(arch: Arch, linkage: &Linkage, matter: Matter, kind: u32, case: Case) -> Finding {
    let name = arch.machine().relocation_name(kind);
    let Case {
        count,
        place,
        symbol,
        says,
    } = case;
    let at = match count {
        1 => format!("at {place}, for {symbol}"),
        _ => format!("{count} of them, first at {place}, for {symbol}"),
    };
    let refused = |reason, what: String| Finding::refused(reason, Errno::NOEXEC, what);
    match matter {
        Matter::WithoutAddend => {
            let what = format!(
                "section {place} has relocations without addends (SHT_REL), which modules for {} \
                 have none of",
                arch.name()
            );
            let mut finding = refused(Reason::UnknownRelocation, what);
            finding.kernel_says = says;
            finding
        }
        Matter::Misnamed => {
            let what = format!(
                "section {place} has relocations for live patching by its flags \
                 (SHF_RELA_LIVEPATCH), but not by its name"
            );
            let mut finding = Finding::refused(Reason::Livepatch, Errno::INVAL, what);
            finding.kernel_says = says;
            finding
        }
        Matter::Unsupported => {
            let (why, help) = arch.why_unsupported(kind);
            let what = format!(
                "the loader of {} cannot apply {name} ({at}): {why}",
                arch.name()
            );
            refused(Reason::UnknownRelocation, what)
                .says(arch.unknown_relocation(&linkage.struct_name, kind))
                .help(help)
        }
        Matter::OutOfPlace => Finding::undecided(
            Reason::BadRelocation,
            format!(
                "{name} is to write outside of the module ({at}): the kernel does not look, and \
                 crashes, overwrites something else, or refuses because of what is there"
            ),
        ),
        Matter::Beside => Finding::warning(
            Reason::BadRelocation,
            format!(
                "{name} is to write outside of its section ({at}): the kernel does not look, and \
                 overwrites what is beside it"
            ),
        ),
        Matter::InModule => Finding::undecided(
            Reason::BadRelocation,
            format!(
                "{name} is to write into its struct module ({at}): the kernel refuses if it has \
                 written there before, and else may crash"
            ),
        ),
        Matter::InSymbols => Finding::warning(
            Reason::BadRelocation,
            format!(
                "{name} is to write into its table of symbols ({at}): the kernel does not look, \
                 and its symbols become other ones"
            ),
        ),
        Matter::SymbolOutside => Finding::undecided(
            Reason::BadRelocation,
            format!(
                "{name} is for a symbol that is not there ({at}), and would be outside of the \
                 module: the kernel does not look, and crashes or takes something else for it"
            ),
        ),
        Matter::NoSymbol => Finding::warning(
            Reason::BadRelocation,
            format!(
                "{name} is for a symbol that is not there ({at}): the kernel does not look, and \
                 takes what is behind the symbol table for one"
            ),
        ),
        Matter::NotAddress => Finding::warning(
            Reason::BadRelocation,
            format!(
                "{name} is where a pointer of 64 bits is to be ({at}): the kernel does not look, \
                 and crashes when it follows what is there"
            ),
        ),
        Matter::NotZero => refused(
            Reason::BadRelocation,
            format!("{name} is to write where something is written already ({at})"),
        )
        .says("Invalid relocation target, existing value is nonzero"),
        Matter::Refused => {
            let what =
                format!("{name} has no room for the address, which is beyond its 32 bits ({at})");
            let mut finding = refused(Reason::Overflow, what).help(code_model(arch));
            finding.kernel_says = says;
            finding
        }
        Matter::Cut => Finding::warning(
            Reason::Overflow,
            format!(
                "{name} may not reach ({at}): the loader of {} does not look, and the code would \
                 jump or read elsewhere",
                arch.name()
            ),
        )
        .help(code_model(arch)),
    }
}

/// What makes compilers use addresses that reach.
fn code_model(arch: Arch) -> &'static str {
    match arch {
        Arch::Uml => {
            "modules are loaded above the machine's memory there: compile with \
             rustflags-y += -Crelocation-model=static -Ccode-model=large in Rust, \
             ccflags-y += -mcmodel=large in C"
        }
        Arch::X86_64 => "compile with -Ccode-model=kernel in Rust, -mcmodel=kernel in C",
        Arch::Arm64 => "build the module with the kernel's build system, and its flags",
    }
}
