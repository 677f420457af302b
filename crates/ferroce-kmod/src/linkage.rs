// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a module asks of the kernel and of other modules, and what it offers.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::elf::{self, Elf};
use crate::modinfo::Modinfo;

/// The longest name that `struct modversion_info` has room for
/// (MODULE_NAME_LEN in include/linux/moduleparam.h: 64 less a checksum).
const VERSION_ENTRY: usize = 64;

/// A symbol that a module takes from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// Whether the module loads without it, too.
    pub weak: bool,
    /// The checksum of its declaration that the module was built with.
    pub crc: Option<u32>,
    /// Its place in the symbol table.
    #[serde(skip)]
    pub symbol: usize,
}

/// A symbol that the loader can give no address (`simplify_symbols()`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// Its name.
    pub name: String,
    /// Its place in the symbol table.
    pub symbol: usize,
    /// `st_shndx`: SHN_COMMON, or a section that is not there.
    pub section: u16,
    /// The last section that is there.
    pub last: usize,
}

impl Misplaced {
    /// Whether it is common: a tentative definition, compiled with -fcommon.
    pub fn is_common(&self) -> bool {
        self.section == object::elf::SHN_COMMON.0
    }
}

/// The symbols that the loader can give no address, in the order of the symbol
/// table.
pub fn misplaced(elf: &Elf) -> Vec<Misplaced> {
    let misplaced = elf.symbols().skip(1).filter_map(|symbol| {
        let section = symbol.shndx();
        let fine = match object::elf::SymbolSection(section) {
            object::elf::SHN_ABS | elf::SHN_LIVEPATCH => true,
            object::elf::SHN_COMMON => symbol.name_bytes().starts_with(b"__gnu_lto"),
            _ => usize::from(section) < elf.sections.len(),
        };
        (!fine).then(|| Misplaced {
            name: symbol.name().into_owned(),
            symbol: symbol.index,
            section,
            last: elf.sections.len() - 1,
        })
    });
    misplaced.collect()
}

/// A symbol that is there for modules to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Whether only modules under the GPL may take it (`EXPORT_SYMBOL_GPL`);
    /// unknown where all that is known is a name.
    pub gpl_only: Option<bool>,
    /// The namespace that a module has to import to take it.
    pub namespace: Option<String>,
    /// The checksum of its declaration.
    pub crc: Option<u32>,
}

/// How a module carries the checksums of what it imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Versions {
    /// It has none.
    None,
    /// `__versions`, with names of up to 55 bytes.
    Basic,
    /// `__version_ext_crcs` and `__version_ext_names` (since Linux 6.14).
    Extended,
}

/// All that symbol resolution has to know of a module.
#[derive(Debug, Clone, Serialize)]
pub struct Linkage {
    /// The module's name, with underscores, as `.modinfo` has it: so the loader calls it
    /// while it looks at the file.
    pub name: String,
    /// Its name in its `struct module`: so the kernel calls it from then on.
    #[serde(skip)]
    pub struct_name: String,
    /// What it takes, in the order of its symbol table.
    pub imports: Vec<Import>,
    /// Its symbols that the loader can give no address.
    #[serde(skip)]
    pub misplaced: Vec<Misplaced>,
    /// What it offers.
    pub exports: Vec<Export>,
    /// The namespaces that it imports.
    pub namespaces: Vec<String>,
    /// Whether its licence gives it the symbols for the GPL only.
    pub gpl_compatible: bool,
    /// Where its checksums are.
    pub versions: Versions,
    /// The checksum of `module_layout`, which stands for the kernel's own
    /// structures and is imported by no symbol.
    pub layout_crc: Option<u32>,
}

impl Linkage {
    /// Reads it from a module.
    pub fn of(elf: &Elf, modinfo: &Modinfo, path: &Path) -> Self {
        let (versions, crcs) = versions(elf);
        let imports = elf.symbols().filter(|s| s.is_undefined()).map(|symbol| {
            let name = symbol.name().into_owned();
            Import {
                weak: symbol.is_weak(),
                crc: crcs.get(name.as_str()).copied(),
                name,
                symbol: symbol.index,
            }
        });
        let name = module_name(elf, modinfo, path);
        Self {
            struct_name: struct_name(elf).unwrap_or_else(|| name.clone()),
            name,
            imports: imports.collect(),
            misplaced: misplaced(elf),
            exports: exports(elf),
            namespaces: modinfo.all("import_ns").map(str::to_owned).collect(),
            gpl_compatible: modinfo.is_gpl_compatible(),
            versions,
            layout_crc: crcs.get("module_layout").copied(),
        }
    }
}

/// The name by which the kernel knows a module: of `.modinfo`, of its `struct
/// module` for modules from before Linux 4.13, or of the file.
pub fn module_name(elf: &Elf, modinfo: &Modinfo, path: &Path) -> String {
    if let Some(name) = modinfo.get("name") {
        return name.to_owned();
    }
    let name = struct_name(elf).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| name_of_path(path))
}

/// The name in the `struct module` of a module, if there is one.
pub fn struct_name(elf: &Elf) -> Option<String> {
    /// After `state` and `list`.
    const NAME: usize = 24;
    let name = elf.contents(elf::THIS_MODULE).get(NAME..)?;
    Some(elf::text(elf::until_nul(name)).into_owned())
}

/// The name that a module's file stands for: without folder and extensions,
/// and with underscores for dashes.
pub fn name_of_path(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko")
        .next()
        .unwrap_or_default()
        .replace('-', "_")
}

/// The checksums by symbol (`check_version()` in kernel/module/version.c).
fn versions<'a>(elf: &Elf<'a>) -> (Versions, HashMap<std::borrow::Cow<'a, str>, u32>) {
    let number = |bytes: &[u8]| bytes.first_chunk().map(|b| u32::from_le_bytes(*b));
    if let Some(crcs) = elf.allocated("__version_ext_crcs") {
        let names = elf.contents("__version_ext_names").split(|b| *b == 0);
        let pairs = crcs.data().chunks_exact(4).zip(names);
        let pairs = pairs.filter_map(|(crc, name)| Some((elf::text(name), number(crc)?)));
        return (Versions::Extended, pairs.collect());
    }
    let Some(section) = elf.allocated("__versions") else {
        return (Versions::None, HashMap::new());
    };
    let entries = section.data().chunks_exact(VERSION_ENTRY);
    let pairs = entries.filter_map(|entry| {
        let name = elf::until_nul(&entry[8..]);
        Some((elf::text(name), number(entry)?))
    });
    (Versions::Basic, pairs.collect())
}

/// The exported symbols, by the names that `EXPORT_SYMBOL` leaves in the
/// symbol table (include/linux/export-internal.h).
fn exports(elf: &Elf) -> Vec<Export> {
    const GPL_ONLY: u8 = 1;
    let mut exports: Vec<Export> = Vec::new();
    let mut namespaces = HashMap::new();
    let mut flags = HashMap::new();
    let mut crcs = HashMap::new();
    for symbol in elf.symbols() {
        let name = symbol.name();
        let at = |length: usize| {
            let section = elf.sections.get(usize::from(symbol.shndx()))?;
            let start = usize::try_from(symbol.value()).ok()?;
            let data = section.data().get(start..)?;
            (data.len() >= length).then_some(data)
        };
        if let Some(of) = name.strip_prefix("__ksymtab_") {
            let section = elf.sections.get(usize::from(symbol.shndx()));
            // Until Linux 7.0 symbols for the GPL only had a table of their own.
            let gpl = section.is_some_and(|s| s.name().contains("ksymtab_gpl"));
            exports.push(Export {
                name: of.to_owned(),
                gpl_only: Some(gpl),
                namespace: None,
                crc: None,
            });
        } else if let Some(of) = name.strip_prefix("__kstrtabns_") {
            let text = at(1).map(|data| elf::text(elf::until_nul(data)).into_owned());
            namespaces.insert(of.to_owned(), text.filter(|t| !t.is_empty()));
        } else if let Some(of) = name.strip_prefix("__flags_") {
            flags.insert(of.to_owned(), at(1).map(|data| data[0]));
        } else if let Some(of) = name.strip_prefix("__crc_") {
            let absolute = symbol.shndx() == object::elf::SHN_ABS.0;
            let crc = match absolute {
                true => Some(symbol.value() as u32),
                false => at(4).and_then(|data| Some(u32::from_le_bytes(*data.first_chunk()?))),
            };
            crcs.insert(of.to_owned(), crc);
        }
    }
    for export in &mut exports {
        let name = export.name.as_str();
        export.namespace = namespaces.remove(name).flatten();
        export.crc = crcs.get(name).copied().flatten();
        if let Some(flags) = flags.get(name).copied().flatten() {
            export.gpl_only = Some(flags & GPL_ONLY != 0);
        }
    }
    exports
}
