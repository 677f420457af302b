// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line of `ferroce lab`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::Subcommand;
use ferroce_lab::backend::{Backend, Flavor, Series};
use ferroce_lab::boot::card::MOST as MOST_CARDS;
use ferroce_lab::distribution::Distribution;
use ferroce_lab::session::hosts::MOST;

use crate::args::{seconds, unjoined, Setup};

#[derive(Debug, Subcommand)]
pub enum Lab {
    /// Build the kernel and the modules, if they are not built yet
    Build(Build),
    /// Boot a guest and run a command in it as root
    ///
    /// The command runs in the current folder. Its files are this machine's,
    /// under an overlay in memory: it can change all of them, and nothing of
    /// that stays, except in the folders given with --rw. The kernel's RDMA
    /// stack is loaded, and ferroce's plug-in for libibverbs installed: make
    /// a device with `rdma link add fr0 type ferroce netdev NETDEV`. Other
    /// modules are there for `modprobe`, the examples hello, greeter and
    /// visitor among them. Ctrl-C ends the guest.
    ///
    /// `ferroce` is a command in the guest, too. `make` builds modules for the
    /// guest's kernel there, whose folder is /lib/modules/$(uname -r)/build.
    /// There is no network to the outside.
    ///
    /// Exit status: the command's own; or
    ///    99  if the kernel reported an oops, a panic, a warning, or what
    ///        lockdep, KASAN or another checker found; the report is printed
    ///   124  if --timeout came first
    ///   125  if the guest could not be brought to run the command
    ///   126  if the command is no program, 127 if there is no such command
    #[command(verbatim_doc_comment)]
    Run(Run),
    /// Boot a guest and open a shell in it
    Shell(Shell),
    /// Put a kernel, its modules and this program into one file
    ///
    /// For machines without Rust, compilers, apt and root: a classroom's, a CI
    /// image, a colleague's. What is not built yet is built first. There:
    ///
    ///   tar -xzf lab.tar.gz ferroce && ./ferroce lab unpack lab.tar.gz
    ///   ./ferroce lab run -- uname -sr
    ///
    /// Guests need modprobe (kmod) and ip (iproute2) there, and those of
    /// `--backend qemu` QEMU.
    #[command(verbatim_doc_comment)]
    Pack(Pack),
    /// Put what `lab pack` has written into the cache, ready to be used
    ///
    /// It takes the place of what was unpacked before for the same kind of kernel
    /// (--backend, --debug, --kernel debian). `lab run` and `lab shell` use it where
    /// the sources of the modules, or Rust, are not there to build from.
    Unpack {
        /// The file
        file: PathBuf,
    },
    /// Remove what the lab has built and fetched
    Clean(Clean),
}

/// What the guest's clock goes by.
#[derive(Debug, clap::Args)]
pub struct Clock {
    /// Have the guest's clock count instructions, one a nanosecond: with
    /// `--backend qemu`
    ///
    /// A time that a program measures is then how many instructions something
    /// takes, whatever else this machine does. One processor runs after the other,
    /// and the time in which none has anything to do is skipped.
    #[arg(long)]
    icount: bool,
}

impl Clock {
    /// Whether it counts instructions, which not each backend can.
    pub fn counts_instructions(&self, backend: Backend) -> anyhow::Result<bool> {
        if self.icount && backend != Backend::Qemu {
            anyhow::bail!("--icount needs QEMU, which counts instructions: add --backend qemu");
        }
        Ok(self.icount)
    }
}

/// Which kernel.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// What the guest runs on: uml (User-Mode Linux), which is the default, or qemu
    #[arg(long, value_name = "uml|qemu")]
    backend: Option<Backend>,
    /// Use a kernel that looks for bugs: KASAN, kmemleak, DEBUG_OBJECTS and
    /// fault injection; with qemu lockdep and DEBUG_ATOMIC_SLEEP as well
    #[arg(long)]
    debug: bool,
}

impl Which {
    pub fn flavor(&self) -> Flavor {
        Flavor {
            backend: self.backend.unwrap_or(Backend::Uml),
            debug: self.debug,
            series: Series::BEST,
        }
    }
}

/// Which kernel, of the lab's or of others.
#[derive(Debug, Clone, clap::Args)]
pub struct AnyKernel {
    #[command(flatten)]
    which: Which,
    /// The series of Linux: 7.2 or 7.3; or boot, on QEMU, a kernel that is not
    /// the lab's: `debian`, `debian:VERSION`, or the path of one
    ///
    /// `debian` is the newest kernel of Debian's backports, and `debian:7.2` the
    /// newest 7.2 that Debian has; apt fetches and checks it, into the cache. A
    /// path is that of a kernel that is installed or unpacked: of its file
    /// (/boot/vmlinuz-VERSION), of the folder with its modules
    /// (/lib/modules/VERSION), or of the folder that its package was unpacked in.
    /// It needs 9p and overlay as modules or built in, as distributions have them.
    /// For Debian's kernels the driver, ferroce.ko, is built when `--module ferroce`
    /// first asks for it, in some minutes; from then on modprobe finds it.
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<KernelName>,
}

/// A kernel as the command line names it.
#[derive(Debug, Clone)]
enum KernelName {
    Series(Series),
    Distribution(Distribution),
}

impl FromStr for KernelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(series) => Ok(Self::Series(series)),
            Err(wrong) => match text.parse() {
                Ok(kernel) => Ok(Self::Distribution(kernel)),
                Err(why) => Err(format!("{wrong}; of others {why}")),
            },
        }
    }
}

/// A kernel that a guest is to have.
#[derive(Debug, Clone)]
pub enum Choice {
    /// One that the lab builds.
    Built(Flavor),
    /// One that is there.
    Distribution(Distribution),
}

impl AnyKernel {
    /// `needs_machine` is the option, if one was given, that User-Mode Linux, which is no machine, cannot do.
    pub fn choice(&self, needs_machine: Option<&str>) -> anyhow::Result<Choice> {
        match (&self.kernel, self.which.backend) {
            (_, Some(Backend::Uml)) if needs_machine.is_some() => anyhow::bail!(
                "{} needs a machine, which User-Mode Linux is not: leave out --backend uml",
                needs_machine.unwrap_or_default()
            ),
            (None | Some(KernelName::Series(_)), backend) => {
                let default = match needs_machine {
                    Some(_) => Backend::Qemu,
                    None => Backend::Uml,
                };
                Ok(Choice::Built(Flavor {
                    backend: backend.unwrap_or(default),
                    debug: self.which.debug,
                    series: match &self.kernel {
                        Some(KernelName::Series(series)) => *series,
                        _ => Series::BEST,
                    },
                }))
            }
            (Some(KernelName::Distribution(kernel)), Some(Backend::Uml)) => anyhow::bail!(
                "--kernel {kernel} is for a machine, which User-Mode Linux is not: leave out --backend uml"
            ),
            (Some(KernelName::Distribution(kernel)), _) if self.which.debug => anyhow::bail!(
                "--debug is for the lab's own kernels, and {kernel} is as it is: leave out --debug"
            ),
            (Some(KernelName::Distribution(kernel)), _) => Ok(Choice::Distribution(kernel.clone())),
        }
    }
}

impl Choice {
    /// What a guest of it runs on.
    pub fn backend(&self) -> Backend {
        match self {
            Choice::Built(flavor) => flavor.backend,
            Choice::Distribution(_) => Backend::Qemu,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Build {
    #[command(flatten)]
    pub kernel: AnyKernel,
    /// Compile the modules with clippy instead, its warnings as errors
    #[arg(long)]
    pub clippy: bool,
    /// Build the driver for a kernel of Debian's, too: some minutes the first time
    #[arg(long)]
    pub driver: bool,
    /// Install the verbs programs that the demo and the tests run, too:
    /// ibverbs-utils, rdmacm-utils, perftest, pyverbs
    #[arg(long)]
    pub verbs: bool,
    /// Install what the tests with other people's programs run, too: OpenMPI,
    /// UCX, libfabric, qperf
    #[arg(long)]
    pub programs: bool,
    #[command(flatten)]
    pub setup: Setup,
}

#[derive(Debug, clap::Args)]
pub struct Pack {
    #[command(flatten)]
    pub kernel: AnyKernel,
    /// The file to write
    #[arg(short, long, value_name = "FILE", default_value = "lab.tar.gz")]
    pub output: PathBuf,
    #[command(flatten)]
    pub setup: Setup,
}

/// What the guest is made of.
#[derive(Debug, clap::Args)]
pub struct Machine {
    #[command(flatten)]
    pub kernel: AnyKernel,
    /// How many processors it has, up to 8
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// How much memory it has, such as 512M or 4G [default: 1G; debug: 2G]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    mem: Option<u64>,
    /// Add this to the kernel's command line, such as `isolcpus=1`; may be given again
    #[arg(long, value_name = "ARGUMENTS")]
    pub append: Vec<String>,
    #[command(flatten)]
    pub clock: Clock,
    /// Give it cards: PCI functions with memory on board, for the driver to find
    /// and bind to; on QEMU. One if no number is given, up to 8
    ///
    /// Each has a network device with an address: card 0 has 10.0.1.1, on eth0, card
    /// 1 has 10.0.2.1; of host 2 they end in 2, and begin at eth1. The module that is
    /// for them is loaded by their alias, as udev does it, before the command runs.
    /// With a kernel that is not the lab's, add `--module ferroce`.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_CARDS)))]
    card: Option<u32>,
    /// Have QEMU's monitor listen at this socket, which is made: in JSON (QMP)
    ///
    /// `device_del` with the id `card0` takes the first card out of its slot.
    #[arg(long, value_name = "SOCKET")]
    pub monitor: Option<PathBuf>,
    /// End the guest after this many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Make this folder writable: changes in it persist; may be given again
    #[arg(long, value_name = "DIR")]
    pub rw: Vec<PathBuf>,
    /// Load this module first, or all of a folder, or `ferroce`, the driver; may be given again
    ///
    /// Its parameters follow: `--module ./x.ko name=Ada count=3`. For those of a
    /// folder with several modules: `--module ./modules x.name=Ada`.
    #[arg(long, value_name = "FILE|DIR", value_parser = OsStringValueParser::new().map(ModuleArg::split))]
    pub module: Vec<ModuleArg>,
    /// Show the kernel's log as it comes
    #[arg(long)]
    pub kernel_log: bool,
    #[command(flatten)]
    pub setup: Setup,
}

impl Machine {
    /// The kernel, of a machine if there are several hosts or something else needs one.
    pub fn choice(&self, hosts: u32) -> anyhow::Result<Choice> {
        let needs_machine = if hosts > 1 {
            Some("--hosts")
        } else if self.card.is_some() {
            Some("--card")
        } else if self.monitor.is_some() {
            Some("--monitor")
        } else {
            None
        };
        if hosts > 1 && self.monitor.is_some() {
            anyhow::bail!("--monitor is one machine's: leave out --hosts");
        }
        self.kernel.choice(needs_machine)
    }

    /// How many cards it has.
    pub fn cards(&self) -> u32 {
        self.card.unwrap_or(0)
    }

    pub fn memory(&self) -> u64 {
        self.mem.unwrap_or(if self.kernel.which.debug {
            2 << 30
        } else {
            1 << 30
        })
    }
}

#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub machine: Machine,
    /// Boot so many guests with a network between them, up to 8, on QEMU
    ///
    /// The command runs on each, with its number in HOST and how many there are in
    /// HOSTS. They are host1 and so on, at 10.0.0.1 and so on, on eth0. All begin
    /// when all are up; each line of output has the host's name in front, and
    /// standard input is empty. A guest whose command has ended stays until all
    /// have. One that fails ends the others, and its exit status counts.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    pub hosts: u32,
    /// The command, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

impl Run {
    /// The command, with its arguments as they were given.
    pub fn command(&self) -> Vec<OsString> {
        let words = self.command.iter();
        words.flat_map(|word| unjoined(word)).collect()
    }
}

#[derive(Debug, clap::Args)]
pub struct Shell {
    #[command(flatten)]
    pub machine: Machine,
}

#[derive(Debug, clap::Args)]
pub struct Clean {
    /// Remove the kernel's source and the tools as well
    #[arg(long)]
    pub all: bool,
}

/// A module to load in a guest: a file, or a folder of them.
#[derive(Debug, Clone)]
pub struct ModuleArg {
    pub path: PathBuf,
    /// Each NAME=VALUE.
    pub parameters: Vec<OsString>,
}

impl ModuleArg {
    fn split(joined: OsString) -> Self {
        let mut words = unjoined(&joined);
        Self {
            path: words.next().unwrap_or_default().into(),
            parameters: words.collect(),
        }
    }
}

/// The least memory that the kernel, its modules and a command fit in.
const LEAST_MEMORY: u64 = 128 << 20;

pub fn memory(text: &str) -> Result<u64, String> {
    match size(text)? {
        size @ LEAST_MEMORY.. => Ok(size),
        size => Err(format!(
            "{size} bytes are too little for a guest, which needs 128M: {EXAMPLE}"
        )),
    }
}

const EXAMPLE: &str = "give one such as 512M or 4G";

pub fn size(text: &str) -> Result<u64, String> {
    let size = parse_size::Config::new().with_binary().parse_size(text);
    size.map_err(|_| format!("that is no size: {EXAMPLE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_too_small_ones_are_refused() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert!(memory("3").unwrap_err().contains("512M"));
        for text in ["banana", "", "-1", "5X", "1M2"] {
            let error = memory(text).unwrap_err();
            assert_eq!(error, "that is no size: give one such as 512M or 4G");
        }
    }
}
