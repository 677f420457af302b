// SPDX-License-Identifier: MIT OR Apache-2.0
//! The child that a module's code runs in: it can write to one pipe, end, and
//! nothing else.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::Serialize;

use super::image::Sealed;
use super::{ExecError, Line};

/// The processor time that init and exit may take, in seconds.
const SECONDS: u64 = 10;
/// All that a module may report, in bytes.
const REPORT: u64 = 1 << 20;

/// What came of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// What it logged.
    pub log: Vec<Line>,
    /// What its init returned; nothing if it did not come to that.
    pub init: Option<i32>,
    /// Whether its exit ran to the end. It has none to run if init refuses.
    pub exited: bool,
    /// How the child ended.
    pub end: End,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// After all was run.
    Whole,
    /// By a system call, which the module's code cannot make.
    SystemCall,
    /// By using up its time.
    Time,
    /// By another signal, such as for an access to memory that is not there.
    Signal(i32),
}

/// What a message to the parent is about.
const LINE: u8 = b'L';
const INIT: u8 = b'I';
const EXIT: u8 = b'X';

/// Where the child reports to.
static PIPE: AtomicI32 = AtomicI32::new(-1);

/// Runs init, and exit if init succeeds, in a child.
pub fn run(image: &Sealed) -> Result<Outcome, ExecError> {
    let system = |what| move |e: io::Error| ExecError::System(what, e);
    let (reader, writer) = rustix::pipe::pipe().map_err(|e| system("make a pipe")(e.into()))?;
    let filter = filter(writer.as_raw_fd()).map_err(ExecError::NotSimple)?;
    PIPE.store(writer.as_raw_fd(), Ordering::Relaxed);
    // SAFETY: The child makes system calls only, by functions that allocate
    // nothing and take no lock; see `child`.
    match unsafe { libc::fork() } {
        -1 => Err(system("start a process")(io::Error::last_os_error())),
        0 => {
            child(image, &filter);
        }
        pid => parent(pid, reader, writer).map_err(system("follow the process")),
    }
}

/// What the child may do: write to the pipe, and end.
fn filter(pipe: RawFd) -> Result<BpfProgram, String> {
    let to_pipe = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, pipe as u64);
    let rules = [
        (
            libc::SYS_write,
            vec![SeccompRule::new(vec![to_pipe.map_err(|e| e.to_string())?])
                .map_err(|e| e.to_string())?],
        ),
        (libc::SYS_exit_group, Vec::new()),
    ];
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    );
    let filter = filter.map_err(|e| e.to_string())?;
    filter
        .try_into()
        .map_err(|e: seccompiler::BackendError| e.to_string())
}

/// The child: between fork and its end it allocates nothing.
fn child(image: &Sealed, filter: &BpfProgram) -> ! {
    let limit = libc::rlimit {
        rlim_cur: SECONDS,
        rlim_max: SECONDS + 1,
    };
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: System calls with valid arguments.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CPU, &limit);
        libc::setrlimit(libc::RLIMIT_CORE, &none);
    }
    if seccompiler::apply_filter(filter).is_err() {
        end(1);
    }
    let mut status = 0;
    if let Some(init) = image.init {
        // SAFETY: An address in the module's code, by the name of a function
        // that takes nothing and returns an int (include/linux/init.h). What it
        // does is up to the module; this process is there to bear it.
        let init: extern "C" fn() -> i32 = unsafe { std::mem::transmute(init) };
        status = init();
    }
    send(INIT, 0, &status.to_le_bytes());
    if let (0.., Some(exit)) = (status, image.exit) {
        // SAFETY: As above; this one returns nothing.
        let exit: extern "C" fn() = unsafe { std::mem::transmute(exit) };
        exit();
        send(EXIT, 0, &[]);
    }
    end(0)
}

/// Ends the process, with nothing run that Rust or C have for that.
fn end(status: i32) -> ! {
    // SAFETY: It does not return.
    unsafe { libc::_exit(status) }
}

/// Reports a line of the module's.
pub fn report_line(level: u8, text: &[u8]) {
    send(LINE, level, text);
}

/// A message: what it is about, a number, the length, and so many bytes.
fn send(kind: u8, number: u8, bytes: &[u8]) {
    const HEADER: usize = 4;
    let mut message = [0; 1100];
    let bytes = &bytes[..bytes.len().min(message.len() - HEADER)];
    let length = (bytes.len() as u16).to_le_bytes();
    message[..HEADER].copy_from_slice(&[kind, number, length[0], length[1]]);
    message[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
    let pipe = PIPE.load(Ordering::Relaxed);
    // SAFETY: So many bytes are there. A pipe takes that many whole (pipe(7)).
    unsafe { libc::write(pipe, message.as_ptr().cast(), HEADER + bytes.len()) };
}

fn parent(pid: libc::pid_t, reader: OwnedFd, writer: OwnedFd) -> io::Result<Outcome> {
    drop(writer);
    let mut report = Vec::new();
    // What is too much ends the child by SIGPIPE.
    let result = File::from(reader).take(REPORT).read_to_end(&mut report);
    let pid = rustix::process::Pid::from_raw(pid);
    let status = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    result?;
    let signal = status.and_then(|(_, status)| status.terminating_signal());
    let mut outcome = Outcome {
        log: Vec::new(),
        init: None,
        exited: false,
        end: match signal {
            None => End::Whole,
            Some(libc::SIGSYS) => End::SystemCall,
            Some(libc::SIGXCPU | libc::SIGKILL) => End::Time,
            Some(signal) => End::Signal(signal),
        },
    };
    let mut rest = report.as_slice();
    while let [kind, number, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let Some((bytes, after)) = after.split_at_checked(length) else {
            break;
        };
        match (*kind, bytes.first_chunk()) {
            (LINE, _) => outcome.log.push(Line {
                level: *number,
                text: String::from_utf8_lossy(bytes)
                    .trim_end_matches('\n')
                    .to_owned(),
            }),
            (INIT, Some(status)) => outcome.init = Some(i32::from_le_bytes(*status)),
            (EXIT, _) => outcome.exited = true,
            _ => {}
        }
        rest = after;
    }
    Ok(outcome)
}
