// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cards on a PCI bus: `lab run --card`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use serde_json::{json, Value};

use crate::rdma_core;
use crate::support::{ferroce, ran, Flavor, Test};
use crate::verbs::guest_script;

pub const TESTS: &[Test] = &[
    (
        "card: found on its bus, with memory on board, and gone with what it needs",
        all,
    ),
    ("card: two of them reach each other", ping_pong),
    ("card: taken out of its slot under traffic", unplugged),
    ("card: cards of two hosts reach each other", two_hosts),
    ("card: User-Mode Linux has none", no_machine),
];

pub const DEBUG_TESTS: &[Test] = &[
    (
        "card: debug: found on its bus, with memory on board, and gone with what it needs",
        all,
    ),
    ("card: debug: unbound and bound a hundred times", rebound),
    (
        "card: debug: taken out of its slot under traffic",
        unplugged,
    ),
    ("card: debug: rdma-core's own tests pass", rdma_core_tests),
];

pub const DEBIAN_TESTS: &[Test] = &[(
    "debian: a card is found on its bus, with memory on board, and gone with what it needs",
    |flavor| {
        let script = guest_script("card.py", "all");
        let options = ["--card", "2", "--module", "ferroce"];
        ran(flavor.lab(&options).args(["sh", "-c", &script]))
            .ends_with(0)
            .prints("the cards work");
    },
)];

fn guest(flavor: &Flavor, args: &str, words: &str) {
    let script = guest_script("card.py", args);
    ran(flavor.lab(&["--card", "2"]).args(["sh", "-c", &script]))
        .ends_with(0)
        .prints(words);
}

fn all(flavor: &Flavor) {
    guest(flavor, "all", "the cards work");
}

fn rebound(flavor: &Flavor) {
    guest(flavor, "rebind 100", "100 times");
}

fn ping_pong(flavor: &Flavor) {
    // By the link-local addresses, and by those of IPv4.
    let script = "set -e; for gid in 0 1; do
        ibv_rc_pingpong -n 50 -d ferroce0 -g $gid >/dev/null &
        until ibv_rc_pingpong -n 50 -d ferroce1 -g $gid localhost; do sleep 0.2; done; wait $!; done";
    let ran = ran(flavor.lab(&["--card", "2"]).args(["sh", "-c", script])).ends_with(0);
    assert_eq!(ran.stdout.matches("50 iters in ").count(), 2, "{ran:#?}");
}

fn two_hosts(flavor: &Flavor) {
    let script = "case $HOST in
        1) ibv_rc_pingpong -n 50 -d ferroce0 -g 1;;
        *) until ibv_rc_pingpong -n 50 -d ferroce0 -g 1 host1; do sleep 0.2; done;; esac";
    let options = ["--hosts", "2", "--card"];
    ran(flavor.lab(&options).args(["sh", "-c", script]))
        .ends_with(0)
        .prints("host1: 50 iters in ")
        .prints("host2: 50 iters in ");
}

fn no_machine(_: &Flavor) {
    ran(ferroce().args("lab run --card --backend uml -- true".split(' ')))
        .ends_with(125)
        .says("leave out --backend uml");
    ran(ferroce().args("lab run --card 9 -- true".split(' ')))
        .ends_with(2)
        .says("1..=8");
    ran(ferroce().args("lab run --hosts 2 --monitor /nowhere -- true".split(' ')))
        .ends_with(125)
        .says("leave out --hosts");
}

fn unplugged(flavor: &Flavor) {
    let folder = tempfile::tempdir().unwrap();
    let monitor = folder.path().join("monitor");
    let script = guest_script("card.py", "unplugged");
    let options = ["--card", "2", "--monitor", monitor.to_str().unwrap()];
    let mut child = flavor
        .lab(&options)
        .args(["sh", "-c", &script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let mut wait_for = |word: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| {
            said.push(line);
            said.last().is_some_and(|line| line == word)
        });
        (found, said.clone())
    };
    let (ready, _) = wait_for("unplug");
    if ready {
        take_out(&monitor, "card0");
    }
    let (done, said) = wait_for("unplugged");
    let mut errors = String::new();
    let mut stderr = child.stderr.take().unwrap();
    stderr.read_to_string(&mut errors).unwrap();
    let status = child.wait().unwrap();
    assert!(
        ready && done && status.success(),
        "{status}: {said:#?}\n{errors}"
    );
}

/// Has QEMU take a device out, which the guest is asked for, and sees (QEMU, docs/interop/qmp-spec.rst).
fn take_out(monitor: &Path, device: &str) {
    let mut stream = UnixStream::connect(monitor).unwrap();
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut answers = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    for command in [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": "device_del", "arguments": { "id": device } }),
    ] {
        writeln!(stream, "{command}").unwrap();
        let is_done = answers.any(|answer| {
            assert!(answer.get("error").is_none(), "{answer}");
            answer.get("return").is_some()
        });
        assert!(is_done, "the monitor was closed");
    }
}

fn rdma_core_tests(flavor: &Flavor) {
    let folder = tempfile::tempdir().unwrap();
    let tests = rdma_core::run(folder.path(), "ferroce0");
    let options = ["--card", "--rw", folder.path().to_str().unwrap()];
    let ran = ran(flavor.lab(&options).args(["sh", "-c", &tests]));
    rdma_core::check(&ran.ends_with(0).stdout, &[]);
}
