// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plug-in by which libibverbs knows ferroce's devices: built once, and
//! installed into every guest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::cache::{hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::modules::files_below;
use crate::progress::note;

/// What cargo calls the plug-in, and the package that it is in.
const LIBRARY: &str = "libferroce_provider.so";
const PACKAGE: &str = "ferroce-provider";

/// The plug-in.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The shared object.
    pub library: PathBuf,
}

impl Provider {
    /// Finds the plug-in in the cache, or builds it.
    ///
    /// `workspace` is the folder with the crates.
    pub fn ensure(cache: &Cache, workspace: &Path) -> Result<Self> {
        let mut files = vec![workspace.join("Cargo.lock")];
        for package in [PACKAGE, "ferroce-core"] {
            files.extend(files_below(&workspace.join("crates").join(package))?);
        }
        files.sort();
        let mut hasher = Sha256::new();
        for file in &files {
            let text = fs::read(file).map_err(Error::file("read", file))?;
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text);
        }
        let all = cache.path("provider");
        let dir = all.join(&hex(&hasher.finalize())[..12]);
        let found = Self {
            library: dir.join(LIBRARY),
        };
        if Seal::check(&dir, |_| true) == Found::Whole {
            return Ok(found);
        }
        let _lock = cache.lock("provider", "building the plug-in for libibverbs")?;
        if Seal::check(&dir, |_| true) == Found::Whole {
            return Ok(found);
        }
        note("Building", "the plug-in for libibverbs");
        let target = all.join("target");
        let mut cargo = Command::new("cargo");
        cargo
            .args([
                "build",
                "--quiet",
                "--locked",
                "--release",
                "--package",
                PACKAGE,
            ])
            .arg("--target-dir")
            .arg(&target)
            .current_dir(workspace)
            .stdin(Stdio::null());
        let output = cargo.output().map_err(|source| Error::Start {
            program: "cargo".to_owned(),
            source,
        })?;
        if !output.status.success() {
            let what = format!(
                "building {}",
                workspace.join("crates").join(PACKAGE).display()
            );
            let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Failed {
                what,
                status: output.status,
                output: output_text,
            });
        }
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        fs::copy(target.join("release").join(LIBRARY), &found.library)
            .map_err(Error::file("create", &found.library))?;
        Seal::write(&dir, [PathBuf::from(LIBRARY)])?;
        Ok(found)
    }
}
