// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that use the card together: verified traffic between all of them, and processes that are
//! killed at any moment.
//!
//! `FERROCE_LONG=1` has as many operations, and kills, as the card is meant to bear.

mod batches;
mod endpoint;
mod groups;
mod kill;
mod numbers;
mod traffic;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ferroce_user::{broker, process};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        // As `ferroce` does, which the processes start if there is no broker.
        ["run", "--broker"] => match broker::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
        ["child", "traffic", own, count, operations] => {
            let number = |text: &str| text.parse().unwrap();
            traffic::child(number(own), number(count), number(operations) as u64);
            ExitCode::SUCCESS
        }
        ["child", "member"] => {
            groups::member();
            ExitCode::SUCCESS
        }
        ["child", "sender"] => {
            groups::sender();
            ExitCode::SUCCESS
        }
        ["child", "target"] => {
            batches::target();
            ExitCode::SUCCESS
        }
        ["child", "initiator"] => {
            batches::initiator();
            ExitCode::SUCCESS
        }
        ["child", "reuser"] => {
            numbers::reuser();
            ExitCode::SUCCESS
        }
        ["child", "victim", seed, lasts] => {
            kill::victim(seed.parse().unwrap(), lasts.parse().unwrap());
            ExitCode::SUCCESS
        }
        ["child", "watcher"] => {
            kill::watcher();
            ExitCode::SUCCESS
        }
        ["child", "survivor"] => {
            kill::survivor();
            ExitCode::SUCCESS
        }
        _ => {
            let trials = vec![
                Trial::test("processes exchange verified messages", || {
                    traffic::test();
                    Ok(())
                }),
                Trial::test("what is sent to a group comes to its members", || {
                    groups::test();
                    Ok(())
                }),
                Trial::test("requests that share a system call", || {
                    batches::test();
                    Ok(())
                }),
                Trial::test("a number that is used again has nothing of before", || {
                    numbers::test();
                    Ok(())
                }),
                Trial::test("a process that is killed harms no other", || {
                    kill::test();
                    Ok(())
                }),
            ];
            libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
        }
    }
}

/// Whether to take as long as it takes.
fn is_long() -> bool {
    std::env::var_os("FERROCE_LONG").is_some()
}

/// A folder with the attributes of a device whose only address is [`endpoint::GID`].
fn device_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ferroce-user-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("ports/1/gids")).unwrap();
    let gid = "0000:0000:0000:0000:0000:ffff:7f00:0001\n";
    std::fs::write(folder.join("ports/1/gids/0"), gid).unwrap();
    folder
}

/// A process of this program's, which is talked to by lines.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one of a group that no other has to do with.
    fn start(group: &str, folder: &PathBuf, args: &[&str]) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(&program)
            .arg("child")
            .args(args)
            .env(process::PROGRAM, &program)
            .env(broker::GROUP, group)
            .env("FERROCE_TEST_DEVICE", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a process has ended early");
        line.trim_end().to_owned()
    }

    fn kill(self) {
        drop(self);
    }

    fn end(mut self) {
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    /// Where a test fails, none of its processes goes on for ever.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the process that has started this one.
fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

/// What the process that has started this one tells.
fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// The device of this process, which its parent has named.
fn open() -> endpoint::Device {
    let folder = std::env::var_os("FERROCE_TEST_DEVICE").unwrap();
    endpoint::Device::open(folder.as_ref())
}

/// Waits until the broker of a group has gone: the last one.
fn wait_for_broker(group: &str) {
    let name = format!("/{group}");
    let begin = Instant::now();
    loop {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        if !sockets
            .lines()
            .any(|line| line.ends_with(&name) && line.contains("@ferroce/"))
        {
            return;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "the broker stays"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
