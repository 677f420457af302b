// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of a module's that the loader itself follows the pointers of, without
//! a look at whether there are any.

use std::collections::HashMap;

use object::elf as abi;

use super::{Finding, Reason};
use crate::arch::{Arch, Fit, Handling, Value};
use crate::elf::{Elf, Relocation, Section, Symbol, PER_CPU, SHN_LIVEPATCH, THIS_MODULE};
use crate::kernel::Kernel;
use crate::layout::{Class, Layout, PAGE};

/// The relocations that the loader applies, by section and offset; where there
/// are several for one place, the last.
pub type Applied = HashMap<(usize, u64), Relocation>;

/// A structure whose pointers are followed while a module loads or unloads.
struct Structure {
    size: u64,
    fields: &'static [Field],
}

/// A pointer: its name, its offset, and what it is to point to.
struct Field(&'static str, u64, To);

/// What a pointer is to point to.
#[derive(Clone, Copy)]
enum To {
    /// Anything in memory.
    Something,
    /// The same while init runs: it is for setting the parameter.
    Initdata,
    /// The same, or it is NULL.
    InitdataOrNull,
    /// A structure.
    Structure(&'static Structure),
    /// What a parameter's `ops` work on.
    Argument,
}

/// A table of such structures.
struct Table {
    section: &'static str,
    entry: Structure,
    pointer: Handling,
}

const ABSOLUTE: Handling = Handling::Data(Value::Absolute, Fit::Any, 8);

/// `struct kernel_param`: mod_sysfs_setup() takes the name, and
/// module_destroy_params() what `ops` points to, to free what `arg` points to.
const PARAMS: Table = Table {
    section: "__param",
    entry: Structure {
        size: 40,
        fields: &[
            Field("name", 0, To::Something),
            Field("mod", 8, To::InitdataOrNull),
            Field("ops", OPS_AT, To::Structure(&OPS)),
            Field("arg", 32, To::Argument),
        ],
    },
    pointer: ABSOLUTE,
};

/// `ops` in `struct kernel_param`.
const OPS_AT: u64 = 16;

/// `struct kernel_param_ops`.
const OPS: Structure = Structure {
    size: 32,
    fields: &[
        Field("set", 8, To::InitdataOrNull),
        Field("get", 16, To::InitdataOrNull),
        Field("free", 24, To::InitdataOrNull),
    ],
};

/// `struct kparam_array`.
const ARRAY: Structure = Structure {
    size: 32,
    fields: &[
        Field("num", 8, To::InitdataOrNull),
        Field("ops", 16, To::Structure(&OPS)),
        Field("elem", 24, To::Initdata),
    ],
};

/// `struct kernel_symbol` with pointers: verify_exported_symbols() takes the name.
const SYMBOLS: Table = Table {
    section: "__ksymtab",
    entry: Structure {
        size: 24,
        fields: &[
            Field("value", 0, To::Something),
            Field("name", 8, To::Something),
        ],
    },
    pointer: ABSOLUTE,
};

/// The same with CONFIG_HAVE_ARCH_PREL32_RELOCATIONS.
fn relative_symbols(arch: Arch) -> Table {
    let fit = match arch {
        Arch::Arm64 => Fit::Signed,
        _ => Fit::Unchecked,
    };
    Table {
        section: "__ksymtab",
        entry: Structure {
            size: 12,
            fields: &[
                Field("value", 0, To::Something),
                Field("name", 4, To::Something),
            ],
        },
        pointer: Handling::Data(Value::Relative, fit, 4),
    }
}

/// Whether a section is such a table, or has the module's init and exit.
pub fn has(section: &Section) -> bool {
    let tables = [SYMBOLS, PARAMS].map(|table| table.section);
    let mut names = tables.iter().chain([&THIS_MODULE]);
    names.any(|name| section.is(name))
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
    let follower = Follower {
        elf,
        layout,
        applied,
    };
    for table in [symbols, PARAMS] {
        findings.extend(follower.table(&table));
    }
    findings.extend(follower.functions());
}

/// A pointer that leads nowhere: its field, and why.
type Broken = (String, &'static str);

/// Follows pointers, as the kernel does.
struct Follower<'a> {
    elf: &'a Elf<'a>,
    layout: &'a Layout,
    applied: &'a Applied,
}

impl Follower<'_> {
    fn table(&self, table: &Table) -> Option<Finding> {
        let section = self.elf.allocated(table.section)?;
        let entries = 0..section.size() / table.entry.size;
        let mut broken = entries.flat_map(|entry| {
            let start = entry * table.entry.size;
            let fields = table.entry.fields.iter();
            fields.filter_map(move |field| {
                let at = (section, start);
                let (field, why) = self.field(at, field, table.pointer)?;
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
            table.section
        );
        Some(Finding::warning(Reason::BadRelocation, what))
    }

    /// `init` and `exit`, all that a build leaves to relocate in `struct module`.
    fn functions(&self) -> Option<Finding> {
        let section = self.elf.allocated(THIS_MODULE)?;
        let here = |place: &(usize, u64)| place.0 == section.index;
        let mut relocations: Vec<_> = self.applied.iter().filter(|(p, _)| here(p)).collect();
        relocations.sort_by_key(|(place, _)| **place);
        let (name, why) = relocations.into_iter().find_map(|(_, relocation)| {
            let symbol = self.elf.symbol(relocation.symbol)?;
            let name = symbol.name();
            Some((name.clone(), self.no_function(relocation, &symbol)?))
        })?;
        let what = format!(
            "the pointer to {name} in its struct module {why}: the kernel does not look, and \
             crashes when it calls it"
        );
        Some(Finding::warning(Reason::BadRelocation, what))
    }

    /// Why a pointer to a function leads to none.
    fn no_function(&self, relocation: &Relocation, symbol: &Symbol) -> Option<&'static str> {
        // What is no address is said of all relocations there.
        if self.elf.machine.handling(relocation.kind) != ABSOLUTE {
            return None;
        }
        let number = symbol.value().wrapping_add_signed(relocation.addend);
        match abi::SymbolSection(symbol.shndx()) {
            // NULL is no function to call.
            SHN_LIVEPATCH | abi::SHN_ABS if number == 0 => return None,
            _ => {}
        }
        if let Some(why) = self.nowhere(relocation, ABSOLUTE, To::Initdata) {
            return Some(why);
        }
        let class = self.layout.place(symbol.shndx().into())?.class;
        let section = self.elf.sections.get(usize::from(symbol.shndx()))?;
        let code = section.data();
        let start = usize::try_from(number).ok();
        match class {
            Class::Text | Class::InitText if start.and_then(|at| code.get(at)).is_none() => {
                Some("points to where its section has no code")
            }
            Class::Text => None,
            Class::InitText if symbol.name() != "cleanup_module" => None,
            // Without CONFIG_MODULE_UNLOAD, and then nobody calls it.
            Class::InitText if section.starts_with(".exit") => None,
            Class::InitText => Some("points to what is freed when its init is done"),
            _ => Some("points to what is no code"),
        }
    }

    /// A field of a structure that begins at a place in a section.
    fn field(
        &self,
        (section, start): (Section, u64),
        Field(name, offset, to): &Field,
        pointer: Handling,
    ) -> Option<Broken> {
        let at = start + offset;
        let relocation = self.relocation(&section, at);
        let ops = || self.relocation(&section, start + OPS_AT);
        let to = match *to {
            To::Argument => self.argument(ops()?)?,
            to => to,
        };
        let broken = |why| Some(((*name).to_owned(), why));
        let Some(relocation) = relocation else {
            let bytes = usize::try_from(at)
                .ok()
                .and_then(|at| section.data().get(at..));
            let bytes = bytes.unwrap_or_default().iter().take(8);
            let is_null = bytes.into_iter().all(|byte| *byte == 0);
            return match (to, is_null) {
                (To::InitdataOrNull, true) => None,
                _ => broken("has no relocation, and is no address"),
            };
        };
        if let Some(why) = self.nowhere(&relocation, pointer, to) {
            return broken(why);
        }
        let To::Structure(structure) = to else {
            return None;
        };
        // The kernel's own are fine.
        let (section, start) = self.elf.pointee(&relocation)?;
        let end = start.checked_add(structure.size);
        if end.is_none_or(|end| end > section.size()) {
            return broken("points to what is too small for it");
        }
        let mut fields = structure.fields.iter();
        let (inner, why) = fields.find_map(|f| self.field((section, start), f, ABSOLUTE))?;
        Some((format!("{name}->{inner}"), why))
    }

    fn relocation(&self, section: &Section, at: u64) -> Option<Relocation> {
        match has(section) {
            true => self.applied.get(&(section.index, at)).copied(),
            false => self.elf.relocation_at(section.index, at),
        }
    }

    /// What `arg` is to be; nothing is known of that of a module's own `ops`.
    fn argument(&self, ops: Relocation) -> Option<To> {
        let symbol = self.elf.symbol(ops.symbol)?;
        match &*symbol.name() {
            "param_array_ops" => Some(To::Structure(&ARRAY)),
            // param_free_charp() follows it on unloading.
            "param_ops_charp" => Some(To::Something),
            name => name.starts_with("param_ops_").then_some(To::Initdata),
        }
    }

    /// Why a pointer leads nowhere.
    fn nowhere(&self, relocation: &Relocation, pointer: Handling, to: To) -> Option<&'static str> {
        if self.elf.machine.handling(relocation.kind) != pointer {
            return Some("has a relocation that does not write an address");
        }
        if relocation.symbol == 0 {
            return Some("is of no symbol");
        }
        let for_init = matches!(to, To::Initdata | To::InitdataOrNull);
        let symbol = self.elf.symbol(relocation.symbol)?;
        match abi::SymbolSection(symbol.shndx()) {
            SHN_LIVEPATCH => Some("is of a symbol that only a live patch resolves"),
            abi::SHN_ABS => {
                let number = symbol.value().wrapping_add_signed(relocation.addend);
                (number < PAGE).then_some("is of an absolute symbol that is no address")
            }
            index => {
                let sections = self.elf.sections.get(usize::from(index.0));
                let target = sections.filter(|s| s.index != 0)?;
                match self.layout.place(target.index) {
                    Some(place) if place.class.is_init() && !for_init => {
                        Some("points to what is freed when its init is done")
                    }
                    None if !target.is(PER_CPU) => Some("points to what is not in memory"),
                    _ => None,
                }
            }
        }
    }
}
