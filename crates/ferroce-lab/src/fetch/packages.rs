// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's packages, with all that they depend on.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::{fetch, last_line, Apt, Offer};
use crate::error::{Error, Result};
use crate::progress;

impl Apt {
    /// A package of this very version, if the suite still has it.
    pub fn offer_of(&self, package: &str, version: &str) -> Option<Offer> {
        // apt takes this for the name of the package too.
        self.offer(&format!("{package}={version}"))
    }

    /// Has apt fetch packages, and what they depend on, as if nothing were installed, and shows how far it
    /// is. Returns the packages' files, which are in `root`, the folder that [`Apt::new`] was given.
    pub fn download_all(&self, packages: &[&str], root: &Path) -> Result<Vec<PathBuf>> {
        let archives = root.join("archives");
        let install = |option| {
            let options = ["install", "-qq", "-y", "--no-install-recommends", option];
            // No lock of dpkg's is needed, and as an ordinary user none can be had.
            let options = options.into_iter().chain(["-o", "Debug::NoLocking=1"]);
            options.chain(packages.iter().copied()).collect::<Vec<_>>()
        };
        let failed = |output: &str| {
            Error::Usage(format!(
                "apt-get cannot fetch {}: {}",
                packages.join(", "),
                last_line(output)
            ))
        };
        let uris = self.output("apt-get", &install("--print-uris"));
        let uris = uris.map_err(|output| failed(&output))?;
        // 'URI' NAME SIZE HASH, of those that are not there yet.
        let sizes: Vec<u64> = uris
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.parse().ok())
            .collect();
        let size = sizes.iter().sum();
        let what = format!("{} packages ({})", sizes.len(), progress::bytes(size));
        let apt = self.command("apt-get", &install("--download-only"));
        fetch(apt, &archives, &what, size)?.map_err(|(_, output)| failed(&output))?;
        let files = fs::read_dir(&archives)
            .map_err(Error::file("read", &archives))?
            .flatten();
        let files = files.map(|entry| entry.path());
        Ok(files
            .filter(|path| path.extension().is_some_and(|x| x == "deb"))
            .collect())
    }
}
