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
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use simulation::{execute, Outcome};

/// How many plans are made of one seed.
const PLANS_A_SEED: u32 = 1000;

/// The seeds: ten times as many with `FERROCE_LONG`, or the one of `FERROCE_SEED`.
fn seeds() -> std::ops::Range<u64> {
    if let Ok(seed) = std::env::var("FERROCE_SEED") {
        let seed = seed.parse().expect("FERROCE_SEED is a number");
        return seed..seed + 1;
    }
    match std::env::var_os("FERROCE_LONG") {
        Some(_) => 0..1000,
        None => 0..100,
    }
}

#[test]
fn devices_and_their_model_agree_on_any_plan() {
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let take = || {
        let mut total = Outcome::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return total;
            }
            total.add(&run(seed));
        }
    };
    // On all processors.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        running.into_iter().map(|thread| thread.join()).collect()
    });
    let mut total = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        total.add(&outcome);
    }
    // Plans in which all fails at once, or nothing ever does, would show nothing.
    let plans = (seeds.end - seeds.start) as usize * PLANS_A_SEED as usize;
    println!("{plans} plans: {total:?}");
    assert!(total.local > 4 * plans);
    assert!(total.remote > 2 * plans);
    assert!(total.failed > plans / 4);
    assert!(total.unreliable.iter().all(|count| *count > plans / 4));
}

/// Runs the plans of a seed.
fn run(seed: u64) -> Outcome {
    let config = ProptestConfig {
        failure_persistence: None,
        // Of rights that do not go together there are many in a million plans.
        max_local_rejects: u32::MAX,
        ..ProptestConfig::with_cases(PLANS_A_SEED)
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let total = Cell::new(Outcome::default());
    let result = runner.run(&strategies::plan(), |plan| {
        let outcome = execute(&plan).map_err(TestCaseError::fail)?;
        let mut sum = total.get();
        sum.add(&outcome);
        total.set(sum);
        Ok(())
    });
    if let Err(error) = result {
        panic!("with FERROCE_SEED={seed}: {error}");
    }
    total.get()
}
