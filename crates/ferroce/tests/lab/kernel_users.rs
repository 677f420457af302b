// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own users of RDMA, which Debian's kernel has as modules: NVMe, NFS, iSER and RDS, within a guest
//! and between two, on ferroce and on rdma_rxe.
//!
//! ```sh
//! FERROCE_LONG=1 cargo test --release -p ferroce --test lab -- "kernel users:"
//! ```

use std::path::Path;
use std::process::Command;

use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::{ensure, Install, Purpose};

use crate::support::{kernel_dir, long, ran, Flavor, Ran, Test};

const USERS: [&str; 4] = ["nvme", "nfs", "iser", "rds"];

const LONG: &[Test] = &[(
    "kernel users: what each does on ferroce, and on rdma_rxe",
    table,
)];

/// Where they are asked for.
pub fn long_tests() -> &'static [Test] {
    match long() {
        true => LONG,
        false => &[],
    }
}

/// How the two sides of a user are joined.
struct Way {
    name: &'static str,
    hosts: &'static str,
    loss: &'static str,
    /// The drivers of the one that serves and of the one that uses.
    drivers: [&'static str; 2],
}

const fn way(
    name: &'static str,
    hosts: &'static str,
    loss: &'static str,
    drivers: [&'static str; 2],
) -> Way {
    Way {
        name,
        hosts,
        loss,
        drivers,
    }
}

const WAYS: [Way; 8] = [
    way("local", "1", "0", ["ferroce", "ferroce"]),
    way("local", "1", "0", ["rxe", "rxe"]),
    way("by wire", "2", "0", ["ferroce", "ferroce"]),
    way("by wire", "2", "0", ["rxe", "rxe"]),
    way("1% lost", "2", "1%", ["ferroce", "ferroce"]),
    way("1% lost", "2", "1%", ["rxe", "rxe"]),
    way("to rxe", "2", "0", ["rxe", "ferroce"]),
    way("from rxe", "2", "0", ["ferroce", "rxe"]),
];

/// Prints a table. Fails where one fails that has ferroce on both sides.
fn table(flavor: &Flavor) {
    let cache = Cache::open().unwrap();
    ensure(&cache, &[Purpose::KernelUsers], Install::Yes).unwrap();
    let tools = tempfile::tempdir().unwrap();
    fetch("open-iscsi", tools.path());
    let mut failed = Vec::new();
    println!("user  way       server   client   what it says");
    for user in USERS {
        for way in &WAYS {
            // RDS takes a way of its own to this host (t_prefer_loopback in net/rds/ib.c).
            if user == "rds" && way.name == "local" {
                continue;
            }
            let ran = run(flavor, way, user, tools.path());
            let [server, client] = way.drivers;
            for said in told(user, &ran) {
                println!("{user:5} {:9} {server:8} {client:8} {said}", way.name);
            }
            if ran.status != Some(0) && way.drivers == ["ferroce"; 2] {
                failed.push(ran);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

fn run(flavor: &Flavor, way: &Way, user: &str, tools: &Path) -> Ran {
    let script = kernel_dir().join("../crates/ferroce/tests/lab/guest/kernel_users.sh");
    let mut options = vec!["--timeout", "600"];
    if way.hosts != "1" {
        options.extend(["--hosts", way.hosts]);
    }
    if way.drivers.contains(&"ferroce") {
        options.extend(["--module", "ferroce"]);
    }
    ran(flavor
        .lab(&options)
        .arg("sh")
        .arg(script.canonicalize().unwrap())
        .args(way.drivers)
        .args([user, way.loss])
        .env("TOOLS", tools))
}

/// What a user said of itself, or what ended it.
fn told(user: &str, ran: &Ran) -> Vec<String> {
    match ran.status {
        Some(0) => {
            let said = ran.stdout.lines().filter_map(|line| {
                let line = line.strip_prefix("host2: ").unwrap_or(line);
                Some(line.strip_prefix(user)?.strip_prefix(": ")?.to_owned())
            });
            said.collect()
        }
        status => {
            let report = ran.stderr.lines().find(|line| line.contains("ferroce: "));
            let last = ran.stderr.lines().last().unwrap_or_default();
            vec![format!("fails ({status:?}): {}", report.unwrap_or(last))]
        }
    }
}

/// Fetches a package, and those that it needs and this machine lacks, and unpacks them in a folder.
fn fetch(package: &str, place: &Path) {
    let depends = ran(Command::new("apt-cache").args(["depends", "--no-recommends", package]));
    let needed = depends.stdout.lines().filter_map(|line| {
        let name = line.trim().strip_prefix("Depends: ")?;
        (!name.starts_with('<') && !is_installed(name)).then_some(name)
    });
    let mut apt = Command::new("apt-get");
    apt.args(["download", "-qq", package])
        .args(needed)
        .current_dir(place);
    ran(&mut apt).ends_with(0);
    for entry in std::fs::read_dir(place).unwrap().flatten() {
        let unpacked = Command::new("dpkg-deb")
            .arg("-x")
            .arg(entry.path())
            .arg(place)
            .status();
        assert!(unpacked.unwrap().success());
    }
}

fn is_installed(package: &str) -> bool {
    let query = ran(Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]));
    query.stdout.ends_with(" installed")
}
