// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the command in the guest, its streams joined to the host's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::process::{Signal, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use serde_bytes::ByteBuf;

use super::{duplicate, Failure};
use crate::channel::{self, ToGuest, ToHost, CHUNK};
use crate::job::Job;

/// Wraps bytes of an output in the message for it.
type Message = fn(ByteBuf) -> ToHost;

/// The host's end of the command's standard streams.
struct Streams {
    stdin: Option<File>,
    /// Standard output, and standard error if it is apart from it.
    outputs: Vec<(File, Message)>,
    /// The terminal, to be told of a new size.
    terminal: Option<OwnedFd>,
}

/// Runs the job's command to its end. Returns its exit status, and the thread that reads the channel.
pub fn run(job: &Job, channel: File) -> Result<(i32, JoinHandle<()>), Failure> {
    let (child, streams) = spawn(job)?;
    let failed = |e: io::Error| Failure::lab(format!("cannot use the channel: {e}"));
    let writer = Arc::new(Mutex::new(channel.try_clone().map_err(failed)?));
    send(&writer, &ToHost::Started).map_err(failed)?;

    let outputs: Vec<_> = streams
        .outputs
        .into_iter()
        .map(|(from, message)| {
            let writer = writer.clone();
            thread::spawn(move || pass_output(from, message, &writer))
        })
        .collect();
    let consumed = writer.clone();
    let input =
        thread::spawn(move || pass_input(channel, streams.stdin, streams.terminal, &consumed));

    let status = wait_for(&child);
    // What the command left behind would keep its output open, and goes now:
    // then all that was written has an end, and is passed on up to there.
    // (Process group 1 stands for every process but the first, kill(2).)
    let _ = rustix::process::kill_process_group(rustix::process::Pid::INIT, Signal::KILL);
    for output in outputs {
        let _ = output.join();
    }
    let status = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok((status, input))
}

fn spawn(job: &Job) -> Result<(Child, Streams), Failure> {
    let program = job.command.first().map(|c| c.os()).unwrap_or_default();
    let mut command = Command::new(&program);
    command
        .args(job.command.iter().skip(1).map(|a| a.os()))
        .env_clear()
        .envs(
            job.environment
                .iter()
                .map(|(name, value)| (name.os(), value.os())),
        )
        .current_dir(job.folder.path());
    let streams = match job.terminal {
        Some(size) => with_terminal(&mut command, size)?,
        None => with_pipes(&mut command)?,
    };
    let child = command.spawn().map_err(|e| {
        let name = program.display();
        match e.kind() {
            _ if !job.folder.path().is_dir() => Failure::lab(format!(
                "the folder {} is not there in the guest",
                job.folder.path().display()
            )),
            // The statuses that a shell has for the same.
            io::ErrorKind::NotFound => Failure::command(
                format!("there is no command {name} in the guest, whose files are this host's"),
                127,
            ),
            _ => Failure::command(format!("cannot run {name}: {e}"), 126),
        }
    })?;
    Ok((child, streams))
}

fn with_pipes(command: &mut Command) -> Result<Streams, Failure> {
    let failed = |e: io::Error| Failure::lab(format!("cannot create a pipe: {e}"));
    let (stdin, to_stdin) = io::pipe().map_err(failed)?;
    let (from_stdout, stdout) = io::pipe().map_err(failed)?;
    let (from_stderr, stderr) = io::pipe().map_err(failed)?;
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    let file = |fd: OwnedFd| File::from(fd);
    Ok(Streams {
        stdin: Some(file(to_stdin.into())),
        outputs: vec![
            (file(from_stdout.into()), ToHost::Stdout),
            (file(from_stderr.into()), ToHost::Stderr),
        ],
        terminal: None,
    })
}

fn with_terminal(command: &mut Command, (rows, columns): (u16, u16)) -> Result<Streams, Failure> {
    let failed = |e: rustix::io::Errno| Failure::lab(format!("cannot create a terminal: {e}"));
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(failed)?;
    rustix::pty::unlockpt(&ours).map_err(failed)?;
    let name = rustix::pty::ptsname(&ours, Vec::new()).map_err(failed)?;
    let theirs = rustix::fs::open(
        name.as_c_str(),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(failed)?;
    resize(&theirs, rows, columns).map_err(failed)?;
    command
        .stdin(duplicate(&theirs)?)
        .stdout(duplicate(&theirs)?)
        .stderr(Stdio::from(theirs));
    let take_terminal = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: The closure makes two system calls and touches no memory that
    // another thread could hold locked while the process forks.
    unsafe { command.pre_exec(take_terminal) };
    let input = duplicate(&ours)?;
    let terminal = duplicate(&ours)?;
    Ok(Streams {
        stdin: Some(File::from(input)),
        outputs: vec![(File::from(ours), ToHost::Stdout)],
        terminal: Some(terminal),
    })
}

fn resize(terminal: impl AsFd, rows: u16, columns: u16) -> rustix::io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// Passes what the host sends on, until it stops sending.
fn pass_input(
    mut channel: File,
    mut stdin: Option<File>,
    terminal: Option<OwnedFd>,
    writer: &Mutex<File>,
) {
    loop {
        match channel::receive(&mut channel) {
            Ok(Some(ToGuest::Stdin(bytes))) => {
                // A command that closed its input is not interested in the rest.
                if stdin.as_mut().is_some_and(|s| s.write_all(&bytes).is_err()) {
                    stdin = None;
                }
                if send(writer, &ToHost::Consumed(bytes.len() as u32)).is_err() {
                    return;
                }
            }
            Ok(Some(ToGuest::StdinEnd)) => stdin = None,
            Ok(Some(ToGuest::Resize { rows, columns })) => {
                if let Some(terminal) = &terminal {
                    let _ = resize(terminal, rows, columns);
                }
            }
            // The host waits before it sends anything, and this has come.
            Ok(Some(ToGuest::Begin)) => {}
            Ok(Some(ToGuest::End) | None) => return,
            Err(e) => {
                // Never to be taken for the end of the input.
                let what = format!("the channel to the host is broken: {e}");
                let _ = send(writer, &ToHost::Failed { what, status: 125 });
                return;
            }
        }
    }
}

fn pass_output(mut from: File, message: Message, writer: &Mutex<File>) {
    let mut buf = vec![0; CHUNK];
    // The end of a terminal is an error, EIO.
    while let Ok(n @ 1..) = from.read(&mut buf) {
        if send(writer, &message(ByteBuf::from(&buf[..n]))).is_err() {
            return;
        }
    }
}

fn send(writer: &Mutex<File>, message: &ToHost) -> io::Result<()> {
    let mut file = writer.lock().unwrap_or_else(|e| e.into_inner());
    channel::send(&mut *file, message)
}

/// Waits for the command; as the first process, also for whatever is orphaned.
fn wait_for(child: &Child) -> ExitStatus {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == child.id() as i32 => {
                return ExitStatus::from_raw(status.as_raw());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Not to be: the command is a child until it was waited for.
            Err(_) => return ExitStatus::from_raw(125 << 8),
        }
    }
}
