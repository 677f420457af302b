// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce run --doctor`: what of this machine the devices depend on, and how fast it is.
//!
//! The sender copies a message into the receiver's memory. For this, a process
//! started from here writes into this one's memory, in the ways that there are, and this one into its.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{bail, Context, Result};
use comfy_table::{presets, CellAlignment, Table};
use ferroce_lab::provider::Libibverbs;
use nix::sys::uio::{process_vm_writev, RemoteIoVec};
use nix::unistd::Pid;
use rustix::fs::MemfdFlags;
use rustix::process::{getppid, set_ptracer, PTracer};

use super::{gids, program, tree};

/// What is written, in bytes: a word, and a long message.
const SIZES: [usize; 2] = [8, 64 << 10];
/// How many calls are timed together, since the clock takes as long as a short one.
const CALLS: u32 = 16;
/// How many of these are made, of which the median counts.
const SAMPLES: usize = 201;
/// How many more are made first.
const WARM_UP: usize = 20;

/// A way to write into another process' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `process_vm_writev`, which takes the right to trace the other.
    VmWritev,
    /// `pwrite` to the other's `/proc/self/mem`, which that has opened and handed over.
    Mem,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::VmWritev => "process_vm_writev",
            Way::Mem => "/proc/PID/mem",
        }
    }
}

/// What a way takes for each of [`SIZES`], in nanoseconds, or why it does not work.
type Measured = Result<[u64; SIZES.len()], String>;

/// How two processes reach each other's memory.
pub struct Reach {
    /// From the second one into the first one's.
    there: Vec<(Way, Measured)>,
    /// From the first one into the second one's, by `process_vm_writev`.
    back: Measured,
}

impl Reach {
    /// Has a child write into this process' memory, and writes into the child's.
    pub fn measure() -> Result<Self> {
        // As the device has it: any process of this user may, if Yama asks for that. Without Yama it fails.
        let _ = set_ptracer(PTracer::Any);
        let target = Target::new();
        let memory = File::options()
            .read(true)
            .write(true)
            .open("/proc/self/mem");
        let memory = memory.context("cannot open /proc/self/mem")?;
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut child = Command::new(program)
            .args(["run", "--peer", &target.address().to_string()])
            .stdin(memory)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a second process")?;
        let lines = BufReader::new(child.stdout.take().context("the child has no output")?);
        let mut there = Vec::new();
        let mut back = Err("was not tried".to_owned());
        for line in lines.lines() {
            let line = line?;
            match line.split_once(' ') {
                Some(("vm", result)) => there.push((Way::VmWritev, parse(result))),
                Some(("mem", result)) => there.push((Way::Mem, parse(result))),
                // The child waits for the end of this process' turn.
                Some(("at", address)) => {
                    let address = address.parse().context("the child has given no address")?;
                    let pid = Pid::from_raw(child.id().cast_signed());
                    back = time(|bytes| vm_writev(pid, bytes, address));
                    let _ = child.kill();
                }
                _ => bail!("the child has said {line:?}"),
            }
        }
        child.wait()?;
        let any = there.iter().any(|(_, measured)| measured.is_ok());
        if any && !target.is_written() {
            bail!("what another process wrote into this one's memory is not there");
        }
        Ok(Self { there, back })
    }

    /// The way that devices take, and how many nanoseconds a write of 8 bytes takes.
    pub fn best(&self) -> Option<(&'static str, u64)> {
        [Way::VmWritev, Way::Mem].into_iter().find_map(|way| {
            let [short, _] = self.find(way)?.as_ref().ok()?;
            Some((way.name(), *short))
        })
    }

    fn find(&self, way: Way) -> Option<&Measured> {
        self.there.iter().find(|(w, _)| *w == way).map(|(_, m)| m)
    }
}

/// Memory that another process writes into.
struct Target(Vec<AtomicU64>);

impl Target {
    fn new() -> Self {
        let words = SIZES[1] / size_of::<u64>();
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    fn address(&self) -> usize {
        self.0.as_ptr().addr()
    }

    /// Whether all of it has been written.
    fn is_written(&self) -> bool {
        let written = u64::from_ne_bytes([PATTERN; 8]);
        self.0
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == written)
    }
}

const PATTERN: u8 = 0xa5;

/// Shows everything. Returns the exit status: zero if programs will find devices that work.
pub fn run() -> Result<i32> {
    let mut out = io::stdout().lock();
    let libibverbs = Libibverbs::find();
    let found = match &libibverbs {
        Ok(Some(found)) => match found.known() {
            Ok(_) => format!("{}, private interface {}", found.file.display(), found.abi),
            Err(error) => error.to_string(),
        },
        Ok(None) => {
            "none: install it (on Debian and Ubuntu: apt-get install libibverbs1)".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let usable = libibverbs.is_ok_and(|found| found.is_some_and(|found| found.known().is_ok()));
    writeln!(out, "libibverbs        {found}")?;

    let memfd = rustix::fs::memfd_create("ferroce", MemfdFlags::CLOEXEC);
    let shown = match &memfd {
        Ok(_) => "works".to_owned(),
        Err(error) => format!("does not work: {error}"),
    };
    writeln!(out, "memfd_create      {shown}")?;
    let scope = match program::yama() {
        Some(scope) => scope.to_string(),
        None => "none: the kernel has no Yama".to_owned(),
    };
    writeln!(out, "ptrace_scope      {scope}")?;

    let reach = Reach::measure()?;
    match reach.best() {
        Some((way, _)) => writeln!(out, "memory is reached by {way}\n")?,
        None => writeln!(
            out,
            "memory is reached not at all: neither {} nor {} works here\n",
            Way::VmWritev.name(),
            Way::Mem.name()
        )?,
    }
    let rows = [
        ("process_vm_writev", reach.find(Way::VmWritev)),
        ("process_vm_writev, back", Some(&reach.back)),
        ("pwrite to /proc/PID/mem", reach.find(Way::Mem)),
    ];
    writeln!(out, "{}\n", table(&rows))?;

    // The addresses are the same with all devices, but for a default GID.
    let device = tree::devices("ferroce0", 1, 0).remove(0);
    let mut addresses = plain();
    addresses.set_header(["GID", "ADDRESS", "NETDEV"]);
    for (index, gid) in device.gids.iter().enumerate() {
        addresses.add_row([index.to_string(), gids::shown(gid), gid.netdev.clone()]);
    }
    writeln!(out, "{addresses}")?;
    let is_reached = reach.best().is_some();
    Ok(i32::from(!(usable && memfd.is_ok() && is_reached)))
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn table(rows: &[(&str, Option<&Measured>)]) -> Table {
    let mut table = plain();
    table.set_header(["MEDIAN", "8 B", "64 KiB"]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for (name, measured) in rows {
        let cells = match measured {
            Some(Ok(times)) => times.map(|time| format!("{time} ns")).to_vec(),
            Some(Err(error)) => vec![error.clone()],
            None => vec!["was not tried".to_owned()],
        };
        table.add_row(std::iter::once((*name).to_owned()).chain(cells));
    }
    table
}

/// As the second process: writes into its parent's memory.
pub fn peer(address: usize) -> Result<i32> {
    let _ = set_ptracer(PTracer::Any);
    let parent = getppid().context("there is no parent")?;
    let parent = Pid::from_raw(parent.as_raw_nonzero().get());
    let memory = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut out = io::stdout().lock();
    let vm = time(|bytes| vm_writev(parent, bytes, address));
    writeln!(out, "vm {}", text(&vm))?;
    let mem = time(|bytes| memory.write_at(bytes, address as u64));
    writeln!(out, "mem {}", text(&mem))?;
    let target = Target::new();
    writeln!(out, "at {}", target.address())?;
    out.flush()?;
    // The parent writes, and then kills this process.
    loop {
        std::thread::park();
    }
}

fn vm_writev(pid: Pid, bytes: &[u8], address: usize) -> io::Result<usize> {
    let remote = RemoteIoVec {
        base: address,
        len: bytes.len(),
    };
    Ok(process_vm_writev(pid, &[IoSlice::new(bytes)], &[remote])?)
}

/// Times writes of each of [`SIZES`].
fn time(write: impl Fn(&[u8]) -> io::Result<usize>) -> Measured {
    let mut medians = [0; SIZES.len()];
    for (median, size) in medians.iter_mut().zip(SIZES) {
        let bytes = vec![PATTERN; size];
        let mut samples = Vec::with_capacity(SAMPLES);
        for sample in 0..SAMPLES + WARM_UP {
            let start = Instant::now();
            for _ in 0..CALLS {
                match write(&bytes) {
                    Ok(written) if written == size => {}
                    Ok(_) => return Err("writes less than it was given".to_owned()),
                    Err(error) => return Err(error.to_string()),
                }
            }
            if sample >= WARM_UP {
                samples.push(start.elapsed() / CALLS);
            }
        }
        samples.sort_unstable();
        *median = u64::try_from(samples[SAMPLES / 2].as_nanos()).unwrap_or(u64::MAX);
    }
    Ok(medians)
}

/// A result as a line, for the parent to read.
fn text(measured: &Measured) -> String {
    match measured {
        Ok([short, long]) => format!("{short} {long}"),
        Err(error) => error.clone(),
    }
}

fn parse(text: &str) -> Measured {
    let times = text.split_once(' ').and_then(|(short, long)| {
        let time = |text: &str| text.parse().ok();
        Some([time(short)?, time(long)?])
    });
    times.ok_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_survives_being_a_line() {
        for measured in [
            Ok([550, 3700]),
            Err("Operation not permitted (os error 1)".to_owned()),
        ] {
            assert_eq!(parse(&text(&measured)), measured);
        }
    }

    #[test]
    fn a_process_can_write_into_itself() {
        let target = Target::new();
        let pid = nix::unistd::getpid();
        let times = time(|bytes| vm_writev(pid, bytes, target.address())).unwrap();
        assert!(times[0] > 0 && target.is_written());
        let error = time(|bytes| vm_writev(pid, bytes, 0)).unwrap_err();
        assert!(
            error.contains("EFAULT") || error.contains("Bad address"),
            "{error}"
        );
    }
}
