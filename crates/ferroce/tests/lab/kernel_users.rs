// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own users of RDMA, which Debian's kernel has as modules: NVMe, NFS, iSER and RDS, between two
//! guests, on ferroce and on rdma_rxe.
//!
//! ```sh
//! FERROCE_LONG=1 cargo test --release -p ferroce --test lab -- "kernel users:"
//! ```

use std::path::Path;
use std::process::Command;

use crate::support::{kernel_dir, ran, Flavor, Ran, Test};

const USERS: [&str; 4] = ["nvme", "nfs", "iser", "rds"];

const LONG: &[Test] = &[(
    "kernel users: what each does on ferroce, and on rdma_rxe",
    table,
)];

/// Where they are asked for.
pub fn long_tests() -> &'static [Test] {
    match std::env::var_os("FERROCE_LONG") {
        Some(_) => LONG,
        None => &[],
    }
}

/// Fails where one does not do on ferroce what it does on rdma_rxe.
fn table(flavor: &Flavor) {
    let tools = tempfile::tempdir().unwrap();
    fetch("open-iscsi", tools.path());
    let mut worse = Vec::new();
    for user in USERS {
        let on = |driver: &str| run(flavor, driver, user, tools.path());
        let (ours, theirs) = (on("ferroce"), on("rxe"));
        println!("{user:6} ferroce: {}", told(user, &ours));
        println!("{user:6} rxe:     {}", told(user, &theirs));
        if ours.status != Some(0) && theirs.status == Some(0) {
            worse.push(ours);
        }
    }
    assert!(worse.is_empty(), "{worse:#?}");
}

fn run(flavor: &Flavor, driver: &str, user: &str, tools: &Path) -> Ran {
    let script = kernel_dir().join("../crates/ferroce/tests/lab/guest/kernel_users.sh");
    let mut options = vec!["--hosts", "2", "--timeout", "900"];
    if driver == "ferroce" {
        options.extend(["--module", "ferroce"]);
    }
    ran(flavor
        .lab(&options)
        .arg("sh")
        .arg(script.canonicalize().unwrap())
        .args([driver, user])
        .env("TOOLS", tools))
}

/// What a user said of itself, or what ended it.
fn told(user: &str, ran: &Ran) -> String {
    let said = ran.stdout.lines();
    let said: Vec<&str> = said
        .filter_map(|line| line.strip_prefix("host2: ")?.strip_prefix(user))
        .collect();
    match ran.status {
        Some(0) => said.join("").trim_start_matches(": ").to_owned(),
        status => {
            let report = ran.stderr.lines().find(|line| line.contains("ferroce: "));
            let last = ran.stderr.lines().last().unwrap_or_default();
            format!("fails ({status:?}): {}", report.unwrap_or(last))
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
