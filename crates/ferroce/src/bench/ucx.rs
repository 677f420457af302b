// SPDX-License-Identifier: MIT OR Apache-2.0
//! UCX's own benchmark, with shared memory: what two processes of one machine
//! reach without an RDMA device.

use std::ffi::OsString;

use anyhow::{bail, ensure, Context, Result};

use super::measure::{self, Values, EXCHANGES};
use super::native::{free_port, ADDRESS};
use super::perftest::{Pair, Side};
use super::plan::{Exchange, OneSided, Quantity, Step, Which, SMALL};

const PROGRAM: &str = "ucx_perftest";
/// What it passes messages by: shared memory, and large ones by copies from one
/// process to the other.
pub const TRANSPORTS: &str = "posix,cma";
/// How many messages are sent before it measures.
const WARM_UP: u32 = 1000;
/// How many messages of a bandwidth test tell how many it can send in
/// [`DURATION`] s, and how many it is told to send at most.
const TRIAL: u32 = 10_000;
const MOST: f64 = 20e6;
const DURATION: f64 = 1.0;

/// Takes the step with UCX's operation that comes nearest. Of the latencies, it
/// has the typical one.
pub fn values(step: &Step) -> Result<Values> {
    match *step {
        Step::Latency { exchange } => {
            let test = match exchange {
                Exchange::Send => "tag_lat",
                Exchange::Write => "ucp_put_lat",
            };
            let which = Which::Typical;
            let quantity = Quantity::Latency { exchange, which };
            Ok(vec![(quantity, run(test, SMALL, EXCHANGES)?.median)])
        }
        Step::Bandwidth { operation, size } => bandwidth(operation, size),
        _ => bail!("UCX does not measure that"),
    }
}

/// Sends for about [`DURATION`], which it cannot be told, only a number of messages.
fn bandwidth(operation: OneSided, size: u64) -> Result<Values> {
    let trial = run("tag_bw", size, TRIAL)?;
    let count = (trial.rate * DURATION).clamp(f64::from(TRIAL), MOST);
    let report = run("tag_bw", size, count as u32)?;
    Ok(measure::of_rate(operation, size, report.rate))
}

fn run(test: &str, size: u64, count: u32) -> Result<Final> {
    let server = Side {
        // Its warnings go where errors do.
        by: [
            "env",
            "UCX_LOG_FILE=stderr",
            &format!("UCX_TLS={TRANSPORTS}"),
        ]
        .map(OsString::from)
        .to_vec(),
        arguments: Vec::new(),
    };
    let (size, count, warm_up) = (size.to_string(), count.to_string(), WARM_UP.to_string());
    let mut client = server.clone();
    client.arguments = ["-t", test, "-s", &size, "-n", &count, "-w", &warm_up]
        .map(str::to_owned)
        .to_vec();
    let pair = Pair::start(PROGRAM, &server, &client, (ADDRESS, free_port()?))?;
    let output = pair.finish(PROGRAM)?;
    Final::parse(&output).with_context(|| format!("{PROGRAM} -t {test}"))
}

/// The last row of what `ucx_perftest` prints: that of the whole run.
#[derive(Debug, PartialEq)]
struct Final {
    /// Of the latencies, one way, in µs; of a bandwidth test, of the times that
    /// sending takes.
    median: f64,
    /// Messages a second.
    rate: f64,
}

/// Its columns, behind "Final:". The last three pairs are of latency, bandwidth,
/// and message rate: first since the row before, then of the whole run.
const COLUMNS: [&str; 9] = [
    "Stage",
    "# iterations",
    "50.0%ile",
    "average",
    "overall",
    "average",
    "overall",
    "average",
    "overall",
];

impl Final {
    fn parse(output: &str) -> Result<Self> {
        let mut lines = output.lines();
        let header: Vec<&str> = lines
            .find(|line| line.contains(COLUMNS[0]))
            .map(|line| line.trim_matches(['|', ' ']).split('|').map(str::trim))
            .with_context(|| format!("there is no table in what it printed:\n{output}"))?
            .collect();
        ensure!(
            header == COLUMNS,
            "its table has the columns {}, not {}",
            header.join(", "),
            COLUMNS.join(", ")
        );
        let row = lines
            .find_map(|line| line.strip_prefix("Final:"))
            .with_context(|| format!("there is no last row in what it printed:\n{output}"))?;
        let values: Vec<f64> = row
            .split_whitespace()
            .map(|value| value.parse().with_context(|| format!("its last row:{row}")))
            .collect::<Result<_>>()?;
        let [_, median, .., rate] = values[..] else {
            bail!("its last row is too short:{row}")
        };
        ensure!(
            values.len() == COLUMNS.len() - 1,
            "its last row has {} numbers:{row}",
            values.len()
        );
        ensure!(
            [median, rate].iter().all(|v| v.is_finite() && *v > 0.0),
            "its last row has no numbers:{row}"
        );
        Ok(Self { median, rate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Of UCX 1.13.1.
    const LATENCY: &str = "\
+--------------+--------------+------------------------------+---------------------+-----------------------+
|              |              |        latency (usec)        |   bandwidth (MB/s)  |  message rate (msg/s) |
+--------------+--------------+----------+---------+---------+----------+----------+-----------+-----------+
|    Stage     | # iterations | 50.0%ile | average | overall |  average |  overall |  average  |  overall  |
+--------------+--------------+----------+---------+---------+----------+----------+-----------+-----------+
[thread 0]               225   7062.865  8508.008  9003.947        0.00       0.00         118         111
[thread 0]               276   7527.310  9803.716  9151.730        0.00       0.00         102         109
Final:                 20000      0.461    12.696   138.815        0.60       0.05       78763        7204
";
    const BANDWIDTH: &str = "\
+--------------+--------------+------------------------------+---------------------+-----------------------+
|              |              |       overhead (usec)        |   bandwidth (MB/s)  |  message rate (msg/s) |
+--------------+--------------+----------+---------+---------+----------+----------+-----------+-----------+
|    Stage     | # iterations | 50.0%ile | average | overall |  average |  overall |  average  |  overall  |
+--------------+--------------+----------+---------+---------+----------+----------+-----------+-----------+
[thread 0]             19203      0.050   552.628   524.546      113.10     119.15        1810        1906
Final:                 20000      0.050   642.776   529.258       97.23     118.09        1556        1889
";

    #[test]
    fn the_last_row_has_the_median_and_the_rate_of_the_whole_run() {
        let latency = Final::parse(LATENCY).unwrap();
        assert_eq!((latency.median, latency.rate), (0.461, 7204.0));
        // Its MB/s are MiB/s.
        let rate = Final::parse(BANDWIDTH).unwrap().rate;
        let values = measure::of_rate(OneSided::Read, 64 << 10, rate);
        assert_eq!(values.len(), 1);
        assert!((values[0].1 - 118.09).abs() < 0.1, "{values:?}");
    }

    #[test]
    fn another_table_is_refused() {
        for (text, other, error) in [
            ("50.0%ile", "typical", "not Stage, # iterations, 50.0%ile"),
            ("Final:", "Last:", "no last row"),
            ("Stage", "", "no table"),
            ("  118.09", "", "its last row has 7 numbers"),
            ("1889", "0", "no numbers"),
            ("1889", "many", "its last row"),
        ] {
            let refused = Final::parse(&BANDWIDTH.replace(text, other)).unwrap_err();
            assert!(format!("{refused:#}").contains(error), "{refused:#}");
        }
    }
}
