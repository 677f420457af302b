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

use super::network::{Link, Network, DEVICE};
use super::perftest::{self, NoNumber, Pair, Report};
use super::plan::{
    grouped, Driver, Exchange, Message, OneSided, Plan, Quantity, Sample, Step, Which, SMALL,
};
use super::profile::Recording;

/// How long a bandwidth test sends, in s; and one on many queue pairs, where it
/// takes a second until each of them has requests under way.
const DURATION: u32 = 1;
const LONGER: u32 = 3;
/// And one that is looked at while it does: how long it sends, in s, which part
/// of it counts, in s before the end, and how often it is looked at.
const SEND: u32 = 4;
const WINDOW: (f64, f64) = (3.0, 1.0);
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
/// How many places and functions are told, those with the greatest shares.
const PLACES: usize = 7;
const FUNCTIONS: usize = 7;
/// How many times a latency is measured in a run.
const EXCHANGES: u32 = 2000;
/// The requests under way on each queue pair, where there may be many: the
/// completion queue, which they share, has room for 32,767 in rdma_rxe.
const DEPTH: u32 = 16;
/// How many times a run is tried in which perftest's clocks do not agree.
const TRIES: u32 = 10;

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Goes through a plan, which is in JSON.
pub fn run(plan: &str) -> Result<i32> {
    let plan: Plan = serde_json::from_str(plan).context("the plan")?;
    let network = match plan.wire {
        true => Network::of_two(plan.mtu)?,
        false => Network::of_one(plan.mtu)?,
    };

    for round in 0..plan.rounds {
        for step in &plan.steps {
            // Each is the first one in turn: what changes with time changes for both.
            let mut order = Driver::BOTH;
            order.rotate_left(round as usize % Driver::BOTH.len());
            for driver in order {
                tell(&Message::Step(format!("{step}, {}", driver.kind())))?;
                let link = Link::new(&network, driver.kind())?;
                let values =
                    measure(step, &link).with_context(|| format!("{step} on {}", driver.kind()))?;
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

type Values = Vec<(Quantity, f64)>;

fn measure(step: &Step, link: &Link) -> Result<Values> {
    match *step {
        Step::Bandwidth { operation, size } => bandwidth(link, operation, size),
        Step::QueuePairs { count } => {
            let depth = DEPTH.to_string();
            let count_text = count.to_string();
            let more = ["-q", &count_text, "-t", &depth];
            let quantity = Quantity::QueuePairRate { count };
            let rate = message_rate(link, OneSided::Write, SMALL, LONGER, &more)?;
            Ok(vec![(quantity, rate / 1000.0)])
        }
        Step::Latency { exchange } => latency(link, exchange),
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

/// Starts one of perftest's programs.
fn perftest(link: &Link, program: &str, size: u64, more: &[&str]) -> Result<Pair> {
    let size = size.to_string();
    link.start(program, "-x", &[&["-F", "-s", &size], more].concat())
}

/// Sends for a time in s without a margin before and after, and returns how many
/// messages went in a second.
///
/// perftest's own rates need its two clocks to agree; the number of messages in
/// a time that it was told does not.
fn message_rate(
    link: &Link,
    operation: OneSided,
    size: u64,
    duration: u32,
    more: &[&str],
) -> Result<f64> {
    let text = duration.to_string();
    let more = [&["-D", &text, "-f", "0"], more].concat();
    let program = operation.program();
    let pair = perftest(link, program, size, &more)?;
    let report = Report::parse(&pair.finish(program)?)?;
    Ok(report.messages()? / f64::from(duration))
}

fn bandwidth(link: &Link, operation: OneSided, size: u64) -> Result<Values> {
    let rate = message_rate(link, operation, size, DURATION, &[])?;
    let quantity = Quantity::Bandwidth { operation, size };
    let mut values = vec![(quantity, rate * size as f64 / MEBIBYTE)];
    if (operation, size) == (OneSided::Write, SMALL) {
        values.push((Quantity::MessageRate, rate / 1000.0));
    }
    Ok(values)
}

fn latency(link: &Link, exchange: Exchange) -> Result<Values> {
    let exchanges = EXCHANGES.to_string();
    let program = exchange.program();
    let columns = [
        (Which::Typical, "t_typical[usec]"),
        (Which::Average, "t_avg[usec]"),
        (Which::Percentile99, "99% percentile[usec]"),
    ];
    let mut tries = 1;
    loop {
        let pair = perftest(link, program, SMALL, &["-n", &exchanges])?;
        let report = Report::parse(&pair.finish(program)?)?;
        let values = columns.into_iter().map(|(which, column)| {
            let quantity = Quantity::Latency { exchange, which };
            Ok((quantity, report.get(column)?))
        });
        match values.collect::<Result<Values>>() {
            Err(error) if error.is::<NoNumber>() && tries < TRIES => tries += 1,
            result => return result,
        }
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
    let pair = perftest(link, program, size, &["-D", &duration, "-f", "0"])?;
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
