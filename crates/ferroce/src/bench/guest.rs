// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of the benchmark that runs in the guest: it goes through a plan
//! and tells what it measures, on standard output.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io::{self, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::measure::{self, Device, Values, MEBIBYTE};
use super::network::{Link, Network, DEVICE};
use super::perftest::{self, Report};
use super::plan::{grouped, Driver, Message, OneSided, Plan, Quantity, Sample, Step};
use super::profile::Recording;

/// A bandwidth test that is looked at: how long it sends, in s, which part of it
/// counts, in s before the end, and how often it is looked at.
const SEND: u32 = 4;
const WINDOW: (f64, f64) = (3.0, 1.0);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// How many places and functions are told, those with the greatest shares.
const PLACES: usize = 7;
const FUNCTIONS: usize = 7;

/// Goes through a plan, which is in JSON.
pub fn run(plan: &str) -> Result<i32> {
    let plan: Plan = serde_json::from_str(plan).context("the plan")?;
    let network = match plan.wire {
        true => Network::of_two(plan.mtu)?,
        false => Network::of_one(plan.mtu)?,
    };

    for round in 0..plan.rounds {
        for step in &plan.steps {
            for driver in Driver::in_turn(Driver::GUEST, round) {
                let kind = driver.kind().context("a guest has no device of UCX's")?;
                tell(&Message::Step(format!("{step}, {kind}")))?;
                let link = Link::new(&network, kind)?;
                let values = measure(step, &link).with_context(|| format!("{step} on {kind}"))?;
                drop(link);
                for (quantity, value) in values {
                    tell(&Message::Sample(Sample {
                        quantity,
                        driver,
                        round,
                        value,
                    }))?;
                }
            }
        }
    }
    tell(&Message::Done)?;
    Ok(0)
}

fn tell(message: &Message) -> Result<()> {
    writeln!(io::stdout(), "{}", serde_json::to_string(message)?)?;
    Ok(())
}

fn measure(step: &Step, link: &Link) -> Result<Values> {
    match *step {
        Step::Bandwidth { .. } | Step::QueuePairs { .. } | Step::Latency { .. } => {
            measure::values(step, link)
        }
        Step::Pingpong => {
            let program = "ibv_rc_pingpong";
            let output = link.start(program, "-g", &[])?.finish(program)?;
            Ok(vec![(Quantity::Pingpong, perftest::pingpong(&output)?)])
        }
        Step::Memcpy { size } => Ok(vec![(Quantity::Memcpy { size }, memcpy(size))]),
        Step::Create { count } => create(count),
        Step::Time { operation, size } => time(link, operation, size),
    }
}

/// The bandwidth of a copy in memory, in MiB/s: what a local transfer cannot
/// exceed by much.
fn memcpy(size: u64) -> f64 {
    let from = vec![1_u8; size as usize];
    let mut to = vec![0_u8; size as usize];
    let started = Instant::now();
    let mut copies = 0;
    while started.elapsed() < Duration::from_millis(500) {
        for _ in 0..16 {
            black_box(&mut to).copy_from_slice(black_box(&from));
        }
        copies += 16;
    }
    f64::from(copies) * size as f64 / MEBIBYTE / started.elapsed().as_secs_f64()
}

fn create(count: u32) -> Result<Values> {
    let mut python = Command::new("timeout");
    python
        .arg(perftest::LIMIT.as_secs().to_string())
        // Not one of the user's own, which would not have Debian's modules.
        .args(["/usr/bin/python3", "-c", include_str!("queue_pairs.py")])
        .args([DEVICE, &count.to_string()]);
    let output = python.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [seconds, bytes] = numbers[..] else {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("cannot create {} queue pairs: {errors}", grouped(count));
    };
    Ok(vec![
        (Quantity::CreationTime { count }, seconds),
        (Quantity::QueuePairMemory, bytes / 1024.0 / f64::from(count)),
    ])
}

/// Looks at a sender from outside while it sends: at its processor time, at the
/// counters of the device, and with perf at what all processors do.
///
/// How long the programs take until they send depends on the machine; that they
/// end when they have sent does not. So what counts is a time before the end.
fn time(link: &Link, operation: OneSided, size: u64) -> Result<Values> {
    let program = operation.program();
    let duration = SEND.to_string();
    let recording = Recording::start()?;
    let pair = measure::perftest(link, program, size, &["-D", &duration, "-f", "0"])?;
    let client = pair.client()?;
    let mut looks = Vec::new();
    while let Ok(look) = Look::at(&client) {
        looks.push(look);
        std::thread::sleep(BETWEEN_LOOKS);
    }
    let report = Report::parse(&pair.finish(program)?)?;
    let shares = recording
        .map(|r| r.finish(client.pid, WINDOW.0 - WINDOW.1))
        .transpose()?;

    let last = looks.last().context("the client ended at once")?;
    let nearest = |seconds: f64| {
        let at = last.at - Duration::from_secs_f64(seconds);
        looks.iter().min_by_key(|l| l.at.max(at) - l.at.min(at))
    };
    let (Some(before), Some(after)) = (nearest(WINDOW.0), nearest(WINDOW.1)) else {
        bail!("the client ended at once");
    };
    let elapsed = (after.at - before.at).as_secs_f64();
    let running = (after.ticks - before.ticks) as f64 / procfs::ticks_per_second() as f64;
    let mut values = vec![(Quantity::Running { size }, 100.0 * running / elapsed)];

    // Of the whole run, for which the device was made.
    let messages = report.messages()?;
    let mut counted = |what: &str, count: u64| {
        let what = what.to_owned();
        let quantity = Quantity::PerMessage { size, what };
        values.push((quantity, count as f64 / messages));
    };
    counted("context switches", last.switches);
    let counters = counters()?;
    for (name, count) in &counters {
        if *count > 0 {
            counted(name, *count);
        }
    }
    // What ferroce calls them. A request that is posted while the kernel still
    // looks at the queue needs no doorbell.
    if let (Some(sends), Some(doorbells)) = (counters.get("rdma_sends"), counters.get("doorbells"))
    {
        counted("doorbells elided", sends.saturating_sub(*doorbells));
    }
    if let Some(shares) = shares {
        let places = shares.places.into_iter().take(PLACES);
        values.extend(places.map(|(name, value)| (Quantity::Place { size, name }, value)));
        let functions = shares.functions.into_iter().take(FUNCTIONS);
        values.extend(functions.map(|(name, value)| (Quantity::Function { size, name }, value)));
    }
    Ok(values)
}

/// What is known of a process at one time.
struct Look {
    at: Instant,
    /// Processor time.
    ticks: u64,
    switches: u64,
}

impl Look {
    /// Fails when the process has ended.
    fn at(process: &procfs::process::Process) -> Result<Self> {
        let stat = process.stat()?;
        ensure!(stat.state != 'Z', "it has ended");
        let status = process.status()?;
        Ok(Self {
            at: Instant::now(),
            ticks: stat.utime + stat.stime,
            switches: status.voluntary_ctxt_switches.unwrap_or(0)
                + status.nonvoluntary_ctxt_switches.unwrap_or(0),
        })
    }
}

/// What the device counts, by the kernel's names: those of `rdma statistic`,
/// and those that are the device's and not a port's.
fn counters() -> Result<BTreeMap<String, u64>> {
    let device = format!("/sys/class/infiniband/{DEVICE}");
    let mut counters = BTreeMap::new();
    for folder in ["hw_counters", "ports/1/hw_counters"] {
        let Ok(entries) = fs::read_dir(format!("{device}/{folder}")) else {
            continue;
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(entry.path())?;
            if let Ok(count) = text.trim().parse()
                && name != "lifespan"
            {
                counters.insert(name, count);
            }
        }
    }
    Ok(counters)
}
