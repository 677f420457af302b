// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce bench`: measures ferroce against rdma_rxe, both in one guest, with
//! the programs of others.
//!
//! The guest runs this same program ([`guest`]), which goes through a [`plan`]
//! and prints samples; here they become tables, a file, and a picture.

mod chart;
pub mod guest;
mod network;
mod perftest;
pub mod plan;
mod profile;
mod table;

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};
use ferroce_lab::prerequisites::Purpose;
use ferroce_lab::progress::{note, time, Task, Unit};
use ferroce_lab::session::Session;

use crate::args::Bench;
use crate::lab::Ready;
use plan::{Message, Plan, Sample, Topic};
use table::{Record, Row};

/// The subcommand with which the guest is started.
pub const GUEST: &str = "bench-guest";

const PROCESSORS: u32 = 2;

pub fn run(args: &Bench) -> Result<i32> {
    use clap::ValueEnum;
    let mut topics = match &args.only[..] {
        [] => Topic::value_variants().to_vec(),
        only => only.to_vec(),
    };
    if args.wire && args.only.is_empty() {
        // That is the same, wherever its peer is.
        topics.retain(|topic| *topic != Topic::Cost);
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    let plan = Plan {
        steps: Plan::steps(&topics, args.quick),
        rounds,
        mtu: args.mtu,
        wire: args.wire,
    };

    // Before minutes have gone by.
    let output = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::open).transpose();
    let (csv, svg) = (output(&args.csv)?, output(&args.svg)?);

    let flavor = args.flavor();
    let counts_instructions = args.clock.counts_instructions(flavor)?;
    // With several, which take turns, the clock would go on while one waits for another.
    let processors = if counts_instructions { 1 } else { PROCESSORS };
    let purposes = [Purpose::Build(flavor), Purpose::Run(flavor), Purpose::Verbs];
    let ready = Ready::ensure(&args.setup, flavor, &purposes)?;
    let started = Instant::now();
    let what = format!(
        "ferroce and rdma_rxe in turn, in {rounds} rounds, with Linux {} on {flavor}",
        ready.kernel.release
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
            timeout: None,
            writable: Vec::new(),
            module_files: Vec::new(),
            terminal: false,
            show_log: false,
        },
        collector.clone(),
    )?;
    // Where the kernel has reported trouble, which rdma_rxe of Linux 7.2 gives it
    // with many queue pairs, the figures are there all the same.
    let Some(samples) = collector.finish() else {
        return Ok(status.max(1));
    };
    note("Measured", &format!("in {}", time(started.elapsed())));

    let rows = table::rows(&samples);
    let between = if args.wire { " between hosts" } else { "" };
    let machine = match counts_instructions {
        true => "a nanosecond is an instruction".to_owned(),
        false => format!("{PROCESSORS} processors"),
    };
    let title = format!(
        "ferroce and rdma_rxe{between}: Linux {} on {flavor}, {machine}, MTU {}",
        ready.kernel.release, args.mtu
    );
    show(&rows, &title, rounds)?;
    if let Some(file) = csv {
        let mut writer = csv::Writer::from_writer(Vec::new());
        for row in &rows {
            writer.serialize(Record::from(row))?;
        }
        file.write(&writer.into_inner().map_err(|e| e.into_error())?)?;
    }
    if let Some(file) = svg {
        file.write(chart::draw(&rows, &title)?.as_bytes())?;
    }
    Ok(status)
}

fn show(rows: &[Row], title: &str, rounds: u32) -> Result<()> {
    let mut out = io::stdout().lock();
    if let Some(table) = table::figures(rows) {
        writeln!(out, "\n{title}: medians of {rounds}\n\n{table}")?;
        writeln!(
            out,
            "\nThe ratio says how many times as good ferroce is: the median of the rounds."
        )?;
    }
    for (size, table) in table::explanations(rows) {
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
