// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's source: found in the cache, or fetched from Debian's archive
//! through apt, or from kernel.org.

pub mod apt;
pub(crate) mod debian;
pub(crate) mod http;
mod kernel_org;
mod packages;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::prerequisites::numbers;
use crate::progress::{self, Task, Unit};

/// The series of Linux that the modules are written for. Rust's interfaces in
/// the kernel change with each, so that others would not build. Newest first.
pub const SERIES: [&str; 2] = ["7.3", "7.2"];

/// One of [`SERIES`], or the newest of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Series(Option<&'static str>);

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = SERIES.into_iter().find(|known| *known == text);
        let wrong = || format!("the lab builds Linux {}", SERIES.join(" and "));
        known.map(|known| Self(Some(known))).ok_or_else(wrong)
    }
}

impl Series {
    /// The newest that is there, or on offer.
    pub const NEWEST: Self = Self(None);

    /// Those that will do, newest first.
    fn all(self) -> &'static [&'static str] {
        let known = SERIES.iter().position(|known| Some(*known) == self.0);
        known.map_or(&SERIES, |known| &SERIES[known..=known])
    }
}

/// An unpacked kernel source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// The release, with the distribution's revision: "7.2.12-1~bpo13+1".
    pub version: String,
    /// Whose it is, and where it came from, for people.
    pub origin: String,
    /// The folder with the top Makefile.
    #[serde(skip)]
    pub dir: PathBuf,
}

const RECORD: &str = "ferroce-source.json";

/// The source in the cache, or a newly fetched one.
pub fn ensure(cache: &Cache, series: Series) -> Result<Source> {
    if let Some(source) = find(cache, series) {
        return Ok(source);
    }
    let _lock = cache.lock("source", "fetching the kernel's source")?;
    if let Some(source) = find(cache, series) {
        return Ok(source);
    }
    let dir = cache.path("source");
    fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
    // What an earlier fetch left behind when it was interrupted.
    if let Ok(entries) = fs::read_dir(&dir) {
        for entry in entries
            .flatten()
            .filter(|e| !e.path().join(RECORD).exists())
        {
            progress::note(
                "Removing",
                &format!("unfinished {}", entry.path().display()),
            );
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let staging = tempfile::Builder::new()
        .prefix("unpacking-")
        .tempdir_in(&dir)
        .map_err(Error::file("create a folder in", &dir))?;

    let mut tried = Vec::new();
    // Who names a mirror of kernel.org wants that, and not Debian's package.
    let source = match std::env::var_os(kernel_org::MIRROR_VARIABLE) {
        Some(_) => None,
        None => debian::fetch(staging.path(), series, &mut tried)?,
    };
    let source = match source {
        Some(source) => source,
        None => kernel_org::fetch(staging.path(), series, &mut tried)?.ok_or_else(|| {
            Error::NoSource {
                series: series.all().join(", "),
                tried,
            }
        })?,
    };

    let record = source.dir.join(RECORD);
    let text = serde_json::to_string_pretty(&source).expect("plain data");
    fs::write(&record, text).map_err(Error::file("write", &record))?;
    let place = dir.join(format!("linux-{}", source.version));
    fs::rename(&source.dir, &place).map_err(Error::file("create", &place))?;
    Ok(Source {
        dir: place,
        ..source
    })
}

/// The newest whole source in the cache.
pub fn find(cache: &Cache, series: Series) -> Option<Source> {
    let sources = fs::read_dir(cache.path("source"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let dir = entry.path();
            if !dir.file_name()?.to_str()?.starts_with("linux-") {
                return None;
            }
            let text = fs::read(dir.join(RECORD)).ok()?;
            let source = serde_json::from_slice::<Source>(&text).ok()?;
            Some((rank(&source.version, series)?, Source { dir, ..source }))
        });
    let newest = sources.max_by(|(a, _), (b, _)| a.cmp(b))?;
    Some(newest.1)
}

impl Series {
    /// Whether a release is one of them.
    pub(crate) fn has(self, release: &str) -> bool {
        rank(release, self).is_some()
    }
}

/// Orders versions: by the place of their series, then by number. `None` for
/// a series that is not supported.
fn rank(version: &str, series: Series) -> Option<(std::cmp::Reverse<usize>, Vec<u64>)> {
    let series = series.all().iter().position(|s| {
        version
            .strip_prefix(s)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
    })?;
    Some((std::cmp::Reverse(series), numbers(version)))
}

/// Unpacks a `.tar.xz` of `size` bytes into `dir`, without its top folder.
fn unpack(archive: impl Read, size: u64, dir: &Path, name: &str) -> Result<()> {
    let task = Task::start(
        "Unpacking",
        &format!("{name} ({})", progress::bytes(size)),
        Unit::Bytes,
        size,
    );
    let counted = Counted {
        inner: archive,
        task,
    };
    let mut tar = tar::Archive::new(liblzma::read::XzDecoder::new(counted));
    let wrap = |source| Error::File {
        action: "unpack the kernel's source into",
        path: dir.to_owned(),
        source,
    };
    for entry in tar.entries().map_err(wrap)? {
        let mut entry = entry.map_err(wrap)?;
        let path = entry.path().map_err(wrap)?.into_owned();
        let inner: PathBuf = path.components().skip(1).collect();
        if inner.as_os_str().is_empty() {
            continue;
        }
        let stays_inside = inner
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_)));
        if !stays_inside {
            return Err(wrap(io::Error::other(format!(
                "{} leads out of it",
                path.display()
            ))));
        }
        let place = dir.join(inner);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(wrap)?;
        }
        entry.unpack(&place).map_err(|e| wrap(storage_full(e)))?;
    }
    if !dir.join("Makefile").exists() {
        return Err(wrap(io::Error::other("the archive holds no kernel source")));
    }
    Ok(())
}

/// tar's errors wrap the system's: look through them, so that a full disk is
/// told as one.
fn storage_full(error: io::Error) -> io::Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::StorageFull
        {
            return io::ErrorKind::StorageFull.into();
        }
        cause = e.source();
    }
    error
}

/// A reader that moves a progress bar.
struct Counted<R> {
    inner: R,
    task: Task,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.task.set(self.task.done() + n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_point_releases_rank_higher_and_unknown_series_not_at_all() {
        let rank = |version, series: &str| rank(version, series.parse().unwrap_or(Series::NEWEST));
        assert!(rank("7.2.12-1~bpo13+1", "") > rank("7.2.9-1~bpo13+1", ""));
        assert!(rank("7.3.1", "") > rank("7.2.12", ""));
        assert_eq!(rank("7.20.1", ""), None);
        assert_eq!(rank("6.18.1", ""), None);
        assert!(rank("7.2", "").is_some());
        assert!(rank("7.3.4", "7.3").is_some());
        assert_eq!(rank("7.2.12", "7.3"), None);
        assert!("7.1".parse::<Series>().is_err());
    }

    #[test]
    fn an_archive_that_leads_out_of_its_folder_is_refused() {
        let mut tar = tar::Builder::new(liblzma::write::XzEncoder::new(Vec::new(), 0));
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..12].copy_from_slice(b"top/../../ev");
        header.set_size(0);
        header.set_cksum();
        tar.append(&header, &[][..]).unwrap();
        let archive = tar.into_inner().unwrap().finish().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(&archive[..], archive.len() as u64, dir.path(), "test").unwrap_err();
        assert!(error.to_string().contains("leads out of it"), "{error}");
    }

    #[test]
    fn a_broken_archive_is_an_error_that_names_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(&b"not xz at all"[..], 13, dir.path(), "test").unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cannot unpack the kernel's source"),
            "{error}"
        );
    }
}
