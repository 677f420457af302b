// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pairs of verbs programs, a server and its client, and what they print.

use std::ffi::{OsStr, OsString};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use procfs::net::TcpState;
use procfs::process::Process;
use rustix::process::{kill_process, Pid, Signal};

/// The TCP port of perftest's and of rdma-core's programs, by which the two
/// sides find each other.
pub const PORT: u16 = 18515;
/// How long a pair may take: several times what the slowest took under
/// emulation.
pub const LIMIT: Duration = Duration::from_secs(300);

/// The exit status of `timeout` for a program that it has ended.
const TIMED_OUT: i32 = 124;
/// How long a program may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// How one of a pair is started.
#[derive(Clone)]
pub struct Side {
    /// The command that starts it, such as `ip netns exec NAME`, and becomes it.
    /// Empty for none.
    pub by: Vec<OsString>,
    pub arguments: Vec<String>,
}

impl Side {
    fn command(&self, program: &str, port: u16) -> Command {
        // It ends a program that hangs. In the foreground it shares our process group,
        // and Ctrl-C reaches it.
        let limit = LIMIT.as_secs().to_string();
        let words = ["timeout", "--foreground", "--kill-after=5", &limit, program];
        let mut words = self
            .by
            .iter()
            .map(OsString::as_os_str)
            .chain(words.map(OsStr::new));
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(&self.arguments)
            .args(["-p", &port.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// A client and its server, both running.
pub struct Pair {
    server: Child,
    client: Option<Child>,
}

impl Pair {
    /// Starts a program twice: as server, and once that listens, as client, which
    /// finds the server by its address and TCP port.
    pub fn start(
        program: &str,
        server: &Side,
        client: &Side,
        (address, port): (&str, u16),
    ) -> Result<Self> {
        let start = |command: &mut Command| {
            let child = command.spawn();
            child.with_context(|| format!("cannot start {program}"))
        };
        let mut pair = Self {
            // Nobody reads it while the client is read, and it is long: a line
            // for each queue pair.
            server: start(server.command(program, port).stdout(Stdio::null()))?,
            client: None,
        };
        // The sockets of a process that has just ended cannot be read.
        while !listening(pair.server.id(), port).unwrap_or(false) {
            if pair.server.try_wait()?.is_some() {
                return Err(pair.failed(program));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let mut client = client.command(program, port);
        pair.client = Some(start(client.arg(address).stdout(Stdio::piped()))?);
        Ok(pair)
    }

    /// The process of the client, which is a child of `timeout`.
    pub fn client(&self) -> Result<Process> {
        let timeout = self.client.as_ref().map_or(0, Child::id);
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            // Those that end while one looks are left out.
            let mut processes = procfs::process::all_processes()?.flatten();
            let child = processes.find(|p| {
                let stat = p.stat();
                stat.is_ok_and(|s| s.ppid as u32 == timeout && s.comm != "timeout")
            });
            if let Some(child) = child {
                return Ok(child);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the client does not start")
    }

    /// Waits for both, and returns what the client printed.
    pub fn finish(mut self, program: &str) -> Result<String> {
        let client = self.client.take().context("there is no client")?;
        let output = client.wait_with_output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let server = self.failed(program);
            let why = match output.status.code() {
                Some(TIMED_OUT) => format!("took more than {} s", LIMIT.as_secs()),
                _ => format!("failed ({})", output.status),
            };
            bail!("{program} {why}: {text}\n{server}");
        }
        ensure!(
            self.server.wait()?.success(),
            "the server of {program} failed"
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the server says, which is to end or has ended.
    fn failed(&mut self, program: &str) -> anyhow::Error {
        end(&mut self.server);
        let mut text = String::new();
        if let Some(mut stderr) = self.server.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
        }
        anyhow!("the server of {program} says: {}", text.trim())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in [Some(&mut self.server), self.client.as_mut()]
            .into_iter()
            .flatten()
        {
            end(child);
        }
    }
}

/// Ends a program by its `timeout`, which passes the signal on.
fn end(child: &mut Child) {
    let runs = |child: &mut Child| matches!(child.try_wait(), Ok(None));
    if !runs(child) {
        return;
    }
    let _ = kill_process(Pid::from_child(child), Signal::TERM);
    let until = Instant::now() + GRACE;
    while runs(child) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Whether somebody listens on the port, in the network namespace of a process
/// that has not been waited for.
fn listening(process: u32, port: u16) -> Result<bool> {
    let process = Process::new(i32::try_from(process)?)?;
    let sockets = process.tcp()?.into_iter().chain(process.tcp6()?);
    Ok(sockets
        .into_iter()
        .any(|s| s.state == TcpState::Listen && s.local_address.port() == port))
}

/// What perftest prints at the end: names of columns, and a row of numbers.
#[derive(Debug, PartialEq)]
pub struct Report(Vec<(String, f64)>);

impl Report {
    /// Reads a report out of a program's output.
    pub fn parse(output: &str) -> Result<Self> {
        let mut lines = output.lines().skip_while(|l| !l.contains("#bytes"));
        let (Some(header), Some(row)) = (lines.next(), lines.next()) else {
            bail!("there is no table in what perftest printed:\n{output}");
        };
        let names = columns(header);
        let values: Vec<&str> = row.split_whitespace().collect();
        ensure!(
            names.len() == values.len(),
            "perftest's table has {} columns and {} values:\n{header}\n{row}",
            names.len(),
            values.len()
        );
        let pairs = names.into_iter().zip(values).map(|(name, value)| {
            let value = value.parse();
            Ok((
                name.clone(),
                value.with_context(|| format!("column {name}"))?,
            ))
        });
        Ok(Self(pairs.collect::<Result<_>>()?))
    }

    /// The number in a column.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.0.iter().find(|(column, _)| column == name);
        let (_, value) = found.with_context(|| format!("perftest's table has no column {name}"))?;
        ensure!(value.is_finite() && *value > 0.0, NoNumber(name.to_owned()));
        Ok(*value)
    }

    /// The number of messages.
    pub fn messages(&self) -> Result<f64> {
        self.get("#iterations")
    }
}

/// perftest compares two clocks before it measures. Where the machine is too
/// busy for that, it prints 0 or "inf".
#[derive(Debug, thiserror::Error)]
#[error("perftest printed no number for {0}: the machine is too busy for its clocks to agree")]
pub struct NoNumber(String);

/// The names in perftest's header. They have spaces in them, and between them
/// may be one only; but each begins with '#' and is a word, or ends with ']'.
fn columns(header: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = match rest.strip_prefix('#') {
            Some(_) => rest.find(char::is_whitespace),
            None => rest.find(']').map(|place| place + 1),
        };
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        names.push(name.to_owned());
        rest = after.trim_start();
    }
    names
}

/// The time for there and back in µs, as `ibv_rc_pingpong` prints it.
pub fn pingpong(output: &str) -> Result<f64> {
    output
        .lines()
        .find_map(|line| {
            let (iterations, rest) = line.split_once(" iters in ")?;
            let (_, time) = rest.split_once(" seconds = ")?;
            iterations.parse::<u64>().ok()?;
            time.strip_suffix(" usec/iter")?.parse().ok()
        })
        .with_context(|| format!("there is no time in what ibv_rc_pingpong printed:\n{output}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANDWIDTH: &str = "\
 CQ Moderation   : 100
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      40368            0.00               2522.63		   0.040362
---------------------------------------------------------------------------------------
";
    const LATENCY: &str = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    \
        t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] \n \
        8       2000          6.79           6831.46      6.92     \t       63.75       \t445.52 \
        \t\t3030.84 \t\t6002.18\n";

    #[test]
    fn a_column_is_found_by_its_whole_name() {
        let report = Report::parse(BANDWIDTH).unwrap();
        assert_eq!(report.messages().unwrap(), 40_368.0);
        assert_eq!(report.get("BW average[MB/sec]").unwrap(), 2522.63);
        let error = report.get("BW average[Gb/sec]").unwrap_err().to_string();
        assert!(error.contains("no column BW average[Gb/sec]"), "{error}");
    }

    #[test]
    fn latencies_are_read_by_the_names_of_their_columns() {
        let report = Report::parse(LATENCY).unwrap();
        assert_eq!(report.get("t_typical[usec]").unwrap(), 6.92);
        assert_eq!(report.get("99% percentile[usec]").unwrap(), 3030.84);
    }

    #[test]
    fn what_is_no_number_is_an_error_of_its_own() {
        for text in ["inf", "0.00", "-nan"] {
            let report = Report::parse(&LATENCY.replace("6.92", text)).unwrap();
            let error = report.get("t_typical[usec]").unwrap_err();
            assert!(error.is::<NoNumber>());
        }
    }

    #[test]
    fn a_row_that_does_not_fit_its_header_is_refused() {
        assert!(Report::parse(&BANDWIDTH.replace("0.00 ", "")).is_err());
        assert!(Report::parse("no table").is_err());
        assert!(Report::parse(" #bytes #iterations").is_err());
    }

    #[test]
    fn pingpong_prints_its_time_in_a_sentence() {
        let text = "8192000 bytes in 0.04 seconds = 1509.25 Mbit/sec\n\
            1000 iters in 0.04 seconds = 43.42 usec/iter\n";
        assert_eq!(pingpong(text).unwrap(), 43.42);
        assert!(pingpong("1000 iters in 0.04 seconds").is_err());
    }
}
