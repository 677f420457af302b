// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's file system: the host's files, read-only, under an overlay in
//! memory, with the kernel's own file systems on top.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{mount, mount_bind, mount_move, MountFlags};
use rustix::process::{chdir, chroot};

use crate::backend::Backend;
use crate::job::Job;

/// A folder that every root has: the layers are put together on top of it,
/// before anything else is mounted there.
const STAGE: &str = "/proc";

/// Where the guest has the programs that are not the host's.
pub const PROGRAMS: &str = "/run/ferroce/bin";

/// Makes the guest's root, and changes into it.
pub fn lay_out(job: &Job) -> Result<(), String> {
    attach(
        c"tmpfs",
        c"tmpfs",
        STAGE,
        MountFlags::empty(),
        Some(c"mode=755"),
    )?;
    for dir in ["upper", "work", "root"] {
        create(&format!("{STAGE}/{dir}"))?;
    }
    let root = format!("{STAGE}/root");
    let layers = CString::new(format!(
        "lowerdir=/,upperdir={STAGE}/upper,workdir={STAGE}/work"
    ))
    .expect("no zero byte in it");
    attach(
        c"overlay",
        c"overlay",
        &root,
        MountFlags::empty(),
        Some(&layers),
    )?;

    chdir(root.as_str()).map_err(|e| format!("cannot change to {root}: {e}"))?;
    mount_move(".", "/").map_err(|e| format!("cannot move the new root into place: {e}"))?;
    chroot(".").map_err(|e| format!("cannot change root: {e}"))?;

    // First, as the kernel may load file systems.
    modules_folder(&job.modules_folder.path())?;
    kernel_file_systems()?;
    for (place, folder) in job.writable.iter().enumerate() {
        writable(job.backend, &folder.path(), place)?;
    }
    program(&job.program.path())?;
    if let Some(plugin) = &job.provider {
        let installed = plugin.provider().install(Path::new("/"), |_| ());
        installed.map_err(|e| format!("in the guest: {e}"))?;
    }
    if let Some(copy) = &job.processors {
        processors(&copy.path())?;
    }
    Ok(())
}

fn kernel_file_systems() -> Result<(), String> {
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    attach(c"proc", c"proc", "/proc", plain, None)?;
    attach(c"sysfs", c"sysfs", "/sys", plain, None)?;
    attach(c"devtmpfs", c"devtmpfs", "/dev", MountFlags::NOSUID, None)?;
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        create(dir)?;
    }
    attach(
        c"devpts",
        c"devpts",
        "/dev/pts",
        MountFlags::NOSUID,
        Some(c"mode=620,ptmxmode=666"),
    )?;
    attach(
        c"tmpfs",
        c"tmpfs",
        "/dev/shm",
        MountFlags::NOSUID | MountFlags::NODEV,
        None,
    )?;
    attach(c"mqueue", c"mqueue", "/dev/mqueue", plain, None)?;
    // The host's sockets and locks mean nothing here.
    attach(
        c"tmpfs",
        c"tmpfs",
        "/run",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=755"),
    )?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).map_err(|e| format!("cannot create {link}: {e}"))?;
    }
    attach(c"debugfs", c"debugfs", "/sys/kernel/debug", plain, None)?;
    // kmemleak looks when it is asked to: its thread would report, after a
    // minute, what the kernel itself seems to leak as it boots.
    let kmemleak = Path::new("/sys/kernel/debug/kmemleak");
    if kmemleak.exists() {
        fs::write(kmemleak, "scan=off")
            .map_err(|e| format!("cannot write {}: {e}", kmemleak.display()))?;
    }
    let configfs = "/sys/kernel/config";
    if !Path::new(configfs).exists() {
        // The module makes the folder.
        super::modules::modprobe(&["configfs"])?;
    }
    attach(c"configfs", c"configfs", configfs, plain, None)?;
    if Path::new("/sys/fs/cgroup").is_dir() {
        attach(c"cgroup2", c"cgroup2", "/sys/fs/cgroup", plain, None)?;
    }
    Ok(())
}

/// Lets changes in one of the host's folders through.
fn writable(backend: Backend, folder: &Path, place: usize) -> Result<(), String> {
    let text = folder.display().to_string();
    let option = CString::new(folder.as_os_str().as_bytes()).map_err(|e| format!("{text}: {e}"))?;
    match backend {
        Backend::Uml => attach(
            c"hostfs",
            c"hostfs",
            &text,
            MountFlags::empty(),
            Some(&option),
        ),
        Backend::Qemu => {
            let tag = CString::new(format!("rw{place}")).expect("no zero byte in it");
            let options = c"trans=virtio,version=9p2000.L,msize=262144,cache=mmap";
            attach(&tag, c"9p", &text, MountFlags::empty(), Some(options))
        }
    }
}

/// Has commands find this program as `ferroce`, in a folder that their `PATH` begins with.
fn program(program: &Path) -> Result<(), String> {
    create(PROGRAMS)?;
    let link = format!("{PROGRAMS}/ferroce");
    symlink(program, &link).map_err(|e| format!("cannot create {link} in the guest: {e}"))
}

/// Shows the guest's modules where `modprobe`, and the kernel itself, look.
fn modules_folder(folder: &Path) -> Result<(), String> {
    let release = rustix::system::uname();
    let place = format!("/lib/modules/{}", release.release().to_string_lossy());
    create(&place)?;
    mount_bind(folder, place.as_str())
        .map_err(|e| format!("cannot show the modules at {place}: {e}"))
}

/// Shows the host's /proc/cpuinfo: User-Mode Linux's own has no clock speed,
/// and perftest divides by it.
fn processors(copy: &Path) -> Result<(), String> {
    mount_bind(copy, "/proc/cpuinfo").map_err(|e| format!("cannot show /proc/cpuinfo: {e}"))
}

fn create(dir: &str) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot create {dir} in the guest: {e}"))
}

fn attach(
    source: &CStr,
    kind: &CStr,
    place: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<(), String> {
    mount(source, place, kind, flags, options).map_err(|e| {
        format!(
            "cannot mount {} at {place} in the guest: {e}",
            kind.to_string_lossy()
        )
    })
}
