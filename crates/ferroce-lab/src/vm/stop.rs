// SPDX-License-Identifier: MIT OR Apache-2.0
//! The end of a machine: it is asked to power off, and ended if it does not.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Signal};

use super::machine::MONITOR;
use super::qmp::Monitor;
use super::Vm;
use crate::error::{Error, Result};
use crate::progress::{self, note, Task, Unit};

/// How long QEMU may take to end when it is told to.
const QUIT_LIMIT: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(100);

impl Vm {
    /// Has it power off, for `limit` at most, and then ends it.
    pub fn stop(&self, limit: Duration) -> Result<()> {
        if !self.is_running() {
            note("Stopped", &format!("{} did not run", self.name));
            return Ok(());
        }
        let begun = Instant::now();
        let has_ended = !limit.is_zero() && self.tell("system_powerdown") && {
            let what = format!("{}, which powers off", self.name);
            let mut task = Task::start("Stopping", &what, Unit::Seconds, limit.as_secs());
            self.ends_within(limit, |elapsed| {
                task.at(elapsed.as_secs(), &self.console_tail(1));
            })
        };
        if !has_ended {
            self.quit()?;
        }
        let took = progress::time(begun.elapsed());
        let how = match has_ended || limit.is_zero() {
            true => "",
            false => ": it did not power off, and was ended, as by pulling the plug",
        };
        note("Stopped", &format!("{} in {took}{how}", self.name));
        Ok(())
    }

    /// Ends it at once.
    fn quit(&self) -> Result<()> {
        if self.tell("quit") && self.ends_within(QUIT_LIMIT, |_| {}) {
            return Ok(());
        }
        if let Some(process) = self.process() {
            kill_process(process, Signal::KILL)
                .map_err(|errno| Error::file("end QEMU of", &self.folder)(errno.into()))?;
        }
        match self.ends_within(QUIT_LIMIT, |_| {}) {
            true => Ok(()),
            false => Err(Error::Usage(format!(
                "the QEMU of {} does not end, though it was killed",
                self.name
            ))),
        }
    }

    /// Whether QEMU took a command.
    fn tell(&self, command: &str) -> bool {
        let monitor = Monitor::connect(&self.path(MONITOR));
        monitor.is_ok_and(|mut monitor| monitor.execute(command).is_ok())
    }

    fn ends_within(&self, limit: Duration, mut tell: impl FnMut(Duration)) -> bool {
        let begun = Instant::now();
        while self.is_running() {
            if begun.elapsed() > limit {
                return false;
            }
            tell(begun.elapsed());
            thread::sleep(BETWEEN);
        }
        true
    }
}
