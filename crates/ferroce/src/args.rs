// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ferroce_lab::backend::{Backend, Flavor};
use ferroce_lab::prerequisites::Install;

/// A virtual RDMA network card for Linux, and the lab to run it in.
///
/// The lab boots a real Linux kernel as an ordinary process, in about a second,
/// without root, KVM or a disk image. Its files are this machine's, read-only;
/// what a guest changes vanishes with it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 80, after_long_help = ENVIRONMENT)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

const ENVIRONMENT: &str = "\
Environment:
  FERROCE_CACHE          the folder for all that is fetched and built
                         [default: ferroce in the user's cache folder]
  FERROCE_KERNEL_MIRROR  fetch the kernel's source from this mirror of
                         kernel.org's /pub/linux/kernel, not from Debian
  FERROCE_NO_INSTALL     1: as with --no-install";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set everything up and show what it does
    ///
    /// Installs what is missing, builds a kernel and the modules (once), boots
    /// them, and shows the virtual RDMA card at work, beside the kernel's own.
    Demo(Setup),
    /// Build, boot and use guest kernels
    #[command(subcommand)]
    Lab(Lab),
    /// Read, check, load and list kernel modules
    #[command(subcommand)]
    Module(crate::module::Module),
}

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
    /// Remove what the lab has built and fetched
    Clean(Clean),
}

/// How the machine is set up.
#[derive(Debug, Clone, clap::Args)]
pub struct Setup {
    /// Install nothing: print the commands that would, and stop
    #[arg(long, env = "FERROCE_NO_INSTALL", value_parser = clap::builder::FalseyValueParser::new(), num_args = 0, default_missing_value = "true", default_value = "false", hide_env_values = true)]
    no_install: bool,
    /// The folder with the kernel modules' sources
    #[arg(long, env = "FERROCE_KERNEL_DIR", value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel"), hide_default_value = true, hide_env_values = true)]
    pub kernel_dir: PathBuf,
}

impl Setup {
    pub fn install(&self) -> Install {
        if self.no_install {
            Install::No
        } else {
            Install::Yes
        }
    }
}

/// Which kernel.
#[derive(Debug, Clone, clap::Args)]
pub struct Which {
    /// What the guest runs on: uml (User-Mode Linux) or qemu
    #[arg(long, default_value = "uml", value_name = "uml|qemu")]
    backend: Backend,
    /// Use a kernel that looks for bugs: KASAN, kmemleak, DEBUG_OBJECTS and
    /// fault injection; with qemu lockdep and DEBUG_ATOMIC_SLEEP as well
    #[arg(long)]
    debug: bool,
}

impl Which {
    pub fn flavor(&self) -> Flavor {
        Flavor {
            backend: self.backend,
            debug: self.debug,
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Build {
    #[command(flatten)]
    pub which: Which,
    /// Compile the modules with clippy instead, its warnings as errors
    #[arg(long)]
    pub clippy: bool,
    /// Install the verbs programs that the demo and the tests run, too:
    /// ibverbs-utils, perftest, pyverbs
    #[arg(long)]
    pub verbs: bool,
    #[command(flatten)]
    pub setup: Setup,
}

/// What the guest is made of.
#[derive(Debug, clap::Args)]
pub struct Machine {
    #[command(flatten)]
    pub which: Which,
    /// How many processors it has, up to 8
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub cpus: u32,
    /// How much memory it has, such as 512M or 4G [default: 1G; debug: 2G]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    mem: Option<u64>,
    /// End the guest after this many seconds
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Let changes in this folder through to this machine; may be given again
    #[arg(long, value_name = "DIR")]
    pub rw: Vec<PathBuf>,
    /// Load this module file first; may be given again
    #[arg(long, value_name = "FILE")]
    pub module: Vec<PathBuf>,
    /// Show the kernel's log as it comes
    #[arg(long)]
    pub kernel_log: bool,
    #[command(flatten)]
    pub setup: Setup,
}

impl Machine {
    pub fn memory(&self) -> u64 {
        self.mem
            .unwrap_or(if self.which.debug { 2 << 30 } else { 1 << 30 })
    }
}

#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub machine: Machine,
    /// The command, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,
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

/// The least memory that the kernel, its modules and a command fit in.
const LEAST_MEMORY: u64 = 128 << 20;

fn memory(text: &str) -> Result<u64, String> {
    let example = "give a size such as 512M or 4G";
    let size = parse_size::Config::new().with_binary().parse_size(text);
    let size = size.map_err(|e| format!("{e}: {example}"))?;
    match size {
        LEAST_MEMORY.. => Ok(size),
        _ => Err(format!(
            "{size} bytes are too little for a guest, which needs 128M: {example}"
        )),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "give a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("give a number of seconds above zero".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sizes_are_binary_and_too_small_ones_are_refused() {
        assert_eq!(memory("512M"), Ok(512 << 20));
        assert!(memory("3").unwrap_err().contains("512M"));
        assert!(memory("lots").unwrap_err().contains("512M"));
    }

    #[test]
    fn a_time_out_is_above_zero() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err());
        assert!(seconds("-1").is_err());
        assert!(seconds("inf").is_err());
    }
}
