// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole devices against a model of them: hosts with processes that register memory, create queue pairs,
//! connect, post, reset and destroy them, and die, in any order; over a network that loses packets.
//!
//! What happens, and in which order, is a matter of chance: a plan that fails is shrunk, and printed. The
//! model knows nothing of where a peer is: queue pairs of one host and of two have to come to the same.

// A plan takes Miri minutes; `queues` and `keys` have most of the same machines, with less around them.
#![cfg(not(miri))]

#[path = "../rings/mod.rs"]
mod rings;

mod host;
mod local;
mod model;
mod network;
mod own;
mod plan;
mod queue_pair;
mod simulation;
mod strategies;
mod wire;
mod world;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use simulation::{execute, Outcome};

/// How many plans there are, ten times as many with `FERROCE_LONG`.
fn plans() -> u32 {
    match std::env::var_os("FERROCE_LONG") {
        Some(_) => 1_000_000,
        None => 100_000,
    }
}

#[test]
fn devices_and_their_model_agree_on_any_plan() {
    // On all processors: the runner has one thread.
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let run = |_| scope.spawn(|| run(plans().div_ceil(threads)));
        let running: Vec<_> = (0..threads).map(run).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let mut total = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        total.add(&outcome);
    }
    // Plans in which all fails at once, or nothing ever does, would show nothing.
    let plans = plans() as usize;
    println!("{total:?}");
    assert!(total.local > 4 * plans, "{}", total.local);
    assert!(total.remote > 2 * plans, "{}", total.remote);
    assert!(total.failed > plans / 4, "{}", total.failed);
    assert!(total.unreliable.iter().all(|count| *count > plans / 4));
}

/// Runs so many plans.
fn run(plans: u32) -> Outcome {
    let config = ProptestConfig {
        failure_persistence: None,
        // Of rights that do not go together there are many in a million plans.
        max_local_rejects: u32::MAX,
        ..ProptestConfig::with_cases(plans)
    };
    let mut runner = TestRunner::new(config);
    let total = Cell::new(Outcome::default());
    let result = runner.run(&strategies::plan(), |plan| {
        let outcome = execute(&plan).map_err(TestCaseError::fail)?;
        let mut sum = total.get();
        sum.add(&outcome);
        total.set(sum);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    total.get()
}
