// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several guests with a network between them: `lab run --hosts`.

use crate::support::{ferroce, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "hosts: RDMA between the kernels of two of three",
        three_hosts,
    ),
    (
        "hosts: one that fails ends the others, and its status counts",
        one_fails,
    ),
    ("hosts: one that crashes counts for all", one_crashes),
    ("hosts: User-Mode Linux has none", no_machines),
];

pub const DEBIAN_TESTS: &[Test] = &[("debian: RDMA between the kernels of two hosts", two_hosts)];

/// Has two hosts send messages to each other by `device`.
fn ping_pong(server: u32, client: u32, device: &str) -> String {
    format!(
        "case $HOST in
         {server}) ibv_rc_pingpong -n 50 -d {device} -g 1;;
         {client}) until ibv_rc_pingpong -n 50 -d {device} -g 1 host{server}; do sleep 0.2; done;;
         *) echo $(hostname) of $HOSTS has nothing to do;;
         esac"
    )
}

fn three_hosts(flavor: &Flavor) {
    let script = format!(
        "rdma link add fr0 type ferroce netdev eth0 && {}",
        ping_pong(2, 3, "fr0")
    );
    let ran = ran(flavor.lab(&["--hosts", "3"]).args(["sh", "-c", &script])).ends_with(0);
    for line in [
        "host1: host1 of 3 has nothing to do",
        "host2: 50 iters in ",
        "host3: 50 iters in ",
    ] {
        let found = ran.stdout.lines().any(|l| l.starts_with(line));
        assert!(found, "no {line:?} in {ran:#?}");
    }
}

fn two_hosts(flavor: &Flavor) {
    let script = format!(
        "modprobe rdma_rxe && rdma link add rx0 type rxe netdev eth0 && {}",
        ping_pong(1, 2, "rx0")
    );
    ran(flavor.lab(&["--hosts", "2"]).args(["sh", "-c", &script]))
        .ends_with(0)
        .prints("host1: 50 iters in ")
        .prints("host2: 50 iters in ");
}

fn one_fails(flavor: &Flavor) {
    let script = "test $HOST = 1 || { echo no >&2; exit 5; }; sleep 600";
    ran(flavor.lab(&["--hosts", "2"]).args(["sh", "-c", script]))
        .ends_with(5)
        .says("host2: no\n");
}

fn one_crashes(flavor: &Flavor) {
    // The other one's command has ended by then.
    let script = "test $HOST = 1 || exit 0; modprobe crash how=warn; true";
    ran(flavor.lab(&["--hosts", "2"]).args(["sh", "-c", script]))
        .ends_with(99)
        .says("host1: ferroce: the guest's kernel reported trouble");
}

fn no_machines(_: &Flavor) {
    ran(ferroce().args("lab run --hosts 2 --backend uml -- true".split(' ')))
        .ends_with(125)
        .says("leave out --backend uml");
    ran(ferroce().args("lab run --hosts 9 -- true".split(' ')))
        .ends_with(2)
        .says("1..=8");
}
