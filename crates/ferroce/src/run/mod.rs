// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce run`: a program with RDMA devices, without a kernel module.
//!
//! The program is libibverbs' as ever. What makes that one find the devices is in its environment: the shim
//! (`LD_PRELOAD`), which has libc answer for `/sys/class/infiniband` and `/dev/infiniband` by the folder
//! that [`tree`] makes, and the plug-in (`RDMAV_DRIVERS`), which is the device. Then this process becomes
//! the program: its number, its terminal, signals and exit status are what they would be without.

pub mod doctor;
mod gids;
mod place;
pub mod plugins;
mod program;
mod tree;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ferroce_user::broker;

use plugins::Plugins;
use program::Program;
use tree::Tree;

/// The exit status where ferroce has failed, not the program.
pub const FAILED: u8 = 125;

/// The environment variable with the folder of devices, for the shim.
const DEVICES: &str = "FERROCE_DEVICES";
/// The environment variable with the path of this program: by it the plug-in knows that the device is in
/// user space, and starts what it needs.
const RUN: &str = "FERROCE_RUN";
/// By which the dynamic linker knows what to load before all else.
const PRELOAD: &str = "LD_PRELOAD";
/// By which libibverbs knows what plug-ins to load. The second one serves where the first is not set.
const DRIVERS: [&str; 2] = ["RDMAV_DRIVERS", "IBV_DRIVERS"];
/// Settings of the address sanitizer, which ends a program that another library is preloaded into. The shim
/// does it no harm.
const SANITIZER: &str = "ASAN_OPTIONS";
/// By which libibverbs knows where sysfs is.
const SYSFS: &str = "SYSFS_PATH";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The device's name
    ///
    /// With --devices, the first one's: the others' count up from it.
    #[arg(long, value_name = "NAME", default_value = "ferroce0", value_parser = device_name)]
    device: String,
    /// How many devices there are
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    devices: u32,
    /// Have the machine's own RDMA devices be seen, too, and not hidden
    #[arg(long)]
    keep: bool,
    /// Show what of this machine the devices depend on, and how fast it is
    ///
    /// The libibverbs that programs will load, and whether ferroce has a plug-in
    /// for it; in which way processes reach each other's memory, and how long a
    /// write of 8 bytes and of 64 KiB takes; the addresses. The exit status is
    /// 1 if something is missing.
    #[arg(long, exclusive = true)]
    doctor: bool,
    /// Be the second process of --doctor, which writes to this address of the first one's.
    #[arg(long, hide = true, exclusive = true, value_name = "ADDRESS")]
    peer: Option<usize>,
    /// Be the broker of this user's programs.
    #[arg(long, hide = true, exclusive = true)]
    broker: bool,
    /// The program, and its arguments
    #[arg(
        required_unless_present_any = ["broker", "doctor", "peer"],
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "PROGRAM"
    )]
    command: Vec<OsString>,
}

/// A name that the kernel would take for a device, and that fits into libibverbs' structures
/// (`IBV_SYSFS_NAME_MAX`).
fn device_name(text: &str) -> Result<String, String> {
    let of_name = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.chars().all(of_name) && text.len() <= 48 {
        return Ok(text.to_owned());
    }
    Err("give letters, digits, '_', '.' and '-', 48 at most, and a letter or digit first".into())
}

/// Runs the program in place of this one. Returns if that fails.
pub fn run(args: &Args) -> Result<i32> {
    if args.broker {
        return broker();
    }
    if args.doctor {
        return doctor::run();
    }
    if let Some(address) = args.peer {
        return doctor::peer(address);
    }
    let words: Vec<OsString> = args
        .command
        .iter()
        .flat_map(|w| crate::args::unjoined(w))
        .collect();
    let (name, arguments) = words.split_first().context("no program was given")?;
    let program = match Program::find(name) {
        Ok(program) => program,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("ferroce: there is no program {}", name.display());
            return Ok(127);
        }
        Err(error) => return Ok(not_run(name, &error)),
    };
    // A program that was itself started this way has been told before.
    if std::env::var_os(RUN).is_none() {
        for reason in program.obstacles() {
            eprintln!("ferroce: {reason}");
        }
    }

    let plugins = Plugins::ensure()?;
    let first = if args.keep { tree::free_number() } else { 0 };
    let mut tree = Tree::new(&tree::devices(&args.device, args.devices, first));
    if args.keep {
        tree.keep();
    }
    let tree = tree.ensure(&place::devices()?)?;
    ensure_broker()?;

    let mut command = Command::new(name);
    command.args(arguments);
    environment(&mut command, &plugins, &tree)?;
    Ok(not_run(name, &command.exec()))
}

/// Says why a program was not run, and returns the exit status for that: env's.
fn not_run(name: &OsStr, error: &std::io::Error) -> i32 {
    let name = name.display();
    match error.kind() {
        // The file itself has been found.
        ErrorKind::NotFound => {
            eprintln!(
                "ferroce: cannot run {name}: its interpreter, which it names, does not exist"
            );
        }
        _ => eprintln!("ferroce: cannot run {name}: {error}"),
    }
    126
}

/// What the program, and all that it starts, has to find in its environment.
fn environment(command: &mut Command, plugins: &Plugins, tree: &Path) -> Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    command
        .env(RUN, program)
        .env(DEVICES, tree)
        .env(SYSFS, tree);
    command.env(SANITIZER, sanitizer_options(std::env::var_os(SANITIZER)));
    command.env(PRELOAD, first_of(PRELOAD, &plugins.shim(), b": "));
    // What the user has set for libibverbs goes on working.
    let drivers = DRIVERS
        .into_iter()
        .find(|name| std::env::var_os(name).is_some());
    let drivers = first_of(drivers.unwrap_or(DRIVERS[0]), &plugins.prefix(), b":;");
    for name in DRIVERS {
        command.env(name, &drivers);
    }
    Ok(())
}

/// Settings that let another library come before the sanitizer's. The user's are after them, and so count.
fn sanitizer_options(settings: Option<OsString>) -> OsString {
    let own = "verify_asan_link_order=0";
    match settings {
        Some(settings) if settings.as_bytes().starts_with(own.as_bytes()) => settings,
        Some(settings) => {
            let mut both = OsString::from(own);
            both.push(":");
            both.push(settings);
            both
        }
        None => own.into(),
    }
}

/// A variable's value with a path in front, which is a list that has one of `separators` between its
/// parts. Where the path is in the list already, it comes to the front.
fn first_of(variable: &str, path: &Path, separators: &[u8]) -> OsString {
    let mut list = path.as_os_str().to_owned();
    let value = std::env::var_os(variable).unwrap_or_default();
    let parts = value.as_encoded_bytes().split(|b| separators.contains(b));
    let own = path.file_name().unwrap_or_default().as_encoded_bytes();
    for part in parts {
        // One that another release of ferroce has put there is replaced by this.
        let name = part.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if !part.is_empty() && name != own {
            list.push(":");
            list.push(OsStr::from_bytes(part));
        }
    }
    list
}

/// Makes sure that the broker of this user's programs is there.
fn ensure_broker() -> Result<()> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    broker::ensure(program.as_os_str()).context("cannot start the broker")
}

/// Is the broker of this user's programs, until the last of them is gone.
fn broker() -> Result<i32> {
    broker::serve().context("cannot be the broker")?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_sanitizer_are_kept() {
        assert_eq!(sanitizer_options(None), "verify_asan_link_order=0");
        let both = sanitizer_options(Some("detect_leaks=0".into()));
        assert_eq!(both, "verify_asan_link_order=0:detect_leaks=0");
        assert_eq!(sanitizer_options(Some(both.clone())), both);
    }

    #[test]
    fn names_of_devices_are_checked() {
        for name in ["ferroce0", "mlx5_0", "a.b-c"] {
            assert_eq!(device_name(name).as_deref(), Ok(name));
        }
        for name in ["", "a/b", "../x", ".x", "a b", "ü", &"x".repeat(49)] {
            assert!(device_name(name).is_err(), "{name}");
        }
    }
}
