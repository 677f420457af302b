// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout: `layout_and_allocate()`.

use object::elf as abi;
use rustix::io::Errno;

use super::{Finding, Reason};
use crate::arch::Arch;
use crate::elf::{Elf, PER_CPU, THIS_MODULE};
use crate::kernel::Kernel;
use crate::layout::{Class, Layout, PAGE};
use crate::linkage::Linkage;

/// The room for modules of an x86-64 kernel with KASLR (MODULES_LEN in
/// asm/pgtable_64_types.h), and more than most machines have to give.
const LARGEST: u64 = 1 << 30;

/// `name` in `struct module`, all of it that a build fills.
const NAME: std::ops::Range<usize> = 24..80;

/// The memory that it takes.
pub fn summary(layout: &Layout) -> String {
    let pages = Class::ALL.iter().map(|class| (class, layout.pages(*class)));
    let parts: Vec<String> = pages
        .filter(|(_, pages)| *pages > 0)
        .map(|(class, pages)| format!("{} {pages}", class.name()))
        .collect();
    let mut text = format!("pages: {}", parts.join(", "));
    if layout.per_cpu() > 0 {
        text += &format!("; {} bytes per processor", layout.per_cpu());
    }
    text
}

/// What cannot be laid out.
pub fn check(
    kernel: &Kernel,
    elf: &Elf,
    layout: &Layout,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) {
    let name = &linkage.struct_name;
    // module_frob_arch_sections() of arm64, which makes its detours there.
    if kernel.arch == Some(Arch::Arm64)
        && [".plt", ".init.plt"]
            .iter()
            .any(|s| elf.section(s).is_none())
    {
        let what = "it has no sections .plt and .init.plt, where arm64 makes detours for far calls";
        findings.push(
            Finding::refused(Reason::Section, Errno::NOEXEC, what)
                .says(format!("{name}: module PLT section(s) missing"))
                .help("link it with the kernel's scripts/module.lds"),
        );
    }
    // module_enforce_rwx_sections().
    if kernel.is_set("CONFIG_STRICT_MODULE_RWX") == Some(true) {
        let both = abi::SHF_WRITE.0 | abi::SHF_EXECINSTR.0;
        let sections = elf.sections.iter().filter(|s| s.flags() & both == both);
        findings.extend(sections.map(|section| {
            let (section_name, index) = (section.name(), section.index);
            let what = format!("section {section_name} is to be both written and executed");
            Finding::refused(Reason::Section, Errno::NOEXEC, what).says(format!(
                "{name}: section {section_name} (index {index}) has invalid WRITE|EXEC flags"
            ))
        }));
    }
    for class in Class::ALL {
        let bytes = layout.size(class);
        if bytes > LARGEST {
            let what = format!(
                "there are {bytes:#x} bytes of {}, and no memory for that",
                class.name()
            );
            findings.push(Finding::refused(Reason::Section, Errno::NOMEM, what));
        }
    }
    let module = elf.allocated(THIS_MODULE);
    if let Some(place) = module.and_then(|s| layout.place(s.index))
        && place.class != Class::Data
    {
        let what = format!(
            "its struct module is to be in {}: the kernel writes to it, and may crash",
            place.class.name()
        );
        findings.push(Finding::warning(Reason::Section, what));
    }
    if has_more_than_a_name(elf) {
        let what = "its struct module has more in it than a name: the kernel takes it as it is, \
                    and may refuse it or crash";
        findings.push(Finding::undecided(Reason::Section, what));
    }
    findings.extend(per_cpu(elf, layout, name));
    export_sections(kernel, elf, linkage, findings);
    findings.extend(layout.oddities().iter().map(|what| {
        let what = format!("{what}; it does not look, and sections may overlap");
        Finding::warning(Reason::Section, what)
    }));
}

/// `percpu_modalloc()`, by what `pcpu_alloc_noprof()` gives nobody.
fn per_cpu(elf: &Elf, layout: &Layout, name: &str) -> Option<Finding> {
    // PCPU_MIN_ALLOC_SIZE, and PCPU_MIN_UNIT_SIZE.
    const LEAST: u64 = 4;
    const MOST: u64 = 32 << 10;
    let size = layout.per_cpu();
    let section = elf.allocated(PER_CPU).filter(|_| size > 0)?;
    let align = section.align().clamp(LEAST, PAGE);
    if align.is_power_of_two() && size <= MOST {
        return None;
    }
    let what = format!(
        "its per-CPU data has {size} bytes, to be aligned to {align}: the kernel gives up to {MOST} \
         bytes, aligned to a power of two"
    );
    let line = format!("{name}: Could not allocate {size} bytes percpu data");
    Some(Finding::refused(Reason::Section, Errno::NOMEM, what).says(line))
}

/// Whether there is more in the `struct module` than a build leaves there.
pub fn has_more_than_a_name(elf: &Elf) -> bool {
    let mut bytes = elf.contents(THIS_MODULE).iter().enumerate();
    bytes.any(|(at, byte)| *byte != 0 && !NAME.contains(&at))
}

/// `check_export_symbol_sections()`.
fn export_sections(kernel: &Kernel, elf: &Elf, linkage: &Linkage, findings: &mut Vec<Finding>) {
    let name = &linkage.struct_name;
    let exports = |section: &str| elf.allocated(section).is_some_and(|s| s.size() >= ENTRY);
    if exports("__ksymtab")
        && kernel.release.as_deref().is_some_and(has_flags)
        && elf.allocated("__kflagstab").is_none()
    {
        let what = "it exports symbols, and has no flags of theirs (section __kflagstab)";
        findings.push(
            Finding::refused(Reason::Section, Errno::NOEXEC, what)
                .says(format!("{name}: no flags for exported symbols"))
                .help("build it against this kernel's own tree"),
        );
    }
    let tables = [
        ("__ksymtab", "__kcrctab"),
        ("__ksymtab_gpl", "__kcrctab_gpl"),
    ];
    let without =
        |(symbols, crcs): &(&str, &str)| exports(symbols) && elf.allocated(crcs).is_none();
    if kernel.modversions() && tables.iter().any(without) {
        let what = "it exports symbols, and has no checksums of theirs (section __kcrctab)";
        findings.push(match kernel.is_set("CONFIG_MODULE_FORCE_LOAD") {
            Some(true) => Finding::warning(Reason::NoVersion, what),
            _ => Finding::refused(Reason::NoVersion, Errno::NOEXEC, what)
                .help("build it against this kernel's tree, with its Module.symvers there"),
        });
    }
}

/// The smallest that `struct kernel_symbol` is.
const ENTRY: u64 = 12;

/// Whether a release's modules have a table of flags: since Linux 7.2, or before, that is
/// where GPL-only symbols are told from others.
fn has_flags(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0u32);
    (next(), next()) >= (7, 2)
}
