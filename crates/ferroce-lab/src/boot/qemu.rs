// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU: the same kernel as an x86-64 machine, its root the host's files
//! over 9p.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{card, detach, initramfs, Accelerator, Channel, Machine, Network, Running};
use crate::error::{Error, Result};
use crate::guest;
use crate::process;
use crate::progress::note;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

pub fn start(machine: &Machine, accelerator: Accelerator) -> Result<Running> {
    match machine.network {
        None => note("Booting", &format!("QEMU with {accelerator}")),
        // The others are the same.
        Some(network) if network.number == 1 => {
            let hosts = network.sockets.len() + 1;
            note(
                "Booting",
                &format!("{hosts} hosts on QEMU with {accelerator}"),
            );
        }
        Some(_) => {}
    }
    let failed = |source| Error::Start {
        program: PROGRAM.to_owned(),
        source,
    };
    let socket = machine.folder.join("channel");
    let listener = UnixListener::bind(&socket).map_err(Error::file("create", &socket))?;
    let (log, log_writer) = io::pipe().map_err(failed)?;

    // The way to restart that every machine has is a triple fault. And the timer works, which the kernel may
    // not see in time where each instruction is emulated.
    let mut arguments = ["console=ttyS0", "reboot=t", "no_timer_check"]
        .map(str::to_owned)
        .to_vec();
    let initramfs = match &machine.image.early {
        Some(modules) => {
            let place = machine.folder.join("initramfs");
            initramfs::write(&place, modules)?;
            Some(place)
        }
        None => {
            arguments.extend([
                format!("root={}", guest::ROOT_TAG),
                "rootfstype=9p".to_owned(),
                format!("rootflags={}", guest::ROOT_OPTIONS),
            ]);
            None
        }
    };
    arguments.extend(clock(&accelerator));
    arguments.extend(machine.kernel_arguments());
    let mut command = base(accelerator);
    command
        // Each in a socket of its own: the firmware's MP table, by which the kernel finds them, lists
        // one for each.
        .args(["-smp", &format!("{0},sockets={0}", machine.cpus)])
        .args(["-m", &format!("{}K", machine.memory >> 10)])
        .arg("-kernel")
        .arg(&machine.image.file)
        .args(["-append", &arguments.join(" ")])
        .args(["-device", "virtio-serial-pci"])
        .args([
            "-chardev",
            &format!("socket,id=channel,path={}", escaped(&socket)),
        ])
        .args([
            "-device",
            &format!("virtserialport,chardev=channel,name={}", guest::ARGUMENT),
        ])
        .args([
            "-virtfs",
            &share(guest::ROOT_TAG, Path::new("/"), ",readonly=on"),
        ]);
    if let Some(initramfs) = initramfs {
        command.arg("-initrd").arg(initramfs);
    }
    for (place, folder) in machine.writable.iter().enumerate() {
        command.args(["-virtfs", &share(&format!("rw{place}"), &folder.path(), "")]);
    }
    if let Some(network) = machine.network {
        join(&mut command, network);
    }
    if machine.cards > 0 {
        let host = machine.network.map_or(1, |network| network.number);
        card::add(&mut command, machine.cards, host, machine.folder)?;
    }
    if let Some(monitor) = machine.monitor {
        let socket = format!("unix:{},server=on,wait=off", escaped(monitor));
        command.args(["-qmp", &socket]);
    }
    command
        .stdin(Stdio::null())
        .stdout(log_writer.try_clone().map_err(failed)?)
        .stderr(log_writer);
    detach(&mut command);
    let process = command.spawn().map_err(failed)?;
    Ok(Running {
        process,
        log,
        channel: Channel::Listening(listener),
    })
}

/// Gives the machine a network card whose packets go to the others.
fn join(command: &mut Command, network: &Network) {
    for (place, socket) in network.sockets.iter().enumerate() {
        let socket = process::pass_on(command, socket);
        let link = format!("link{place}");
        command.args(["-netdev", &format!("socket,id={link},fd={socket}")]);
        let port = format!("hubport,id=port{place},hubid=0,netdev={link}");
        command.args(["-netdev", &port]);
    }
    command.args(["-netdev", "hubport,id=net,hubid=0"]);
    // It need not boot from the network.
    let card = format!(
        "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:00:00:{:02x}",
        network.number
    );
    command.args(["-device", &card]);
}

/// A machine with a serial line to standard output and nothing else.
pub fn base(accelerator: Accelerator) -> Command {
    let mut command = bare(&accelerator);
    command.args(["-no-reboot", "-serial", "stdio"]);
    command
}

/// A machine with nothing but processors.
pub fn bare(accelerator: &Accelerator) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(match accelerator {
            Accelerator::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg { .. } => ["-accel", "tcg,thread=multi", "-cpu", "max"],
            Accelerator::Counting => ["-accel", "tcg,thread=single", "-cpu", "max"],
        })
        .args(match accelerator {
            Accelerator::Kvm | Accelerator::Tcg { .. } => &[][..],
            Accelerator::Counting => &["-icount", "shift=0,sleep=off"],
        })
        .args(["-nodefaults", "-no-user-config", "-display", "none"]);
    command
}

/// What a kernel is told of the machine's clock.
///
/// TCG's time stamp counter is the host's, or that of the instructions. By itself the kernel cannot tell how
/// fast it runs, since none of the timers that it could compare it with is
/// emulated well enough, and would do with the tick: 4 ms.
fn clock(accelerator: &Accelerator) -> Vec<String> {
    let khz = match accelerator {
        Accelerator::Kvm => None,
        Accelerator::Tcg { .. } => tsc_khz(),
        // One a nanosecond.
        Accelerator::Counting => Some(1_000_000),
    };
    match khz {
        Some(khz) => vec![format!("tsc_early_khz={khz}"), "tsc=reliable".to_owned()],
        None => Vec::new(),
    }
}

/// The frequency of this machine's time stamp counter.
#[cfg(target_arch = "x86_64")]
fn tsc_khz() -> Option<u64> {
    let now = || {
        // SAFETY: Every x86-64 processor has the instruction, and Linux lets
        // processes use it unless one asked otherwise for itself (prctl(2)).
        let ticks = unsafe { std::arch::x86_64::_rdtsc() };
        (ticks, Instant::now())
    };
    let (ticks_before, before) = now();
    thread::sleep(Duration::from_millis(20));
    let (ticks, time) = now();
    let micros = u64::try_from((time - before).as_micros()).ok()?;
    ticks
        .checked_sub(ticks_before)?
        .checked_mul(1000)?
        .checked_div(micros)
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc_khz() -> Option<u64> {
    None
}

/// A 9p share of one of the host's folders.
pub fn share(tag: &str, folder: &Path, options: &str) -> String {
    let folder = escaped(folder);
    format!("local,path={folder},mount_tag={tag},security_model=none,multidevs=remap{options}")
}

/// QEMU's options end at a comma unless there are two.
pub fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
