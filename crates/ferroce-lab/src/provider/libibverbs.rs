// SPDX-License-Identifier: MIT OR Apache-2.0
//! The libibverbs that programs on this machine load: the number of its
//! interface to plug-ins, and where it looks for them.
//!
//! Both are in the library itself. It exports `verbs_register_driver_NN`, and
//! has the pattern of its plug-ins' file names and the folder of its settings
//! as strings (rdma-core's libibverbs/dynamic_driver.c).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::read::elf::ElfFile64;
use object::{Architecture, Object, ObjectSection, ObjectSymbol};

use crate::error::{Error, Result};
use crate::prerequisites::find_program;

/// Its file name, which has been the same since rdma-core's beginning.
const NAME: &str = "libibverbs.so.1";
/// What it exports for plug-ins, up to the interface's number.
pub(super) const REGISTER: &str = "verbs_register_driver_";

/// A libibverbs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libibverbs {
    /// The library.
    pub file: PathBuf,
    /// The number of its private interface, which plug-ins have in their names.
    pub abi: u32,
    /// The folder in which it looks for plug-ins.
    pub plugins: PathBuf,
    /// The folder with files that name them.
    pub settings: PathBuf,
}

impl Libibverbs {
    /// Finds the one that programs of this program's architecture load.
    pub fn find() -> Result<Option<Self>> {
        let ldconfig = find_program("ldconfig").unwrap_or_else(|| "ldconfig".into());
        let output = Command::new(ldconfig)
            .arg("-p")
            .env("LC_ALL", "C")
            .output()
            .map_err(|source| Error::Start {
                program: "ldconfig, which lists this machine's libraries".to_owned(),
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        for file in libraries(&text) {
            let bytes = fs::read(file).map_err(Error::file("read", file))?;
            if is_ours(&bytes) {
                return Self::parse(file, &bytes).map(Some);
            }
        }
        Ok(None)
    }

    /// Looks into a file.
    pub fn read(file: &Path) -> Result<Self> {
        let bytes = fs::read(file).map_err(Error::file("read", file))?;
        if !is_ours(&bytes) {
            let hint = "it is no library of this machine's architecture";
            return Err(strange(file, hint));
        }
        Self::parse(file, &bytes)
    }

    fn parse(file: &Path, bytes: &[u8]) -> Result<Self> {
        let elf = ElfFile64::<object::Endianness>::parse(bytes)
            .map_err(|e| strange(file, &e.to_string()))?;
        let abi = elf
            .dynamic_symbols()
            .filter(|s| s.is_definition())
            .find_map(|s| s.name().ok()?.strip_prefix(REGISTER)?.parse().ok())
            .ok_or_else(|| strange(file, &format!("it exports no {REGISTER}NN")))?;
        let data = elf
            .section_by_name(".rodata")
            .and_then(|s| s.data().ok())
            .unwrap_or_default();
        let folder = |pattern: &str| {
            data.split(|b| *b == 0)
                .filter_map(|s| std::str::from_utf8(s).ok())
                .find_map(|s| s.strip_suffix(pattern).filter(|s| s.starts_with('/')))
        };
        let plugins = folder(&format!("/lib%s-rdmav{abi}.so"))
            .ok_or_else(|| strange(file, "it names no folder for plug-ins"))?;
        let parent = folder("/libibverbs.d")
            .ok_or_else(|| strange(file, "it names no folder for its settings"))?;
        Ok(Self {
            file: file.to_owned(),
            abi,
            plugins: plugins.into(),
            settings: Path::new(parent).join("libibverbs.d"),
        })
    }
}

fn strange(file: &Path, why: &str) -> Error {
    Error::Usage(format!("{} is no libibverbs: {why}", file.display()))
}

/// Whether a file is of the architecture that this program was built for.
pub(super) fn is_ours(bytes: &[u8]) -> bool {
    let ours = match std::env::consts::ARCH {
        "x86_64" => Architecture::X86_64,
        "aarch64" => Architecture::Aarch64,
        "riscv64" => Architecture::Riscv64,
        _ => return false,
    };
    object::File::parse(bytes).is_ok_and(|f| f.architecture() == ours)
}

/// The paths that ldconfig lists for it.
fn libraries(listed: &str) -> impl Iterator<Item = &Path> {
    listed.lines().filter_map(|line| {
        let (name, path) = line.trim().split_once(" => ")?;
        (name.split(' ').next() == Some(NAME)).then(|| Path::new(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldconfig_lists_a_library_for_each_architecture() {
        let text = "2 libs found in cache `/etc/ld.so.cache'\n\
            \tlibibverbs.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libibverbs.so.1\n\
            \tlibibverbs.so.1 (libc6) => /lib/i386-linux-gnu/libibverbs.so.1\n\
            \tlibibverbs.so.10 (libc6,x86-64) => /lib/x86_64-linux-gnu/libibverbs.so.10\n";
        let found: Vec<_> = libraries(text).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libibverbs.so.1"),
                Path::new("/lib/i386-linux-gnu/libibverbs.so.1")
            ]
        );
    }

    #[test]
    fn a_program_is_no_libibverbs() {
        let program = std::env::current_exe().unwrap();
        let error = Libibverbs::read(&program).unwrap_err().to_string();
        assert!(
            error.contains("exports no verbs_register_driver_NN"),
            "{error}"
        );
        let text = Libibverbs::read(Path::new("/etc/passwd")).unwrap_err();
        assert!(text.to_string().contains("no library"), "{text}");
    }
}
