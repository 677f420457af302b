// SPDX-License-Identifier: MIT OR Apache-2.0
//! One guest from start to end: boots it, joins its streams to ours, and finds
//! out how it ended.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_bytes::ByteBuf;

use crate::boot::{Channel, Machine, Running};
use crate::cache::Cache;
use crate::channel::{self, ToGuest, ToHost, WINDOW};
use crate::error::{Error, Result};
use crate::guest;
use crate::image::Image;
use crate::job::{self, Job, Plugin, Text};
use crate::provider::Provider;
use crate::reports;
use crate::terminal;

/// What is to run, and in what kind of machine.
#[derive(Debug, Clone)]
pub struct Session {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// How many processors the guest has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// What its kernel's command line has beside what the lab needs.
    pub append: Vec<String>,
    /// Whether its clock counts instructions, one a nanosecond: QEMU alone can do that.
    pub counts_instructions: bool,
    /// After how long it is ended.
    pub timeout: Option<Duration>,
    /// The host's folders that it may change.
    pub writable: Vec<PathBuf>,
    /// Module files to load before the command runs.
    pub module_files: Vec<ModuleFile>,
    /// Whether the command gets a terminal, which then is this one.
    pub terminal: bool,
    /// Whether the kernel's log is shown as it comes.
    pub show_log: bool,
}

/// A module's file, and what it is to be given.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// The file.
    pub path: PathBuf,
    /// Its parameters, each NAME=VALUE.
    pub parameters: Vec<OsString>,
}

impl ModuleFile {
    /// The parameters as one text for the kernel, which takes a value with
    /// spaces between quotation marks (`next_arg()` in lib/cmdline.c).
    fn parameters(&self) -> OsString {
        let mut text = Vec::new();
        for parameter in &self.parameters {
            let bytes = parameter.as_encoded_bytes();
            let equals = bytes.iter().position(|b| *b == b'=');
            let (name, value) = bytes.split_at(equals.map_or(bytes.len(), |at| at + 1));
            let quote: &[u8] = match value.iter().any(u8::is_ascii_whitespace) {
                true => b"\"",
                false => b"",
            };
            if !text.is_empty() {
                text.push(b' ');
            }
            text.extend([name, quote, value, quote].concat());
        }
        OsString::from_vec(text)
    }
}

/// Exit statuses of the lab's own, beside the command's.
pub mod status {
    /// The kernel reported an oops, a warning, or a checker's finding.
    pub const KERNEL_REPORT: i32 = 99;
    /// The time-out ended the guest, as timeout(1) has it.
    pub const TIMEOUT: i32 = 124;
    /// The lab failed.
    pub const LAB: i32 = 125;
}

/// How long a guest may take until it listens: thrice of what the slowest
/// debug kernel under emulation took.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long it may take to power off.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);

enum Event {
    Message(ToHost),
    Signal(i32),
    ChannelClosed,
    /// With the channel, so that the guest is ended before that is: a line that hangs up is something
    /// User-Mode Linux may warn of.
    OutputClosed(UnixStream),
}

/// How a guest ended.
enum End {
    /// The command ended.
    Command { status: i32, taint: u64 },
    /// It could not be run.
    Failed { what: String, status: i32 },
    /// The kernel refused one of the module files.
    Refused { file: usize, what: String },
    /// A signal to this process ended the guest.
    Signal(i32),
    /// The guest ended without a word.
    Died,
    /// It did not come up in time.
    NoBoot,
    /// The time-out came first.
    Timeout,
    /// Nobody reads the output any more.
    OutputClosed(UnixStream),
}

impl Session {
    /// Runs it, its standard output going to `output`, and returns the exit
    /// status; what there is to say of other ends than the command's own is said
    /// on standard error.
    pub fn run(
        &self,
        cache: &Cache,
        image: &Image,
        provider: Option<&Provider>,
        output: impl Write + Send + 'static,
    ) -> Result<i32> {
        let folder = tempfile::Builder::new()
            .prefix("ferroce-")
            .tempdir()
            .map_err(Error::file("create a folder in", std::env::temp_dir()))?;
        let job = self.job(image, provider, folder.path())?;
        let file = folder.path().join("job");
        job.write(&file).map_err(Error::file("write", file))?;
        // By way of a link, for the kernel's command line ends at spaces.
        let link = folder.path().join("init");
        std::os::unix::fs::symlink(job.program.path(), &link)
            .map_err(Error::file("create", link))?;

        // Before the guest starts, so that a signal in between is not lost.
        let (events, inbox) = mpsc::channel();
        watch_signals(events.clone())?;
        let machine = Machine {
            image,
            cpus: self.cpus,
            memory: self.memory,
            append: &self.append,
            counts_instructions: self.counts_instructions,
            writable: &job.writable,
            folder: folder.path(),
        };
        let Running {
            mut process,
            log,
            channel,
        } = machine.start(cache)?;
        let log = Log::collect(log, self.show_log);
        let end = self.converse(channel, output, events, &inbox);

        match end {
            Ok(End::Command { .. } | End::Failed { .. } | End::Refused { .. } | End::Died) => {
                finish(&mut process, POWER_OFF_LIMIT)
            }
            _ => finish(&mut process, Duration::ZERO),
        }
        self.conclude(end?, &log.end())
    }

    fn job(
        &self,
        image: &Image,
        provider: Option<&Provider>,
        folder: &std::path::Path,
    ) -> Result<Job> {
        let absolute = |path: &PathBuf| path.canonicalize().map_err(Error::file("find", path));
        let writable = self.writable.iter().map(|dir| {
            let dir = absolute(dir)?;
            if !dir.is_dir() {
                return Err(Error::Usage(format!("{} is not a folder", dir.display())));
            }
            Ok(Text::from(dir))
        });
        let module_files = self.module_files.iter().map(|module| {
            Ok(job::ModuleFile {
                path: Text::from(absolute(&module.path)?),
                parameters: Text::from(module.parameters()),
            })
        });
        let program =
            std::env::current_exe().map_err(Error::file("find", "the running program"))?;
        let current = std::env::current_dir().map_err(Error::file("find", "the current folder"))?;
        // The host's, where the guest's kernel does not say enough.
        let processors = folder.join("cpuinfo");
        let copied = image.backend == crate::backend::Backend::Uml
            && std::fs::read_to_string("/proc/cpuinfo")
                .and_then(|text| std::fs::write(&processors, cpuinfo(&text, self.cpus)))
                .is_ok();
        Ok(Job {
            backend: image.backend,
            command: self.command.iter().map(Text::from).collect(),
            folder: Text::from(current),
            environment: environment(image),
            terminal: self.terminal.then(terminal::size),
            writable: writable.collect::<Result<_>>()?,
            program: Text::from(program),
            processors: copied.then(|| Text::from(processors)),
            modules_folder: Text::from(&image.modules),
            provider: provider.map(Plugin::from),
            modules: image.stack.clone(),
            module_files: module_files.collect::<Result<_>>()?,
        })
    }

    /// Joins the streams until something ends the conversation.
    fn converse(
        &self,
        channel: Channel,
        mut output: impl Write + Send + 'static,
        events: Sender<Event>,
        inbox: &mpsc::Receiver<Event>,
    ) -> Result<End> {
        let started = Instant::now();
        let limit = self.timeout.map(|t| started + t);
        let boot_limit = started + BOOT_LIMIT;
        let (connected, connection) = mpsc::channel();
        let credit = Arc::new(Credit::default());
        let returned = credit.clone();
        thread::spawn(move || listen(channel, &mut output, &connected, &events, &returned));

        let mut raw = None;
        let mut up = false;
        loop {
            let next = [limit, (!up).then_some(boot_limit)]
                .into_iter()
                .flatten()
                .min();
            let event = match next {
                Some(at) => inbox.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Message(ToHost::Ready)) => {
                    up = true;
                    let Ok(stream) = connection.recv() else {
                        return Ok(End::Died);
                    };
                    if self.terminal {
                        raw = Some(terminal::Raw::enter());
                    }
                    let stream = Arc::new(Mutex::new(stream));
                    if self.terminal {
                        let stream = stream.clone();
                        thread::spawn(move || pass_size(&stream));
                    }
                    let credit = credit.clone();
                    thread::spawn(move || pass_input(&stream, &credit));
                }
                Ok(Event::Message(ToHost::Ended { status, taint })) => {
                    return Ok(End::Command { status, taint });
                }
                Ok(Event::Message(ToHost::Failed { what, status })) => {
                    return Ok(End::Failed { what, status });
                }
                Ok(Event::Message(ToHost::Refused { file, what })) => {
                    let file = file as usize;
                    return Ok(End::Refused { file, what });
                }
                Ok(Event::Message(_)) => {}
                Ok(Event::Signal(signal)) => return Ok(End::Signal(signal)),
                Ok(Event::OutputClosed(channel)) => return Ok(End::OutputClosed(channel)),
                Ok(Event::ChannelClosed) => return Ok(End::Died),
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Died),
                Err(RecvTimeoutError::Timeout) if limit.is_some_and(|l| l <= Instant::now()) => {
                    return Ok(End::Timeout);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(End::NoBoot),
            }
            let _ = &raw;
        }
    }

    fn conclude(&self, end: End, log: &str) -> Result<i32> {
        if let Some(report) = reports::find(log) {
            eprintln!(
                "ferroce: the guest's kernel reported trouble: {}\n{}",
                report.title, report.text
            );
            return Ok(status::KERNEL_REPORT);
        }
        let failed = |what: String, lines: usize| {
            Err(Error::Guest {
                what,
                log: reports::tail(log, lines),
            })
        };
        match end {
            End::Command { taint, .. } if reports::tainted(taint) => {
                let tail = reports::tail(log, 40);
                eprintln!(
                    "ferroce: the guest's kernel is tainted by a report (flags {taint:#x})\n{tail}"
                );
                Ok(status::KERNEL_REPORT)
            }
            End::Command { status, .. } => Ok(status),
            End::Failed { what, status } => {
                eprintln!("ferroce: {what}");
                Ok(status)
            }
            End::Refused { file, what } => {
                let path = self.module_files.get(file).map(|f| f.path.clone());
                let path = path.unwrap_or_default();
                Err(Error::Refused { path, what })
            }
            End::Signal(signal) => Ok(128 + signal),
            End::OutputClosed(channel) => {
                // Not before: the guest has ended.
                drop(channel);
                Ok(128 + Signal::PIPE.as_raw())
            }
            End::Died => failed(
                "the guest ended without a word. The end of its kernel's log".to_owned(),
                25,
            ),
            End::NoBoot => failed(
                format!(
                    "the guest did not come up in {} s. The end of its kernel's log",
                    BOOT_LIMIT.as_secs()
                ),
                25,
            ),
            End::Timeout => {
                let limit = self.timeout.unwrap_or_default().as_secs_f64();
                let tail = reports::tail(log, 25);
                eprintln!(
                    "ferroce: the guest was ended after {limit} s. The end of its kernel's log:\n{tail}"
                );
                Ok(status::TIMEOUT)
            }
        }
    }
}

/// The host's /proc/cpuinfo for a guest with `count` processors: as many blocks. Where the host has
/// fewer, its last one is there again, with other numbers.
fn cpuinfo(host: &str, count: u32) -> String {
    let blocks: Vec<&str> = host
        .split("\n\n")
        .filter(|block| block.starts_with("processor"))
        .collect();
    let mut text = String::new();
    for number in 0..count {
        let block = blocks.get(number as usize).or(blocks.last());
        let Some(block) = block else { break };
        for line in block.lines() {
            let name = line.split(':').next().unwrap_or_default();
            match name.trim_end() {
                "processor" => text += &format!("{name}: {number}"),
                "siblings" | "cpu cores" => text += &format!("{name}: {count}"),
                _ => text += line,
            }
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// Our environment, for the guest's root.
fn environment(image: &Image) -> Vec<(Text, Text)> {
    let mut all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    let mut set = |name: &str, value: OsString| {
        all.retain(|(n, _)| n != name);
        all.push((name.into(), value));
    };
    set("USER", "root".into());
    set("LOGNAME", "root".into());
    set("FERROCE_GUEST", image.name.clone().into());
    let mut path = OsString::from(guest::PROGRAMS);
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // Administrators' programs, which an ordinary user's PATH leaves out.
    path.push(":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    set("PATH", path);
    all.iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn watch_signals(events: Sender<Event>) -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(Error::file("watch", "signals"))?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let _ = events.send(Event::Signal(signal));
        }
    });
    Ok(())
}

/// Passes what the guest says on: output to where it belongs, the rest as events.
fn listen(
    channel: Channel,
    output: &mut impl Write,
    connected: &Sender<UnixStream>,
    events: &Sender<Event>,
    credit: &Credit,
) {
    let stream = match channel {
        Channel::Open(stream) => Ok(stream),
        Channel::Listening(listener) => listener.accept().map(|(stream, _)| stream),
    };
    let Ok(mut stream) = stream else {
        let _ = events.send(Event::ChannelClosed);
        return;
    };
    let Ok(writer) = stream.try_clone() else {
        return;
    };
    let _ = connected.send(writer);
    loop {
        let event = match channel::receive(&mut stream) {
            Ok(Some(ToHost::Stdout(bytes))) => match pass(output, &bytes) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Ok(Some(ToHost::Stderr(bytes))) => match pass(&mut io::stderr(), &bytes) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Ok(Some(ToHost::Consumed(bytes))) => {
                credit.give(bytes as usize);
                continue;
            }
            Ok(Some(message)) => Event::Message(message),
            Ok(None) | Err(_) => Event::ChannelClosed,
        };
        let last = matches!(event, Event::ChannelClosed);
        if events.send(event).is_err() || last {
            return;
        }
    }
    let _ = events.send(Event::OutputClosed(stream));
}

fn pass(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// How many bytes of standard input may be sent.
struct Credit {
    left: Mutex<usize>,
    more: Condvar,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            left: Mutex::new(WINDOW),
            more: Condvar::new(),
        }
    }
}

impl Credit {
    fn give(&self, bytes: usize) {
        *self.left.lock().unwrap_or_else(|e| e.into_inner()) += bytes;
        self.more.notify_one();
    }

    /// Waits until there is some; only one thread takes.
    fn wait(&self) -> usize {
        let left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        *self
            .more
            .wait_while(left, |left| *left == 0)
            .unwrap_or_else(|e| e.into_inner())
    }

    fn take(&self, bytes: usize) {
        *self.left.lock().unwrap_or_else(|e| e.into_inner()) -= bytes;
    }
}

fn pass_input(stream: &Mutex<UnixStream>, credit: &Credit) {
    let mut buf = [0; WINDOW];
    let mut stdin = io::stdin().lock();
    loop {
        let most = credit.wait().min(WINDOW);
        let n = match stdin.read(&mut buf[..most]) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        credit.take(n);
        let message = match n {
            0 => ToGuest::StdinEnd,
            n => ToGuest::Stdin(ByteBuf::from(&buf[..n])),
        };
        if tell(stream, &message).is_err() || n == 0 {
            return;
        }
    }
}

/// Tells the guest of each new size of our terminal.
fn pass_size(stream: &Mutex<UnixStream>) {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH])
    else {
        return;
    };
    for _ in signals.forever() {
        let (rows, columns) = terminal::size();
        if tell(stream, &ToGuest::Resize { rows, columns }).is_err() {
            return;
        }
    }
}

fn tell(stream: &Mutex<UnixStream>, message: &ToGuest) -> io::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(|e| e.into_inner());
    channel::send(&mut *stream, message)
}

/// Waits for the machine to power off, and ends it if it does not.
fn finish(process: &mut Child, limit: Duration) {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        if !matches!(process.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    // The whole group: User-Mode Linux has a process for each of the guest's.
    if let Some(group) = Pid::from_raw(process.id() as i32) {
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    let _ = process.wait();
}

/// The kernel's log as it comes.
struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Log {
    /// The most that is kept; what comes later in a flood says less.
    const LIMIT: usize = 16 << 20;

    fn collect(mut from: io::PipeReader, show: bool) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = text.clone();
        let reader = thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                if show {
                    let _ = io::stderr().write_all(&buf[..n]);
                }
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                if kept.len() < Self::LIMIT {
                    kept.extend(&buf[..n]);
                }
            }
        });
        Self { text, reader }
    }

    /// All of it, once the machine has ended.
    fn end(self) -> String {
        // A process that outlived the machine may hold the pipe open.
        let end = Instant::now() + Duration::from_secs(1);
        while !self.reader.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        let text = self.text.lock().unwrap_or_else(|e| e.into_inner());
        String::from_utf8_lossy(&text).replace('\r', "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_has_as_many_processors_in_cpuinfo_as_it_has() {
        let host = "processor\t: 0\ncpu MHz\t\t: 2596.1\nsiblings\t: 2\n\n\
                    processor\t: 1\ncpu MHz\t\t: 2100.0\nsiblings\t: 2\n\n";
        assert_eq!(
            cpuinfo(host, 1),
            "processor\t: 0\ncpu MHz\t\t: 2596.1\nsiblings\t: 1\n\n"
        );
        assert_eq!(cpuinfo(host, 2), host);
        let three = cpuinfo(host, 3);
        assert_eq!(three.matches("cpu MHz\t\t: 2100.0").count(), 2);
        assert!(three.contains("processor\t: 2\n"), "{three}");
    }

    #[test]
    fn a_parameter_with_spaces_is_quoted_for_the_kernel() {
        let module = ModuleFile {
            path: "hello.ko".into(),
            parameters: ["name=Ada Lovelace".into(), "poll=0".into()].to_vec(),
        };
        assert_eq!(module.parameters(), "name=\"Ada Lovelace\" poll=0");
    }
}
