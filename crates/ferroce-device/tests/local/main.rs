// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device in one thread, with two queue pairs that are connected to each other, against a model of it.
//! What is posted, bound, deregistered and executed, and in which order, is a matter of chance: a plan
//! that fails is shrunk, and printed.

#[path = "../rings/mod.rs"]
mod rings;

mod host;
mod model;
mod plan;

use ferroce_core::verbs::AccessFlags;
use plan::{execute, Kinds, Pick, Range, Step, RANGE};
use proptest::prelude::*;

fn range() -> impl Strategy<Value = Range> {
    (0..RANGE, 0_u32..64).prop_map(|(addr, length)| Range { addr, length })
}

fn access() -> impl Strategy<Value = AccessFlags> {
    let all = AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_WRITE)
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::REMOTE_ATOMIC)
        .union(AccessFlags::MW_BIND);
    let consistent = |access: AccessFlags| access.is_consistent().then_some(access);
    prop_oneof![
        4 => Just(all),
        1 => (0_u32..32).prop_filter_map("inconsistent", move |bits| {
            consistent(AccessFlags::try_from(bits).unwrap())
        }),
    ]
}

fn pick() -> impl Strategy<Value = Pick> {
    any::<u16>().prop_map(Pick)
}

fn step() -> impl Strategy<Value = Step> {
    let qp = 0_usize..2;
    let kind = prop_oneof![
        3 => Just(Kinds::Send),
        1 => Just(Kinds::SendInvalidate),
        3 => Just(Kinds::Write),
        2 => Just(Kinds::WriteImm),
        3 => Just(Kinds::Read),
        2 => Just(Kinds::FetchAdd),
        4 => Just(Kinds::Bind),
        1 => Just(Kinds::Invalidate),
    ];
    let large = (0_u64..64, 512_u32..900).prop_map(|(addr, length)| Range { addr, length });
    let send = (
        qp.clone(),
        kind,
        any::<bool>(),
        pick(),
        range(),
        pick(),
        0..600_u64,
    );
    prop_oneof![
        2 => (prop_oneof![3 => large, 1 => range()], access())
            .prop_map(|(range, access)| Step::Register { range, access }),
        1 => pick().prop_map(Step::Deregister),
        1 => any::<bool>().prop_map(Step::AllocateWindow),
        6 => (qp.clone(), pick(), range())
            .prop_map(|(qp, key, range)| Step::Receive { qp, key, range }),
        12 => send.prop_map(|(qp, kind, signaled, own, range, other, addr)| Step::Send {
            qp, kind, signaled, own, range, other, addr,
        }),
        8 => qp.prop_map(Step::Run),
    ]
}

/// How many plans there are, ten times as many with `FERROCE_LONG`.
fn plans() -> u32 {
    if cfg!(miri) {
        return 3;
    }
    match std::env::var_os("FERROCE_LONG") {
        Some(_) => 200_000,
        None => 20_000,
    }
}

#[test]
fn a_device_and_its_model_agree_on_any_plan() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(plans())
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let (completed, failed) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let steps = if cfg!(miri) { 20 } else { 80 };
    let strategy = prop::collection::vec(step(), 1..steps);
    let result = runner.run(&strategy, |plan| {
        let outcome = execute(&plan).map_err(TestCaseError::fail)?;
        completed.set(completed.get() + outcome.completed);
        failed.set(failed.get() + outcome.failed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let plans = plans() as usize;
    // Plans in which all fails at once, or nothing ever does, would show nothing. Of a few that may be so.
    if cfg!(miri) {
        return;
    }
    assert!(completed.get() > 5 * plans, "{completed:?}");
    assert!(failed.get() > plans / 10, "{failed:?}");
}

/// A region that was registered later, with the number that a key had which was given up.
#[test]
fn a_key_that_was_given_up_deregisters_nothing() {
    let register = Step::Register {
        range: Range {
            addr: 0,
            length: 512,
        },
        access: AccessFlags::LOCAL_WRITE,
    };
    // More others than a number stays unused for.
    let mut plan = vec![register; 20];
    plan.insert(0, Step::Deregister(Pick(1)));
    // The first of those that are no more.
    plan.push(Step::Deregister(Pick(0)));
    if let Err(error) = execute(&plan) {
        panic!("{error}");
    }
}
