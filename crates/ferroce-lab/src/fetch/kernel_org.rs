// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tarball from kernel.org, checked against its published SHA-256.

use std::fs::File;
use std::path::Path;

use sha2::Sha256;

use super::{http, rank, unpack, Series, Source, SERIES};
use crate::error::{Error, Result};
use crate::progress;

/// Where kernel.org has its releases; a mirror of the same layout will do.
const MIRROR: &str = "https://cdn.kernel.org/pub/linux/kernel";

/// The variable that names a mirror to use.
pub const MIRROR_VARIABLE: &str = "FERROCE_KERNEL_MIRROR";

/// Fetches and unpacks the newest supported release; `None`, with the reason
/// added to `tried`, where it cannot be had.
pub fn fetch(dir: &Path, series: Series, tried: &mut Vec<String>) -> Result<Option<Source>> {
    let mirror = std::env::var(MIRROR_VARIABLE).unwrap_or_else(|_| MIRROR.to_owned());
    let mirror = mirror.trim_end_matches('/');
    let (major, _) = SERIES[0].split_once('.').expect("a series has two numbers");
    let folder = format!("{mirror}/v{major}.x");
    progress::note("Looking", &format!("for a kernel source at {folder}"));

    let sums = http::text(&format!("{folder}/sha256sums.asc"));
    let sums = match sums {
        Ok(sums) => sums,
        Err(e) => {
            tried.push(format!("{folder}: {e}"));
            return Ok(None);
        }
    };
    let Some((version, expected)) = newest(&sums, series) else {
        tried.push(format!(
            "{folder}: no release of {}",
            series.all().join(" or ")
        ));
        return Ok(None);
    };

    let file = format!("linux-{version}.tar.xz");
    let path = dir.join(&file);
    let found = match http::file::<Sha256>(&format!("{folder}/{file}"), &path)? {
        Ok(found) => found,
        Err(e) => {
            tried.push(format!("{folder}/{file}: {e}"));
            return Ok(None);
        }
    };
    if found != expected {
        return Err(Error::Digest {
            file,
            origin: folder,
            expected,
            found,
        });
    }

    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree).map_err(Error::file("create", &tree))?;
    let archive = File::open(&path).map_err(Error::file("read", &path))?;
    let size = archive.metadata().map_or(0, |meta| meta.len());
    unpack(archive, size, &tree, &format!("Linux {version}"))?;
    Ok(Some(Source {
        version,
        origin: folder,
        dir: tree,
    }))
}

/// The newest supported release in a list of checksums, and its checksum.
fn newest(sums: &str, series: Series) -> Option<(String, String)> {
    sums.lines()
        .filter_map(|line| {
            let (sum, file) = line.split_once("  ")?;
            let version = file.strip_prefix("linux-")?.strip_suffix(".tar.xz")?;
            Some((rank(version, series)?, version.to_owned(), sum.to_owned()))
        })
        .max()
        .map(|(_, version, sum)| (version, sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_point_release_is_chosen() {
        let sums = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n\
            aa  linux-7.2.tar.xz\nbb  linux-7.2.9.tar.xz\ncc  linux-7.2.12.tar.xz\n\
            dd  linux-6.18.1.tar.xz\nee  patch-7.2.13.xz\n";
        assert_eq!(
            newest(sums, Series::NEWEST),
            Some(("7.2.12".to_owned(), "cc".to_owned()))
        );
    }
}
