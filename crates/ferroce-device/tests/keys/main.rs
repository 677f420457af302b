// SPDX-License-Identifier: MIT OR Apache-2.0
//! Numbers, keys, regions and windows against a model of them: what is registered, bound, invalidated and
//! destroyed, and in which order, is a matter of chance. A plan that fails is shrunk, and printed.

mod device;
mod model;
mod plan;

use plan::{execute, rights, Pick, Step};
use proptest::prelude::*;

fn pick() -> impl Strategy<Value = Pick> {
    any::<u16>().prop_map(Pick)
}

/// An address, an offset, or a length.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0_u64..64,
        1 => (0_u64..64).prop_map(|n| u64::MAX - n),
        1 => any::<u64>(),
    ]
}

fn access() -> impl Strategy<Value = ferroce_core::verbs::AccessFlags> {
    prop_oneof![5 => Just(0x1f), 1 => 0_u8..64].prop_map(rights)
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly the same one, so that much is allowed.
    let which = || prop::bool::weighted(0.1);
    let memory = || (number(), number());
    prop_oneof![
        4 => (which(), access(), number(), number())
            .prop_map(|(pd, access, start, length)| Step::Register { pd, access, start, length }),
        2 => which().prop_map(Step::AllocateRegion),
        3 => (which(), any::<bool>())
            .prop_map(|(pd, belongs_to_qp)| Step::AllocateWindow { pd, belongs_to_qp }),
        4 => (pick(), pick(), which(), any::<u8>(), access(), memory(), number()).prop_map(
            |(key, of, pd, variant, access, range, offset)| Step::RegisterMemory {
                key, of, pd, variant, access, range, offset,
            }
        ),
        2 => (pick(), which()).prop_map(|(key, pd)| Step::BeginInvalidate { key, pd }),
        2 => pick().prop_map(Step::EndInvalidate),
        1 => (pick(), prop::option::of(access()), prop::option::of(which()), prop::option::of(memory()))
            .prop_map(|(key, access, pd, memory)| Step::Reregister { key, access, pd, memory }),
        3 => pick().prop_map(Step::Destroy),
        8 => (pick(), pick(), which(), which(), number(), number(), any::<u8>(), access()).prop_map(
            |(window, region, pd, qp, addr, length, variant, access)| Step::Bind {
                window, region, pd, qp, addr, length, variant, access,
            }
        ),
        2 => (pick(), which()).prop_map(|(key, qp)| Step::InvalidateWindow { key, qp }),
        12 => (pick(), which(), which(), number(), 0_u32..16, (0_u8..16).prop_map(rights)).prop_map(
            |(key, pd, qp, addr, length, rights)| Step::Use {
                key, pd, qp, addr, length, rights,
            }
        ),
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
fn keys_give_access_to_what_the_model_says_and_to_nothing_else() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(plans())
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let allowed = std::cell::Cell::new(0);
    let steps = if cfg!(miri) { 20 } else { 100 };
    let result = runner.run(&prop::collection::vec(step(), 1..steps), |plan| {
        allowed.set(allowed.get() + execute(&plan).map_err(TestCaseError::fail)?);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    // Plans in which nothing is allowed would show nothing. Of a few that may be so.
    assert!(
        cfg!(miri) || allowed.get() > plans() as usize / 4,
        "{allowed:?}"
    );
}

/// A region that windows are bound to was invalidated by a work request, and registered again: what was
/// registered then was the windows' too.
#[test]
fn a_window_reaches_nothing_that_was_registered_after_it_was_bound() {
    // So many keys before the last one.
    let before_last = |number: u16| Pick(4 * number);
    let (pd, qp) = (false, false);
    let register = |key, offset| Step::RegisterMemory {
        key,
        of: key,
        pd,
        variant: 9,
        access: rights(0x1f),
        range: (0, 64),
        offset,
    };
    let plan = [
        Step::AllocateRegion(pd),
        register(before_last(0), 0),
        Step::AllocateWindow {
            pd,
            belongs_to_qp: false,
        },
        Step::Bind {
            window: before_last(0),
            region: before_last(1),
            pd,
            qp,
            addr: 0,
            length: 64,
            variant: 3,
            access: rights(0x1f),
        },
        Step::BeginInvalidate {
            key: before_last(2),
            pd,
        },
        Step::EndInvalidate(before_last(2)),
        register(before_last(2), 1000),
        Step::Use {
            key: before_last(1),
            pd,
            qp,
            addr: 0,
            length: 1,
            rights: rights(0),
        },
    ];
    assert_eq!(execute(&plan), Ok(0));
}
