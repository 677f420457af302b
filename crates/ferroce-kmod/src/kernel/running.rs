// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a running kernel tells in /proc and /sys.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::file::Compression;

/// What there is to know of a kernel because it runs.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// The modules that are loaded.
    pub loaded: Vec<Loaded>,
    /// `module.sig_enforce`, if the kernel looks at signatures at all.
    pub sig_enforce: Option<bool>,
    /// Whether it is locked down (kernel_lockdown(7)), which wants signatures.
    pub locked_down: bool,
    /// `kernel.modules_disabled`: nothing more is to be loaded.
    pub modules_disabled: bool,
    /// How modules may be compressed that it decompresses itself.
    pub compression: Option<Compression>,
    /// `module_blacklist=` of its command line.
    pub blacklist: Vec<String>,
}

/// A loaded module: a line of /proc/modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// The memory that it takes, in bytes.
    pub size: u64,
    /// How many use it; nothing where modules cannot be unloaded.
    pub references: Option<u64>,
    /// The modules that use it.
    pub users: Vec<String>,
    /// `Live`, `Loading` or `Unloading`.
    pub state: String,
    /// What it taints the kernel with, as letters (`OE`).
    pub taints: String,
}

impl Running {
    /// Looks.
    pub(super) fn look() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cmdline = read("/proc/cmdline");
        let blacklist = cmdline
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("module_blacklist="));
        let names = blacklist.into_iter().flat_map(|names| names.split(','));
        Ok(Self {
            loaded: loaded()?,
            sig_enforce: match read("/sys/module/module/parameters/sig_enforce").trim() {
                "Y" => Some(true),
                "N" => Some(false),
                _ => None,
            },
            locked_down: {
                let levels = read("/sys/kernel/security/lockdown");
                !levels.is_empty() && !levels.contains("[none]")
            },
            compression: {
                let name = read("/sys/module/compression");
                let mut all = Compression::ALL.into_iter();
                all.find(|known| known.name() == name.trim())
            },
            modules_disabled: read("/proc/sys/kernel/modules_disabled").trim() == "1",
            blacklist: names.map(str::to_owned).collect(),
        })
    }

    /// The loaded module of that name.
    pub fn module(&self, name: &str) -> Option<&Loaded> {
        self.loaded.iter().find(|module| module.name == name)
    }
}

/// The modules that are loaded, the latest first.
pub fn loaded() -> Result<Vec<Loaded>> {
    let path = Path::new("/proc/modules");
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        // A kernel without modules has no such file.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::file("read", path)(e)),
    };
    let lines = text.lines().enumerate();
    lines
        .map(|(index, line)| {
            parse(line).ok_or_else(|| Error::Text {
                path: path.to_owned(),
                line: index + 1,
                what: format!("`{line}' describes no module"),
            })
        })
        .collect()
}

/// `m_show()` in kernel/module/procfs.c: name, size, references, users, state,
/// address, taints.
fn parse(line: &str) -> Option<Loaded> {
    let mut words = line.split_ascii_whitespace();
    let name = words.next()?.to_owned();
    let size = words.next()?.parse().ok()?;
    let references = words.next()?.parse().ok();
    let users = words.next()?.split(',');
    let users = users.filter(|u| !u.is_empty() && *u != "-" && *u != "[permanent]");
    Some(Loaded {
        name,
        size,
        references,
        users: users.map(str::to_owned).collect(),
        state: words.next()?.to_owned(),
        taints: {
            let taints = words.nth(1).unwrap_or_default();
            taints.trim_matches(['(', ')']).to_owned()
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_modules_is_a_module() {
        let line = "ib_core 430080 5 rdma_cm,ib_uverbs, Live 0x0000000000000000 (OE)";
        let module = parse(line).unwrap();
        assert_eq!(module.users, ["rdma_cm", "ib_uverbs"]);
        assert_eq!((module.size, module.references), (430_080, Some(5)));
        assert_eq!(
            (module.state.as_str(), module.taints.as_str()),
            ("Live", "OE")
        );
        let line = "hello 16384 0 - Live 0x0000000000000000";
        assert!(parse(line).unwrap().users.is_empty());
        assert!(parse("hello").is_none());
    }
}
