// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the processors' time goes: samples by perf, of all that runs.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{bail, ensure, Context, Result};
use ferroce_lab::prerequisites::find_program;
use rustix::process::{kill_process, Pid, Signal};

/// perf at work.
pub struct Recording {
    perf: Child,
    file: PathBuf,
}

impl Recording {
    /// `None` if this machine has no perf, or this kernel nothing for it.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = find_program("perf") else {
            return Ok(None);
        };
        if !Path::new("/proc/sys/kernel/perf_event_paranoid").exists() {
            return Ok(None);
        }
        let file = std::env::temp_dir().join("ferroce-bench.perf");
        let perf = Command::new(program)
            .args([
                "record",
                "--all-cpus",
                "--event",
                "cpu-clock",
                "--freq",
                "999",
            ])
            .arg("--output")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start perf")?;
        Ok(Some(Self { perf, file }))
    }

    /// Ends it, and returns the shares of places and of functions in the so many
    /// seconds in which a process ran most: on a busy machine it may end long
    /// after it has done what it is looked at for.
    pub fn finish(mut self, process: i32, seconds: f64) -> Result<Shares> {
        kill_process(Pid::from_child(&self.perf), Signal::INT)?;
        self.perf.wait()?;
        let output = Command::new(find_program("perf").unwrap_or_else(|| "perf".into()))
            .args(["script", "--fields", "pid,time,ip,dso", "--input"])
            .arg(&self.file)
            .output()
            .context("cannot start perf")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let samples: Vec<Sample> = text.lines().filter_map(Sample::parse).collect();
        let of_process = samples.iter().filter(|s| s.process == process);
        let times: Vec<f64> = of_process.map(|s| s.time).collect();
        let Some(start) = busiest(&times, seconds) else {
            bail!(
                "perf has seen nothing of process {process}, but {} samples of others: {}",
                samples.len(),
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let window = start..start + seconds;
        let symbols = Symbols::read()?;
        Shares::of(
            samples.iter().filter(|s| window.contains(&s.time)),
            &symbols,
        )
    }
}

/// When so many seconds begin that most of these points in time are in.
fn busiest(times: &[f64], seconds: f64) -> Option<f64> {
    let count = |first: &f64| times.partition_point(|t| *t < first + seconds);
    let (_, first) = times
        .iter()
        .enumerate()
        .max_by_key(|(index, first)| count(first) - index)?;
    Some(*first)
}

/// A point in time on one processor.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    process: i32,
    /// In s.
    time: f64,
    address: u64,
    /// The file that the address is in.
    file: &'a str,
}

impl<'a> Sample<'a> {
    /// Reads a line of `perf script`: "  123  7.536420:  ffff81202232 (FILE)".
    fn parse(line: &'a str) -> Option<Self> {
        let (before, file) = line.trim().strip_suffix(')')?.rsplit_once(" (")?;
        let mut words = before.split_whitespace();
        let (process, time, address) = (words.next()?, words.next()?, words.next()?);
        Some(Self {
            process: process.parse().ok()?,
            time: time.strip_suffix(':')?.parse().ok()?,
            address: u64::from_str_radix(address, 16).ok()?,
            file,
        })
    }
}

/// The kernel's functions and its modules', by address.
///
/// perf knows modules by their total sizes, which include what lies elsewhere.
struct Symbols(Vec<(u64, String, String)>);

impl Symbols {
    fn read() -> Result<Self> {
        let text = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
        Ok(Self::parse(&text))
    }

    /// Lines of "ADDRESS TYPE NAME", and "\[MODULE\]" for a module's.
    fn parse(text: &str) -> Self {
        let mut symbols: Vec<_> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                matches!(words.next()?, "t" | "T" | "w" | "W").then_some(())?;
                let name = format!("{:#}", rustc_demangle::demangle(words.next()?));
                let name = short(&name);
                let module = words.next().unwrap_or("[kernel]");
                Some((address, name, module.trim_matches(['[', ']']).to_owned()))
            })
            .collect();
        symbols.sort();
        Self(symbols)
    }

    fn find(&self, address: u64) -> Option<(&str, &str)> {
        let after = self.0.partition_point(|s| s.0 <= address);
        let (_, name, module) = self.0.get(after.checked_sub(1)?)?;
        Some((name, module))
    }
}

/// The path of a function without crate, generic arguments and trait:
/// `<main::list::List<u8> as Drop>::drop::<T>` is `list::List::drop`.
fn short(name: &str) -> String {
    let mut path = String::new();
    let mut depth = 0;
    let mut rest = name.strip_prefix('<').unwrap_or(name);
    while let Some(next) = rest.chars().next() {
        match next {
            '<' => depth += 1,
            '>' => depth = (depth - 1).max(0),
            _ if depth > 0 => {}
            // The trait, up to the end of the leading bracket.
            ' ' if rest.starts_with(" as ") => depth += 1,
            _ => path.push(next),
        }
        rest = &rest[next.len_utf8()..];
    }
    let path = path.replace("::::", "::");
    let path = path.trim_end_matches("::");
    path.strip_prefix("main::").unwrap_or(path).to_owned()
}

/// Where kernels have their addresses on all 64-bit machines.
const KERNEL: u64 = 1 << 63;
/// The functions in which a processor waits for something to do.
const IDLE: [&str; 3] = ["pv_native_safe_halt", "default_idle", "acpi_safe_halt"];

/// Shares of the time in which processors are not idle, in percent, the greatest
/// first.
#[derive(Debug, PartialEq)]
pub struct Shares {
    /// Of modules, of the rest of the kernel, of libraries and of programs.
    pub places: Vec<(String, f64)>,
    /// Of the kernel's and its modules' functions.
    pub functions: Vec<(String, f64)>,
}

impl Shares {
    fn of<'a>(samples: impl Iterator<Item = &'a Sample<'a>>, symbols: &Symbols) -> Result<Self> {
        let mut total = 0.0;
        let mut places = HashMap::<String, f64>::new();
        let mut functions = HashMap::<String, f64>::new();
        for sample in samples {
            let found = match sample.address {
                KERNEL.. => symbols.find(sample.address),
                _ => None,
            };
            match found {
                Some((name, _)) if IDLE.contains(&name) => continue,
                Some((name, module)) => {
                    *places.entry(module.to_owned()).or_default() += 1.0;
                    *functions.entry(format!("[{module}] {name}")).or_default() += 1.0;
                }
                None => {
                    let file = Path::new(sample.file).file_name().unwrap_or_default();
                    let file = file.to_string_lossy().into_owned();
                    *places.entry(file).or_default() += 1.0;
                }
            }
            total += 1.0;
        }
        ensure!(total > 0.0, "perf has no samples of the time that counts");
        let shares = |counts: HashMap<String, f64>| {
            let mut shares: Vec<_> = counts
                .into_iter()
                .map(|(name, count)| (name, 100.0 * count / total))
                .collect();
            shares.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            shares
        };
        Ok(Self {
            places: shares(places),
            functions: shares(functions),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "\
        ffffffff81000000 T _stext\n\
        ffffffff81000100 t do_syscall_64\n\
        ffffffff81000200 D data\n\
        ffffffff81000300 T pv_native_safe_halt\n\
        ffffffffa0000000 t _RNvNtNtCs5soj9GhKFqq_4main10queue_pair4send5drain\t[ferroce]\n";

    #[test]
    fn lines_of_perf_script_are_samples() {
        let line = "   42    18.397099:  ffffffffa007164a (/lib/modules/a b.ko)";
        let sample = Sample::parse(line).unwrap();
        assert_eq!(sample.process, 42);
        assert_eq!(sample.time, 18.397099);
        assert_eq!(sample.address, 0xffff_ffff_a007_164a);
        assert_eq!(sample.file, "/lib/modules/a b.ko");
        assert_eq!(Sample::parse("# captured on: today (UTC)"), None);
    }

    #[test]
    fn the_time_that_counts_is_when_most_happens() {
        assert_eq!(busiest(&[1.0, 4.0, 4.5, 5.0, 5.9, 9.0], 2.0), Some(4.0));
        assert_eq!(busiest(&[7.0], 2.0), Some(7.0));
        assert_eq!(busiest(&[], 2.0), None);
    }

    #[test]
    fn names_of_functions_are_short() {
        for (long, expected) in [
            ("memcpy_orig", "memcpy_orig"),
            ("main::queue_pair::send::drain", "queue_pair::send::drain"),
            (
                "main::local::write::<main::queue_pair::Peer>",
                "local::write",
            ),
            ("<main::memory::Range>::find", "memory::Range::find"),
            (
                "<main::list::RegionList<main::memory::Range>>::check::<main::Own>",
                "list::RegionList::check",
            ),
            ("<main::List<u8> as core::Drop<A>>::drop::<T>", "List::drop"),
        ] {
            assert_eq!(short(long), expected);
        }
    }

    #[test]
    fn shares_are_by_module_library_and_function() {
        let sample = |address, file| Sample {
            process: 1,
            time: 0.0,
            address,
            file,
        };
        let samples = [
            sample(0xffff_ffff_8100_0250, "[kernel.kallsyms]"),
            sample(0xffff_ffff_8100_0300, "[kernel.kallsyms]"),
            sample(0xffff_ffff_a000_0010, "[wrong]"),
            sample(0x7f00_0000_1000, "/usr/lib/libc.so.6"),
        ];
        let shares = Shares::of(samples.iter(), &Symbols::parse(SYMBOLS)).unwrap();
        let name = |name: &str| (name.to_owned(), 100.0 / 3.0);
        assert_eq!(
            shares.places,
            [name("ferroce"), name("kernel"), name("libc.so.6")]
        );
        assert_eq!(
            shares.functions,
            [
                name("[ferroce] queue_pair::send::drain"),
                name("[kernel] do_syscall_64")
            ]
        );
    }
}
