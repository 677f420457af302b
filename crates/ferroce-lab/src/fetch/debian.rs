// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's package of the kernel's source.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use super::apt::{Apt, Mirror, Offer};
use super::{unpack, Series, Source};
use crate::error::{Error, Result};
use crate::progress;

/// The suites that carry new kernels, the most settled first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// Fetches and unpacks the newest supported source on offer; `None`, with the
/// reasons added to `tried`, where there is none.
pub fn fetch(dir: &Path, series: Series, tried: &mut Vec<String>) -> Result<Option<Source>> {
    let mirror = match Mirror::find() {
        Ok(mirror) => mirror,
        Err(error) => {
            tried.push(format!("apt: {error}"));
            return Ok(None);
        }
    };
    for suite in SUITES {
        let apt = Apt::new(&dir.join(format!("apt-{suite}")), &mirror, suite)?;
        progress::note("Looking", &format!("for a kernel source in Debian {suite}"));
        if let Err(reason) = apt.update() {
            tried.push(format!("apt, {suite}: {reason}"));
            continue;
        }
        for series in series.all() {
            let Some(offer) = apt.offer(&format!("linux-source-{series}")) else {
                continue;
            };
            return source(&apt, &offer, suite, dir).map(Some);
        }
        tried.push(format!(
            "apt, {suite}: no package linux-source-{}",
            series.all().join(" or -")
        ));
    }
    Ok(None)
}

/// Fetches the package, and unpacks the archive in it.
pub(crate) fn source(apt: &Apt, offer: &Offer, suite: &str, dir: &Path) -> Result<Source> {
    let deb = apt.download(offer, &dir.join("download"))?;

    let tree = dir.join("tree");
    fs::create_dir_all(&tree).map_err(Error::file("create", &tree))?;
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&deb)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start {
            program: "dpkg-deb".to_owned(),
            source,
        })?;
    let name = format!("Linux {}", offer.version);
    let unpacked = unpack_inner(dpkg.stdout.take().expect("piped"), &deb, &tree, &name);
    // A failed unpacking closes the pipe: dpkg-deb's own complaint about
    // that is of no interest.
    let status = dpkg.wait().map_err(|source| Error::Start {
        program: "dpkg-deb".to_owned(),
        source,
    })?;
    unpacked?;
    if !status.success() {
        let what = format!("unpacking {}", deb.display());
        return Err(Error::Failed {
            what,
            status,
            output: String::new(),
        });
    }
    Ok(Source {
        version: offer.version.clone(),
        origin: format!("Debian's package {}, suite {suite}", offer.package),
        dir: tree,
    })
}

/// Finds the archive within the package's files, and unpacks it.
fn unpack_inner(files: impl Read, deb: &Path, tree: &Path, name: &str) -> Result<()> {
    let mut tar = tar::Archive::new(files);
    let wrap = Error::file("unpack", deb);
    let entries = match tar.entries() {
        Ok(entries) => entries,
        Err(e) => return Err(wrap(e)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => return Err(wrap(e)),
        };
        if entry
            .path()
            .is_ok_and(|p| p.to_string_lossy().ends_with(".tar.xz"))
        {
            let size = entry.size();
            return unpack(entry, size, tree, name);
        }
    }
    Err(wrap(std::io::Error::other("it holds no .tar.xz")))
}
