// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's kernels: headers, source and compilers from Debian's archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::metadata::Parts;
use super::root::{self, Root};
use super::{value, Target};
use crate::cache::{Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::fetch::apt::{Apt, Mirror, Offer};
use crate::fetch::debian;
use crate::progress::{self, note};

/// Debian 13, whose kernels are in its backports and whose compilers are its own.
const SUITES: &str = "trixie trixie-backports";

/// What compiles a kernel's crates and a module, with what the kernel's headers depend on; and what of a
/// system that takes.
const PACKAGES: [&str; 22] = [
    "base-files",
    "bash",
    "bc",
    "bindgen",
    "bison",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "flex",
    "gawk",
    "gcc",
    "grep",
    "gzip",
    "kmod",
    "libelf-dev",
    "libssl-dev",
    "make",
    "perl",
    "rust-src",
    "rustc",
    "sed",
];

/// The headers' folder in a root.
fn headers(root: &Path, release: &str) -> PathBuf {
    root.join(format!("usr/src/linux-headers-{release}"))
}

struct Place {
    /// apt's folders and the root are below it.
    dir: PathBuf,
    trees: PathBuf,
}

impl Place {
    fn new(cache: &Cache) -> Self {
        Self {
            dir: cache.path("driver/trixie"),
            trees: cache.path("driver/kernels"),
        }
    }

    fn apt(&self) -> PathBuf {
        self.dir.join("apt")
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The kernel of this release, if all of it is in the cache.
    fn find(&self, release: &str) -> Option<Target> {
        let tree = self.trees.join(release);
        let found = Seal::check(&tree, |_| true) == Found::Whole;
        // The headers are in the root, with the compilers.
        (found && tree.join(".config").exists()).then(|| Target {
            release: release.to_owned(),
            tree,
            root: Root::Folder(self.root()),
            variables: Vec::new(),
        })
    }
}

/// Whether a kernel is one of Debian 13's, for which the metadata can be made.
pub fn is_debians(release: &str) -> bool {
    release.contains("+deb13")
}

pub fn find(cache: &Cache, release: &str) -> Option<Target> {
    Place::new(cache).find(release)
}

pub fn ensure(cache: &Cache, release: &str) -> Result<Target> {
    let place = Place::new(cache);
    if let Some(target) = place.find(release) {
        return Ok(target);
    }
    let _lock = cache.lock("driver", "fetching a distribution's kernel and compilers")?;
    if let Some(target) = place.find(release) {
        return Ok(target);
    }
    let started = Instant::now();
    let target = make(&place, release)?;
    let took = progress::time(started.elapsed());
    let what = format!("the Rust metadata of Linux {} in {took}", target.release);
    note("Made", &what);
    Ok(target)
}

fn make(place: &Place, release: &str) -> Result<Target> {
    let root = Root::Folder(place.root());
    let Offers {
        apt,
        headers: offer,
        source: source_offer,
    } = Offers::find(place, release)?;
    let apt_dir = place.apt();
    let mut packages = PACKAGES.to_vec();
    packages.push(&offer.package);
    let debs = apt.download_all(&packages, &apt_dir)?;
    root::unpack(&debs, &place.root())?;
    let headers = headers(&place.root(), release);
    let config = headers.join(".config");
    let config = fs::read_to_string(&config).map_err(Error::file("read", &config))?;
    let wanted = value(&config, "CONFIG_RUSTC_VERSION_TEXT")
        .ok_or_else(|| Error::Usage(format!("Linux {release} was built without CONFIG_RUST")))?;
    let found = root.first_line("rustc", "--version").unwrap_or_default();
    if wanted != found {
        return Err(Error::Usage(format!(
            "Linux {release} was built by {wanted:?}, and Debian's {SUITES} have {found:?}"
        )));
    }
    let cc = value(&config, "CONFIG_CC_VERSION_TEXT").unwrap_or_default();
    let cc = cc.split(' ').next().unwrap_or("gcc");

    let work = tempfile::Builder::new()
        .prefix("unpacking-")
        .tempdir_in(&place.dir)
        .map_err(Error::file("create a folder in", &place.dir))?;
    let source = debian::source(&apt, &source_offer, SUITES, work.path())?.dir;
    let tree = place.trees.join(release);
    fs::create_dir_all(&place.trees).map_err(Error::file("create", &place.trees))?;
    let parts = Parts {
        headers: &headers,
        root: &root,
        source,
        cc,
    };
    parts.make(&tree, work.path())?;
    Ok(Target {
        release: release.to_owned(),
        tree,
        root,
        variables: Vec::new(),
    })
}

/// Whether Debian's archive has what the driver for a kernel takes, if the cache has not.
pub fn check(cache: &Cache, release: &str) -> Result<()> {
    let place = Place::new(cache);
    if place.find(release).is_none() {
        let _lock = cache.lock("driver", "asking Debian's archive for a kernel")?;
        Offers::find(&place, release)?;
    }
    Ok(())
}

/// What the archive has of a kernel.
struct Offers {
    apt: Apt,
    headers: Offer,
    source: Offer,
}

impl Offers {
    fn find(place: &Place, release: &str) -> Result<Self> {
        let mirror = Mirror::find()?;
        root::check()?;
        let apt = Apt::new(&place.apt(), &mirror, SUITES)?;
        note(
            "Looking",
            &format!("for Linux {release} in Debian's {SUITES}"),
        );
        apt.update().map_err(|reason| {
            Error::Usage(format!("apt cannot fetch the lists of {SUITES}: {reason}"))
        })?;
        let headers = headers_offer(&apt, release)?;
        let source = source_offer(&apt, &headers)?;
        Ok(Self {
            apt,
            headers,
            source,
        })
    }
}

/// The headers of a release.
fn headers_offer(apt: &Apt, release: &str) -> Result<Offer> {
    let package = format!("linux-headers-{release}");
    apt.offer(&package).ok_or_else(|| {
        Error::Usage(format!(
            "Debian's {SUITES} have no {package}, without which there is no driver for this kernel: install \
             the newest of its kernels"
        ))
    })
}

/// The source that the headers' kernel was built of: that of the same version.
fn source_offer(apt: &Apt, headers: &Offer) -> Result<Offer> {
    let release = headers.package.trim_start_matches("linux-headers-");
    let series: Vec<&str> = release.split(['.', '+', '-']).take(2).collect();
    let package = format!("linux-source-{}", series.join("."));
    apt.offer_of(&package, &headers.version).ok_or_else(|| {
        Error::Usage(format!(
            "Debian's {SUITES} have no {package} {}, the source of which {} was built: install the newest of \
             its kernels",
            headers.version, headers.package
        ))
    })
}
