// SPDX-License-Identifier: MIT OR Apache-2.0
//! What perftest measures, in a guest and on this machine.

use anyhow::{bail, Result};

use super::perftest::{NoNumber, Pair, Report};
use super::plan::{Exchange, OneSided, Quantity, Step, Which, SMALL};

/// How long a bandwidth test sends, in s; and one on many queue pairs, where it
/// takes a second until each of them has requests under way.
const DURATION: u32 = 1;
const LONGER: u32 = 3;
/// How many times a latency is measured in a run.
pub const EXCHANGES: u32 = 2000;
/// The requests under way on each queue pair, where there may be many: the
/// completion queue, which they share, has room for 32,767 in rdma_rxe.
const DEPTH: u32 = 16;
/// How many times a run is tried in which perftest's clocks do not agree.
const TRIES: u32 = 10;

pub const MEBIBYTE: f64 = (1 << 20) as f64;

pub type Values = Vec<(Quantity, f64)>;

/// What a pair of programs can be started on.
pub trait Device {
    /// Starts a pair of programs, which are told their device, the index of its
    /// GID by an option of their own, and `more`.
    fn start(&self, program: &str, gid_option: &str, more: &[&str]) -> Result<Pair>;
}

/// Takes a step that is one of perftest's.
pub fn values(step: &Step, device: &impl Device) -> Result<Values> {
    match *step {
        Step::Bandwidth { operation, size } => bandwidth(device, operation, size),
        Step::QueuePairs { count } => {
            let depth = DEPTH.to_string();
            let count_text = count.to_string();
            let more = ["-q", &count_text, "-t", &depth];
            let quantity = Quantity::QueuePairRate { count };
            let rate = message_rate(device, OneSided::Write, SMALL, LONGER, &more)?;
            Ok(vec![(quantity, rate / 1000.0)])
        }
        Step::Latency { exchange } => latency(device, exchange),
        _ => bail!("perftest does not measure that"),
    }
}

/// Starts one of perftest's programs.
pub fn perftest(device: &impl Device, program: &str, size: u64, more: &[&str]) -> Result<Pair> {
    let size = size.to_string();
    device.start(program, "-x", &[&["-F", "-s", &size], more].concat())
}

/// Sends for a time in s without a margin before and after, and returns how many
/// messages went in a second.
///
/// perftest's own rates need its two clocks to agree; the number of messages in
/// a time that it was told does not.
fn message_rate(
    device: &impl Device,
    operation: OneSided,
    size: u64,
    duration: u32,
    more: &[&str],
) -> Result<f64> {
    let text = duration.to_string();
    let more = [&["-D", &text, "-f", "0"], more].concat();
    let program = operation.program();
    let pair = perftest(device, program, size, &more)?;
    let report = Report::parse(&pair.finish(program)?)?;
    Ok(report.messages()? / f64::from(duration))
}

fn bandwidth(device: &impl Device, operation: OneSided, size: u64) -> Result<Values> {
    let rate = message_rate(device, operation, size, DURATION, &[])?;
    Ok(of_rate(operation, size, rate))
}

/// What follows from the number of messages in a second.
pub fn of_rate(operation: OneSided, size: u64, rate: f64) -> Values {
    let quantity = Quantity::Bandwidth { operation, size };
    let mut values = vec![(quantity, rate * size as f64 / MEBIBYTE)];
    if (operation, size) == (OneSided::Write, SMALL) {
        values.push((Quantity::MessageRate, rate / 1000.0));
    }
    values
}

fn latency(device: &impl Device, exchange: Exchange) -> Result<Values> {
    let exchanges = EXCHANGES.to_string();
    let program = exchange.program();
    let columns = [
        (Which::Typical, "t_typical[usec]"),
        (Which::Average, "t_avg[usec]"),
        (Which::Percentile99, "99% percentile[usec]"),
    ];
    let mut tries = 1;
    loop {
        let pair = perftest(device, program, SMALL, &["-n", &exchanges])?;
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
