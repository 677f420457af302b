// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU, which goes on running when ferroce has ended.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use rustix::process::Pid;

use super::{disk, seed, Vm};
use crate::boot::{qemu, Accelerator};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::progress::note;

/// The socket of the first serial line, which is the console.
pub const CONSOLE: &str = "console.sock";
/// All that came by it since the machine was started.
pub const CONSOLE_LOG: &str = "console.log";
/// What came by the second serial line: see [`seed::SEEN`].
pub const REPORT: &str = "report.log";
/// What the firmware said.
pub const FIRMWARE_LOG: &str = "firmware.log";
/// The socket by which QEMU is told what to do.
pub const MONITOR: &str = "qmp.sock";
const PID: &str = "qemu.pid";

/// A machine that was just started.
#[derive(Debug)]
pub struct Started {
    /// How its instructions are run.
    pub accelerator: Accelerator,
}

impl Vm {
    /// Starts it; it then goes on by itself.
    pub fn start(&self, cache: &Cache) -> Result<Started> {
        let settings = &self.settings;
        settings.base.check_unchanged(&self.name)?;
        settings.check()?;
        self.write_ssh_config()?;
        // Those of the time before are not to be taken for this one's.
        for name in [CONSOLE_LOG, REPORT, FIRMWARE_LOG] {
            let path = self.path(name);
            fs::write(&path, "").map_err(Error::file("write", path))?;
        }
        let accelerator = Accelerator::choose(cache, None)?;
        let what = format!(
            "{}, {} processors, on QEMU with {accelerator}",
            self.name, settings.cpus
        );
        note("Starting", &what);

        let escaped = |name: &str| qemu::escaped(&self.path(name));
        let mut command = qemu::bare(&accelerator);
        command
            .args(["-name", &self.name])
            .args(["-smp", &settings.cpus.to_string()])
            .args(["-m", &format!("{}K", settings.memory >> 10)])
            .arg("-drive")
            .arg(format!(
                "file={},format=qcow2,if=virtio,discard=unmap",
                escaped(disk::FILE)
            ))
            .arg("-drive")
            .arg(format!(
                "file={},format=raw,if=virtio,readonly=on",
                escaped(seed::FILE)
            ))
            .arg("-netdev")
            .arg(format!(
                "user,id=net,hostfwd=tcp:127.0.0.1:{}-:22",
                settings.port
            ))
            // It boots from its disk, and needs no firmware for the card.
            .arg("-device")
            .arg(format!(
                "virtio-net-pci,netdev=net,romfile=,mac={}",
                seed::MAC
            ))
            .args(["-device", "virtio-rng-pci"])
            .arg("-chardev")
            .arg(format!(
                "socket,id=console,path={},server=on,wait=off,logfile={}",
                escaped(CONSOLE),
                escaped(CONSOLE_LOG)
            ))
            .args(["-serial", "chardev:console"])
            .arg("-chardev")
            .arg(format!("file,id=report,path={}", escaped(REPORT)))
            .args(["-serial", "chardev:report"])
            .arg("-chardev")
            .arg(format!("file,id=firmware,path={}", escaped(FIRMWARE_LOG)))
            // The port at which SeaBIOS tells what it does.
            .args(["-device", "isa-debugcon,iobase=0x402,chardev=firmware"])
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", escaped(MONITOR)))
            .arg("-daemonize")
            .arg("-pidfile")
            .arg(self.path(PID));
        if let Some(share) = &settings.share {
            command.args(["-virtfs", &qemu::share(seed::SHARE_TAG, share, "")]);
        }
        // It ends when the machine has all that it asks for, and goes on in another process.
        let output = command
            .stdin(Stdio::null())
            .output()
            .map_err(|source| Error::Start {
                program: qemu::PROGRAM.to_owned(),
                source,
            })?;
        match output.status.success() {
            true => Ok(Started { accelerator }),
            false => Err(Error::Failed {
                what: format!("starting {} on QEMU", self.name),
                status: output.status,
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
        }
    }

    /// The same for one that was started before.
    pub fn started(&self, cache: &Cache) -> Result<Started> {
        note("Running", &self.name);
        let accelerator = Accelerator::choose(cache, None)?;
        Ok(Started { accelerator })
    }

    /// The QEMU that runs it. A file that was left with the number of another process is not believed.
    pub(super) fn process(&self) -> Option<Pid> {
        let file = self.path(PID);
        let number: i32 = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        is_started_with(number, &file).then(|| Pid::from_raw(number))?
    }

    /// The end of what came by its console, without what only a terminal makes use of.
    pub(super) fn console_tail(&self, lines: usize) -> String {
        let log = fs::read(self.path(CONSOLE_LOG)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log).into_owned();
        let text = console::strip_ansi_codes(&text).replace('\r', "");
        crate::reports::tail(&text, lines)
    }
}

/// Whether a process has a file among its arguments.
fn is_started_with(number: i32, file: &Path) -> bool {
    let arguments = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
    let file = file.as_os_str().as_encoded_bytes();
    arguments.split(|byte| *byte == 0).any(|word| word == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_arguments() {
        let mut sleep = std::process::Command::new("sh")
            .args(["-c", "read x", "/some/vm.pid"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let number = sleep.id() as i32;
        // Until it has become sh.
        while !is_started_with(number, Path::new("/some/vm.pid")) {
            std::thread::yield_now();
        }
        assert!(!is_started_with(number, Path::new("/other/vm.pid")));
        drop(sleep.stdin.take());
        sleep.wait().unwrap();
        assert!(!is_started_with(number, Path::new("/some/vm.pid")));
    }
}
