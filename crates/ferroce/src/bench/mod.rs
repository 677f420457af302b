// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce bench`: measures ferroce against rdma_rxe, both in one guest, with
//! the programs of others.
//!
//! The guest runs this same program ([`guest`]), which goes through a [`plan`]
//! and prints samples; here they become tables, a file, and a picture. With
//! `--native` this program goes through the steps itself ([`native`]), and what
//! ferroce is measured against is UCX.

pub mod args;
mod chart;
pub mod guest;
mod measure;
mod native;
mod network;
mod perftest;
pub mod plan;
mod profile;
mod table;
mod ucx;

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ferroce_lab::prerequisites::Purpose;
use ferroce_lab::progress::{note, time, Task, Unit};
use ferroce_lab::session::Session;

use crate::lab::args::Choice;
use crate::lab::Ready;
use args::Bench;
use plan::{Driver, Message, Plan, Sample, Topic};
use table::Row;

/// The subcommand with which the guest is started.
pub const GUEST: &str = "bench-guest";

const PROCESSORS: u32 = 2;

pub fn run(args: &Bench) -> Result<i32> {
    // Before minutes have gone by.
    let output = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::open).transpose();
    let (csv, svg) = (output(&args.csv)?, output(&args.svg)?);
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    let measured = match args.native {
        true => native::run(args, rounds)?,
        false => in_guest(args, rounds)?,
    };
    let Measured {
        samples,
        drivers,
        title,
        elapsed,
        status,
    } = measured;
    let Some(samples) = samples else {
        return Ok(status.max(1));
    };
    note("Measured", &format!("in {}", time(elapsed)));

    let [_, other] = drivers;
    let rows = table::rows(&samples, other);
    show(&rows, other, &title, rounds)?;
    if let Some(file) = csv {
        file.write(&table::csv(&rows, other)?)?;
    }
    if let Some(file) = svg {
        file.write(chart::draw(&rows, drivers, &title)?.as_bytes())?;
    }
    Ok(status)
}

/// What has come of a benchmark.
struct Measured {
    /// `None` if not all have come.
    samples: Option<Vec<Sample>>,
    drivers: [Driver; 2],
    /// What was measured, and where.
    title: String,
    elapsed: Duration,
    status: i32,
}

fn in_guest(args: &Bench, rounds: u32) -> Result<Measured> {
    use clap::ValueEnum;
    let mut topics = match &args.only[..] {
        [] => Topic::value_variants().to_vec(),
        only => only.to_vec(),
    };
    if args.wire && args.only.is_empty() {
        // That is the same, wherever its peer is.
        topics.retain(|topic| *topic != Topic::Cost);
    }
    let plan = Plan {
        steps: Plan::steps(&topics, args.quick),
        rounds,
        mtu: args.mtu,
        wire: args.wire,
    };

    let flavor = args.flavor();
    let counts_instructions = args.clock.counts_instructions(flavor.backend)?;
    // With several, which take turns, the clock would go on while one waits for another.
    let processors = if counts_instructions { 1 } else { PROCESSORS };
    let ready = Ready::ensure(&args.setup, &Choice::Built(flavor), &[Purpose::Verbs])?;
    let started = Instant::now();
    let what = format!(
        "ferroce and rdma_rxe in turn, in {rounds} rounds, with Linux {} on {flavor}",
        ready.image.release
    );
    let collector = Collector::new(Task::start("Measuring", &what, Unit::Runs, plan.runs()));
    let program = std::env::current_exe().context("cannot find the running program")?;
    let status = ready.run_to(
        &Session {
            command: vec![
                program.into(),
                GUEST.into(),
                OsString::from(serde_json::to_string(&plan)?),
            ],
            cpus: processors,
            memory: 2 << 30,
            append: Vec::new(),
            counts_instructions,
            cards: 0,
            monitor: None,
            timeout: None,
            writable: Vec::new(),
            module_files: Vec::new(),
            terminal: false,
            show_log: false,
        },
        collector.clone(),
    )?;
    let between = if args.wire { " between hosts" } else { "" };
    let machine = match counts_instructions {
        true => "a nanosecond is an instruction".to_owned(),
        false => format!("{PROCESSORS} processors"),
    };
    let title = format!(
        "ferroce and rdma_rxe{between}: Linux {} on {flavor}, {machine}, MTU {}",
        ready.image.release, args.mtu
    );
    Ok(Measured {
        // Where the kernel has reported trouble, which rdma_rxe of Linux 7.2 gives it
        // with many queue pairs, the figures are there all the same.
        samples: collector.finish(),
        drivers: Driver::GUEST,
        title,
        elapsed: started.elapsed(),
        status,
    })
}

fn show(rows: &[Row], other: Driver, title: &str, rounds: u32) -> Result<()> {
    let mut out = io::stdout().lock();
    if let Some(table) = table::figures(rows, other) {
        writeln!(out, "\n{title}: medians of {rounds}\n\n{table}")?;
        writeln!(
            out,
            "\nThe ratio says how many times as good ferroce is: the median of the rounds."
        )?;
        if rows.iter().any(|row| row.goal.is_some()) {
            writeln!(
                out,
                "A goal is the least ratio: 0.667 is a latency of 1.5 times UCX's."
            )?;
        }
    }
    for (size, table) in table::explanations(rows, other) {
        writeln!(
            out,
            "\nWhere the time goes with ib_write_bw, {}:\n\n{table}",
            plan::bytes(size)
        )?;
    }
    Ok(())
}

/// A file that appears when it is whole.
struct OutputFile {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    fn open(path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    fn write(mut self, contents: &[u8]) -> Result<()> {
        let wrap = || format!("cannot write {}", self.path.display());
        self.file.write_all(contents).with_context(wrap)?;
        self.file.persist(&self.path).with_context(wrap)?;
        note("Written", &self.path.display().to_string());
        Ok(())
    }
}

/// Takes what the guest prints.
#[derive(Clone)]
struct Collector(Arc<Mutex<Collected>>);

struct Collected {
    line: Vec<u8>,
    samples: Vec<Sample>,
    task: Option<Task>,
    steps: u64,
    done: bool,
}

impl Collector {
    fn new(task: Task) -> Self {
        Self(Arc::new(Mutex::new(Collected {
            line: Vec::new(),
            samples: Vec::new(),
            task: Some(task),
            steps: 0,
            done: false,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Ends the progress, and returns the samples if all have come.
    fn finish(&self) -> Option<Vec<Sample>> {
        let mut all = self.lock();
        all.task = None;
        all.done.then(|| std::mem::take(&mut all.samples))
    }
}

impl Write for Collector {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.lock();
        all.line.extend_from_slice(bytes);
        while let Some(end) = all.line.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = all.line.drain(..=end).collect();
            match serde_json::from_slice(&line).map_err(io::Error::other)? {
                Message::Sample(sample) => all.samples.push(sample),
                Message::Done => all.done = true,
                Message::Step(step) => {
                    let done = all.steps;
                    all.steps += 1;
                    if let Some(task) = &mut all.task {
                        task.at(done, &step);
                    }
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
