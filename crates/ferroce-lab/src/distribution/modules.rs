// SPDX-License-Identifier: MIT OR Apache-2.0
//! The modules of a distribution's kernel: which ones a guest needs to reach the
//! host's files, and the index by which modprobe(8) finds all of them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt};
use std::path::{Path, PathBuf};

use ferroce_kmod::kernel::ModuleTree;
use ferroce_kmod::linkage::name_of_path;
use sha2::{Digest, Sha256};

use super::locate::Located;
use crate::cache::{hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::modules::{depmod, files_below};
use crate::progress::note;

/// What the first process needs before it has the host's files, with the option
/// of the kernel's configuration.
const NEEDED: [(&str, &str); 5] = [
    ("virtio_pci", "CONFIG_VIRTIO_PCI"),
    ("virtio_console", "CONFIG_VIRTIO_CONSOLE"),
    ("9pnet_virtio", "CONFIG_NET_9P_VIRTIO"),
    ("9p", "CONFIG_9P_FS"),
    ("overlay", "CONFIG_OVERLAY_FS"),
];

/// A kernel's modules, with an index.
pub struct Indexed {
    /// The folder that a guest has as /lib/modules/RELEASE.
    pub folder: PathBuf,
    tree: ModuleTree,
    builtin: HashSet<String>,
}

impl Indexed {
    /// Makes the index if the folder has none, as one that was unpacked has not.
    pub fn ensure(cache: &Cache, kernel: &Located) -> Result<Self> {
        let folder = match kernel.modules.join("modules.dep.bin").exists() {
            true => kernel.modules.clone(),
            false => index(cache, kernel)?,
        };
        let path = folder.join("modules.builtin");
        let builtin = fs::read_to_string(&path).map_err(Error::file("read", path))?;
        Ok(Self {
            tree: ModuleTree::installed(&folder),
            builtin: builtin
                .lines()
                .map(|l| name_of_path(Path::new(l)))
                .collect(),
            folder,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.tree.path(name).is_some()
    }

    /// The files of the modules that a guest's first process needs, and then of `others` that the kernel has,
    /// in the order to load them in.
    pub fn early(&self, release: &str, others: &[&str]) -> Result<Vec<PathBuf>> {
        let lacks = NEEDED.iter().filter(|(name, _)| !self.has(name));
        let lacks: Vec<String> = lacks
            .map(|(name, option)| format!("{name} ({option})"))
            .collect();
        if !lacks.is_empty() {
            return Err(Error::Usage(format!(
                "Linux {release} cannot be a guest, whose files are this machine's: it lacks {}",
                lacks.join(", ")
            )));
        }
        let mut files = Vec::new();
        let mut seen = HashSet::new();
        for name in NEEDED.iter().map(|(name, _)| name).chain(others) {
            self.add(name, &mut seen, &mut files);
        }
        Ok(files)
    }

    /// Adds a module after those that it needs.
    fn add(&self, name: &str, seen: &mut HashSet<String>, files: &mut Vec<PathBuf>) {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return;
        }
        for needed in self.tree.needs(name) {
            self.add(needed, seen, files);
        }
        files.extend(self.tree.path(name).map(Path::to_owned));
    }
}

/// Makes a folder in the cache with links to all that is in the kernel's, and the
/// index.
fn index(cache: &Cache, kernel: &Located) -> Result<PathBuf> {
    let root = cache.path("distribution/modules").join(key(kernel)?);
    let folder = root.join("lib/modules").join(&kernel.release);
    if Seal::check(&root, |_| true) == Found::Whole {
        return Ok(folder);
    }
    let _lock = cache.lock("distribution-modules", "indexing a kernel's modules")?;
    if Seal::check(&root, |_| true) == Found::Whole {
        return Ok(folder);
    }
    note(
        "Indexing",
        &format!("the modules of Linux {}", kernel.release),
    );
    match fs::remove_dir_all(&root) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &root)(e));
        }
        _ => {}
    }
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    for entry in fs::read_dir(&kernel.modules)
        .map_err(Error::file("read", &kernel.modules))?
        .flatten()
    {
        let place = folder.join(entry.file_name());
        symlink(entry.path(), &place).map_err(Error::file("create", place))?;
    }
    depmod(&root, &kernel.release, None)?;
    let files = files_below(&root)?.into_iter();
    let products: Vec<PathBuf> = files
        .filter_map(|file| Some(file.strip_prefix(&root).ok()?.to_owned()))
        .collect();
    Seal::write(&root, products)?;
    Ok(folder)
}

/// Tells one state of a folder of modules from another.
fn key(kernel: &Located) -> Result<String> {
    let mut files = files_below(&kernel.modules)?;
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let meta = fs::metadata(&file).map_err(Error::file("read", &file))?;
        hasher.update(file.as_os_str().as_encoded_bytes());
        for number in [meta.size() as i64, meta.mtime(), meta.mtime_nsec()] {
            hasher.update(number.to_le_bytes());
        }
    }
    Ok(hex(&hasher.finalize())[..12].to_owned())
}
