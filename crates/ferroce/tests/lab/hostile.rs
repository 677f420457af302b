// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that do to the device what no program should (`guest/hostile.py`).
//!
//! A few rounds of each attack, on a kernel that sees more than others. To go on
//! for long:
//!
//! ```sh
//! FERROCE_LONG=1 cargo test --release -p ferroce --test lab -- hostile
//! ```

use crate::device::BY_WIRE;
use crate::modules::{leaks_nothing, leaks_of};
use crate::support::{Flavor, Test};
use crate::verbs::{guest_script, with_devices};

pub const DEBUG_TESTS: &[Test] = &[
    (
        "debug: a hostile program harms nobody else, and leaves nothing",
        |flavor| attacks(flavor, ""),
    ),
    (
        "debug: by the wire a hostile program harms nobody else, and leaves nothing",
        |flavor| attacks(flavor, BY_WIRE),
    ),
    (
        "debug: device and module go while hostile programs use them",
        departures,
    ),
    (
        "debug: beside a hostile program every byte of another is where it should be",
        beside,
    ),
];

/// An attack, how many rounds of it, and how many to go on for long.
type Attack = (&'static str, u32, u32);

const ATTACKS: [Attack; 9] = [
    ("scribbled", 1000, 200_000),
    ("fed", 4, 100),
    ("commands", 30, 5000),
    ("handles", 1, 20),
    ("killed", 10, 500),
    ("forked", 3, 100),
    ("unmapped", 3, 100),
    ("memlock", 1, 100),
    ("starved", 1, 20),
];

/// Attacks after which kmemleak is not asked: where an open fails half-way, Linux itself (7.2) forgets
/// a process (`UVERBS_METHOD_GET_CONTEXT` frees the context without `rdma_restrack_put()`).
const DEPARTURES: [Attack; 3] = [
    ("link_goes", 3, 100),
    ("fed_goes", 1, 20),
    ("module_goes", 3, 100),
];

fn rounds(short: u32, long: u32) -> u32 {
    match crate::support::long() {
        true => long,
        false => short,
    }
}

/// The attacks one after the other, with so many rounds at most.
fn script(attacks: &[Attack], most: u32) -> String {
    let commands: Vec<_> = attacks
        .iter()
        .map(|&(attack, few, many)| {
            let rounds = rounds(few, many).min(most);
            guest_script("hostile.py", &format!("{attack} fr0 {rounds}"))
        })
        .collect();
    with_devices(&commands.join("; "))
}

/// `before` is to be done before there are devices.
fn attacks(flavor: &Flavor, before: &str) {
    // What the kernel allocates for good when something is used for the first time is no leak.
    let script = format!(
        "({before}{}) >&2 && ip link delete eth0 && ip link delete eth1 || exit; {}",
        script(&ATTACKS, 1),
        leaks_of(&format!("({before}{}) >&2", script(&ATTACKS, u32::MAX)))
    );
    let ran = flavor.sh(&script).ends_with(0);
    leaks_nothing(&ran);
    for (attack, ..) in ATTACKS {
        assert!(ran.stderr.contains(&format!("{attack} done")), "{ran:#?}");
    }
}

fn departures(flavor: &Flavor) {
    let ran = flavor.sh(&script(&DEPARTURES, u32::MAX)).ends_with(0);
    for (attack, ..) in DEPARTURES {
        assert!(ran.stdout.contains(&format!("{attack} done")), "{ran:#?}");
    }
}

fn beside(flavor: &Flavor) {
    let hostile = |attack, few, many| {
        let rounds = rounds(few, many);
        guest_script("hostile.py", &format!("{attack} fr0 {rounds}"))
    };
    let script = format!(
        "{} & a=$!; {} & b=$!; {}; wait $a; wait $b",
        hostile("scribbled", 1000, 200_000),
        hostile("commands", 20, 5000),
        guest_script(
            "every_byte.py",
            &format!("fr0 fr1 {}", rounds(500, 100_000))
        ),
    );
    flavor
        .sh(&with_devices(&script))
        .ends_with(0)
        .prints("kinds of work requests")
        .prints("scribbled done")
        .prints("commands done");
}
