// SPDX-License-Identifier: MIT OR Apache-2.0
//! User-Mode Linux: the kernel image is a program, and its devices are the
//! file descriptors that it is given.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{detach, Channel, Machine, Running};
use crate::error::{Error, Result};
use crate::progress;

pub fn start(machine: &Machine) -> Result<Running> {
    let image = &machine.image.file;
    let failed = |source| Error::Start {
        program: image.display().to_string(),
        source,
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let (log, log_writer) = io::pipe().map_err(failed)?;
    let input: OwnedFd = theirs.try_clone().map_err(failed)?.into();
    let output: OwnedFd = theirs.into();

    let mut command = Command::new(image);
    command
        .arg(format!("mem={}K", machine.memory >> 10))
        .arg(format!("ncpus={}", machine.cpus))
        // Guests with several processors need it; it is the faster way as well.
        .arg(if machine.cpus > 1 {
            "seccomp=on"
        } else {
            "seccomp=auto"
        })
        .arg(format!("uml_dir={}/", machine.folder.display()))
        .args(["root=/dev/root", "rootfstype=hostfs"])
        // The first serial line is the channel; the first console, the log.
        .args([
            "ssl=null",
            "ssl0=fd:0,fd:1",
            "con=null",
            "con0=null,fd:2",
            "console=tty0",
            "quiet",
        ])
        .args(machine.kernel_arguments())
        .env("TMPDIR", memory_folder(machine)?)
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output))
        .stderr(log_writer);
    detach(&mut command);
    let process = command.spawn().map_err(failed)?;
    Ok(Running {
        process,
        log,
        channel: Channel::Open(ours),
    })
}

/// Where the file behind the guest's memory goes: on a tmpfs if one is large
/// enough, which in a container /dev/shm often is not.
fn memory_folder(machine: &Machine) -> Result<PathBuf> {
    let room = |dir: &Path| {
        rustix::fs::statvfs(dir)
            .map(|s| s.f_bavail.saturating_mul(s.f_frsize))
            .unwrap_or(0)
    };
    let candidates = [Path::new("/dev/shm"), machine.folder];
    if let Some(dir) = candidates.into_iter().find(|d| room(d) >= machine.memory) {
        return Ok(dir.to_owned());
    }
    Err(Error::Usage(format!(
        "there is no room for the guest's memory, {}: {} has {} left and {} has {}. Give it less with --mem, \
         or set TMPDIR to a folder with more room",
        progress::bytes(machine.memory),
        candidates[0].display(),
        progress::bytes(room(candidates[0])),
        candidates[1].display(),
        progress::bytes(room(candidates[1])),
    )))
}
