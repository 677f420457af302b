// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce link` in a guest, beside `rdma link`.

use crate::support::{ferroce, Flavor, Ran, Test};
use crate::verbs::guest_script;

pub const TESTS: &[Test] = &[
    ("a link is added, shown and deleted", comes_and_goes),
    ("what a link cannot be made of is said in words", errors),
    (
        "a link without the driver, or without RDMA, is told so",
        no_driver,
    ),
    (
        "top tells what queue pairs do and wait for, and what rdma_rxe's do",
        top,
    ),
];

/// Runs a script with the program as $F and two interfaces.
fn sh(flavor: &Flavor, script: &str) -> Ran {
    flavor.sh(&format!(
        "F={}; ip link add eth0 type dummy; ip addr add 10.0.0.1/24 dev eth0; \
         ip link set eth0 up; ip link add eth1 type dummy; {script}",
        ferroce().get_program().display()
    ))
}

fn comes_and_goes(flavor: &Flavor) {
    let ran = sh(
        flavor,
        "set -e; $F link show; $F link add fr0 eth0; rdma link; $F link show; \
         rdma link add siw0 type siw netdev lo; $F link show fr0 --json; \
         $F link del fr0; $F link show; $F link delete siw0; ! rdma link | grep .",
    )
    .ends_with(0)
    .says("there are no RDMA devices. Make one: ferroce link add fr0 NETDEV")
    .prints("link fr0/1 state ACTIVE physical_state LINK_UP netdev eth0")
    .prints("LINK   STATE   PHYSICAL  NETDEV  MTU   GID  ADDRESS")
    .prints("fr0/1  ACTIVE  LINK_UP   eth0    1500  0    fe80::")
    .prints("                                       1    10.0.0.1 ");
    let json: serde_json::Value = {
        let from = ran.stdout.find("[\n").expect("a list");
        let to = ran.stdout.find("\n]").expect("its end");
        serde_json::from_str(&ran.stdout[from..to + 2]).expect("JSON")
    };
    assert_eq!(json.as_array().map(Vec::len), Some(1), "{ran:#?}");
    assert_eq!(json[0]["ifname"], "fr0");
    assert_eq!(json[0]["state"], "ACTIVE");
    assert_eq!(json[0]["netdev"], "eth0");
    assert_eq!(json[0]["gids"][1]["gid"], "::ffff:10.0.0.1");
    assert_eq!(json[0]["gids"][1]["type"], "RoCE v2");
    let last = ran.stdout.rsplit_once("\n]\n").unwrap().1;
    assert!(!last.contains("fr0") && last.contains("siw0/1"), "{ran:#?}");
}

fn errors(flavor: &Flavor) {
    sh(
        flavor,
        "user() { setpriv --reuid 65534 --clear-groups $F \"$@\"; }; \
         $F link add fr0 eth7; echo $?; $F link add fr%d eth0; $F link add fr0 eth0; \
         $F link add fr0 eth1; $F link add fr1 eth0; ip link set lo down; $F link add fr1 lo; \
         $F link add $(printf %070d 1) eth0; user link add fr1 eth0; user link del fr0; \
         user link show | grep -q 10.0.0.1 && echo seen; $F link del fr7; echo $?",
    )
    .ends_with(0)
    .prints("1\nseen\n1\n")
    .says(
        "cannot add fr0 over eth7: there is no network interface eth7, but dummy0, eth0, eth1, lo",
    )
    .says("cannot add fr%d over eth0: the kernel refuses the name or the interface")
    .says("cannot add fr1 over lo: it must be up first: ip link set lo up")
    .says("cannot add fr0 over eth1: there is an RDMA device of that name already")
    .says("cannot add fr1 over eth0: eth0 has an RDMA device of ferroce's already")
    .says("The kernel says: Attribute failed policy validation")
    .says("only root may do that:\n  sudo /")
    .says("link add fr1 eth0\n")
    .says("cannot remove fr0: only root may do that")
    .says("there is no RDMA device fr7, but fr0");
}

fn no_driver(flavor: &Flavor) {
    // Behind an empty folder no module is found.
    sh(
        flavor,
        "mount -t tmpfs none /lib/modules; $F link add fr0 eth0; $F link del fr0; \
         rmmod rdma_ucm rdma_cm iw_cm ib_cm ib_umad ib_uverbs ib_uverbs_support ib_core; \
         $F link show",
    )
    .ends_with(1)
    .says("its module ferroce is not loaded, and modprobe does not find it")
    .says("there is no RDMA device fr0, nor any other")
    .says("this kernel has no RDMA");
}

fn top(flavor: &Flavor) {
    let ferroce = ferroce().get_program().display().to_string();
    let watch = |device: &str| guest_script("top.py", &format!("{ferroce} {device}"));
    sh(
        flavor,
        &format!(
            "set -e; $F top --once; rdma link add fr0 type ferroce netdev eth0; {}; \
             rdma link delete fr0; rdma link add rx0 type rxe netdev eth0; {}; \
             ! $F top --once fr0",
            watch("fr0"),
            watch("rx0 rxe")
        ),
    )
    .ends_with(0)
    .prints("There are no RDMA devices.\n")
    .prints("all of it is told\n")
    .prints("rdma_rxe's devices are told\n")
    .says("there is no RDMA device fr0, but rx0");
}
