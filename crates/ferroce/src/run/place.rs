// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where `ferroce run` has its files: libraries in the user's cache, and what is of use until the machine is
//! switched off in the user's runtime folder.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use ferroce_lab::cache::Cache;

/// The folder for folders of devices: see [`tree`](super::tree).
pub fn devices() -> Result<PathBuf> {
    let folder = runtime()?.join("devices");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

/// The folder for what is of use while programs run. Nobody but the user can enter it.
fn runtime() -> Result<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let of_session = of_session
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join("ferroce"));
    let temporary = std::env::temp_dir().join(format!("ferroce-{user}"));
    let mut why = None;
    for folder in of_session.into_iter().chain([temporary]) {
        match private(&folder, user) {
            Ok(()) => return Ok(folder),
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(why.context("there is no folder for files")?)
}

/// Makes a folder that is the user's alone. In a folder such as /tmp, another may have made it.
fn private(folder: &Path, user: u32) -> Result<()> {
    let made = DirBuilder::new().mode(0o700).create(folder);
    let fail = || format!("cannot create {}", folder.display());
    let found = match (made, fs::symlink_metadata(folder)) {
        (_, Ok(found)) => found,
        (Err(error), _) | (Ok(()), Err(error)) => return Err(error).with_context(fail),
    };
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        bail!(
            "{} is no folder that this user alone can use: remove it, or set XDG_RUNTIME_DIR to a \
             folder of the user's own",
            folder.display()
        );
    }
    // To be written to, it has to be on a file system that is.
    tempfile::tempfile_in(folder)
        .with_context(|| format!("cannot write to {}", folder.display()))?;
    Ok(())
}

/// The folder for libraries: in the cache, or, where a path of it would not survive a list of paths in the
/// environment, or nothing can be written to it, in the runtime folder.
pub fn libraries() -> Result<PathBuf> {
    let cache = Cache::open().map(|cache| cache.path("provider"));
    if let Ok(folder) = cache {
        let plain = !folder.as_os_str().as_encoded_bytes().contains(&b';');
        if plain && fs::create_dir_all(&folder).is_ok() && tempfile::tempfile_in(&folder).is_ok() {
            return Ok(folder);
        }
    }
    runtime()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_others_can_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let folder = dir.path().join("mine");
        private(&folder, user).unwrap();
        private(&folder, user).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let error = private(&folder, user).unwrap_err().to_string();
        assert!(error.contains("this user alone"), "{error}");
        assert!(private(&folder, user + 1).is_err());
    }
}
