// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of a module's that the loader itself follows the pointers of, without
//! a look at whether there are any.

use std::collections::HashMap;

use super::{Finding, Reason};
use crate::arch::{Arch, Fit, Handling, Value};
use crate::elf::{Elf, Relocation, Section, PER_CPU, SHN_LIVEPATCH};
use crate::kernel::Kernel;
use crate::layout::Layout;

/// The relocations that the loader applies, by section and offset; where there
/// are several for one place, the last.
pub type Applied = HashMap<(usize, u64), Relocation>;

/// A table, and the fields of an entry that are followed while a module loads
/// or unloads.
struct Table {
    section: &'static str,
    size: u64,
    fields: &'static [(&'static str, u64)],
    pointer: Handling,
}

/// `struct kernel_param`: mod_sysfs_setup() takes the name, and
/// module_destroy_params() what `ops` points to.
const PARAMS: Table = Table {
    section: "__param",
    size: 40,
    fields: &[("name", 0), ("ops", 16)],
    pointer: Handling::Data(Value::Absolute, Fit::Any, 8),
};

/// `struct kernel_symbol` with pointers: verify_exported_symbols() takes the name.
const SYMBOLS: Table = Table {
    section: "__ksymtab",
    size: 24,
    fields: &[("value", 0), ("name", 8)],
    pointer: Handling::Data(Value::Absolute, Fit::Any, 8),
};

/// The same with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS.
fn relative_symbols(arch: Arch) -> Table {
    let fit = match arch {
        Arch::Arm64 => Fit::Signed,
        _ => Fit::Unchecked,
    };
    Table {
        section: "__ksymtab",
        size: 12,
        fields: &[("value", 0), ("name", 4)],
        pointer: Handling::Data(Value::Relative, fit, 4),
    }
}

/// Whether a section is such a table.
pub fn has(section: &Section) -> bool {
    [SYMBOLS, PARAMS]
        .iter()
        .any(|table| section.is(table.section))
}

/// What the kernel would follow to nowhere.
pub fn check(
    kernel: &Kernel,
    elf: &Elf,
    layout: &Layout,
    arch: Arch,
    applied: &Applied,
    findings: &mut Vec<Finding>,
) {
    let relative = kernel
        .is_set("CONFIG_HAVE_ARCH_PREL32_RELOCATIONS")
        .unwrap_or(arch != Arch::Uml);
    let symbols = match relative {
        true => relative_symbols(arch),
        false => SYMBOLS,
    };
    for table in [symbols, PARAMS] {
        findings.extend(table.check(elf, layout, applied));
    }
}

impl Table {
    fn check(&self, elf: &Elf, layout: &Layout, applied: &Applied) -> Option<Finding> {
        let section = elf.allocated(self.section)?;
        let entries = 0..section.size() / self.size;
        let mut broken = entries.flat_map(|entry| {
            let fields = self.fields.iter();
            fields.filter_map(move |(field, at)| {
                let place = (section.index, entry * self.size + at);
                let why = self.nowhere(elf, layout, applied.get(&place))?;
                Some((entry, field, why))
            })
        });
        let (entry, field, why) = broken.next()?;
        let more = match broken.count() {
            0 => String::new(),
            count => format!(", and {count} more are so"),
        };
        let what = format!(
            "the field {field} of entry {entry} in {} {why}{more}: the kernel does not look, and \
             crashes when it follows it",
            self.section
        );
        Some(Finding::warning(Reason::BadRelocation, what))
    }

    /// Why a pointer leads nowhere.
    fn nowhere(
        &self,
        elf: &Elf,
        layout: &Layout,
        relocation: Option<&Relocation>,
    ) -> Option<&'static str> {
        let Some(relocation) = relocation else {
            return Some("has no relocation, and is no address");
        };
        if elf.machine.handling(relocation.kind) != self.pointer {
            return Some("has a relocation that does not write an address");
        }
        let symbol = elf.symbol(relocation.symbol)?;
        let section = symbol.shndx();
        if section == SHN_LIVEPATCH.0 {
            return Some("is of a symbol that only a live patch resolves");
        }
        if relocation.symbol == 0 {
            return Some("is of no symbol");
        }
        let target = elf
            .sections
            .get(usize::from(section))
            .filter(|s| s.index != 0)?;
        let in_memory = layout.place(target.index).is_some() || target.is(PER_CPU);
        (!in_memory).then_some("points to what is not in memory")
    }
}
