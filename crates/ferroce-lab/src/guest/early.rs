// SPDX-License-Identifier: MIT OR Apache-2.0
//! In an initramfs: loads the modules that reach the host's files, and changes
//! to those.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{mount, mount_move, MountFlags};
use rustix::process::{chdir, chroot};

/// The folder with the modules, whose names begin with their place in the order
/// to load them in.
pub(crate) const EARLY_MODULES: &str = "/ferroce-modules";

/// By what name the machine has the host's files.
pub(crate) const ROOT_TAG: &str = "host";
/// How they are mounted. Loose caching: what the guest sees of the host is as of its boot.
pub(crate) const ROOT_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=262144,cache=loose";

/// Makes the host's files the root.
pub fn mount_root() -> Result<(), String> {
    let dev = Path::new("/dev");
    // For the kernel's log, where the reason goes if this fails.
    let _ = fs::create_dir(dev);
    let _ = mount("devtmpfs", dev, "devtmpfs", MountFlags::NOSUID, None);
    load_modules()?;

    let root = "/host";
    fs::create_dir(root).map_err(|e| format!("cannot create {root}: {e}"))?;
    let options = std::ffi::CString::new(ROOT_OPTIONS).expect("no zero byte in it");
    mount(ROOT_TAG, root, "9p", MountFlags::RDONLY, Some(&*options))
        .map_err(|e| format!("cannot mount the host's files: {e}"))?;
    chdir(root).map_err(|e| format!("cannot change to {root}: {e}"))?;
    mount_move(".", "/").map_err(|e| format!("cannot move the root into place: {e}"))?;
    chroot(".").map_err(|e| format!("cannot change root: {e}"))
}

fn load_modules() -> Result<(), String> {
    let failed = |e| format!("cannot read {EARLY_MODULES}: {e}");
    let entries = fs::read_dir(EARLY_MODULES).map_err(failed)?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = path.display();
        let bytes = fs::read(&path).map_err(|e| format!("cannot read {name}: {e}"))?;
        rustix::system::init_module(&bytes, c"").map_err(|e| format!("cannot load {name}: {e}"))?;
        // Nobody needs it any more, and it takes memory.
        let _ = fs::remove_file(&path);
    }
    Ok(())
}
