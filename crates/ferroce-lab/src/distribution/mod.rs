// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels that the lab has not built: a distribution's, as its package has it,
//! or any that is installed or unpacked.

mod bzimage;
mod debian;
mod locate;
mod modules;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::backend::Backend;
use crate::cache::{digest, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::image::{Image, RDMA_STACK};
use bzimage::BzImage;
use locate::{locate, Located};
use modules::Indexed;

/// Which kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distribution {
    /// Debian's newest, or its newest of a version.
    Debian(Option<String>),
    /// One that is installed, or unpacked.
    Path(PathBuf),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "debian" => Ok(Self::Debian(None)),
            Some(("debian", version)) if is_version(version) => {
                Ok(Self::Debian(Some(version.to_owned())))
            }
            _ if text.contains('/') || Path::new(text).exists() => Ok(Self::Path(text.into())),
            _ => Err(
                "it is debian, debian:VERSION such as debian:7.3, or the path of a kernel such as \
                 /boot/vmlinuz-VERSION"
                    .to_owned(),
            ),
        }
    }
}

/// What a release may consist of: it becomes part of paths, and of apt's arguments.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".+-~_".contains(c))
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(None) => f.write_str("debian"),
            Self::Debian(Some(version)) => write!(f, "debian:{version}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Distribution {
    /// Fetches it if need be, and makes it ready to boot. `driver` finds `ferroce.ko` for a release.
    pub fn ensure(
        &self,
        cache: &Cache,
        driver: impl FnOnce(&str) -> Result<Option<PathBuf>>,
    ) -> Result<Image> {
        let kernel = match self {
            Self::Debian(version) => locate(&debian::ensure(cache, version.as_deref())?)?,
            Self::Path(path) => locate(path)?,
        };
        // The modules of a kernel that is given by its path are as they are there.
        let driver = match self {
            Self::Debian(_) => driver(&kernel.release)?,
            Self::Path(_) => None,
        };
        let modules = Indexed::ensure(cache, &kernel, driver.as_deref())?;
        // The RDMA stack too: it is decompressed here, and not where each instruction is emulated.
        let early = modules.early(&kernel.release, &RDMA_STACK)?;
        Ok(Image {
            name: match self {
                Self::Debian(_) => "debian".to_owned(),
                Self::Path(_) => kernel.release.clone(),
            },
            backend: Backend::Qemu,
            debug: false,
            file: vmlinux(cache, &kernel)?,
            stack: Vec::new(),
            early: Some(early),
            modules: modules.folder,
            release: kernel.release,
        })
    }

    /// Whether [`Self::ensure`] would fetch it.
    pub fn is_to_be_fetched(&self, cache: &Cache) -> bool {
        match self {
            Self::Debian(version) => debian::find(cache, version.as_deref()).is_none(),
            Self::Path(_) => false,
        }
    }

    /// The folder of its modules, if it is in the cache, or need not be.
    pub fn find_modules(&self, cache: &Cache) -> Result<Option<PathBuf>> {
        let kernel = match self {
            Self::Debian(version) => match debian::find(cache, version.as_deref()) {
                Some(dir) => locate(&dir)?,
                None => return Ok(None),
            },
            Self::Path(path) => locate(path)?,
        };
        Ok(Some(Indexed::ensure(cache, &kernel, None)?.folder))
    }
}

/// The kernel to give to QEMU: what is compressed in the bzImage, so that the guest need not decompress
/// it, which takes ten seconds and more where each instruction is emulated; or the bzImage as it is.
fn vmlinux(cache: &Cache, kernel: &Located) -> Result<PathBuf> {
    let read = Error::file("read", &kernel.file);
    let key = &digest(&kernel.file).map_err(read)?[..12];
    let dir = cache.path("distribution/vmlinux").join(key);
    let place = dir.join("vmlinux");
    if Seal::check(&dir, |_| true) == Found::Whole {
        return Ok(place);
    }
    let Some(elf) = BzImage::read(&kernel.file)?.vmlinux() else {
        return Ok(kernel.file.clone());
    };
    let _lock = cache.lock("distribution-vmlinux", "unpacking a kernel")?;
    std::fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
    // Another may boot what is there.
    let file = tempfile::NamedTempFile::new_in(&dir).map_err(Error::file("create", &place))?;
    std::fs::write(&file, elf).map_err(Error::file("write", &place))?;
    file.persist(&place)
        .map_err(|e| Error::file("write", &place)(e.error))?;
    Seal::write(&dir, [PathBuf::from("vmlinux")])?;
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_named_by_distribution_or_path() {
        let parse = |text: &str| text.parse::<Distribution>();
        assert_eq!(parse("debian"), Ok(Distribution::Debian(None)));
        let version = Some("7.3".to_owned());
        assert_eq!(parse("debian:7.3"), Ok(Distribution::Debian(version)));
        for path in ["./debian", "/boot/vmlinuz"] {
            assert_eq!(parse(path), Ok(Distribution::Path(path.into())));
        }
        for wrong in ["", "debian:", "debian:x y", "debian:-o", "fedora", "9.9"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
