// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs in a guest, by programs of the project's own (`guest/`): what work
//! requests do to memory, and what is answered to what is wrong.

use std::path::Path;

use crate::device::{with_device_script, BY_WIRE};
use crate::support::{Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    (
        "every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 4000),
    ),
    ("wrong arguments get their errno", errnos),
    (
        "work requests that break a rule get their status, and queue pairs their state, by the wire too",
        statuses,
    ),
    (
        "a key or a queue pair's number that was given up names nothing for long",
        reuse,
    ),
    (
        "a shared receive queue is resized while messages take from it, by the wire too",
        |flavor| resized(flavor, 4000),
    ),
    (
        "a process is charged for what it has allocated, and gets no more objects than there can be",
        |flavor| limits(flavor, "", "local"),
    ),
    (
        "by the wire a process is charged for what it has allocated",
        |flavor| limits(flavor, BY_WIRE, "wire"),
    ),
    (
        "a multicast group has room for a few, and for more than one user",
        members,
    ),
    ("the examples of programs with verbs run", examples),
];

pub const DEBUG_TESTS: &[Test] = &[
    (
        "debug: every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 2000),
    ),
    ("debug: wrong arguments get their errno", errnos),
    (
        "debug: work requests that break a rule get their status, and queue pairs their state, by the wire too",
        statuses,
    ),
    (
        "debug: a shared receive queue is resized while messages take from it, by the wire too",
        |flavor| resized(flavor, 1000),
    ),
];

pub const DEBIAN_TESTS: &[Test] = &[
    (
        "debian: every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 300),
    ),
    ("debian: wrong arguments get their errno", errnos),
];

pub const OLDER_TESTS: &[Test] = &[
    (
        "7.2: every byte of random work requests is where it should be",
        |flavor| every_byte(flavor, 300),
    ),
    ("7.2: wrong arguments get their errno", errnos),
];

pub const QEMU_TESTS: &[Test] = &[(
    "qemu: every byte of random work requests is where it should be",
    |flavor| every_byte(flavor, 300),
)];

/// A second device, over an interface of its own.
const SECOND_DEVICE: &str = "ip link add eth1 type dummy; ip addr add 10.0.1.1/24 dev eth1; \
    ip link set eth1 up; rdma link add fr1 type ferroce netdev eth1; ";

/// A script that has the devices fr0 and fr1.
pub fn with_devices(script: &str) -> String {
    with_device_script(&format!("{SECOND_DEVICE}{script}; rdma link delete fr1"))
}

/// The command for one of the programs, by the interpreter that pyverbs is installed for.
pub fn guest_script(program: &str, args: &str) -> String {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/lab/guest")
        .join(program);
    format!("/usr/bin/python3 {} {args}", program.display())
}

fn guest(flavor: &Flavor, program: &str, args: &str) -> Ran {
    flavor
        .sh(&with_devices(&guest_script(program, args)))
        .ends_with(0)
}

fn every_byte(flavor: &Flavor, batches: u32) {
    guest(flavor, "every_byte.py", &format!("fr0 fr1 {batches}"))
        // Sends and writes, inline and not, of the transports that have them; reads and atomics of RC.
        .prints("23 kinds of work requests");
}

fn errnos(flavor: &Flavor) {
    guest(flavor, "errnos.py", "fr0").prints(" rows, 0 failed");
}

fn statuses(flavor: &Flavor) {
    let script = with_devices(&guest_script("statuses.py", "fr0"));
    for before in ["", BY_WIRE] {
        let ran = flavor.sh(&format!("{before}{script}")).ends_with(0);
        ran.prints(" rows, 0 failed");
    }
}

fn resized(flavor: &Flavor, messages: u32) {
    let script = with_devices(&guest_script("resize_srq.py", &format!("fr0 {messages}")));
    for before in ["", BY_WIRE] {
        let ran = flavor.sh(&format!("{before}{script}")).ends_with(0);
        ran.prints("all that was posted was taken once");
    }
}

fn reuse(flavor: &Flavor) {
    let of = |device| guest_script("reuse.py", device);
    let ran = flavor
        .sh(&with_devices(&format!("{} && {}", of("fr0"), of("fr1"))))
        .ends_with(0)
        .prints("stale keys are refused")
        .prints("queue pairs: 3000 numbers");
    let mut first = ran
        .stdout
        .lines()
        .filter(|line| line.contains("the first key is"));
    // Two devices do not begin with the same.
    assert_ne!(first.next(), first.next(), "{ran:#?}");
}

/// `before` is to be done before there are devices.
fn limits(flavor: &Flavor, before: &str, how: &str) {
    let script = with_devices(&guest_script("limits.py", &format!("fr0 {how}")));
    flavor
        .sh(&format!("{before}{script}"))
        .ends_with(0)
        .prints("queue pairs beyond the limit: ")
        .prints("an on-demand region beyond the limit: ")
        .prints("limits hold");
}

fn members(flavor: &Flavor) {
    guest(flavor, "members.py", "fr0").prints("places are given back");
}

fn examples(flavor: &Flavor) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let sources = examples.join("rdma_write");
    let script = format!(
        "gcc -Wall -Wextra -Werror -o /tmp/rdma_write {0}.c -libverbs && \
         /tmp/rdma_write fr0 1 && /usr/bin/python3 {0}.py fr1 1 && ! /tmp/rdma_write fr2",
        sources.display()
    );
    flavor
        .sh(&with_devices(&script))
        .ends_with(0)
        .prints("fr0: 4096 bytes written by RDMA\n")
        .prints("fr1: 4096 bytes written by RDMA\n")
        .says("there is no device fr2");
}
