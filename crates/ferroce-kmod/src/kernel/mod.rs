// SPDX-License-Identifier: MIT OR Apache-2.0
//! A kernel, as far as it decides whether a module loads: the running one, an
//! installed one, or the tree that one was built in.

mod find;
mod running;
mod texts;
mod tree;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::arch::Arch;
use crate::elf::{self, Elf};
use crate::file::{Compression, ModuleFile};
use crate::layout::Options;
use crate::linkage::Export;
use crate::modinfo::Modinfo;
use crate::signature::Trusted;

pub use running::{loaded, Loaded, Running};
pub use texts::Config;
pub use tree::{beside, is_module, ModuleTree};

/// Who has an exported symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The kernel itself.
    Vmlinux,
    /// A module of that name.
    Module(String),
}

/// Whose keys a kernel takes for signatures.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// Certificates that are known to be trusted.
    pub trusted: Vec<Trusted>,
    /// Whether there can be no others.
    pub complete: bool,
}

/// What is known of a kernel. What cannot be known is absent, and the checks
/// that need it say so.
#[derive(Debug, Default)]
pub struct Kernel {
    /// What to call it, such as `7.2.12 (running)`.
    pub name: String,
    /// What `uname -r` says in it.
    pub release: Option<String>,
    /// What it was built for.
    pub arch: Option<Arch>,
    /// What its modules' `vermagic` has to be.
    pub vermagic: Option<String>,
    /// Its configuration.
    pub config: Option<Config>,
    /// The size of its `struct module`, in bytes.
    pub module_struct: Option<u64>,
    /// Its own modules, and those installed for it.
    pub modules: ModuleTree,
    /// Whose signatures it takes.
    pub keys: Keys,
    /// What there is to know of it because it runs.
    pub running: Option<Running>,
    exports: HashMap<String, (Export, Owner)>,
    system_map: Option<PathBuf>,
    addresses: OnceLock<HashMap<String, u64>>,
}

impl Kernel {
    /// Whether the symbols that it exports are known.
    pub fn knows_exports(&self) -> bool {
        !self.exports.is_empty()
    }

    /// An exported symbol, and who has it.
    pub fn export(&self, name: &str) -> Option<(&Export, &Owner)> {
        self.exports
            .get(name)
            .map(|(export, owner)| (export, owner))
    }

    /// The names of all exported symbols that are known.
    pub fn export_names(&self) -> impl Iterator<Item = &str> {
        self.exports.keys().map(String::as_str)
    }

    /// The address of one of the kernel's own symbols, from its `System.map`.
    pub fn address(&self, name: &str) -> Option<u64> {
        let addresses = self.addresses.get_or_init(|| {
            let map = self.system_map.as_deref();
            // Without it fewer overflows are foreseen.
            map.and_then(|path| texts::system_map(path).ok())
                .unwrap_or_default()
        });
        addresses.get(name).copied()
    }

    /// Whether an option is set to `y`; nothing without a configuration.
    pub fn is_set(&self, option: &str) -> Option<bool> {
        Some(self.config.as_ref()?.is_set(option))
    }

    /// How modules may be compressed that it decompresses itself
    /// (CONFIG_MODULE_DECOMPRESS); all others are kmod's to decompress.
    pub fn decompresses(&self) -> Option<Compression> {
        if let Some(running) = &self.running {
            return running.compression;
        }
        let own = self.is_set("CONFIG_MODULE_DECOMPRESS") == Some(true);
        let mut all = Compression::ALL.into_iter().filter(|_| own);
        all.find(|known| self.is_set(known.option()) == Some(true))
    }

    /// Whether it compares checksums of symbols.
    pub fn modversions(&self) -> bool {
        self.is_set("CONFIG_MODVERSIONS").unwrap_or_else(|| {
            let words = self.vermagic.as_deref().unwrap_or_default();
            words.split(' ').any(|word| word == "modversions")
        })
    }

    /// The options that change a module's layout.
    pub fn layout_options(&self) -> Options {
        let default = Options::default();
        let is = |option, otherwise| self.is_set(option).unwrap_or(otherwise);
        Options {
            kallsyms: is("CONFIG_KALLSYMS", default.kallsyms),
            kallsyms_all: is("CONFIG_KALLSYMS_ALL", default.kallsyms_all),
            unload: is("CONFIG_MODULE_UNLOAD", default.unload),
            smp: is("CONFIG_SMP", default.smp),
            static_call_inline: is("CONFIG_HAVE_STATIC_CALL_INLINE", default.static_call_inline),
        }
    }

    /// Takes what every module of a kernel has from one of its own: the size
    /// of `struct module`, and `vermagic`.
    fn learn_from(&mut self, path: &std::path::Path) -> Option<()> {
        let file = ModuleFile::read(path).ok()?;
        let (module, _) = crate::signature::split(&file.bytes);
        let elf = Elf::parse(module).ok()?;
        self.module_struct = elf.section(elf::THIS_MODULE).map(|s| s.size());
        let vermagic = Modinfo::of(&elf).get("vermagic").map(str::to_owned);
        self.vermagic = vermagic.or(self.vermagic.take());
        Some(())
    }
}
