// SPDX-License-Identifier: MIT OR Apache-2.0
//! One guest from start to end: boots it, joins its streams to ours, and finds
//! out how it ended.

mod conversation;
pub mod hosts;
mod job;
mod log;
mod streams;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::boot::{Machine, Running};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::provider::Provider;
use crate::reports;
use conversation::{watch_signals, End};
use hosts::Member;
use log::Log;

/// What is to run, and in what kind of machine.
#[derive(Debug, Clone)]
pub struct Session {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// How many processors the guest has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// What its kernel's command line has beside what the lab needs.
    pub append: Vec<String>,
    /// Whether its clock counts instructions, one a nanosecond: QEMU alone can do that.
    pub counts_instructions: bool,
    /// How many cards it has, up to [`MOST`](crate::boot::card::MOST): with QEMU alone.
    pub cards: u32,
    /// Where QEMU's monitor (QMP) is to listen, if anywhere.
    pub monitor: Option<PathBuf>,
    /// After how long it is ended.
    pub timeout: Option<Duration>,
    /// The host's folders that it may change.
    pub writable: Vec<PathBuf>,
    /// Module files to load before the command runs.
    pub module_files: Vec<ModuleFile>,
    /// Whether the command gets a terminal, which then is this one.
    pub terminal: bool,
    /// Whether the kernel's log is shown as it comes.
    pub show_log: bool,
}

/// A module's file, and what it is to be given.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// The file.
    pub path: PathBuf,
    /// Its parameters, each NAME=VALUE.
    pub parameters: Vec<OsString>,
}

/// Exit statuses of the lab's own, beside the command's.
pub mod status {
    /// The kernel reported an oops, a warning, or a checker's finding.
    pub const KERNEL_REPORT: i32 = 99;
    /// The time-out ended the guest, as timeout(1) has it.
    pub const TIMEOUT: i32 = 124;
    /// The lab failed.
    pub const LAB: i32 = 125;
}

/// How long a guest may take until it listens: thrice of what the slowest
/// debug kernel under emulation took.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);

impl Session {
    /// Runs it, its standard output going to `output`, and returns the exit
    /// status; what there is to say of other ends than the command's own is said
    /// on standard error.
    pub fn run(
        &self,
        cache: &Cache,
        image: &Image,
        provider: Option<&Provider>,
        output: impl Write + Send + 'static,
    ) -> Result<i32> {
        self.run_as(cache, image, provider, output, io::stderr, None)
    }

    /// The same for one of several hosts, or for the only one. `errors` makes writers for all that goes to
    /// standard error.
    fn run_as<E: Write + Send + 'static>(
        &self,
        cache: &Cache,
        image: &Image,
        provider: Option<&Provider>,
        output: impl Write + Send + 'static,
        errors: impl Fn() -> E,
        member: Option<&Member>,
    ) -> Result<i32> {
        let folder = tempfile::Builder::new()
            .prefix("ferroce-")
            .tempdir()
            .map_err(Error::file("create a folder in", std::env::temp_dir()))?;
        let job = self.job(image, provider, folder.path(), member)?;
        let file = folder.path().join("job");
        job.write(&file).map_err(Error::file("write", file))?;
        // By way of a link, for the kernel's command line ends at spaces.
        let link = folder.path().join("init");
        std::os::unix::fs::symlink(job.program.path(), &link)
            .map_err(Error::file("create", link))?;

        // Before the guest starts, so that a signal in between is not lost.
        let (events, inbox) = mpsc::channel();
        watch_signals(events.clone())?;
        if let Some(member) = member {
            member.join(events.clone());
        }
        let machine = Machine {
            image,
            cpus: self.cpus,
            memory: self.memory,
            append: &self.append,
            counts_instructions: self.counts_instructions,
            writable: &job.writable,
            folder: folder.path(),
            network: member.map(|member| &member.network),
            cards: self.cards,
            monitor: self.monitor.as_deref(),
        };
        let Running {
            mut process,
            log,
            channel,
        } = machine.start(cache)?;
        let log = Log::collect(log, self.show_log.then(&errors));
        let end = self.converse(channel, (output, errors()), events, &inbox, member);

        match end {
            Ok(End::Command { .. } | End::Failed { .. } | End::Refused { .. } | End::Died) => {
                finish(&mut process, POWER_OFF_LIMIT)
            }
            _ => finish(&mut process, Duration::ZERO),
        }
        self.conclude(end?, &log.end(), errors())
    }

    fn conclude(&self, end: End, log: &str, mut errors: impl Write) -> Result<i32> {
        // Nothing can be said where standard error is closed.
        let mut say = |text: &str| drop(writeln!(errors, "ferroce: {text}"));
        if let Some(report) = reports::find(log) {
            say(&format!(
                "the guest's kernel reported trouble: {}\n{}",
                report.title, report.text
            ));
            return Ok(status::KERNEL_REPORT);
        }
        let failed = |what: String, lines: usize| {
            Err(Error::Guest {
                what,
                log: reports::tail(log, lines),
            })
        };
        match end {
            End::Command { taint, .. } if reports::tainted(taint) => {
                let tail = reports::tail(log, 40);
                say(&format!(
                    "the guest's kernel is tainted by a report (flags {taint:#x})\n{tail}"
                ));
                Ok(status::KERNEL_REPORT)
            }
            End::Command { status, .. } => Ok(status),
            End::Failed { what, status } => {
                say(&what);
                Ok(status)
            }
            End::Refused { file, what } => {
                let path = self.module_files.get(file).map(|f| f.path.clone());
                let path = path.unwrap_or_default();
                Err(Error::Refused { path, what })
            }
            End::Signal(signal) => Ok(128 + signal),
            // Which is the one that counts.
            End::OtherFailed => Ok(0),
            End::OutputClosed(channel) => {
                // Not before: the guest has ended.
                drop(channel);
                Ok(128 + Signal::PIPE.as_raw())
            }
            End::Died => failed(
                "the guest ended without a word. The end of its kernel's log".to_owned(),
                25,
            ),
            End::NoBoot => failed(
                format!(
                    "the guest did not come up in {} s. The end of its kernel's log",
                    BOOT_LIMIT.as_secs()
                ),
                25,
            ),
            End::Timeout => {
                let limit = self.timeout.unwrap_or_default().as_secs_f64();
                let tail = reports::tail(log, 25);
                say(&format!(
                    "the guest was ended after {limit} s. The end of its kernel's log:\n{tail}"
                ));
                Ok(status::TIMEOUT)
            }
        }
    }
}

/// Waits for the machine to power off, and ends it if it does not.
fn finish(process: &mut Child, limit: Duration) {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    // The whole group: User-Mode Linux has a process for each of the guest's.
    if let Some(group) = Pid::from_raw(process.id() as i32) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = process.wait();
}
