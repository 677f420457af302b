// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce doctor`, on machines that lack things, and what is made of the command line: manual pages and
//! completions.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// The program, with a cache that has nothing.
fn ferroce(cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command.env("FERROCE_CACHE", cache);
    command.env_remove("FERROCE_KERNEL_DIR");
    command
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {stderr}")
    })
}

/// The finding of that name in the section at that place.
fn finding<'a>(report: &'a Value, section: usize, name: &str) -> &'a Value {
    let findings = report[section]["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// What the exit status is to be: whether the demo lacks nothing.
fn can_demo(report: &Value) -> bool {
    let sections = report.as_array().unwrap().iter();
    let needed = sections.filter(|section| section["is_for_demo"] == true);
    let mut findings = needed.flat_map(|section| section["findings"].as_array().unwrap());
    findings.all(|finding| finding["state"] != "lacks")
}

#[test]
fn a_machine_is_described_within_80_columns() {
    let cache = tempfile::tempdir().unwrap();
    let output = ferroce(cache.path()).arg("doctor").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for name in [
        "toolchain",
        "UML guest",
        "kernel",
        "libibverbs",
        "ferroce run",
    ] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn the_exit_status_tells_whether_the_demo_can_run() {
    let cache = tempfile::tempdir().unwrap();
    let data = cache.path().join("data");
    let output = ferroce(cache.path())
        .args(["doctor", "--json"])
        .env("XDG_DATA_HOME", &data)
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.success(), can_demo(&report), "{report:#}");
    // Nothing has been built in this cache.
    assert_eq!(finding(&report, 0, "UML guest")["state"], "gets");
    assert_eq!(finding(&report, 1, "kernels")["state"], "none");
    assert_eq!(finding(&report, 1, "machines")["state"], "none");
    assert!(!data.exists(), "nothing is to be changed");
    // The other tests have processes write into each other's memory.
    assert_eq!(finding(&report, 3, "ferroce run")["state"], "works");
}

#[test]
fn without_rust_and_apt_the_demo_cannot_run() {
    let (cache, path) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = ferroce(cache.path())
        .args(["doctor", "--json"])
        .env("PATH", path.path())
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    let toolchain = finding(&report, 0, "toolchain");
    assert_eq!(toolchain["state"], "lacks");
    assert_eq!(toolchain["remedy"], "https://rustup.rs");
    let packages = finding(&report, 0, "packages");
    assert_eq!(packages["state"], "lacks");
    let remedy = packages["remedy"].as_str().unwrap();
    assert!(remedy.contains("apt-get install"), "{remedy}");
}

#[test]
fn without_the_modules_sources_the_demo_cannot_run() {
    let cache = tempfile::tempdir().unwrap();
    let output = ferroce(cache.path())
        .args(["doctor", "--json"])
        .env("FERROCE_KERNEL_DIR", "/nowhere")
        .output()
        .unwrap();
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1));
    let sources = finding(&report, 0, "sources");
    assert_eq!(sources["state"], "lacks");
    let found = sources["found"].as_str().unwrap();
    assert!(
        found.contains("/nowhere") && found.contains("FERROCE_KERNEL_DIR"),
        "{found}"
    );
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ferroce"))
        .arg("man")
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    for name in [
        "ferroce",
        "ferroce-lab-run",
        "ferroce-module-check",
        "ferroce-doctor",
    ] {
        let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
        assert!(
            page.contains(".TH ") && page.contains(".SH DESCRIPTION"),
            "{page}"
        );
    }
    // What users do not type is not described.
    assert!(!folder.path().join("ferroce-bench-guest.1").exists());
}

#[test]
fn shells_that_complete_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(env!("CARGO_BIN_EXE_ferroce"))
            .args(["completions", shell])
            .output()
            .unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains("doctor") && text.contains("uninstall"),
            "{shell}"
        );
    }
}
