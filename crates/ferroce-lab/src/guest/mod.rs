// SPDX-License-Identifier: MIT OR Apache-2.0
//! The guest's side: the first process of the booted kernel. It lays out the
//! file system, loads modules, runs the command, and powers the guest off.
//!
//! The program that starts a guest is also the program that runs as its first
//! process, from the host's files: nothing needs to be built or copied for it.
//! A kernel that cannot mount these by itself has it in an initramfs (`early`).

mod cards;
mod command;
mod early;
mod files;
mod modules;
mod network;

pub(crate) use early::{EARLY_MODULES, ROOT_OPTIONS, ROOT_TAG};
pub(crate) use files::PROGRAMS;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::system::RebootCommand;
use rustix::termios::{tcgetattr, tcsetattr, OptionalActions};

use crate::backend::Backend;
use crate::channel::{self, ToGuest, ToHost};
use crate::job::Job;

/// The argument that tells the first process what it is; the job's file follows.
pub(crate) const ARGUMENT: &str = "ferroce-guest";

/// Runs as the guest's first process if this is one, and then never returns.
///
/// To be called first in `main` by every program that starts guests.
pub fn enter() {
    let mut args = std::env::args_os().skip(1);
    if std::process::id() != 1 || args.next().is_none_or(|a| a != ARGUMENT) {
        return;
    }
    let Some(path) = args.next() else { return };
    let in_initramfs = Path::new(EARLY_MODULES).is_dir();
    let early = match in_initramfs {
        true => early::mount_root(),
        false => Ok(()),
    };
    let job = early.and_then(|()| {
        Job::read(Path::new(&path)).map_err(|e| format!("cannot read the job: {e}"))
    });
    let end = match &job {
        // The machine has no power switch that the kernel would know of, and
        // QEMU ends where it would restart it.
        Ok(job) if job.backend == Backend::Qemu => RebootCommand::Restart,
        Err(_) if in_initramfs => RebootCommand::Restart,
        _ => RebootCommand::PowerOff,
    };
    let result = job.and_then(|job| run(&job));
    if let Err(what) = result {
        // Without a channel the kernel's log is all there is to say it in.
        let _ = std::fs::write("/dev/kmsg", format!("ferroce: {what}\n"));
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(end);
    // The kernel panics when its first process ends, and the host sees that.
}

/// Why the command did not run, and the exit status for it.
pub(crate) struct Failure {
    what: String,
    status: i32,
    /// The module file that the kernel refused, by its place in the job.
    refused: Option<u32>,
}

impl Failure {
    /// The lab itself failed, as `docker run` has it.
    fn lab(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            status: 125,
            refused: None,
        }
    }

    /// The command does not run, and `status` is a shell's for that.
    fn command(what: impl Into<String>, status: i32) -> Self {
        Self {
            status,
            ..Self::lab(what)
        }
    }

    fn message(self) -> ToHost {
        let Self { what, status, .. } = self;
        match self.refused {
            Some(file) => ToHost::Refused { file, what },
            None => ToHost::Failed { what, status },
        }
    }
}

fn run(job: &Job) -> Result<(), String> {
    // The job's file system calls need /proc and /dev, and so does the channel.
    let files = files::lay_out(job);
    let channel = open_channel(job.backend)?;
    let mut host = channel
        .try_clone()
        .map_err(|e| format!("cannot use the channel: {e}"))?;
    let send = |host: &mut File, message: &ToHost| {
        channel::send(host, message).map_err(|e| format!("cannot write to the channel: {e}"))
    };
    send(&mut host, &ToHost::Ready)?;
    let result = files
        .map_err(Failure::lab)
        .and_then(|()| prepare(job, &channel))
        .and_then(|()| command::run(job, channel));
    match result {
        Ok((status, input)) => {
            let taint = taint();
            send(&mut host, &ToHost::Ended { status, taint })?;
            if job.host.is_some() {
                // What the kernel does for other hosts goes on until theirs have ended, too.
                let _ = input.join();
            }
            Ok(())
        }
        Err(failure) => send(&mut host, &failure.message()),
    }
}

/// Network and modules; and of several hosts, all of that on the others.
fn prepare(job: &Job, channel: &File) -> Result<(), Failure> {
    rustix::system::sethostname(b"ferroce")
        .map_err(|e| Failure::lab(format!("cannot set the host's name: {e}")))?;
    ip(&["link", "set", "lo", "up"])?;
    if let Some(host) = job.host {
        network::join(host)?;
    }
    if job.cards > 0 {
        cards::connect(job)?;
    }
    modules::load(job)?;
    if job.cards > 0 {
        cards::load_drivers()?;
    }
    if job.host.is_none() {
        return Ok(());
    }
    let mut channel = channel;
    channel::send(&mut channel, &ToHost::Prepared)
        .and_then(|()| channel::receive(&mut channel))
        .and_then(|message| match message {
            Some(ToGuest::Begin) => Ok(()),
            _ => Err(std::io::Error::other("another message came")),
        })
        .map_err(|e| Failure::lab(format!("cannot wait for the other hosts: {e}")))
}

/// Runs ip(8).
fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let program = crate::prerequisites::find_program("ip").unwrap_or_else(|| "ip".into());
    let output = Command::new(program).args(arguments).output();
    let reason = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(e) => e.to_string(),
    };
    Err(Failure::lab(format!(
        "`ip {}` failed in the guest: {reason}",
        arguments.join(" ")
    )))
}

/// The stream to the host.
fn open_channel(backend: Backend) -> Result<File, String> {
    let path = match backend {
        Backend::Uml => PathBuf::from("/dev/ttyS0"),
        Backend::Qemu => virtio_port()?,
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| format!("cannot open {}: {e}", path.display()))?;
    if backend == Backend::Uml {
        make_transparent(&file)
            .map_err(|e| format!("cannot make {} transparent: {e}", path.display()))?;
    }
    Ok(file)
}

/// A serial line that passes each byte as it is.
fn make_transparent(line: &File) -> rustix::io::Result<()> {
    let mut termios = tcgetattr(line)?;
    termios.make_raw();
    tcsetattr(line, OptionalActions::Now, &termios)
}

/// The port that the host named after the lab.
fn virtio_port() -> Result<PathBuf, String> {
    let class = Path::new("/sys/class/virtio-ports");
    let ports =
        std::fs::read_dir(class).map_err(|e| format!("cannot read {}: {e}", class.display()))?;
    ports
        .flatten()
        .find(|p| {
            std::fs::read_to_string(p.path().join("name")).is_ok_and(|n| n.trim() == ARGUMENT)
        })
        .map(|p| Path::new("/dev").join(p.file_name()))
        .ok_or_else(|| "there is no virtio port for the channel".to_owned())
}

fn taint() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/tainted").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Duplicates a descriptor for a child's standard stream.
fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Failure> {
    fd.try_clone()
        .map_err(|e| Failure::lab(format!("cannot duplicate a file descriptor: {e}")))
}
