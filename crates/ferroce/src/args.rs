// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
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
    /// Say what this machine has for ferroce, and what it lacks
    ///
    /// One line for each thing that ferroce's commands depend on, with what to
    /// do where it is missing: compilers and packages, room, whether guests
    /// start, what the running kernel takes, libibverbs and its plug-in, RDMA
    /// devices, and how `ferroce run` would reach memory. What can be tried is
    /// tried: a guest of each kernel that is built is booted. Nothing is
    /// installed or changed.
    ///
    ///   ok     it is here, and works
    ///   gets   it is not here, and ferroce gets it when it needs it
    ///   LACKS  it is not here, or does not work
    ///   -      it is not here, and only some commands need it
    ///
    /// Exit status: 0 if `ferroce demo` can run, 1 if not.
    #[command(verbatim_doc_comment)]
    Doctor(crate::doctor::Args),
    /// Run a program with RDMA devices, without a kernel module
    ///
    /// The program, and all that it starts, sees RDMA devices that exist in its
    /// own processes: there is nothing to install or to load, and no right to
    /// have. It opens them by the libibverbs of this machine, as it is, and may
    /// link to that or load it. Programs of one user find each other, whichever
    /// `ferroce run` started them. The devices' addresses are this machine's.
    ///
    ///   ferroce run -- ibv_devinfo
    ///   ferroce run -- sh -c 'ib_send_bw & sleep 1; ib_send_bw localhost'
    ///
    /// What cannot work is said when it starts: statically linked programs,
    /// those that run with another user's rights (setuid), and those of another
    /// C library than glibc.
    ///
    /// Exit status: the program's own; or
    ///   125  if ferroce failed
    ///   126  if the program is none, 127 if there is no such program
    #[command(verbatim_doc_comment)]
    Run(crate::run::Args),
    /// Build, boot and use guest kernels
    #[command(subcommand)]
    Lab(crate::lab::args::Lab),
    /// Virtual machines with a disk, on which the driver is used as anywhere
    ///
    /// For lessons, and for trying what a guest of `ferroce lab` cannot have: a
    /// distribution that boots by itself, its own kernel, what is installed in it,
    /// and all that stays. QEMU runs them, by KVM if a test guest proves that it
    /// works, else TCG; no root is needed.
    ///
    ///   ferroce vm create lesson --share . --install
    ///   ferroce vm ssh lesson
    ///   ferroce vm stop lesson
    #[command(subcommand, verbatim_doc_comment)]
    Vm(crate::vm::args::Vm),
    /// Measure ferroce against rdma_rxe in a guest, or against UCX without one
    ///
    /// Runs the programs of perftest and rdma-core on one kind of device and on
    /// the other in turn, in several rounds, and prints the medians, the least
    /// and the greatest, and how many times as good ferroce was. A second table
    /// says where the time goes. Both ends are on one host, or with --wire on two,
    /// as namespaces of the guest. All of it takes some minutes, --quick one or
    /// two, and on QEMU more. The machine should have nothing else to do.
    ///
    /// With --native it measures the device of `ferroce run` instead, on this
    /// machine and without a guest, beside UCX with shared memory.
    Bench(crate::bench::args::Bench),
    #[command(hide = true, name = crate::bench::GUEST)]
    BenchGuest { plan: String },
    /// Add, delete and show RDMA devices of this machine's kernel
    #[command(subcommand)]
    Link(Link),
    /// Watch RDMA devices, programs and queue pairs as they go
    ///
    /// Under each device the programs that use it, and under each of these its
    /// queue pairs: state, peer, messages a second, requests that are not done,
    /// receives that are there, and what one that does not move waits for. Of
    /// ferroce's devices; of rdma_rxe's and of hardware as far as their drivers
    /// tell. Under `ferroce run`, of the devices there.
    ///
    ///   q, Esc  end            arrows, j, k  select a queue pair
    ///   s       sort           Enter         all that is known of it
    ///
    ///   ferroce top --once --interval 5       # a report of five seconds
    ///   ferroce run -- ferroce top
    #[command(verbatim_doc_comment)]
    Top(crate::top::Args),
    /// Write an RDMA device's packets into a file, for Wireshark
    ///
    /// Takes the RoCE v2 packets, those to UDP port 4791, that go over the
    /// device's network interface in either direction, and writes them as pcap,
    /// with Ethernet headers and timestamps in nanoseconds. It serves devices of
    /// ferroce, of rdma_rxe, and of all hardware whose packets the kernel sees.
    /// It ends by Ctrl-C, by --count or --duration, or with the interface, and
    /// then says how many packets there were, and how many the kernel had no
    /// room for and dropped.
    ///
    /// Messages between programs of this host are no packets: ferroce copies
    /// them from one's memory to the other's, and they are not in the file.
    ///
    /// Where the kernel has an interface cut large packets up (UDP segmentation
    /// offload), tcpdump shows what goes into that. Here it is what comes out:
    /// packets as they are on the wire, each with its checksums. The tags of
    /// VLANs are left out.
    ///
    ///   ferroce trace fr0 -o out.pcap
    ///   ferroce trace fr0 -o - | wireshark -k -i -
    #[command(verbatim_doc_comment)]
    Trace(Trace),
    /// Install the plug-in that programs use, and the driver
    ///
    /// Programs reach an RDMA device by libibverbs, and that by a plug-in for
    /// each kind of device. This program carries ferroce's, and puts two files
    /// where the libibverbs that is installed looks: libferroce-rdmavNN.so, and
    /// ferroce.driver, which names it. Where only root may write, it prints the
    /// command to do so. `ferroce uninstall` removes them.
    ///
    /// NN is the number of libibverbs' interface to plug-ins. There are
    /// plug-ins for 34, 57, 59, 64 and 65, which are all that rdma-core 36 to
    /// 65 have. When an upgrade of rdma-core changes it, install again. Where the
    /// kernel that runs cannot have the driver, it warns, and says why.
    ///
    /// With --driver or --kernel it installs the driver too, ferroce.ko, for
    /// Linux 7.2 or later with CONFIG_RUST. All that is in the way is told first,
    /// with what helps; --check does nothing else.
    ///
    /// A kernel takes a module in Rust only from the compiler that built the
    /// kernel (CONFIG_RUSTC_VERSION_TEXT), and with the metadata of the kernel's
    /// own crates. Where the headers have that, as Arch's do and on Ubuntu
    /// linux-lib-rust, they and the compiler of the distribution are used. The
    /// headers of Debian 13's backports lack it: ferroce makes it of Debian's
    /// source, by Debian's compilers, which apt fetches and which are unpacked in
    /// the cache, not installed (470 MB; some minutes, once for each kernel).
    ///
    /// Where DKMS is installed, it has the driver: it builds it in this way for
    /// each kernel that is installed later, too, and signs it with its own key.
    ///
    /// `ferroce module check` looks at the driver before it is put into
    /// /lib/modules/RELEASE/updates. A udev rule lets all users open the devices.
    /// Then: modprobe ferroce; ferroce link add fr0 eth0
    ///
    ///   ferroce install --check                 # can this kernel have it?
    ///   sudo ferroce install --driver
    ///
    /// The guests of `ferroce lab` have driver and plug-in already.
    #[command(verbatim_doc_comment)]
    Install(crate::install::args::Installation),
    /// Remove the plug-in and the driver that `ferroce install` installed
    ///
    /// It removes the file that names the plug-in, and the plug-ins of all
    /// versions, from the folders of the libibverbs that is installed and from
    /// those of the usual distributions; the driver of each kernel, and the udev
    /// rule. It says each. A driver that is loaded stays so: rmmod ferroce.
    Uninstall(crate::install::args::Removal),
    /// Read, check, load and list kernel modules
    #[command(subcommand)]
    Module(crate::module::Module),
    /// Print the completions of this command line for a shell
    ///
    ///   ferroce completions bash > ~/.local/share/bash-completion/completions/ferroce
    ///   ferroce completions zsh > ~/.zfunc/_ferroce
    ///   ferroce completions fish > ~/.config/fish/completions/ferroce.fish
    #[command(verbatim_doc_comment)]
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages of all commands into a folder
    ///
    ///   ferroce man ~/.local/share/man/man1 && man ferroce-lab-run
    #[command(verbatim_doc_comment)]
    Man {
        /// The folder, which is made if it is not there
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Link {
    /// Make an RDMA device over a network interface
    ///
    /// As `rdma link add NAME type ferroce netdev NETDEV` does. The driver is
    /// loaded if the kernel has it. Programs need the plug-in as well: see
    /// `ferroce install`.
    Add {
        /// The name of the device, such as fr0
        name: String,
        /// The network interface, such as eth0
        netdev: String,
    },
    /// Remove a device that was added
    #[command(visible_alias = "delete")]
    Del {
        /// The name of the device
        name: String,
    },
    /// Show RDMA devices of all kinds: state, interface, and addresses
    ///
    /// One row for each port, with its GIDs below each other: the index of
    /// each, by which programs are told it (`ibv_rc_pingpong -g 1`), and the
    /// address. The MTU is the network interface's.
    Show {
        /// Only this device
        name: Option<String>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub struct Trace {
    /// The RDMA device, such as fr0
    pub device: String,
    /// The file to write; - is the standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// End after so many packets
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(short, long, value_name = "S", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Keep no more of a packet than so many bytes; 128 has all headers
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub snap_length: Option<u32>,
}

/// How the machine is set up.
#[derive(Debug, Clone, clap::Args)]
pub struct Setup {
    /// Install nothing: print the commands that would, and stop
    #[arg(long, env = "FERROCE_NO_INSTALL", value_parser = clap::builder::FalseyValueParser::new(), num_args = 0, default_missing_value = "true", default_value = "false", hide_env_values = true)]
    no_install: bool,
    /// The folder with the kernel modules' sources
    #[arg(long, env = "FERROCE_KERNEL_DIR", value_name = "DIR", default_value_os_t = built_from(), hide_default_value = true, hide_env_values = true)]
    pub kernel_dir: PathBuf,
}

/// The folder with the kernel modules' sources where no option names it.
pub fn kernel_dir() -> PathBuf {
    match std::env::var_os("FERROCE_KERNEL_DIR") {
        Some(dir) => dir.into(),
        None => built_from(),
    }
}

/// The modules' sources that belong to this program: those of the package that has it, or else those that it
/// was built with.
fn built_from() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let prefix = program.parent().and_then(Path::parent);
    let packaged = prefix.map(|prefix| prefix.join("share/ferroce/kernel"));
    let workspace = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel").into();
    packaged
        .filter(|dir| dir.exists())
        .unwrap_or_else(workspace)
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

/// Parses the command line, and ends the program if it is wrong.
pub fn parse() -> Args {
    Args::parse_from(joined(std::env::args_os()))
}

/// A byte that no argument of a program has.
const JOINT: u8 = 0;

/// Makes one argument of a `--module`'s file and the parameters that follow. For clap either all that
/// follows is an option's, or just one argument; but of `--module x.ko a=1 dmesg` the last is the command.
fn joined(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let option = arg.clone();
        joined.push(arg);
        if option == "--" {
            break;
        }
        let mut file = match option {
            _ if option == "--module" => args.next(),
            _ if option.as_bytes().starts_with(b"--module=") => joined.pop(),
            _ => None,
        };
        if let Some(file) = &mut file {
            while let Some(parameter) = args.next_if(|arg| is_parameter(arg)) {
                file.push(OsStr::from_bytes(&[JOINT]));
                file.push(parameter);
            }
        }
        joined.extend(file);
    }
    joined.extend(args);
    joined
}

/// What [`joined`] has made one.
pub fn unjoined(word: &OsStr) -> impl Iterator<Item = OsString> {
    let parts = word.as_bytes().split(|byte| *byte == JOINT);
    parts.map(|part| OsString::from_vec(part.to_vec()))
}

/// NAME=VALUE.
fn is_parameter(arg: &OsStr) -> bool {
    let mut parts = arg.as_bytes().splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default();
    let of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(byte);
    let begins = name
        .first()
        .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    begins && name.iter().all(of_name) && parts.next().is_some()
}

pub fn seconds(text: &str) -> Result<Duration, String> {
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
    use crate::lab::args::Lab;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    fn words(text: &str) -> impl Iterator<Item = OsString> + '_ {
        text.split_whitespace().map(OsString::from)
    }

    #[test]
    fn what_follows_a_module_are_its_parameters() {
        let line = "ferroce lab run --module ./x.ko a=1 b_c= --module=y.ko --cpus 1 sh -c d=2";
        let args = Args::try_parse_from(joined(words(line))).unwrap();
        let Command::Lab(Lab::Run(run)) = args.command else {
            panic!("{args:?}")
        };
        let modules: Vec<_> = run.machine.module.iter().collect();
        assert_eq!(modules[0].path, PathBuf::from("./x.ko"));
        assert_eq!(modules[0].parameters, ["a=1", "b_c="]);
        assert_eq!(modules[1].path, PathBuf::from("y.ko"));
        assert!(modules[1].parameters.is_empty());
        assert_eq!(run.command(), ["sh", "-c", "d=2"]);
    }

    #[test]
    fn the_command_keeps_its_own_arguments() {
        for command in ["sh --module x a=1", "a=1 --module x a=1"] {
            for before in ["ferroce lab run ", "ferroce lab run -- "] {
                let line = format!("{before}{command}");
                let args = Args::try_parse_from(joined(words(&line))).unwrap();
                let Command::Lab(Lab::Run(run)) = args.command else {
                    panic!("{args:?}")
                };
                assert_eq!(run.command(), words(command).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_time_out_is_above_zero() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("0").is_err());
        assert!(seconds("-1").is_err());
        assert!(seconds("inf").is_err());
    }
}
