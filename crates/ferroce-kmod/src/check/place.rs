// SPDX-License-Identifier: MIT OR Apache-2.0
//! Layout: `layout_and_allocate()`.

use object::elf as abi;
use rustix::io::Errno;

use super::{Finding, Reason};
use crate::arch::Arch;
use crate::elf::Elf;
use crate::kernel::Kernel;
use crate::layout::{Class, Layout};
use crate::linkage::Linkage;

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
    layout: &Result<Layout, String>,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) {
    let name = &linkage.name;
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
    if let Err(what) = layout {
        findings.push(Finding::refused(Reason::Section, Errno::NOEXEC, what));
    }
}
