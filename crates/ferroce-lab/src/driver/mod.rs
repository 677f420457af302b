// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver for a distribution's own kernel: compiled by the compilers that the kernel was built with,
//! against its headers and its Rust metadata.

mod debian;
mod host;
mod metadata;
mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::cache::{digest, hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::kernel::follow;
use crate::modules::{remove_old, sources_key};
use crate::progress::{self, note, Task, Unit};
use root::Root;

pub use crate::fetch::SERIES;
pub use debian::is_debians;

/// A kernel that modules in Rust can be built for.
#[derive(Debug, Clone)]
pub struct Target {
    /// What `uname -r` says in it.
    pub release: String,
    /// The folder that modules are built against.
    pub tree: PathBuf,
    root: Root,
    /// What make is told.
    variables: Vec<String>,
}

/// The files by which a module is signed.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The private key, as PEM.
    pub key: PathBuf,
    /// The certificate that the kernel trusts, as DER.
    pub certificate: PathBuf,
}

impl Target {
    /// A kernel of Debian's: its headers, its source and its compilers are fetched, and its Rust metadata
    /// made of them, once.
    pub fn debian(cache: &Cache, release: &str) -> Result<Self> {
        debian::ensure(cache, release)
    }

    /// Whether [`Target::debian`] has what it takes. It asks the archive, if need be, and fetches nothing
    /// else.
    pub fn check_debian(cache: &Cache, release: &str) -> Result<()> {
        debian::check(cache, release)
    }

    /// The driver for it, `ferroce.ko`, found in the cache or built.
    ///
    /// `project` is the folder with the modules' sources.
    pub fn driver(&self, cache: &Cache, project: &Path) -> Result<PathBuf> {
        let key = self.key(project)?;
        let all = cache.path("modules").join(&self.release);
        let place = all.join(&key);
        let module = place.join(MODULE);
        let is_whole = || Seal::check(&place, |_| true) == Found::Whole;
        if is_whole() {
            return Ok(module);
        }
        let purpose = format!("building the driver for Linux {}", self.release);
        let _lock = cache.lock(&format!("modules-{}", self.release), &purpose)?;
        if is_whole() {
            return Ok(module);
        }
        let started = Instant::now();
        let built = self.build(cache, project, &all.join("build"))?;
        fs::create_dir_all(&place).map_err(Error::file("create", &place))?;
        fs::copy(&built, &module).map_err(Error::file("create", &module))?;
        Seal::write(&place, [MODULE.into()])?;
        remove_old(&all, &key);
        let took = progress::time(started.elapsed());
        let what = format!("the driver for Linux {} in {took}", self.release);
        note("Built", &what);
        Ok(module)
    }

    /// Tells the driver for one state of sources and headers from others.
    fn key(&self, project: &Path) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(sources_key(project)?);
        hasher.update(self.tree.as_os_str().as_encoded_bytes());
        for name in [".config", "Module.symvers"] {
            let file = self.tree.join(name);
            hasher.update(digest(&file).map_err(Error::file("read", file))?);
        }
        Ok(hex(&hasher.finalize())[..12].to_owned())
    }

    /// The module, with a signature at its end, as the kernel's scripts/sign-file makes it.
    pub fn signed(&self, cache: &Cache, module: &Path, signer: &Signer) -> Result<Vec<u8>> {
        let folder = cache.path("");
        let dir =
            tempfile::tempdir_in(&folder).map_err(Error::file("create a folder in", &folder))?;
        let config = self.tree.join(".config");
        let config = fs::read_to_string(&config).map_err(Error::file("read", &config))?;
        let hash = value(&config, "CONFIG_MODULE_SIG_HASH").unwrap_or("sha256");
        // The compilers' root has these files, and no others.
        let copies = [
            (&signer.key, "key"),
            (&signer.certificate, "certificate"),
            (&module.to_owned(), MODULE),
        ];
        for (file, name) in copies {
            fs::copy(file, dir.path().join(name)).map_err(Error::file("copy", file))?;
        }
        let program = self.tree.join("scripts/sign-file");
        let mut sign = self.root.command(&program.to_string_lossy(), &[&folder]);
        sign.arg(hash);
        sign.args(["key", "certificate", MODULE].map(|name| dir.path().join(name)));
        let output = sign.output().map_err(|source| Error::Start {
            program: program.display().to_string(),
            source,
        })?;
        if !output.status.success() {
            return Err(Error::Failed {
                what: "signing the driver".to_owned(),
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        let signed = dir.path().join(MODULE);
        fs::read(&signed).map_err(Error::file("read", signed))
    }

    fn build(&self, cache: &Cache, project: &Path, out: &Path) -> Result<PathBuf> {
        fs::create_dir_all(out).map_err(Error::file("create", out))?;
        let workspace = project.parent().unwrap_or(project);
        let mut make = self.root.command("make", &[&cache.path(""), workspace]);
        make.arg("-C").arg(&self.tree);
        make.arg(format!("M={}", project.join("driver").display()));
        make.arg(format!("MO={}", out.display()));
        make.args(&self.variables).arg("modules");
        let what = format!("the driver for Linux {}", self.release);
        let mut task = Task::start("Building", &what, Unit::Steps, 10);
        follow(make, &what, &out.join("ferroce-build.log"), |step| {
            task.step(step)
        })?;
        Ok(out.join(MODULE))
    }
}

/// A value of a kernel's configuration.
fn value<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = config.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim_matches('"'))
}

const MODULE: &str = "ferroce.ko";
