// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache folder: what is costly to make is made once, by one process at a
//! time, and is used only when it is whole.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::progress;

/// The folder that holds kernel sources, builds and modules.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens `FERROCE_CACHE`, or `ferroce` in the user's cache folder.
    pub fn open() -> Result<Self> {
        let root = match std::env::var_os("FERROCE_CACHE") {
            Some(dir) => std::path::absolute(&dir).map_err(Error::file("use", dir))?,
            None => dirs::cache_dir()
                .ok_or_else(|| {
                    Error::Usage("no cache folder is known: set HOME or FERROCE_CACHE".into())
                })?
                .join("ferroce"),
        };
        if root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .any(|b| b.is_ascii_whitespace() || *b == b':')
        {
            return Err(Error::Usage(format!(
                "the kernel's build does not work in a folder with spaces or colons in its path: \
                 set FERROCE_CACHE to another one than {}",
                root.display()
            )));
        }
        fs::create_dir_all(&root).map_err(Error::file("create", &root))?;
        Ok(Self { root })
    }

    /// One in a folder of a test's.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A path in the cache.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Waits until no other process holds the lock `name`, saying for what.
    ///
    /// The lock ends with the value, or with the process, however that ends.
    pub fn lock(&self, name: &str, purpose: &str) -> Result<Lock> {
        let dir = self.path("locks");
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        let path = dir.join(name);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another ferroce".to_owned(),
                    holder => format!("another ferroce, {holder}"),
                };
                progress::note("Waiting", &format!("for {holder}"));
                file.lock().map_err(Error::file("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path)(source)),
        }
        // For the next one to read; of no use to anyone if it cannot be written.
        let _ = file.set_len(0);
        let _ = file.rewind();
        let _ = writeln!(file, "process {}, which is {purpose}", std::process::id());
        Ok(Lock { _file: file })
    }
}

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The record that a folder is whole: written last, it names each product with
/// its size and digest.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seal {
    products: Vec<Product>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Product {
    path: PathBuf,
    size: u64,
    sha256: String,
}

/// What a look at a sealed folder finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was sealed here.
    Nothing,
    /// Everything is as it was when it was sealed.
    Whole,
    /// These products are missing or changed.
    Damaged(Vec<PathBuf>),
}

const SEAL: &str = "ferroce-seal.json";

impl Seal {
    /// Seals `dir`: from now on it counts as whole.
    pub fn write(dir: &Path, products: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        let products = products
            .into_iter()
            .map(|path| {
                let file = dir.join(&path);
                let size = fs::metadata(&file)
                    .map_err(Error::file("read", &file))?
                    .len();
                let sha256 = digest(&file).map_err(Error::file("read", &file))?;
                Ok(Product { path, size, sha256 })
            })
            .collect::<Result<_>>()?;
        let text = serde_json::to_string_pretty(&Self { products }).expect("plain data");
        let path = dir.join(SEAL);
        let wrap = |source| Error::file("write", &path)(source);
        let mut file = tempfile::NamedTempFile::new_in(dir).map_err(wrap)?;
        file.write_all(text.as_bytes()).map_err(wrap)?;
        file.as_file().sync_all().map_err(wrap)?;
        file.persist(&path).map_err(|e| wrap(e.error))?;
        Ok(())
    }

    /// Takes the seal off, before `dir` is changed.
    pub fn remove(dir: &Path) -> Result<()> {
        let path = dir.join(SEAL);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Looks whether those products of `dir` that `matter` are as they were
    /// sealed.
    pub fn check(dir: &Path, matter: impl Fn(&Path) -> bool) -> Found {
        let Ok(text) = fs::read(dir.join(SEAL)) else {
            return Found::Nothing;
        };
        let Ok(seal) = serde_json::from_slice::<Self>(&text) else {
            return Found::Nothing;
        };
        let damaged: Vec<PathBuf> = seal
            .products
            .into_iter()
            .filter(|p| matter(&p.path))
            .filter(|p| {
                let file = dir.join(&p.path);
                let same_size = fs::metadata(&file).is_ok_and(|m| m.len() == p.size);
                !(same_size && digest(&file).is_ok_and(|d| d == p.sha256))
            })
            .map(|p| p.path)
            .collect();
        if damaged.is_empty() {
            Found::Whole
        } else {
            Found::Damaged(damaged)
        }
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub fn digest(path: &Path) -> io::Result<String> {
    Ok(hex(&Sha256::digest(fs::read(path)?)))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
