// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long `ferroce lab run -- true` takes when everything is built: a guest
//! that boots, loads the RDMA stack, runs nothing, and powers off.
//!
//! `cargo bench -p ferroce` prints the least, the median and the most of
//! several runs for each backend and for Debian's kernel, in seconds of wall time.

use std::process::{Command, Stdio};
use std::time::Instant;

fn main() {
    println!(
        "{:8} {:>5} {:>8} {:>8} {:>8}",
        "kernel", "runs", "min s", "median s", "max s"
    );
    for (option, kernel, runs) in [
        ("--backend", "uml", 11),
        ("--backend", "qemu", 5),
        ("--kernel", "debian", 5),
    ] {
        let lab = |command: &str, rest: &[&str]| {
            let status = Command::new(env!("CARGO_BIN_EXE_ferroce"))
                .args(["lab", command, option, kernel])
                .args(rest)
                .stdin(Stdio::null())
                .stderr(if command == "build" {
                    Stdio::inherit()
                } else {
                    Stdio::null()
                })
                .status()
                .expect("the program starts");
            assert!(status.success(), "lab {command} for {kernel} failed");
        };
        lab("build", &[]);
        // The first run reads files that later ones find in memory.
        lab("run", &["--", "true"]);
        let mut seconds: Vec<f64> = (0..runs)
            .map(|_| {
                let started = Instant::now();
                lab("run", &["--", "true"]);
                started.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        let (min, median, max) = (seconds[0], seconds[runs / 2], seconds[runs - 1]);
        println!("{kernel:8} {runs:>5} {min:>8.2} {median:>8.2} {max:>8.2}");
    }
}
