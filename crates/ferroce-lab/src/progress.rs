// SPDX-License-Identifier: MIT OR Apache-2.0
//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use console::style;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Says one thing, with its verb in front as cargo does.
pub fn note(verb: &str, text: &str) {
    eprintln!("{}", noted(verb, text));
}

/// The same as a line.
pub fn noted(verb: &str, text: &str) -> String {
    let verb = style(format!("{verb:>12}")).green().bold().for_stderr();
    format!("{verb} {text}")
}

/// What a task counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as such.
    Bytes,
    /// Steps of the kernel's build, of which the total is an estimate.
    Steps,
    /// Runs of programs that are measured.
    Runs,
    /// Seconds of waiting, of which the total is the most that there can be.
    Seconds,
}

/// How long the log of a build is left without a line.
const SELDOM: Duration = Duration::from_secs(5);

/// A task under way.
///
/// Off a terminal it prints a line at each tenth, if it takes long.
#[derive(Debug)]
pub struct Task {
    bar: ProgressBar,
    plain: bool,
    verb: &'static str,
    unit: Unit,
    total: u64,
    tenths: u64,
    told: Instant,
}

impl Task {
    /// Starts a task and says so.
    pub fn start(verb: &'static str, what: &str, unit: Unit, total: u64) -> Self {
        note(verb, what);
        let plain = !console::user_attended_stderr();
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(total.max(1)), target);
        let template = match unit {
            Unit::Bytes => "{spinner:>12} [{bar:25}] {bytes} of {total_bytes}, {eta} left",
            Unit::Steps => {
                "{spinner:>12} [{bar:25}] {pos} of about {len}, {elapsed} {wide_msg:.dim}"
            }
            Unit::Seconds => "{spinner:>12} {elapsed} {wide_msg:.dim}",
            Unit::Runs => "{spinner:>12} [{bar:25}] {pos} of {len}, {elapsed} {wide_msg:.dim}",
        };
        let look = ProgressStyle::with_template(template).expect("a constant template");
        bar.set_style(look.progress_chars("=> "));
        Self {
            bar,
            plain,
            verb,
            unit,
            total,
            tenths: 0,
            told: Instant::now(),
        }
    }

    /// Moves to `done`, of the total given at the start.
    pub fn set(&mut self, done: u64) {
        if done >= self.total && self.unit != Unit::Runs {
            // The estimate was low: keep the bar truthful.
            self.bar.set_length(done + 1);
        }
        self.bar.set_position(done);
        let tenths = done * 10 / self.total.max(1);
        if self.plain && tenths > self.tenths && tenths < 10 && self.told.elapsed() >= SELDOM {
            self.tenths = tenths;
            self.told = Instant::now();
            let (done, total) = match self.unit {
                Unit::Bytes => (bytes(done), bytes(self.total)),
                Unit::Steps => (done.to_string(), format!("about {}", self.total)),
                Unit::Runs => (done.to_string(), self.total.to_string()),
                Unit::Seconds => (format!("{done} s"), format!("{} s at most", self.total)),
            };
            note(self.verb, &format!("{done} of {total}"));
        }
    }

    /// One step further, which is `what`.
    pub fn step(&mut self, what: &str) {
        self.at(self.bar.position() + 1, what);
    }

    /// Moves to `done`, where the next thing is `what`.
    pub fn at(&mut self, done: u64, what: &str) {
        self.bar.set_message(what.to_owned());
        self.set(done);
    }

    /// How far it is.
    pub fn done(&self) -> u64 {
        self.bar.position()
    }

    /// Prints a line above the bar.
    pub fn line(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A size as a person reads it.
pub fn bytes(n: u64) -> String {
    indicatif::BinaryBytes(n).to_string()
}

/// A duration as a person reads it.
pub fn time(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        s @ 60.. => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{:.1} s", elapsed.as_secs_f64()),
    }
}
