// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that connect by address (librdmacm).

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{guest, Group, Ran, PATIENCE, PYTHON};

const LOOPBACKS: [&str; 2] = ["127.0.0.1", "::1"];

/// rsockets' functions, in place of the C library's.
const RSPRELOAD: &str = "rsocket/librspreload.so";

/// Whether a program has done what it should. rping of before July 2025 may fail in the end though it has: it
/// closes its event channel before its thread asks for one event more (rdma-core's pull request 1622).
fn is_well(ran: &Ran) -> bool {
    let says = |text| ran.output.contains(text);
    let fails = ["error", "failed", "mismatch"].into_iter().any(says);
    ran.success || says("rdma_get_cm_event: Bad file descriptor") && !fails
}

impl Group {
    /// Runs a server and its client. A client that comes before anybody listens is refused, and both begin anew:
    /// a server may have taken the later ones of a client's connections, and then lacks places for all of the
    /// next client's.
    fn connects(&self, server: &[&str], client: &[&str]) -> String {
        let begin = Instant::now();
        let mut head_start = Duration::from_millis(50);
        loop {
            let serving = self.start(&[], server);
            std::thread::sleep(head_start);
            let ran = self.run(&[], client);
            if is_well(&ran) {
                let served = serving.end();
                assert!(is_well(&served), "{served:#?}");
                return ran.output;
            }
            let served = serving.kill();
            assert!(begin.elapsed() < PATIENCE, "{ran:#?}\n{served:#?}");
            head_start *= 2;
        }
    }
}

#[test]
fn what_the_manager_answers_is_what_the_kernels_does() {
    let group = Group::new("cm-table");
    let words = [PYTHON, &guest("guest/rdma_cm.py"), "127.0.0.1"];
    let ran = group.run(&[], &words).succeeds();
    ran.says(" rows, 0 failed");
}

#[test]
fn hostile_programs_harm_themselves_only() {
    let group = Group::new("cm-hostile");
    let program =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run_programs/rdma_cm_hostile.py");
    for seed in ["1", "2"] {
        let words = [PYTHON, program.to_str().unwrap(), "127.0.0.1", seed];
        let ran = group.run(&[], &words).succeeds();
        assert_eq!(ran.output.matches("ok: ").count(), 10, "{ran:#?}");
    }
}

#[test]
fn programs_of_librdmacm() {
    let group = Group::new("cm-programs");
    let port = group.port.to_string();
    for address in LOOPBACKS {
        let rping = ["rping", "-C", "10", "-v", "-a", address, "-p", &port];
        group.connects(
            &[&rping[..], &["-s"]].concat(),
            &[&rping[..], &["-c"]].concat(),
        );
        for program in [
            &["ucmatose", "-C", "20", "-S", "2000", "-p", &port][..],
            &["ucmatose", "-c", "20", "-m", "-p", &port],
            &["udaddy", "-c", "5"],
        ] {
            let server = [program, &["-b", address]].concat();
            let client = [program, &["-s", address]].concat();
            group.connects(&server, &client);
        }
        // Not with poll (`-T a`): with the kernel's manager, too, rstream's client then mostly fails in the end.
        for program in ["rstream", "riostream"] {
            let words = [program, "-S", "4096", "-C", "50", "-T", "b", "-p", &port];
            let server = [&words[..], &["-b", address]].concat();
            let client = [&words[..], &["-s", address]].concat();
            group.connects(&server, &client);
        }
    }
    // Without an address, that is on all.
    let words = ["rdma_server", "-p", &port];
    group.connects(&words, &["rdma_client", "-s", "127.0.0.1", "-p", &port]);
}

#[test]
fn multicast_groups_by_address() {
    let group = Group::new("cm-multicast");
    let words = ["mckey", "-m", "239.1.2.3", "-b", "127.0.0.1", "-C", "10"];
    // Its words are not held back.
    let receiver = group.start(&[], &[&["stdbuf", "-oL"], &words[..]].concat());
    let begin = Instant::now();
    let joined = || std::fs::read_to_string(&receiver.output).unwrap();
    while !joined().contains("receiving data transfers") {
        assert!(begin.elapsed() < PATIENCE, "{}", joined());
        std::thread::sleep(Duration::from_millis(10));
    }
    group.run(&[], &[&words[..], &["-s"]].concat()).succeeds();
    receiver.end().succeeds();
}

#[test]
fn perftest_by_address() {
    let group = Group::new("cm-perftest");
    let port = group.port.to_string();
    for words in [
        &["ib_send_bw", "-n", "500"][..],
        &["ib_write_lat", "-n", "500"],
        &["ib_read_bw", "-n", "500", "-q", "8"],
        &["ib_send_lat", "-n", "500", "-e"],
        &["ib_send_lat", "-n", "500", "-c", "UD"],
    ] {
        let server = [words, &["-R", "-F", "-p", &port]].concat();
        let client = [&server[..], &["127.0.0.1"]].concat();
        let output = group.connects(&server, &client);
        assert!(output.contains("#bytes"), "{output}");
    }
}

#[test]
fn programs_of_tcp_by_rsockets() {
    let group = Group::new("cm-rsockets");
    let port = group.port.to_string();
    let program = group.folder.path().join("tcp");
    let compiled = Command::new("gcc")
        .args(["-O2", "-pthread", "-o"])
        .arg(&program)
        .arg(guest("programs/tcp.c"))
        .status();
    assert!(compiled.unwrap().success());
    let program = program.to_str().unwrap();
    // The shim stays in front.
    let script = format!(
        "export LD_PRELOAD=$LD_PRELOAD:$(ls /usr/lib/*/{RSPRELOAD}); exec {program} \"$@\""
    );
    let preloaded = ["sh", "-c", &script, "sh"];
    for address in LOOPBACKS {
        let server = [&preloaded[..], &["server", address, &port]].concat();
        let client = [&preloaded[..], &["client", address, &port, "2"]].concat();
        let output = group.connects(&server, &client);
        assert!(output.contains("every byte right"), "{output}");
    }
}

#[test]
fn libfabric() {
    let group = Group::new("cm-libfabric");
    let port = group.port.to_string();
    for (provider, endpoint, mode) in [
        ("verbs", "msg", "msg"),
        ("verbs;ofi_rxm", "rdm", "msg"),
        ("verbs;ofi_rxm", "rdm", "tagged"),
    ] {
        let words = [
            "fi_pingpong",
            "-p",
            provider,
            "-e",
            endpoint,
            "-m",
            mode,
            "-c",
            "-I",
            "50",
            "-d",
            "ferroce0",
        ];
        let server = [&words[..], &["-B", &port]].concat();
        let client = [&words[..], &["-P", &port, "127.0.0.1"]].concat();
        let output = group.connects(&server, &client);
        assert!(output.contains("MB/sec"), "{output}");
    }
}
