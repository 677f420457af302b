// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wait from a machine's start until one can log in, and what is wrong where that does not come.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::machine::{Started, CONSOLE_LOG, FIRMWARE_LOG, REPORT};
use super::{seed, Vm, SHARE};
use crate::boot::Accelerator;
use crate::error::{Error, Result};
use crate::progress::{self, note, Task, Unit};

/// How long it is looked for a sign of life.
const BETWEEN: Duration = Duration::from_millis(300);

/// Whether cloud-init's result, JSON of several lines, has a list of errors with something in it.
const HAS_ERRORS: &str =
    r#"tr -d '\n' < /run/cloud-init/result.json 2> /dev/null | grep -q '"errors": \[ *"'"#;

/// What comes by the console when all services are started: getty's prompt, or, if systemd gave up on the line
/// that getty is for, its own word.
const IS_UP: [&str; 2] = ["login:", "multi-user.target"];

/// How far a machine has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// The firmware looks for something to boot.
    Firmware,
    /// Something writes to the console: a boot loader, then a kernel.
    Kernel,
    /// cloud-init has found the seed.
    CloudInit,
    /// sshd greets, while cloud-init goes on.
    Greeting,
}

impl Stage {
    fn text(self) -> &'static str {
        match self {
            Stage::Firmware => "the firmware",
            Stage::Kernel => "the kernel",
            Stage::CloudInit => "cloud-init, which sets it up",
            Stage::Greeting => "sshd, which answers, and the rest of cloud-init",
        }
    }
}

/// How long things take at most.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Until one can log in, thrice that if packages are to be installed before.
    login: Duration,
    /// From the console's prompt, or from sshd's greeting, until cloud-init is heard of.
    cloud_init: Duration,
}

impl Limits {
    /// Many times of what was seen, with instructions that run and with such that are emulated.
    fn of(accelerator: &Accelerator) -> Self {
        let (login, cloud_init) = match accelerator {
            Accelerator::Kvm => (300, 60),
            Accelerator::Tcg { .. } | Accelerator::Counting => (1200, 240),
        };
        Self {
            login: Duration::from_secs(login),
            cloud_init: Duration::from_secs(cloud_init),
        }
    }
}

impl Vm {
    /// Waits until one can log in, for `limit` at most if that is given.
    pub fn wait(&self, started: &Started, limit: Option<Duration>) -> Result<()> {
        let mut limits = Limits::of(&started.accelerator);
        if !self.settings.packages.is_empty() {
            limits.login *= 3;
        }
        limits.login = limit.unwrap_or(limits.login);
        let begun = Instant::now();
        let mut prompt_since = None;
        let mut stage = self.stage();
        {
            let mut task = Task::start(
                "Booting",
                stage.text(),
                Unit::Seconds,
                limits.login.as_secs(),
            );
            loop {
                let now = self.stage();
                if now > stage {
                    stage = now;
                    task.line(&progress::noted("Booting", stage.text()));
                }
                task.at(begun.elapsed().as_secs(), &self.console_tail(1));
                if stage == Stage::Greeting && self.is_set_up()? {
                    break;
                }
                self.check_boots()?;
                if prompt_since.is_none() && self.has_prompt(stage) {
                    prompt_since = Some(Instant::now());
                }
                let since = prompt_since.filter(|_| !self.has_cloud_init());
                if since.is_some_and(|since| since.elapsed() > limits.cloud_init) {
                    return Err(self.lacks_cloud_init());
                }
                if begun.elapsed() > limits.login {
                    return Err(self.takes_too_long(limits.login));
                }
                thread::sleep(BETWEEN);
            }
        }
        note(
            "Ready",
            &format!("{} in {}", self.name, progress::time(begun.elapsed())),
        );
        Ok(())
    }

    /// Whether one can log in, and cloud-init has done all that it does when the machine boots: it may have
    /// sshd begin anew. Where it is switched off, after the first boot, there is nothing to wait for.
    fn is_set_up(&self) -> Result<bool> {
        self.succeeds(match self.has_cloud_init() {
            true => "test -e /run/cloud-init/result.json",
            false => "true",
        })
    }

    /// Says what is not as it was asked for.
    pub fn check(&self) -> Result<()> {
        if self.run(HAS_ERRORS)? == 0 {
            note(
                "Warning",
                "cloud-init has failed in part: /var/log/cloud-init-output.log there says why",
            );
        }
        let Some(share) = &self.settings.share else {
            return Ok(());
        };
        match self.run(&format!("mountpoint -q {SHARE}"))? {
            0 => note(
                "Shared",
                &format!("{} is {SHARE} there", share.display()),
            ),
            _ => note(
                "Warning",
                &format!(
                    "{} is not mounted at {SHARE} there. `sudo mount {SHARE}` says why; a kernel without 9p \
                     (CONFIG_NET_9P_VIRTIO), as those for clouds alone are, cannot mount it",
                    share.display()
                ),
            ),
        }
        Ok(())
    }

    fn log(&self, name: &str) -> String {
        let log = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn has_cloud_init(&self) -> bool {
        self.log(REPORT).contains(seed::SEEN)
    }

    fn stage(&self) -> Stage {
        let has_console = || fs::metadata(self.path(CONSOLE_LOG)).is_ok_and(|log| log.len() > 0);
        match () {
            () if greets(self.settings.port) => Stage::Greeting,
            () if self.has_cloud_init() => Stage::CloudInit,
            () if has_console() => Stage::Kernel,
            () => Stage::Firmware,
        }
    }

    /// Whether it has come as far as cloud-init would have been before.
    fn has_prompt(&self, stage: Stage) -> bool {
        let log = self.log(CONSOLE_LOG);
        stage == Stage::Greeting || IS_UP.iter().any(|text| log.contains(text))
    }

    /// Fails if it has ended, or has nothing to boot.
    fn check_boots(&self) -> Result<()> {
        let firmware = self.log(FIRMWARE_LOG);
        // SeaBIOS, src/boot.c.
        let has_nothing = ["No bootable device", "not a bootable disk"];
        if has_nothing.iter().any(|text| firmware.contains(text)) {
            return Err(Error::Usage(format!(
                "{}, the image of {name}, cannot be booted: the firmware, a BIOS, finds no boot loader on it. It \
                 is to be a whole disk for x86-64 that boots by BIOS, as the cloud images of Debian \
                 (debian-13-backports-generic-amd64.qcow2) and Ubuntu (noble-server-cloudimg-amd64.img) are, and \
                 not just a file system. {name} stays as it is: ferroce vm delete --force {name}",
                self.settings.base.file.display(),
                name = self.name,
            )));
        }
        if self.is_running() {
            return Ok(());
        }
        Err(Error::Guest {
            what: format!(
                "{} has ended while it booted. The end of what came by its console",
                self.name
            ),
            log: self.console_tail(25),
        })
    }

    fn lacks_cloud_init(&self) -> Error {
        Error::Guest {
            what: format!(
                "{name} has booted, but nothing in it has read the seed, which is to make a user and a key for \
                 ssh: its image, {}, seems to have no cloud-init, or to have run it before. Give one that was not \
                 booted yet and has it, such as Debian's `generic` or Ubuntu's cloud image (those of the name \
                 `nocloud` have none). {name} goes on: look at it by ferroce vm console {name}, or ferroce vm \
                 delete --force {name}. The end of what came by its console",
                self.settings.base.file.display(),
                name = self.name
            ),
            log: self.console_tail(10),
        }
    }

    fn takes_too_long(&self, limit: Duration) -> Error {
        Error::Guest {
            what: format!(
                "{name} does not let one in by ssh after {}. It goes on: wait on by ferroce vm start {name} \
                 --timeout SECONDS, look at it by ferroce vm console {name}, or end it by ferroce vm stop {name}. \
                 The end of what came by its console",
                progress::time(limit),
                name = self.name
            ),
            log: self.console_tail(25),
        }
    }
}

/// Whether sshd answers at a port. QEMU takes connections before there is anything behind it.
fn greets(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let wait = Duration::from_secs(2);
    let greeting = || {
        let mut stream = TcpStream::connect_timeout(&address, wait).ok()?;
        stream.set_read_timeout(Some(wait)).ok()?;
        let mut start = [0; 4];
        stream.read_exact(&mut start).ok()?;
        Some(start)
    };
    // RFC 4253, 4.2.
    greeting().is_some_and(|start| start == *b"SSH-")
}
