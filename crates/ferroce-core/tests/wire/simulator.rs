// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random requests of several QPs over random networks. Everything follows from one seed.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use fastrand::Rng;
use ferroce_core::qp::QpAttr;
use ferroce_core::verbs::{AccessFlags, AckTimeout, Mtu, QpType, RnrTimer};

use crate::front::Front;
use crate::layout::Layout;
use crate::memory::Memory;
use crate::network::Conditions;
use crate::plan::Plan;
use crate::world::{Endpoint, World};

/// How many seeds are tried, and how many requests each has on average.
const SEEDS: u64 = 10_000;
pub const REQUESTS: u32 = 100;

/// How much of a failing run is shown.
const SHOWN: usize = 150;

fn attributes(rng: &mut Rng, mtu: Mtu) -> QpAttr {
    let some = |values: &[u8], rng: &mut Rng| values[rng.usize(..values.len())];
    QpAttr {
        path_mtu: mtu,
        qp_access_flags: AccessFlags::REMOTE,
        max_rd_atomic: some(&[1, 2, 4, 16], rng),
        max_dest_rd_atomic: 16,
        // 1 to 16 ms: longer than a packet takes.
        timeout: AckTimeout::from_low_bits(rng.u32(8..=12)),
        retry_cnt: 7,
        rnr_retry: 7,
        min_rnr_timer: RnrTimer::try_from(rng.u32(1..=12)).unwrap(),
        ..QpAttr::new()
    }
}

/// Two QPs that are connected.
fn connection(rng: &mut Rng, numbers: (u32, u32), requests: u32) -> [Endpoint; 2] {
    let mtu = Mtu::ALL[rng.usize(..Mtu::ALL.len())];
    let bytes = mtu.bytes() as usize;
    let longest = match rng.u32(..8) {
        // More than one READ request asks for.
        0 => (bytes * 70).min(40_000),
        1..=3 => bytes * 5,
        _ => 1024,
    };
    let layout = Layout {
        mtu: bytes,
        longest,
    };
    let is_reliable = rng.u32(..8) > 0;
    let qp_type = if is_reliable { QpType::Rc } else { QpType::Uc };
    let conditions = Conditions::random(rng);
    let later_every = if is_reliable && rng.u32(..4) == 0 {
        61
    } else {
        0
    };
    let mut attr = [attributes(rng, mtu), attributes(rng, mtu)];
    // Near the end of the numbers, often.
    let psns = [(); 2].map(|()| rng.u32(..) | if rng.bool() { 0x00ff_ffc0 } else { 0 });
    for (own, peer) in [(0, 1), (1, 0)] {
        attr[own].sq_psn = psns[own] & 0x00ff_ffff;
        attr[own].rq_psn = psns[peer] & 0x00ff_ffff;
    }
    // Each answers as many READs and atomics as its peer may have under way, and no more, often.
    if rng.bool() {
        for (own, peer) in [(0, 1), (1, 0)] {
            attr[own].max_dest_rd_atomic = attr[peer].max_rd_atomic;
        }
    }
    attr[0].dest_qp_num = numbers.1;
    attr[1].dest_qp_num = numbers.0;
    let sources = [(); 2].map(|()| {
        let mut source = vec![0; layout.target() - layout.source()];
        rng.fill(&mut source);
        source
    });
    // Then the other one asks for nothing: what it asked for would be flushed some time.
    let ends_badly = is_reliable && rng.u32(..8) == 0;
    let mut endpoints = [0, 1].into_iter().map(|own| {
        let memory = Memory::new(vec![0; layout.len()], later_every);
        memory.put(layout.source(), &sources[own]);
        let front = Front::new(qp_type, &attr[own], memory);
        let peer_source = sources[1 - own].clone();
        let requests = match (ends_badly, own) {
            (false, _) => requests,
            (true, 0) => 2 * requests,
            (true, _) => 0,
        };
        let ends_badly = ends_badly && own == 0;
        let plan = Plan::new(layout, qp_type, requests, ends_badly, peer_source);
        Endpoint::new(front, plan, layout, conditions)
    });
    [endpoints.next().unwrap(), endpoints.next().unwrap()]
}

/// What one seed comes to: how many requests and packets, or what went wrong; and what happened.
pub type Outcome = (Result<(u64, u64), String>, Vec<String>);

/// What a panic said.
pub fn panicked<T>(panic: Box<dyn Any + Send>) -> Result<T, String> {
    let said = panic.downcast_ref::<String>();
    Err(said.map_or("it panicked".into(), Clone::clone))
}

fn run(seed: u64, trace: bool) -> Outcome {
    let mut rng = Rng::with_seed(seed);
    let connections = rng.u32(1..=3);
    let each = REQUESTS / 2 / connections;
    let mut requests = 0;
    let endpoints = (0..connections)
        .flat_map(|n| {
            let each = each + rng.u32(..4);
            requests += u64::from(2 * each);
            connection(&mut rng, (2 * n, 2 * n + 1), each)
        })
        .collect();
    let mut world = World::new(endpoints, rng, trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(panicked);
    let result = result.map(|()| (requests, world.packets));
    (result, world.take_trace())
}

/// Runs a seed once more, and shows what happens in it.
fn show(run: Run, seed: u64, lines: usize) -> Result<(u64, u64), String> {
    let (result, trace) = run(seed, true);
    for line in trace.iter().skip(trace.len().saturating_sub(lines)) {
        println!("{line}");
    }
    result
}

/// Runs a seed, and notes what happens if that is wanted.
type Run = fn(u64, bool) -> Outcome;

/// Tries all seeds, or the one that is asked for. `test` is what the name of the test begins with.
pub fn over_seeds(test: &str, run: Run) {
    if let Ok(seed) = std::env::var("FERROCE_SEED") {
        let seed = seed.parse().expect("FERROCE_SEED is a number");
        let (requests, packets) =
            show(run, seed, usize::MAX).unwrap_or_else(|what| panic!("{what}"));
        println!("seed {seed}: {requests} requests in {packets} packets, all right");
        return;
    }
    let factor = if std::env::var_os("FERROCE_LONG").is_some() {
        10
    } else {
        1
    };
    let seeds = SEEDS * factor;
    let (next, requests, packets) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds || failed.load(Ordering::Relaxed) != u64::MAX {
                    return;
                }
                match run(seed, false).0 {
                    Ok((these, sent)) => {
                        requests.fetch_add(these, Ordering::Relaxed);
                        packets.fetch_add(sent, Ordering::Relaxed);
                    }
                    Err(_) => {
                        failed.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = failed.into_inner();
    if seed != u64::MAX {
        let result = show(run, seed, SHOWN);
        panic!(
            "seed {seed}: {result:?}\nrun it again, with all that happens, by\n    \
             FERROCE_SEED={seed} cargo test --release -p ferroce-core --test wire -- {test} --nocapture"
        );
    }
    let (requests, packets) = (requests.into_inner(), packets.into_inner());
    println!("{requests} requests in {packets} packets, from {seeds} seeds");
    assert!(requests >= seeds * u64::from(REQUESTS) * 9 / 10);
}

#[test]
fn every_request_is_done_once_and_in_order_whatever_the_network_does() {
    over_seeds("every_request", run);
}
