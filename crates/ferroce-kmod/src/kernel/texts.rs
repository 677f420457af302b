// SPDX-License-Identifier: MIT OR Apache-2.0
//! The texts that a kernel's build leaves: `.config`, `Module.symvers`,
//! `System.map`.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::Owner;
use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::file::ModuleFile;
use crate::linkage::Export;

/// A kernel's configuration: the options that are not off.
#[derive(Debug, Clone, Default)]
pub struct Config(HashMap<String, String>);

impl Config {
    /// Reads it as `.config` has it; `.gz` as in /proc/config.gz.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::parse(&text(path)?))
    }

    /// Takes the lines that set something.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let options = lines.filter(|(name, _)| name.starts_with("CONFIG_"));
        Self(
            options
                .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                .collect(),
        )
    }

    /// Whether an option is `y`.
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("y")
    }

    /// An option's value, without quotes.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// What it is a configuration for.
    pub fn arch(&self) -> Option<Arch> {
        let known = [
            ("CONFIG_UML", Arch::Uml),
            ("CONFIG_X86_64", Arch::X86_64),
            ("CONFIG_ARM64", Arch::Arm64),
        ];
        let found = known.iter().find(|(option, _)| self.is_set(option));
        found.map(|(_, arch)| *arch)
    }

    /// `VERMAGIC_STRING` of include/linux/vermagic.h; not to be told with
    /// CONFIG_RANDSTRUCT, which adds the digest of a secret.
    pub fn vermagic(&self, release: &str) -> Option<String> {
        if self.is_set("CONFIG_RANDSTRUCT") {
            return None;
        }
        let word = |option, word| if self.is_set(option) { word } else { "" };
        let preempt = match self.is_set("CONFIG_PREEMPT_RT") {
            true => "preempt_rt ",
            false => word("CONFIG_PREEMPT_BUILD", "preempt "),
        };
        Some(
            [
                release,
                " ",
                word("CONFIG_SMP", "SMP "),
                preempt,
                word("CONFIG_MODULE_UNLOAD", "mod_unload "),
                word("CONFIG_MODVERSIONS", "modversions "),
                word("CONFIG_ARM64", "aarch64"),
            ]
            .concat(),
        )
    }
}

/// Reads a text, compressed or not.
fn text(path: &Path) -> Result<String> {
    let bytes = if path.starts_with("/proc") {
        // Files there have no size to go by, but an end.
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
        file.take(crate::file::LARGEST)
            .read_to_end(&mut bytes)
            .map_err(Error::file("read", path))?;
        ModuleFile::from_bytes(path, bytes)?.bytes
    } else {
        ModuleFile::read(path)?.bytes
    };
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads `Module.symvers` (Documentation/kbuild/modules.rst, "Module Versioning").
pub fn symvers(path: &Path) -> Result<HashMap<String, (Export, Owner)>> {
    let text = text(path)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            symvers_line(line).ok_or_else(|| Error::Text {
                path: path.to_owned(),
                line: index + 1,
                what: format!("`{line}' is no line of a Module.symvers"),
            })
        })
        .collect()
}

fn symvers_line(line: &str) -> Option<(String, (Export, Owner))> {
    let mut fields = line.split('\t');
    let crc = fields.next()?.strip_prefix("0x")?;
    let crc = u32::from_str_radix(crc, 16).ok()?;
    let name = fields.next()?.to_owned();
    let owner = match fields.next()? {
        "vmlinux" => Owner::Vmlinux,
        path => Owner::Module(crate::linkage::name_of_path(Path::new(path))),
    };
    let gpl_only = fields.next()?.ends_with("_GPL");
    let namespace = fields.next().filter(|n| !n.is_empty());
    let export = Export {
        name: name.clone(),
        gpl_only: Some(gpl_only),
        namespace: namespace.map(str::to_owned),
        crc: Some(crc),
    };
    Some((name, (export, owner)))
}

/// Reads the lines of `System.map` or /proc/kallsyms: address, kind, name.
/// Debian installs one that is a sentence, which has none.
fn symbols(text: &str) -> impl Iterator<Item = (u64, &str)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let (_, name) = (words.next()?, words.next()?);
        // A fourth word is the module that a symbol is in.
        words.next().is_none().then_some((address, name))
    })
}

/// The addresses of a kernel's symbols.
pub fn system_map(path: &Path) -> Result<HashMap<String, u64>> {
    let text = text(path)?;
    let pairs = symbols(&text).map(|(address, name)| (name.to_owned(), address));
    Ok(pairs.collect())
}

/// The symbols that a kernel exports, told by the names of all its symbols:
/// less than `Module.symvers` tells, but every kernel has it.
pub fn exports_by_name(path: &Path) -> Result<HashMap<String, (Export, Owner)>> {
    let text = text(path)?;
    let names = symbols(&text).filter_map(|(_, name)| name.strip_prefix("__ksymtab_"));
    let exports = names.map(|name| {
        let export = Export {
            name: name.to_owned(),
            gpl_only: None,
            namespace: None,
            crc: None,
        };
        (name.to_owned(), (export, Owner::Vmlinux))
    });
    Ok(exports.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_symvers_has_five_fields() {
        let line =
            "0x0f3a4b5c\tib_post_send\tdrivers/infiniband/core/ib-core\tEXPORT_SYMBOL_GPL\tRDMA";
        let (name, (export, owner)) = symvers_line(line).unwrap();
        assert_eq!(name, "ib_post_send");
        assert_eq!(owner, Owner::Module("ib_core".to_owned()));
        assert_eq!(export.crc, Some(0x0f3a_4b5c));
        assert_eq!(export.gpl_only, Some(true));
        assert_eq!(export.namespace.as_deref(), Some("RDMA"));
        assert!(symvers_line("no tabs here").is_none());
    }

    #[test]
    fn vermagic_has_the_words_of_the_configuration() {
        let config = "CONFIG_SMP=y\n# CONFIG_PREEMPT_BUILD is not set\nCONFIG_MODULE_UNLOAD=y\n";
        let vermagic = Config::parse(config).vermagic("7.2.12");
        assert_eq!(vermagic.as_deref(), Some("7.2.12 SMP mod_unload "));
    }

    #[test]
    fn a_system_map_that_is_a_sentence_has_no_symbols() {
        let text = "ffffffffffffffff B The real System.map is elsewhere\n\
                    ffffffff81000000 T _text\n";
        let all: Vec<_> = symbols(text).collect();
        assert_eq!(all, [(0xffff_ffff_8100_0000, "_text")]);
    }
}
