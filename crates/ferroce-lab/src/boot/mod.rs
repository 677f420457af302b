// SPDX-License-Identifier: MIT OR Apache-2.0
//! Starts a kernel as a process of the host.

pub mod card;
mod initramfs;
mod kvm;
pub(crate) mod qemu;
mod uml;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::backend::Backend;
use crate::cache::Cache;
use crate::error::Result;
use crate::guest;
use crate::image::Image;
use crate::job::Text;
use crate::process;

pub use kvm::Accelerator;

/// What a machine is made of.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel to boot.
    pub image: &'a Image,
    /// How many processors it has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// What the kernel's command line has beside what is needed here.
    pub append: &'a [String],
    /// Whether its clock counts instructions, see [`Accelerator::Counting`].
    pub counts_instructions: bool,
    /// The host's folders that it may write to.
    pub writable: &'a [Text],
    /// A folder of this run's own on the host, with a file "job" in it.
    pub folder: &'a Path,
    /// The network to others, if it is one of several.
    pub network: Option<&'a Network>,
    /// How many cards it has: QEMU alone can give it some.
    pub cards: u32,
    /// Where QEMU's monitor is to listen, which only QEMU has.
    pub monitor: Option<&'a Path>,
}

/// How a machine is joined to others.
#[derive(Debug, Default)]
pub struct Network {
    /// Which of them it is, from 1 on.
    pub number: u32,
    /// Stream sockets: to each other machine, or to the one that passes on what comes for others.
    pub sockets: Vec<OwnedFd>,
}

/// A machine that was started.
#[derive(Debug)]
pub struct Running {
    /// The process, the first of a process group of its own.
    pub process: Child,
    /// Where the kernel's log comes out.
    pub log: io::PipeReader,
    /// The stream to the guest's first process, once that has opened it.
    pub channel: Channel,
}

/// The host's end of the channel.
#[derive(Debug)]
pub enum Channel {
    /// Open from the start.
    Open(UnixStream),
    /// Opened by the machine, which connects to this.
    Listening(std::os::unix::net::UnixListener),
}

impl Machine<'_> {
    /// Starts it.
    pub fn start(&self, cache: &Cache) -> Result<Running> {
        match self.image.backend {
            Backend::Uml => uml::start(self),
            Backend::Qemu => {
                let accelerator = match self.counts_instructions {
                    true => Accelerator::Counting,
                    false => Accelerator::choose(cache, Some(&self.image.file))?,
                };
                qemu::start(self, accelerator)
            }
        }
    }

    fn job(&self) -> PathBuf {
        self.folder.join("job")
    }

    /// What every kernel is told: to run this very program as its first process, which it does by itself if
    /// that is in an initramfs; to log everything, and to end rather than wait after a panic.
    fn kernel_arguments(&self) -> Vec<String> {
        let mut arguments = ["ro", "loglevel=8", "panic=-1"].map(str::to_owned).to_vec();
        // In seconds; the kernel's own 21 are soon over for a guest on a machine that others keep busy.
        arguments.push("rcupdate.rcu_cpu_stall_timeout=60".to_owned());
        if self.image.debug {
            // The allocator's per-CPU arrays keep pointers to what they have
            // handed out, which hides small leaks from kmemleak; consistency
            // checks switch these arrays off.
            arguments.push("slab_debug=F".to_owned());
        }
        if self.image.early.is_some() {
            // As the lab's own kernels are built: guests share no secrets.
            arguments.push("mitigations=off".to_owned());
        }
        arguments.extend(self.append.iter().cloned());
        if self.image.early.is_none() {
            arguments.push(format!("init={}", self.folder.join("init").display()));
        }
        arguments.extend([
            "--".to_owned(),
            guest::ARGUMENT.to_owned(),
            self.job().display().to_string(),
        ]);
        arguments
    }
}

/// Lets the machine die with this process, and keeps the terminal's Ctrl-C
/// from it: that is this process's to act on.
fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    process::die_with_parent(command, rustix::process::Signal::KILL);
}
