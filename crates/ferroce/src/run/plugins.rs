// SPDX-License-Identifier: MIT OR Apache-2.0
//! The libraries that this program carries: the shim, and the plug-ins for libibverbs, one for each private
//! interface of it. `build.rs` has built them. They are unpacked to be loaded.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::place;

/// A library: its file name and what is in it.
type Library = (&'static str, &'static [u8]);

/// One of those that build.rs has put into `OUT_DIR`.
macro_rules! library {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!(env!("OUT_DIR"), "/", $name)).as_slice(),
        )
    };
}

const SHIM: Library = library!("libferroce_shim.so");
/// The plug-ins, each with the number of its private interface.
const PLUGINS: [(u32, Library); 5] = [
    (34, library!("libferroce-rdmav34.so")),
    (57, library!("libferroce-rdmav57.so")),
    (59, library!("libferroce-rdmav59.so")),
    (64, library!("libferroce-rdmav64.so")),
    (65, library!("libferroce-rdmav65.so")),
];
/// The hash of them all.
const HASH: &str = env!("FERROCE_LIBRARIES_HASH");
/// What the plug-ins' names begin with.
const PREFIX: &str = "libferroce";

/// Where they are.
#[derive(Debug)]
pub struct Plugins {
    folder: PathBuf,
}

impl Plugins {
    /// Unpacks them, where they are not there yet.
    pub fn ensure() -> Result<Self> {
        Self::ensure_in(&place::libraries()?)
    }

    fn ensure_in(folder: &Path) -> Result<Self> {
        let folder = folder.join(HASH);
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        for (name, contents) in PLUGINS.map(|plugin| plugin.1).into_iter().chain([SHIM]) {
            let file = folder.join(name);
            if !fs::read(&file).is_ok_and(|found| found == contents) {
                unpack(&file, contents)
                    .with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        Ok(Self { folder })
    }

    /// The shim.
    pub fn shim(&self) -> PathBuf {
        self.folder.join(SHIM.0)
    }

    /// What libibverbs adds `-rdmavNN.so` to, NN its private interface.
    pub fn prefix(&self) -> PathBuf {
        self.folder.join(PREFIX)
    }

    /// The plug-in for a private interface of libibverbs'.
    pub fn plugin(&self, abi: u32) -> PathBuf {
        self.folder.join(format!("{PREFIX}-rdmav{abi}.so"))
    }
}

/// Writes a file so that at any time it is not there or is complete.
fn unpack(file: &Path, contents: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(contents)?;
    let permissions = fs::Permissions::from_mode(0o755);
    new.as_file().set_permissions(permissions)?;
    new.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_unpacked_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let plugins = Plugins::ensure_in(dir.path()).unwrap();
        for (abi, (name, contents)) in PLUGINS {
            assert_eq!(plugins.plugin(abi).file_name().unwrap(), name);
            assert_eq!(fs::read(plugins.plugin(abi)).unwrap(), contents);
            let register = format!("verbs_register_driver_{abi}\0");
            assert!(contents
                .windows(register.len())
                .any(|w| w == register.as_bytes()));
        }
        let modified = || fs::metadata(plugins.shim()).unwrap().modified().unwrap();
        let before = modified();
        Plugins::ensure_in(dir.path()).unwrap();
        assert_eq!(modified(), before);

        fs::write(plugins.shim(), "half of i").unwrap();
        Plugins::ensure_in(dir.path()).unwrap();
        assert_eq!(fs::read(plugins.shim()).unwrap(), SHIM.1);
        assert_eq!(
            fs::read_dir(&plugins.folder).unwrap().count(),
            PLUGINS.len() + 1
        );
    }
}
