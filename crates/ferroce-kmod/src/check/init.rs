// SPDX-License-Identifier: MIT OR Apache-2.0
//! Init: `parse_args()`, and then the module's own code.

use std::collections::HashSet;

use rustix::io::Errno;

use super::{place, Finding, Reason};
use crate::elf::{Elf, Section, Symbol};
use crate::kernel::Kernel;
use crate::layout::Layout;
use crate::linkage::Linkage;
use crate::modinfo::Modinfo;
use crate::params;

/// What would run.
pub fn summary(elf: &Elf) -> String {
    let name = |symbol: &str| function(elf, symbol);
    match (name("init_module"), name("cleanup_module")) {
        (Some(init), Some(exit)) => format!("runs {init}; on unloading {exit}"),
        (Some(init), None) => format!("runs {init}; it cannot be unloaded again"),
        (None, _) => "runs nothing".to_owned(),
    }
}

/// The function that goes by one of the names that the loader knows: its own
/// name, in C one that the author gave it (`module_init(NAME)`).
fn function(elf: &Elf, alias: &str) -> Option<String> {
    let known = elf
        .symbols()
        .find(|s| s.name() == alias && !s.is_undefined())?;
    let same = |s: &Symbol| {
        s.index != known.index
            && s.shndx() == known.shndx()
            && s.value() == known.value()
            && !s.is_section()
            && !s.name_bytes().is_empty()
            && !s.name_bytes().starts_with(b"__pfx_")
    };
    let other = elf.symbols().find(same);
    Some(match other {
        Some(other) => format!("{:#}", rustc_demangle::demangle(&other.name())),
        None => alias.to_owned(),
    })
}

/// The parameters given.
pub fn check(
    elf: &Elf,
    modinfo: &Modinfo,
    linkage: &Linkage,
    given: &[(String, Option<String>)],
    findings: &mut Vec<Finding>,
) {
    let module = &linkage.struct_name;
    let known = params::of(elf, modinfo);
    for (name, value) in given {
        // parameq(): dashes are as good as underscores.
        let plain = name.replace('-', "_");
        let Some(param) = known.iter().find(|p| p.name.replace('-', "_") == plain) else {
            // Known to the kernel for every module (unknown_module_param_cb()).
            if name != "async_probe" && name != "dyndbg" {
                findings.push(unknown(module, name, &known));
            }
            continue;
        };
        let value = value.as_deref();
        if let Err(bad) = param.kind.check(value) {
            let text = value.unwrap_or_default();
            let line = match bad.errno {
                Errno::NOSPC => format!("{module}: `{text}' too large for parameter `{name}'"),
                _ => format!("{module}: `{text}' invalid for parameter `{name}'"),
            };
            findings.push(
                Finding::refused(
                    Reason::BadParameter,
                    bad.errno,
                    format!("the parameter {name} does not take that: {}", bad.what),
                )
                .says(line)
                .help(format!("{name} takes {}", param.kind.describe())),
            );
        } else if param.kind == params::Kind::Custom {
            findings.push(Finding::note(
                Reason::Unknown,
                format!("what {name} takes is up to the module's own function"),
            ));
        }
    }
}

/// `mod_sysfs_setup()`: two files of one name cannot be there.
pub fn check_sysfs(
    kernel: &Kernel,
    elf: &Elf,
    modinfo: &Modinfo,
    layout: &Layout,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) {
    if kernel.is_set("CONFIG_SYSFS") == Some(false) {
        return;
    }
    // mod_sysfs_init(), if it comes to that.
    if linkage.struct_name.is_empty() && !place::has_more_than_a_name(elf) {
        let what = "its struct module has no name, and sysfs has no folder without one";
        findings.push(
            Finding::refused(Reason::StructModule, Errno::INVAL, what)
                .says("attempted to be registered with empty name!")
                .help("build it with the kernel's build system, whose modpost gives it one"),
        );
    }
    check_parameter_files(elf, modinfo, linkage, findings);
    if kernel.is_set("CONFIG_KALLSYMS") != Some(false) {
        check_section_files(elf, layout, linkage, findings);
    }
}

/// `add_sect_attrs()`: each section in memory has a file of its name in
/// /sys/module/NAME/sections.
fn check_section_files(elf: &Elf, layout: &Layout, linkage: &Linkage, findings: &mut Vec<Finding>) {
    let in_memory = |s: &&Section| layout.place(s.index).is_some() && s.size() > 0;
    let mut names = HashSet::new();
    let mut sections = elf.sections.iter().filter(in_memory);
    let Some(twice) = sections.find(|s| !names.insert(s.name())) else {
        return;
    };
    let (module, name) = (&linkage.struct_name, twice.name());
    findings.push(
        Finding::refused(
            Reason::DuplicateSection,
            Errno::EXIST,
            format!("it has two sections {name} in memory, and one file in sysfs for both"),
        )
        .says(format!(
            "sysfs: cannot create duplicate filename '/module/{module}/sections/{name}'"
        ))
        .help("link it with the kernel's scripts/module.lds, which makes one of them"),
    );
}

/// Each parameter with permissions has a file of its name in
/// /sys/module/NAME/parameters.
fn check_parameter_files(
    elf: &Elf,
    modinfo: &Modinfo,
    linkage: &Linkage,
    findings: &mut Vec<Finding>,
) {
    let mut names = HashSet::new();
    let params = params::of(elf, modinfo);
    let mut visible = params.iter().filter(|p| p.perm != 0);
    // The kernel stops at the first.
    let Some(twice) = visible.find(|p| !names.insert(p.name.as_str())) else {
        return;
    };
    let (module, name) = (&linkage.struct_name, &twice.name);
    findings.push(
        Finding::refused(
            Reason::DuplicateParameter,
            Errno::EXIST,
            format!("it has two parameters {name}, and one file in sysfs for both"),
        )
        .says(format!(
            "sysfs: cannot create duplicate filename '/module/{module}/parameters/{name}'"
        ))
        .help("rename one of them, or give it no permissions: module_param(name, type, 0)"),
    );
}

/// The kernel says so, and loads the module.
fn unknown(module: &str, name: &str, known: &[params::Param]) -> Finding {
    let what = format!("it has no parameter {name}: the kernel ignores it");
    let finding = Finding::warning(Reason::UnknownParameter, what)
        .says(format!("{module}: unknown parameter '{name}' ignored"));
    let names: Vec<&str> = known.iter().map(|p| p.name.as_str()).collect();
    match names.is_empty() {
        true => finding.help("it has none"),
        false => finding.help(format!("it has {}", names.join(", "))),
    }
}
