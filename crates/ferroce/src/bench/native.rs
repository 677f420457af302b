// SPDX-License-Identifier: MIT OR Apache-2.0
//! The benchmark without a guest: the device of `ferroce run` beside UCX with
//! shared memory, on this machine.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::{ensure, Purpose};
use ferroce_lab::progress::{Task, Unit};

use super::args::Bench;
use super::measure::{self, Device};
use super::perftest::{Pair, Side};
use super::plan::{native_steps, Driver, Quantity, Sample, Step, NATIVE_TOPICS};
use super::{ucx, Measured};

/// Where the servers are.
pub const ADDRESS: &str = "127.0.0.1";

/// The device of `ferroce run`.
struct Ferroce {
    by: Vec<OsString>,
}

impl Device for Ferroce {
    fn start(&self, program: &str, gid_option: &str, more: &[&str]) -> Result<Pair> {
        // The first index that is an IPv4 address.
        let own = ["-d", "ferroce0", gid_option, "1"];
        let side = Side {
            by: self.by.clone(),
            arguments: own.iter().chain(more).map(|a| (*a).to_owned()).collect(),
        };
        Pair::start(program, &side, &side, (ADDRESS, free_port()?))
    }
}

/// A TCP port that nobody has.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((ADDRESS, 0)).context("cannot find a free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// The two that take a step in a round. What is compared with ferroce itself needs
/// no other.
fn drivers(step: &Step, round: u32) -> Vec<Driver> {
    match step {
        Step::QueuePairs { .. } => vec![Driver::Ferroce],
        _ => Driver::in_turn(Driver::NATIVE, round).to_vec(),
    }
}

/// Whether the table has a row of it: what has a goal, and what a goal is
/// reckoned from.
fn is_told(quantity: &Quantity) -> bool {
    quantity.native_goal().is_some() || matches!(quantity, Quantity::QueuePairRate { .. })
}

pub fn run(args: &Bench, rounds: u32) -> Result<Measured> {
    let topics = match &args.only[..] {
        [] => &NATIVE_TOPICS,
        only => only,
    };
    let steps = native_steps(topics, args.quick)?;
    ensure(
        &Cache::open()?,
        &[Purpose::NativeBench],
        args.setup.install(),
    )?;
    let program = std::env::current_exe().context("cannot find the running program")?;
    let ferroce = Ferroce {
        by: vec![program.into(), "run".into(), "--".into()],
    };

    let runs: usize = steps.iter().map(|step| drivers(step, 0).len()).sum();
    let what = format!("ferroce run and UCX in turn, in {rounds} rounds");
    let total = runs as u64 * u64::from(rounds);
    let mut task = Task::start("Measuring", &what, Unit::Runs, total);
    let started = std::time::Instant::now();
    let mut samples = Vec::new();
    let mut done = 0;
    for round in 0..rounds {
        for step in &steps {
            for driver in drivers(step, round) {
                let text = format!("{step}, {}", driver.name());
                task.at(done, &text);
                done += 1;
                let values = match driver {
                    Driver::Ucx => ucx::values(step),
                    _ => measure::values(step, &ferroce),
                };
                for (quantity, value) in values.context(text)? {
                    if is_told(&quantity) {
                        samples.push(Sample {
                            quantity,
                            driver,
                            round,
                            value,
                        });
                    }
                }
            }
        }
    }
    Ok(Measured {
        samples: Some(samples),
        drivers: Driver::NATIVE,
        title: title(),
        elapsed: started.elapsed(),
        status: 0,
    })
}

fn title() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = available_parallelism().map_or(1, |count| count.get());
    let s = if processors == 1 { "" } else { "s" };
    format!(
        "ferroce run and UCX ({}) on this machine: Linux {}, {processors} processor{s}",
        ucx::TRANSPORTS,
        release.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_pairs_are_compared_with_one_and_not_with_ucx() {
        let count = 1000;
        assert_eq!(drivers(&Step::QueuePairs { count }, 1), [Driver::Ferroce]);
        assert!(is_told(&Quantity::QueuePairRate { count }));
        assert!(!is_told(&Quantity::Pingpong));
    }
}
