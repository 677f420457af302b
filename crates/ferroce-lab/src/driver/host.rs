// SPDX-License-Identifier: MIT OR Apache-2.0
//! The compilers of this machine, for a kernel whose headers have the Rust metadata.

use std::path::PathBuf;
use std::process::Command;

use super::root::Root;
use super::{metadata, Target};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::prerequisites::{find_bindgen, libclang_folder};

/// Where a compiler may be that is not the first one in PATH: Debian's and Ubuntu's.
const FOLDER: &str = "/usr/bin";

impl Target {
    /// A kernel whose headers are on this machine, with the Rust metadata. `config` is its configuration,
    /// the text.
    ///
    /// The metadata can only be read by the compiler that made it, so the error is that there is no such
    /// compiler here.
    pub fn installed(cache: &Cache, release: &str, tree: PathBuf, config: &str) -> Result<Self> {
        let wanted = super::value(config, RUSTC).unwrap_or_default();
        let found = candidates();
        let rustc = found.iter().find(|(_, text)| text == wanted);
        let Some((rustc, _)) = rustc else {
            let found: Vec<String> = found
                .iter()
                .map(|(path, text)| format!("{} is {text:?}", path.display()))
                .collect();
            let found = match &found[..] {
                [] => "there is none".to_owned(),
                found => found.join(", "),
            };
            return Err(Error::Usage(format!(
                "Linux {release} was built by {wanted:?}, and its metadata is for no other compiler; on this \
                 machine {found}. Install the distribution's own, which may be another package than rustc (on Ubuntu \
                 rustc-1.85, say); rustup's is another build"
            )));
        };
        let Some((bindgen, _)) = find_bindgen(cache) else {
            return Err(Error::Usage(format!(
                "the driver for Linux {release} needs bindgen 0.71.1 or newer: cargo install --locked bindgen-cli"
            )));
        };
        let mut variables = vec![
            format!("RUSTC={}", rustc.display()),
            format!("BINDGEN={}", bindgen.display()),
        ];
        variables.extend(libclang_folder().map(|dir| format!("LIBCLANG_PATH={}", dir.display())));
        Ok(Self {
            release: release.to_owned(),
            tree,
            root: Root::Host,
            variables,
        })
    }

    /// Whether a tree that modules are built against has the metadata.
    pub fn has_metadata(tree: &std::path::Path) -> bool {
        metadata::is_in(tree)
    }
}

/// The line of a configuration that says what compiler it was made for.
const RUSTC: &str = "CONFIG_RUSTC_VERSION_TEXT";

/// The Rust compilers of this machine, with what they say of themselves.
fn candidates() -> Vec<(PathBuf, String)> {
    let say = |path: &PathBuf, argument: &[&str]| {
        let output = Command::new(path).args(argument).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line = text.lines().next()?.to_owned();
        output.status.success().then_some(line)
    };
    let mut paths: Vec<PathBuf> = which::which("rustc").into_iter().collect();
    // rustc, and rustc-1.85.
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let mut others: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_prefix("rustc"));
            version.is_some_and(|v| v.is_empty() || v.starts_with("-1."))
        })
        .map(|entry| entry.path())
        .collect();
    others.sort();
    paths.extend(others);
    let found = paths.into_iter().filter_map(|path| {
        // That in PATH may be rustup's, which finds a compiler by the environment.
        let sysroot = PathBuf::from(say(&path, &["--print", "sysroot"])?).join("bin/rustc");
        let path = if sysroot.exists() { sysroot } else { path };
        let text = say(&path, &["--version"])?;
        Some((path, text))
    });
    let mut found: Vec<_> = found.collect();
    found.dedup();
    found
}
