// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce bench`, in its shortest form: that it runs, and what it writes.

use std::fs;

use crate::support::{ferroce, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "bench measures both devices, and writes a table and a picture",
        measures,
    ),
    ("bench measures between hosts", measures_the_wire),
    ("bench refuses what makes no sense", refuses),
];

fn measures(flavor: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let (csv, svg) = (dir.path().join("table.csv"), dir.path().join("chart.svg"));
    let ran = ran(ferroce()
        .args(["bench", "--quick", "--rounds", "1"])
        .args(["--only", "pingpong,write,time"])
        .args(flavor.args)
        .args([&"--csv".into(), &csv, &"--svg".into(), &svg]))
    .ends_with(0)
    .prints("ibv_rc_pingpong, 4 KiB")
    .prints("Where the time goes with ib_write_bw, 8 B")
    .prints("the sender runs");
    assert!(!ran.stdout.contains("ib_read_bw"), "{ran:#?}");

    let table = fs::read_to_string(&csv).unwrap();
    let mut lines = table.lines();
    assert!(lines
        .next()
        .unwrap()
        .starts_with("measured,unit,ferroce_median,"));
    let write: Vec<&str> = lines
        .find_map(|line| line.strip_prefix("\"ib_write_bw, 64 KiB\",MiB/s,"))
        .unwrap()
        .split(',')
        .collect();
    assert_eq!(write.len(), 9, "{table}");
    let numbers = write.iter().map(|n| n.parse::<f64>().unwrap());
    assert!(numbers.into_iter().all(|n| n > 0.0), "{table}");

    let picture = fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
    assert!(picture.contains("rdma_rxe"));
}

fn measures_the_wire(flavor: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let csv = dir.path().join("table.csv");
    ran(ferroce()
        .args(["bench", "--wire", "--quick", "--rounds", "1"])
        .args(["--only", "read,pingpong,time"])
        .args(flavor.args)
        .args([&"--csv".into(), &csv]))
    .ends_with(0)
    .prints("ferroce and rdma_rxe between hosts")
    .prints("Where the time goes");

    let table = fs::read_to_string(&csv).unwrap();
    // ferroce has packets only here.
    let packets = table
        .lines()
        .find_map(|line| line.strip_prefix("8 B: sent_pkts per message,,"));
    assert!(
        packets.is_some_and(|ours| !ours.starts_with(',')),
        "{table}"
    );
    for measured in [
        "\"ib_read_bw, 64 KiB\",MiB/s,",
        "\"ibv_rc_pingpong, 4 KiB\",µs,",
    ] {
        let values = table.lines().find_map(|line| line.strip_prefix(measured));
        let mut numbers = values
            .unwrap()
            .split(',')
            .map(|n| n.parse::<f64>().unwrap());
        assert!(numbers.all(|n| n > 0.0), "{table}");
    }
}

fn refuses(_: &Flavor) {
    ran(ferroce().args(["bench", "--only", "speed"]))
        .ends_with(2)
        .says("queue-pairs");
    ran(ferroce().args(["bench", "--rounds", "0"]))
        .ends_with(2)
        .says("1..=1000");
    ran(ferroce().args(["bench", "--csv", "/no/such/folder/file"]))
        .ends_with(1)
        .says("/no/such/folder/file");
}
