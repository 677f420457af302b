// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a kernel's file and its modules are, from the path that a user gave.

use std::fs;
use std::path::{Path, PathBuf};

use super::bzimage::BzImage;
use crate::error::{Error, Result};

/// A kernel that is installed, or unpacked.
#[derive(Debug)]
pub struct Located {
    /// What `uname -r` says in it.
    pub release: String,
    /// The bzImage.
    pub file: PathBuf,
    /// The folder that is /lib/modules/RELEASE where it is installed.
    pub modules: PathBuf,
}

/// Where modules are below a root.
const MODULES: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// Finds both, from a bzImage, from a folder /lib/modules/RELEASE, or from one that a package was unpacked in.
pub fn locate(path: &Path) -> Result<Located> {
    let path = fs::canonicalize(path).map_err(Error::file("find the kernel", path))?;
    if !path.is_dir() {
        return of_file(path);
    }
    let has = |name: &str| path.join(name).exists();
    match has("modules.order") || has("modules.builtin") {
        true => of_modules(path),
        false => of_root(&path),
    }
}

fn of_file(file: PathBuf) -> Result<Located> {
    let image = BzImage::read(&file)?;
    let release = image.release().ok_or_else(|| {
        Error::Usage(format!(
            "the kernel {} does not say its release",
            file.display()
        ))
    })?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let root = folder.parent().unwrap_or(Path::new("/"));
    // Beside its modules, in /boot, or by itself.
    let beside =
        (folder.file_name().is_some_and(|name| name == release)).then(|| folder.to_owned());
    let below = [root, folder, Path::new("/")]
        .into_iter()
        .flat_map(|root| MODULES.map(|modules| root.join(modules).join(release)));
    let mut places: Vec<PathBuf> = beside.into_iter().chain(below).collect();
    places.dedup();
    match places.iter().find(|place| place.is_dir()) {
        Some(modules) => Ok(Located {
            release: release.to_owned(),
            modules: modules.clone(),
            file,
        }),
        None => Err(Error::Usage(format!(
            "the modules of Linux {release} ({}) are not there; looked for:\n{}",
            file.display(),
            listed(&places)
        ))),
    }
}

fn of_modules(modules: PathBuf) -> Result<Located> {
    let name = modules.file_name().unwrap_or_default();
    let release = name.to_string_lossy().into_owned();
    let mut places = vec![modules.join("vmlinuz")];
    for root in modules.ancestors().skip(3).take(2) {
        places.push(root.join("boot").join(format!("vmlinuz-{release}")));
    }
    let Some(file) = places.iter().find(|place| place.is_file()) else {
        return Err(Error::Usage(format!(
            "the kernel of the modules in {} is not there; looked for:\n{}",
            modules.display(),
            listed(&places)
        )));
    };
    match BzImage::read(file)?.release() {
        Some(said) if said == release => Ok(Located {
            release,
            file: file.clone(),
            modules,
        }),
        said => Err(Error::Usage(format!(
            "{} is Linux {}, and the modules in {} are another's",
            file.display(),
            said.unwrap_or("of no release"),
            modules.display()
        ))),
    }
}

fn of_root(root: &Path) -> Result<Located> {
    let folders = MODULES
        .iter()
        .filter_map(|modules| fs::read_dir(root.join(modules)).ok());
    let mut kernels: Vec<PathBuf> = folders
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .filter(|path| path.is_dir())
        .collect();
    kernels.sort();
    // Of a root where /lib is a link to /usr/lib.
    kernels.dedup();
    match <[PathBuf; 1]>::try_from(kernels) {
        Ok([modules]) => of_modules(modules),
        Err(kernels) if kernels.is_empty() => Err(Error::Usage(format!(
            "{} is no kernel: a file such as /boot/vmlinuz-VERSION is expected, a folder such as \
             /lib/modules/VERSION, or one that a kernel's package was unpacked in",
            root.display()
        ))),
        Err(kernels) => Err(Error::Usage(format!(
            "{} has several kernels; give one of:\n{}",
            root.display(),
            listed(&kernels)
        ))),
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let lines = paths.iter().map(|path| format!("  {}", path.display()));
    lines.collect::<Vec<_>>().join("\n")
}
