// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's packages of a kernel, fetched by apt and unpacked in the cache:
//! nothing is installed on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::fetch::apt::{Apt, Mirror, Offer};
use crate::modules::files_below;
use crate::prerequisites::numbers;
use crate::progress::{self, note};

/// The suites that are asked, the newest kernels first.
const SUITES: [&str; 2] = ["trixie-backports", "trixie"];

/// The package that depends on the newest kernel of a suite.
const NEWEST: &str = "linux-image-amd64";

/// What the name of a kernel's package begins with; its release follows.
const PREFIX: &str = "linux-image-";

/// The file beside the kernels with the release of the one that was newest.
const RECORD: &str = "newest";

/// The folder that a kernel's packages are unpacked in, which is named by its
/// release: from the cache, or newly fetched. Without a version it is the
/// newest on offer when one was last fetched.
pub fn ensure(cache: &Cache, version: Option<&str>) -> Result<PathBuf> {
    if let Some(dir) = find(cache, version) {
        return Ok(dir);
    }
    let _lock = cache.lock("debian-kernel", "fetching a kernel of Debian's")?;
    if let Some(dir) = find(cache, version) {
        return Ok(dir);
    }
    fetch(cache, version)
}

/// The same, if it is in the cache.
pub fn find(cache: &Cache, version: Option<&str>) -> Option<PathBuf> {
    let all = cache.path(FOLDER);
    let release = match version {
        None => fs::read_to_string(all.join(RECORD)).ok()?,
        Some(version) => {
            let entries = fs::read_dir(&all).ok()?.flatten();
            let releases = entries.filter_map(|entry| entry.file_name().into_string().ok());
            newest(releases, version)?
        }
    };
    let dir = all.join(release);
    is_whole(&dir).then_some(dir)
}

/// The folder with them in the cache.
const FOLDER: &str = "distribution/debian";

/// Modules are left out: they are signed, and the kernel looks at that.
fn is_whole(dir: &Path) -> bool {
    let is_module = |path: &Path| path.components().any(|part| part.as_os_str() == "kernel");
    Seal::check(dir, |path| !is_module(path)) == Found::Whole
}

fn fetch(cache: &Cache, version: Option<&str>) -> Result<PathBuf> {
    let all = cache.path(FOLDER);
    fs::create_dir_all(&all).map_err(Error::file("create", &all))?;
    let staging = tempfile::Builder::new()
        .prefix(".unpacking-")
        .tempdir_in(&all)
        .map_err(Error::file("create a folder in", &all))?;
    let mut tried = Vec::new();
    let (apt, release, packages) =
        choose(staging.path(), version, &mut tried)?.ok_or_else(|| Error::NoPackage {
            version: version.map(str::to_owned),
            tried,
        })?;
    let tree = staging.path().join("tree");
    for package in &packages {
        let deb = apt.download(package, &staging.path().join(&package.package))?;
        unpack(&deb, &tree)?;
    }
    let files = files_below(&tree)?.into_iter();
    let products: Vec<PathBuf> = files
        .filter_map(|file| Some(file.strip_prefix(&tree).ok()?.to_owned()))
        .collect();
    Seal::write(&tree, products)?;
    let place = all.join(&release);
    match fs::remove_dir_all(&place) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &place)(e));
        }
        _ => {}
    }
    fs::rename(&tree, &place).map_err(Error::file("create", &place))?;
    if version.is_none() {
        let record = all.join(RECORD);
        fs::write(&record, &release).map_err(Error::file("write", record))?;
    }
    Ok(place)
}

/// The first suite that has the kernel, its release, and its packages.
fn choose(
    dir: &Path,
    version: Option<&str>,
    tried: &mut Vec<String>,
) -> Result<Option<(Apt, String, Vec<Offer>)>> {
    let mirror = Mirror::find()?;
    for suite in SUITES {
        let apt = Apt::new(&dir.join(format!("apt-{suite}")), &mirror, suite)?;
        note("Looking", &format!("for a kernel in Debian {suite}"));
        if let Err(reason) = apt.update() {
            tried.push(format!("{suite}: {reason}"));
            continue;
        }
        let release = match version {
            None => apt
                .offer(NEWEST)
                .and_then(|offer| release_in(&offer.depends)),
            Some(version) => newest(releases(&apt), version),
        };
        let packages = release
            .as_ref()
            .and_then(|release| packages(&apt, release))
            .unwrap_or_default();
        match release {
            Some(release) if !packages.is_empty() => return Ok(Some((apt, release, packages))),
            _ => tried.push(format!("{suite}: it has {}", offered(&apt))),
        }
    }
    Ok(None)
}

/// The package with a kernel, and those that it needs and that are of the same
/// release: from Linux 7 on kernel, modules and configuration are packages of
/// their own.
fn packages(apt: &Apt, release: &str) -> Option<Vec<Offer>> {
    let image = apt.offer(&format!("{PREFIX}{release}"))?;
    let parts = names(&image.depends).filter(|name| name.ends_with(release));
    let mut packages = parts
        .map(|name| apt.offer(name))
        .collect::<Option<Vec<_>>>()?;
    packages.push(image);
    Some(packages)
}

/// The names in a list of dependencies.
fn names(depends: &str) -> impl Iterator<Item = &str> {
    let alternatives = depends.split([',', '|']);
    alternatives.filter_map(|one| one.split_whitespace().next())
}

/// The release of the kernel in a list of dependencies.
fn release_in(depends: &str) -> Option<String> {
    let mut releases = names(depends).filter_map(|name| name.strip_prefix(PREFIX));
    releases.next().map(str::to_owned)
}

/// The releases of the suite's kernels.
fn releases(apt: &Apt) -> impl Iterator<Item = String> {
    let names = apt.names(PREFIX).into_iter();
    let releases = names.filter_map(|name| Some(name.strip_prefix(PREFIX)?.to_owned()));
    releases.filter(|r| r.starts_with(|c: char| c.is_ascii_digit()) && r.ends_with("-amd64"))
}

/// The newest of them that is `version`, or of that series: "7.2" stands for
/// 7.2.12+deb13-amd64, and the kernels for clouds and for real time go by
/// their whole release.
fn newest(releases: impl Iterator<Item = String>, version: &str) -> Option<String> {
    let is_of = |release: &String| {
        release == version || {
            let rest = release.strip_prefix(version).unwrap_or_default();
            rest.starts_with(['.', '+', '-'])
                && !["-cloud-", "-rt-"].iter().any(|kind| rest.contains(kind))
        }
    };
    releases
        .filter(is_of)
        .max_by_key(|release| numbers(release))
}

/// The newest kernel of each series, for people.
fn offered(apt: &Apt) -> String {
    let mut all: Vec<String> = releases(apt)
        .filter_map(|release| Some(release.split_once('+')?.0.to_owned()))
        .collect();
    all.sort_by_key(|version| std::cmp::Reverse(numbers(version)));
    all.dedup();
    match all.is_empty() {
        true => "no kernel".to_owned(),
        false => all.join(", "),
    }
}

fn unpack(deb: &Path, tree: &Path) -> Result<()> {
    let size = fs::metadata(deb).map_or(0, |m| m.len());
    let name = deb.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split('_').next().unwrap_or_default();
    note("Unpacking", &format!("{name} ({})", progress::bytes(size)));
    let output = Command::new("dpkg-deb")
        .arg("-x")
        .args([deb, tree])
        .output()
        .map_err(|source| Error::Start {
            program: "dpkg-deb".to_owned(),
            source,
        })?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Failed {
            what: format!("unpacking {}", deb.display()),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_stands_for_the_newest_ordinary_kernel_of_it() {
        let all = [
            "7.2.9+deb13-amd64",
            "7.2.12+deb13-amd64",
            "7.2.12+deb13-rt-amd64",
            "7.20.1+deb13-amd64",
        ];
        let find = |version| newest(all.map(str::to_owned).into_iter(), version);
        let found = Some("7.2.12+deb13-amd64".to_owned());
        assert_eq!(find("7.2"), found);
        assert_eq!(find("7.2.12"), found);
        assert_eq!(find("7.2.12+deb13-amd64"), found);
        assert_eq!(find("7.2.12+deb13-rt-amd64"), Some(all[2].to_owned()));
        assert_eq!(find("7.1"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn a_kernels_packages_are_those_of_its_release() {
        let depends = "linux-base-amd64 (= 7.3.4-1), linux-image-7.3.4+deb13-amd64 (= 7.3.4-1)";
        assert_eq!(release_in(depends).as_deref(), Some("7.3.4+deb13-amd64"));
        let depends = "dracut | linux-initramfs-tool, linux-modules-7.3.4+deb13-amd64 (= 7.3.4-1)";
        let parts: Vec<&str> = names(depends).collect();
        assert_eq!(
            parts,
            [
                "dracut",
                "linux-initramfs-tool",
                "linux-modules-7.3.4+deb13-amd64"
            ]
        );
    }
}
