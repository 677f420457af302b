// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ferroce vm`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use ferroce_lab::vm::{Image, Name};

use crate::args::{seconds, Setup};
use crate::lab::args::{memory, size};

#[derive(Debug, Subcommand)]
pub enum Vm {
    /// Make a virtual machine, boot it, and wait until ssh answers
    ///
    /// Its disk lies over a cloud image, of which nothing is changed: one that is
    /// given, or Debian's or Ubuntu's, which is fetched, and checked against the
    /// published checksum. The machine gets the user ferroce, who may do everything
    /// by sudo, a key of its own, and with --share a folder of this machine's at
    /// /mnt/share. Without KVM the first boot takes minutes. Then:
    ///
    ///   ferroce vm ssh NAME
    ///
    /// The image is to boot by BIOS, and to have cloud-init. For ferroce's driver
    /// it is to have Linux 7.2 or 7.3 with CONFIG_RUST, as `debian` has.
    #[command(verbatim_doc_comment)]
    Create(Create),
    /// Boot a machine that was made, and wait until ssh answers
    ///
    /// If it runs already, it is waited for, and with --install ferroce is put into
    /// it anew.
    Start(Start),
    /// Open a shell in a machine, or run a command there
    ///
    /// The words of the command are joined and given to the shell there, as ssh
    /// does it. Exit status: the command's own, or 255 if ssh failed.
    ///
    ///   ferroce vm ssh lesson
    ///   ferroce vm ssh lesson 'dmesg | tail'
    ///
    /// scp, rsync and sshfs find it by a file: `ferroce vm list --json` names it.
    ///
    ///   scp -F ~/.local/share/ferroce/vm/lesson/ssh_config mine.c lesson:
    #[command(verbatim_doc_comment)]
    Ssh {
        /// The machine
        name: Name,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Join a machine's console, its first serial line, to this terminal
    ///
    /// For when there is no way in by ssh. Ctrl-] leaves it; the user is ferroce,
    /// the password ferroce. What has come by it since the machine was started is
    /// in console.log, in the machine's folder.
    Console {
        /// The machine
        name: Name,
    },
    /// List the machines
    #[command(visible_alias = "ls")]
    List {
        /// As JSON, with the folder of each, and the file by which ssh finds it
        #[arg(long)]
        json: bool,
    },
    /// Have machines power off
    ///
    /// One that has not after --timeout is ended, as by pulling the plug.
    Stop {
        /// The machines
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Name>,
        /// End it after so many seconds; 0: at once
        #[arg(long, value_name = "S", default_value_t = 120)]
        timeout: u64,
    },
    /// Remove machines, with their disks
    ///
    /// The image under the disk stays.
    #[command(visible_alias = "rm")]
    Delete {
        /// The machines
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Name>,
        /// Those that run, too: they are ended at once
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name, and its host name
    pub name: Name,
    /// The cloud image: `debian` (13, with the kernel of its backports), `ubuntu`
    /// (24.04), or a file, .img or .qcow2
    #[arg(long, value_name = "IMAGE", default_value = "debian")]
    pub image: Image,
    /// The size of its disk, which takes room here only as it is written to
    #[arg(long, value_name = "SIZE", default_value = "40G", value_parser = size)]
    pub disk: u64,
    /// How much memory it has
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = memory)]
    pub mem: u64,
    /// How many processors it has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// Share this folder, which is /mnt/share there; it may write to it
    #[arg(long, value_name = "DIR")]
    pub share: Option<PathBuf>,
    /// The port of this machine, at 127.0.0.1, that leads to its ssh [default: the
    /// first one that is free from 2222 on]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub ssh_port: Option<u16>,
    /// Have it install this package when it first boots; may be given again
    #[arg(long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Do not boot it yet
    #[arg(long, conflicts_with = "install")]
    pub no_start: bool,
    #[command(flatten)]
    pub boot: Boot,
}

#[derive(Debug, clap::Args)]
pub struct Start {
    /// The machine
    pub name: Name,
    /// Have another port lead to its ssh from now on
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..))]
    pub ssh_port: Option<u16>,
    #[command(flatten)]
    pub boot: Boot,
}

/// What goes with a boot.
#[derive(Debug, clap::Args)]
pub struct Boot {
    /// Put the ferroce of this machine into it: the program, the plug-in for
    /// libibverbs, and the driver for its kernel
    ///
    /// The driver is built here, as `ferroce install --driver` does it, and not in
    /// the machine. Where its kernel cannot have the driver, that is said, and the
    /// rest is installed. If it has no libibverbs, apt installs ibverbs-utils there.
    #[arg(long)]
    pub install: bool,
    /// Wait so many seconds for ssh [default: 300 by KVM, 1200 without]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub setup: Setup,
}
