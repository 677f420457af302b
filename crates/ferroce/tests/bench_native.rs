// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce bench --native`, in its shortest form: that it runs, and what it writes. It installs what is missing
//! itself.

use std::fs;
use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
    command
        .args(["bench", "--native", "--quick", "--rounds", "1"])
        .args(arguments)
        .env("FERROCE_GROUP", format!("bench-{}", std::process::id()));
    command.output().unwrap()
}

#[test]
fn measures_ferroce_run_beside_ucx() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (csv, svg) = (path("table.csv"), path("chart.svg"));
    let output = bench(&[
        "--only",
        "latency,read,queue-pairs",
        "--csv",
        &csv,
        "--svg",
        &svg,
    ]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:#?}");
    for text in [
        "ferroce run and UCX (posix,cma)",
        "GOAL",
        "MET",
        "A goal is",
    ] {
        assert!(said.contains(text), "{output:#?}");
    }

    let table = fs::read_to_string(&csv).unwrap();
    assert!(table.starts_with("measured,unit,ferroce_median,ferroce_min,ferroce_max,ucx_median,"));
    for (measured, compared) in [
        ("\"ib_send_lat, typical\",µs,", true),
        ("\"ib_write_lat, typical\",µs,", true),
        ("\"ib_read_bw, 64 KiB\",MiB/s,", true),
        ("100 QPs/1 QP,%,", false),
    ] {
        let mut rows = table.lines();
        let values = rows.find_map(|line| line.strip_prefix(measured));
        let values: Vec<&str> = values.expect(&table).split(',').collect();
        assert_eq!(values.len(), 9, "{table}");
        let (ours, rest) = values.split_at(3);
        let (theirs, ratio) = rest.split_at(3);
        let are_numbers = |values: &[&str]| {
            let mut numbers = values.iter().map(|value| value.parse::<f64>());
            numbers.all(|number| number.is_ok_and(|number| number > 0.0))
        };
        assert!(are_numbers(ours) && are_numbers(ratio), "{table}");
        assert_eq!(are_numbers(theirs), compared, "{table}");
    }

    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.contains("UCX") && picture.contains("black: the goal"));
}

#[test]
fn refuses_what_needs_a_guest() {
    let says = |arguments: &[&str], status, text: &str| {
        let output = bench(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{output:#?}");
        assert!(errors.contains(text), "{output:#?}");
    };
    says(&["--wire"], 2, "--wire");
    says(&["--backend", "qemu"], 2, "--backend");
    says(&["--only", "cost"], 1, "does not measure cost");
}

#[test]
fn says_which_packages_are_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_ferroce"))
        .args(["bench", "--native", "--no-install"])
        .env("PATH", "/no/such/folder")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    assert!(
        errors.contains("perftest") && errors.contains("ucx-utils"),
        "{output:#?}"
    );
}
