// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Rust metadata of a distribution's kernel, made again where its headers lack it.
//!
//! A module in Rust is compiled against the kernel's crates: `rust/*.rmeta`, with the macros in
//! `rust/*.so` and the target's description. Debian builds its kernels with them and packages none of
//! them. The same source, configuration and compilers give crates of the same symbol names, which
//! `ferroce module check` compares with those that the kernel exports.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::root::Root;
use crate::cache::Seal;
use crate::error::{Error, Result};
use crate::kernel::{follow, jobs};
use crate::progress::{Task, Unit};

/// About how many steps the build prints.
const STEPS: u64 = 150;

/// What of the build tree is left out: programs that check objects and make type information of them.
/// Nothing is linked here. Only make takes these for unset, the configuration has them.
const WITHOUT: [&str; 2] = ["CONFIG_OBJTOOL=", "CONFIG_DEBUG_INFO_BTF="];

/// Whether a tree that modules are built against has the metadata.
pub fn is_in(tree: &Path) -> bool {
    tree.join("rust/libkernel.rmeta").exists()
}

/// A kernel's headers, and the source that it was built of.
pub struct Parts<'a> {
    /// The headers, a folder with `.config`.
    pub headers: &'a Path,
    /// The root in which they are at the path that their `Makefile` has.
    pub root: &'a Root,
    /// The source, which is used up.
    pub source: PathBuf,
    /// `CONFIG_CC_VERSION_TEXT`'s program.
    pub cc: &'a str,
}

impl Parts<'_> {
    /// Makes a tree that modules in Rust are built against, at `tree`: the headers, and the metadata.
    ///
    /// `work` is an empty folder on the same file system.
    pub fn make(self, tree: &Path, work: &Path) -> Result<()> {
        let out = work.join("out");
        fs::create_dir_all(&out).map_err(Error::file("create", &out))?;
        copy(&self.headers.join(".config"), &out.join(".config"))?;
        let what = "the kernel's Rust metadata";
        let mut task = Task::start("Building", what, Unit::Steps, STEPS);
        // Options that the headers' release of Kconfig does not have are none of Rust's.
        for targets in [&["olddefconfig"][..], &["prepare"]] {
            let mut make = self.root.command("make", &[work]);
            make.arg("-C").arg(&self.source);
            make.arg(format!("O={}", out.display()));
            make.arg(format!("-j{}", jobs()));
            make.arg(format!("CC={}", self.cc));
            make.args(WITHOUT).args(targets);
            follow(make, what, &work.join("ferroce-build.log"), |step| {
                task.step(step)
            })?;
        }
        drop(task);
        let staging = work.join("made");
        self.collect(&out, &staging, tree)?;
        match fs::remove_dir_all(tree) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", tree)(e));
            }
            _ => {}
        }
        fs::rename(&staging, tree).map_err(Error::file("create", tree))
    }

    /// Puts headers and metadata together in `staging`, which is to be at `tree`.
    fn collect(&self, out: &Path, staging: &Path, tree: &Path) -> Result<()> {
        let mut products = Vec::new();
        let rust = staging.join("rust");
        fs::create_dir_all(&rust).map_err(Error::file("create", &rust))?;
        for file in entries(&out.join("rust"))? {
            if file.extension().is_some_and(|x| x == "rmeta" || x == "so") {
                let name = PathBuf::from("rust").join(file.file_name().unwrap_or_default());
                copy(&file, &staging.join(&name))?;
                products.push(name);
            }
        }
        // How the module's own bindings are to be made: see kernel/rdma/Kbuild.include.
        for name in ["rust/Makefile", "rust/bindgen_parameters"] {
            copy(&self.source.join(name), &staging.join(name))?;
            products.push(name.into());
        }
        let scripts = staging.join("scripts");
        fs::create_dir_all(&scripts).map_err(Error::file("create", &scripts))?;
        let target = "scripts/target.json";
        copy(&out.join(target), &staging.join(target))?;
        products.push(target.into());
        for name in entries(&self.headers.join("scripts"))? {
            link_beside(&name, &scripts)?;
        }
        for entry in entries(self.headers)? {
            let name = entry.file_name().unwrap_or_default();
            if name != "scripts" && name != "Makefile" && name != "rust" {
                link_beside(&entry, staging)?;
            }
        }
        let makefile = self.headers.join("Makefile");
        let text = fs::read_to_string(&makefile).map_err(Error::file("read", &makefile))?;
        let text: String = text
            .lines()
            .map(|line| match line.strip_prefix("KBUILD_OUTPUT") {
                Some(_) => format!("KBUILD_OUTPUT={}\n", tree.display()),
                None => format!("{line}\n"),
            })
            .collect();
        let makefile = staging.join("Makefile");
        fs::write(&makefile, text).map_err(Error::file("write", &makefile))?;
        products.push("Makefile".into());
        Seal::write(staging, products)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map_err(Error::file("copy", from))?;
    Ok(())
}

fn link_beside(file: &Path, folder: &Path) -> Result<()> {
    let link = folder.join(file.file_name().unwrap_or_default());
    match link.symlink_metadata() {
        Ok(_) => Ok(()),
        Err(_) => symlink(file, &link).map_err(Error::file("create", &link)),
    }
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::file("read", dir))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
