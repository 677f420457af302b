// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDMA device in a guest, used by programs that know nothing of it.

use std::path::Path;

use crate::rdma_core;
use crate::support::{kernel_dir, ran, Flavor, Ran, Test};
use crate::verbs::guest_script;

pub const TESTS: &[Test] = &[
    (
        "a device comes and goes, and the module with it",
        comes_and_goes,
    ),
    (
        "ping-pong over RC, UC, UD and an SRQ, polling and with events",
        pingpong,
    ),
    (
        "perftest's programs run with all their options, and leave nothing",
        perftest,
    ),
    (
        "two devices of a host reach each other, over IPv4 and IPv6",
        two_devices,
    ),
    ("a program killed in mid-traffic leaves nothing", killed),
    (
        "what an administrator sees of a device and does to it",
        administration,
    ),
    (
        "rdma-core's own tests pass, by the wire too",
        rdma_core_tests,
    ),
    (
        "the kernel's users post and poll in any context",
        kernel_users,
    ),
    (
        "the kernel and a process reach each other",
        kernel_and_process,
    ),
    (
        "memory had on demand follows its process's address space, by the wire too",
        on_demand,
    ),
    (
        "queues are polled only where their program may run, and only if that is wanted",
        polled,
    ),
    (
        "queues are not polled on a processor that is set apart",
        isolated,
    ),
];

/// In Debian's own kernel.
pub const DEBIAN_TESTS: &[Test] = &[
    (
        "debian: a device comes and goes, and the module with it",
        comes_and_goes,
    ),
    (
        "debian: ping-pong over RC, UC, UD and an SRQ, polling and with events",
        pingpong,
    ),
];

/// Those that need no modules which are built for the lab's kernels alone.
pub fn debian_device_tests() -> &'static [Test] {
    let needs_modules = |test: &&Test| test.0.starts_with("the kernel");
    let tests = TESTS.iter().filter(|test| !needs_modules(test)).copied();
    tests.collect::<Vec<Test>>().leak()
}

pub const DEBUG_TESTS: &[Test] = &[
    (
        "debug: the abstractions over ib_core keep their word",
        abstractions,
    ),
    (
        "debug: a program killed in mid-traffic leaves nothing",
        killed,
    ),
    (
        "debug: what an administrator sees of a device and does to it",
        administration,
    ),
    (
        "debug: rdma-core's own tests pass, by the wire too",
        rdma_core_tests,
    ),
    (
        "debug: the kernel's users post and poll in any context",
        kernel_users,
    ),
    (
        "debug: the kernel and a process reach each other",
        kernel_and_process,
    ),
    (
        "debug: memory had on demand follows its process's address space, by the wire too",
        on_demand,
    ),
];

/// Waits until a server listens on port 18515, which is 0x4853, that of
/// ibv_*_pingpong and of perftest (proc(5), /proc/net/tcp: state 0A).
const LISTENING: &str =
    "listening() { until cat /proc/net/tcp /proc/net/tcp6 | grep -q ':4853 [^ ]* 0A'; do sleep 0.05; done; }; ";

/// A device fr0 over an interface with an address, whose GID has index 1.
const DEVICE: &str = "set -e; ip link add eth0 type dummy; ip addr add 10.0.0.1/24 dev eth0; \
    ip link set eth0 up; rdma link add fr0 type ferroce netdev eth0; ";

/// Nothing is left of what programs had, and all can go. The kernel has a protection domain and queues
/// of its own on each device, those of QP 1.
const NOTHING_LEFT: &str =
    "; rdma resource show | grep -q 'pd 1 cq 1 qp 1 cm_id 0 mr 0 ctx 0 srq 0' || \
    { rdma resource show; exit 1; }; rdma link delete fr0; modprobe -r ferroce";

/// Has what stays on one host go by the wire as well.
pub const BY_WIRE: &str = "modprobe -r ferroce; modprobe ferroce local=0; ";

fn with_device(flavor: &Flavor, script: &str) -> Ran {
    flavor.sh(&with_device_script(script))
}

/// A script that has the device fr0, between its making and its end.
pub fn with_device_script(script: &str) -> String {
    format!("{LISTENING}{DEVICE}{script}{NOTHING_LEFT}")
}

fn comes_and_goes(flavor: &Flavor) {
    let ran = with_device(
        flavor,
        "rdma link; ibv_devices; ibv_devinfo -d fr0; \
         ! rdma link add fr1 type ferroce netdev eth0; ! rmmod ferroce-not-there",
    );
    ran.ends_with(0)
        .prints("link fr0/1 state ACTIVE physical_state LINK_UP netdev eth0")
        .prints("hca_id:\tfr0")
        .prints("link_layer:\t\tEthernet");
}

fn pingpong(flavor: &Flavor) {
    let script = "for p in rc uc ud srq; do for e in '' -e; do \
        ibv_${p}_pingpong $e -d fr0 -g 1 >/dev/null & listening; \
        timeout 60 ibv_${p}_pingpong $e -d fr0 -g 1 localhost | grep iters; wait $!; done; done; \
        ibv_rc_pingpong -c -d fr0 -g 1 >/dev/null & listening; \
        timeout 60 ibv_rc_pingpong -c -d fr0 -g 1 localhost | grep iters; wait $!";
    let ran = with_device(flavor, script).ends_with(0);
    assert_eq!(ran.stdout.matches("1000 iters").count(), 9, "{ran:#?}");
}

/// A single program that posts one request after the other has a CPU to itself, and the thread that polls has
/// another, if it may.
fn polled(flavor: &Flavor) {
    let polled = |expected| guest_script("polled.py", &format!("fr0 {expected}"));
    let script = format!(
        "{}; taskset -c 0 {}; taskset -c 1 {}; \
         rdma link delete fr0; modprobe -r ferroce; modprobe ferroce poll=0; \
         rdma link add fr0 type ferroce netdev eth0; {}",
        polled("some"),
        polled("none"),
        polled("none"),
        polled("none")
    );
    let ran = with_device(flavor, &script).ends_with(0);
    assert_eq!(ran.stdout.matches("polled: ").count(), 4, "{ran:#?}");
}

/// The thread that polls leaves a CPU alone that the administrator has set apart, even when nothing else runs there.
fn isolated(flavor: &Flavor) {
    let script = with_device_script(&format!(
        "cat /sys/devices/system/cpu/isolated; {}",
        guest_script("polled.py", "fr0 none")
    ));
    ran(flavor
        .lab(&["--append", "isolcpus=1"])
        .args(["sh", "-c", &script]))
    .ends_with(0)
    .prints("1\n")
    .prints("polled: ");
}

fn two_devices(flavor: &Flavor) {
    let script = "ip -6 addr add fd00::1/64 dev eth0 nodad; ip link add eth1 type dummy; \
        ip addr add 10.0.1.1/24 dev eth1; ip -6 addr add fd01::1/64 dev eth1 nodad; ip link set eth1 up; \
        rdma link add fr1 type ferroce netdev eth1; \
        for gid in 1 2; do for p in rc uc ud; do \
        ibv_${p}_pingpong -d fr0 -g $gid >/dev/null & listening; \
        timeout 60 ibv_${p}_pingpong -d fr1 -g $gid localhost | grep iters; wait $!; done; done; \
        rdma link delete fr1";
    let ran = with_device(flavor, script).ends_with(0);
    assert_eq!(ran.stdout.matches("1000 iters").count(), 6, "{ran:#?}");
}

/// Each of perftest's programs with the options that it has. Latency takes turns, so it goes neither
/// both ways (`-b`) nor by several queue pairs; WRITEs and atomics have no events (`-e`); and all sizes
/// (`-a`) are up to one packet on UD. None of them looks at the data: `verbs` does.
fn perftest_commands() -> Vec<String> {
    let mut commands = Vec::new();
    let transports: [(&str, &[&str]); 4] = [
        ("send", &["RC", "UC", "UD"]),
        ("write", &["RC", "UC"]),
        ("read", &["RC"]),
        ("atomic", &["RC"]),
    ];
    for (verb, transports) in transports {
        let all = match verb {
            "atomic" => "",
            _ => " -a -n 5",
        };
        for transport in transports {
            for kind in ["bw", "lat"] {
                let program = format!("ib_{verb}_{kind} -c {transport}");
                commands.push(format!("{program}{all}"));
                if verb == "send" || verb == "read" {
                    commands.push(format!("{program} -e"));
                }
                if verb == "send" && *transport != "UC" {
                    commands.push(format!("{program} --use-srq"));
                }
                if kind == "bw" {
                    commands.push(format!("{program} -b -q 4"));
                }
            }
        }
    }
    commands.push("ib_atomic_bw -A CMP_AND_SWAP".into());
    commands
}

fn perftest(flavor: &Flavor) {
    let run = "run() { timeout 200 \"$@\" >/tmp/server 2>&1 & listening; \
        timeout 100 \"$@\" localhost >/tmp/client 2>&1 && wait $! || \
        { echo \"$@\"; cat /tmp/server /tmp/client; exit 1; }; echo \"$1 done\"; }; ";
    let commands = perftest_commands();
    let script = commands.iter().fold(run.to_owned(), |script, command| {
        // The last of two `-n` counts.
        let (program, options) = command.split_once(' ').expect("it has options");
        format!("{script}run {program} -d fr0 -x 1 -F -n 20 {options}; ")
    });
    let script = script.trim_end_matches("; ");
    let ran = with_device(flavor, script).ends_with(0);
    assert_eq!(
        ran.stdout.matches(" done").count(),
        commands.len(),
        "{ran:#?}"
    );
}

fn killed(flavor: &Flavor) {
    let script = "for i in 1 2 3 4 5; do \
        ibv_rc_pingpong -d fr0 -g 1 -n 100000000 >/dev/null & a=$!; listening; \
        ibv_rc_pingpong -d fr0 -g 1 -n 100000000 localhost >/dev/null & b=$!; sleep 0.3; \
        kill -9 $a; kill -9 $b; wait $a || :; wait $b || :; done";
    with_device(flavor, script).ends_with(0);
}

fn administration(flavor: &Flavor) {
    let script = test_script("device.py");
    let version = env!("CARGO_PKG_VERSION");
    flavor
        .sh(&format!("/usr/bin/python3 {script} {version}"))
        .ends_with(0);
}

fn on_demand(flavor: &Flavor) {
    let script = test_script("odp.py");
    let script = with_device_script(&format!("/usr/bin/python3 {script} fr0 1"));
    for before in ["", BY_WIRE] {
        let ran = flavor.sh(&format!("{before}{script}")).ends_with(0);
        assert_eq!(ran.stdout.matches("ok: ").count(), 14, "{ran:#?}");
    }
}

fn kernel_users(flavor: &Flavor) {
    // The queues that kernel users share stay as long as the device.
    let script = format!(
        "{DEVICE} for i in 1 2; do modprobe kverbs device=fr0 || {{ dmesg | tail; exit 1; }}; \
         rmmod kverbs; done; rdma link delete fr0; modprobe -r ferroce"
    );
    flavor.sh(&script).ends_with(0);
}

fn kernel_and_process(flavor: &Flavor) {
    let script = test_script("kverbs.py");
    let script =
        format!("/usr/bin/python3 {script} fr0 1 || {{ dmesg | tail; exit 1; }}; rmmod kverbs");
    with_device(flavor, &script).ends_with(0);
}

/// A program beside this file.
fn test_script(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
    dir.join(name).display().to_string()
}

fn rdma_core_tests(flavor: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let script = rdma_core::run(dir.path(), "fr0");
    let script = with_device_script(&script);
    for before in ["", BY_WIRE] {
        let ran = flavor.sh(&format!("{before}{script}")).ends_with(0);
        rdma_core::check(&ran.stdout, &[]);
    }
}

fn abstractions(flavor: &Flavor) {
    // Raw commands to a module with one of each kind of object.
    let test = kernel_dir().join("rdma/test/test.py");
    flavor
        .sh(&format!("/usr/bin/python3 {}", test.display()))
        .ends_with(0);
}
