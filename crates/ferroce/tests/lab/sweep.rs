// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many modules held against a guest's kernel, one after the other.
//!
//! Of each of two modules some are mangled at random, and 2,500 with `FERROCE_LONG=1`.
//! `FERROCE_MUTANTS=300` tries that many, `FERROCE_SEED=7` others, and
//! `FERROCE_ONLY=12,890` only those of them with these numbers. A mutant that
//! kills or hangs the guest does not end the sweep: it goes on in a new guest, and
//! the mutant is listed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{channel, RecvTimeoutError};
use std::time::Duration;

use ferroce_kmod::check::{ModuleReport, Reason, Severity, Verdict};
use ferroce_kmod::kernel::{self, ModuleTree};
use ferroce_kmod::live::{self, LoadError};

use crate::loader::{said_of, Built};
use crate::mutants::{lib0, lib1, random, Random};
use crate::support::{long, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "of modules mangled at random, what is said is what the kernel does",
        |flavor| random_mutants(flavor, lib0),
    ),
    (
        "of modules with an init mangled at random, what is said is what the kernel does",
        |flavor| random_mutants(flavor, lib1),
    ),
];

fn number(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

/// Whether a mutant is to be tried.
fn is_wanted(index: u32) -> bool {
    let only = std::env::var("FERROCE_ONLY");
    only.map_or(true, |only| only.split(',').any(|n| n.parse() == Ok(index)))
}

fn random_mutants(flavor: &Flavor, module: fn(&Built, &Path) -> Vec<u8>) {
    let count = if long() { 2500 } else { 100 };
    let count = number("FERROCE_MUTANTS").unwrap_or(count);
    let mut numbers = Random(number("FERROCE_SEED").unwrap_or(1).into());
    let built = Built::of(flavor);
    let dir = tempfile::tempdir().unwrap();
    let base = module(&built, dir.path());
    let mutants = (0..count).map(|index| (index, random(&base, &mut numbers)));
    let mutants = mutants.filter(|(index, _)| is_wanted(*index));
    let mutants =
        mutants.map(|(index, mutation)| (format!("{index} {mutation:?}"), mutation.of(&base)));
    let tried = Sweep::new(flavor, &built, dir.path(), mutants.collect()).run();
    tried.summary();
    tried.agree();
}

/// What became of a module.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// What `ferroce module load` printed.
    Said(String),
    /// The guest died, or did nothing more.
    Died,
}

/// A module to try.
pub struct Tried {
    name: String,
    path: PathBuf,
    report: ModuleReport,
    outcome: Option<Outcome>,
}

/// Modules to try, all on the kernel of one flavor.
pub struct Sweep<'a> {
    flavor: &'a Flavor,
    dir: &'a Path,
    tried: Vec<Tried>,
}

/// Without output for so long, a guest hangs; until the first, it boots.
const SILENCE: Duration = Duration::from_secs(30);
const BOOT: Duration = Duration::from_secs(300);
/// A guest's log, and what a shell takes, have their limits.
const BATCH: usize = 200;
/// What is printed when a guest is done, or can go on no more.
const END: &str = "\ncase end\n";
/// What a guest prints before all else.
const UP: &str = "the guest is up";
/// The argument with which this program loads modules in a guest.
pub const LOAD_EACH: &str = "load-each";

/// In a guest: loads the modules of a list, and unloads each again.
pub fn load_each(args: &[String]) {
    let [list] = args else { panic!("one argument") };
    let list = fs::read_to_string(list).expect("the list is there");
    let tree = ModuleTree::of_running();
    println!("{UP}");
    unload_all();
    for line in list.lines() {
        let (index, path) = line.split_once(' ').expect("a number and a path");
        println!("\ncase {index}");
        match live::load(&tree, path, "") {
            Ok(modules) => modules.iter().for_each(|m| println!("loaded {}", m.name)),
            Err(LoadError::Refused { errno, log, .. }) => {
                println!("refused ({})\n{}", live::errno_name(errno), log.join("\n"));
            }
            Err(error) => println!("{error}"),
        }
        if !unload_all() {
            break;
        }
    }
    print!("{END}");
}

/// Unloads all modules; tells whether none is left.
fn unload_all() -> bool {
    // Those that others use come later.
    for _ in 0..10 {
        let Ok(loaded) = kernel::loaded() else {
            return false;
        };
        if loaded.is_empty() {
            return true;
        }
        for module in loaded {
            let _ = live::unload(&module.name);
        }
    }
    false
}

impl<'a> Sweep<'a> {
    /// Modules by what is said of a failure, and their files' contents.
    pub fn new(
        flavor: &'a Flavor,
        built: &Built,
        dir: &'a Path,
        modules: Vec<(String, Vec<u8>)>,
    ) -> Self {
        let kernel = built.kernel();
        let tried = modules
            .into_iter()
            .enumerate()
            .map(|(index, (name, bytes))| {
                let path = dir.join(format!("mutant-{index}.ko"));
                fs::write(&path, bytes).unwrap();
                let report = said_of(&kernel, &path, &[]);
                Tried {
                    name,
                    path,
                    report,
                    outcome: None,
                }
            });
        let tried = tried.collect();
        Self { flavor, dir, tried }
    }

    /// Tries all of them: first those that are not said to hurt the kernel, so
    /// that what others leave behind is not taken for their work.
    pub fn run(mut self) -> Vec<Tried> {
        let (hurting, harmless): (Vec<usize>, Vec<usize>) =
            (0..self.tried.len()).partition(|index| self.tried[*index].may_crash());
        for batch in harmless.chunks(BATCH).chain(hurting.chunks(BATCH)) {
            self.try_all(batch);
        }
        // What differs, or died unforetold, tries again in a guest of its own: it may
        // have been an earlier module's work.
        for index in 0..self.tried.len() {
            let tried = &self.tried[index];
            let died = matches!(tried.outcome, Some(Outcome::Died)) && !tried.may_crash();
            if died || tried.differs().is_some() {
                self.try_all(&[index]);
            }
        }
        self.tried
    }

    fn try_all(&mut self, batch: &[usize]) {
        let mut rest = batch;
        while !rest.is_empty() {
            let (mut outcomes, output) = self.guest(rest);
            if outcomes.is_empty() && output.contains(UP) {
                outcomes.push((rest[0], Outcome::Died));
            }
            // Each is begun with a line; the last of a dead guest is the one.
            let done = outcomes.len();
            assert!(
                done > 0,
                "the guest did not come up: {output:?} {}",
                fs::read_to_string(self.dir.join("stderr")).unwrap_or_default()
            );
            for (index, outcome) in outcomes.drain(..) {
                self.tried[index].outcome = Some(outcome);
            }
            rest = &rest[done..];
        }
    }

    /// Tries modules in one guest, as far as it goes.
    fn guest(&self, modules: &[usize]) -> (Vec<(usize, Outcome)>, String) {
        let paths = modules.iter().map(|index| {
            let path = self.tried[*index].path.display();
            format!("{index} {path}\n")
        });
        let list = self.dir.join("list");
        fs::write(&list, paths.collect::<String>()).unwrap();
        let mut command = self.flavor.lab(&[]);
        let this = std::env::current_exe().expect("this program has a file");
        command.arg(this).arg(LOAD_EACH).arg(&list);
        let stderr = fs::File::create(self.dir.join("stderr")).unwrap();
        let output = output_until_silence(command.stderr(stderr));
        let (text, whole) = match output.split_once(END) {
            Some((text, _)) => (text, true),
            None => (&output[..], false),
        };
        let mut outcomes: Vec<(usize, Outcome)> = text
            .split("\ncase ")
            .skip(1)
            .filter_map(|case| {
                let (index, said) = case.split_once('\n')?;
                Some((index.parse().ok()?, Outcome::Said(said.to_owned())))
            })
            .collect();
        if let Some((_, last)) = outcomes.last_mut()
            && !whole
        {
            *last = Outcome::Died;
        }
        (outcomes, output)
    }
}

/// What a command prints, up to its end or until it prints nothing more.
fn output_until_silence(command: &mut Command) -> String {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let (sender, lines) = channel();
    let reader = std::thread::spawn(move || {
        for line in stdout.split(b'\n').map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let mut output = String::from("\n");
    loop {
        let limit = if output.len() == 1 { BOOT } else { SILENCE };
        match lines.recv_timeout(limit) {
            Ok(line) => output += &(String::from_utf8_lossy(&line) + "\n"),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                end(&mut child);
                break;
            }
        }
    }
    let _ = child.wait();
    let _ = reader.join();
    output
}

/// Has the lab end its guest.
fn end(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
}

impl Tried {
    /// Whether it was said that the kernel may crash.
    fn may_crash(&self) -> bool {
        may_crash(&self.report)
    }

    /// What differs from what the kernel did.
    fn differs(&self) -> Option<String> {
        let Some(Outcome::Said(said)) = &self.outcome else {
            return None;
        };
        let what = agrees(&self.report, said).err()?;
        let warned = if self.may_crash() { " (warned)" } else { "" };
        Some(format!("{}{warned}: {what}\nthe kernel: {said}", self.name))
    }
}

/// What is said of all that were tried.
pub trait Agreement {
    /// Prints what came of them.
    fn summary(&self);
    /// Fails for those that differ.
    fn agree(&self);
    /// Fails for those that the kernel died of unforetold.
    fn deaths_are_foretold(&self);
}

impl Agreement for Vec<Tried> {
    fn summary(&self) {
        let mut kinds = BTreeMap::<String, usize>::new();
        let mut died = Vec::new();
        for tried in self {
            let kind = match (&tried.outcome, tried.may_crash()) {
                (Some(Outcome::Died), true) => "killed the kernel, foretold",
                (Some(Outcome::Died), false) => "killed the kernel, not foretold",
                (Some(Outcome::Said(_)), _) if tried.differs().is_some() => "differ",
                (_, true) => "agree, with a warning that the kernel may crash",
                (_, false) => match tried.report.verdict() {
                    Verdict::Refused => "agree, refused",
                    _ => "agree, loaded",
                },
            };
            *kinds.entry(kind.to_owned()).or_default() += 1;
            if let Some(Outcome::Died) = tried.outcome {
                died.push((tried.may_crash(), &tried.name));
            }
        }
        eprintln!("{} modules tried: {kinds:#?}", self.len());
        died.sort();
        for (foretold, name) in died {
            let how = if foretold {
                "as foretold"
            } else {
                "NOT foretold"
            };
            eprintln!("the kernel died, {how}: {name}");
        }
    }

    fn agree(&self) {
        let wrong: Vec<String> = self.iter().filter_map(Tried::differs).collect();
        assert!(
            wrong.is_empty(),
            "{} differ:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }

    fn deaths_are_foretold(&self) {
        let died = |t: &&Tried| matches!(t.outcome, Some(Outcome::Died)) && !t.may_crash();
        let died: Vec<&str> = self.iter().filter(died).map(|t| t.name.as_str()).collect();
        assert!(died.is_empty(), "the kernel died: {}", died.join("\n"));
    }
}

fn may_crash(report: &ModuleReport) -> bool {
    let crash = [Reason::BadRelocation, Reason::Section, Reason::Overflow];
    let mut findings = report.findings();
    findings.any(|(_, f)| f.severity != Severity::Refused && crash.contains(&f.reason))
}

/// Whether a guest's kernel did what was said of a module.
pub fn agrees(report: &ModuleReport, said: &str) -> Result<(), String> {
    let loaded = said.lines().any(|line| line.starts_with("loaded "));
    let Some((stage, finding)) = report.refusal() else {
        return match (report.verdict(), loaded) {
            (Verdict::Loads, true) => Ok(()),
            // It hangs on what is not known of the kernel's memory.
            (Verdict::Undecided, _) if may_crash(report) => Ok(()),
            (verdict, _) => Err(format!("foretold {verdict:?}")),
        };
    };
    if report.may_stop_before() {
        return match loaded {
            true => Err("foretold a refusal".to_owned()),
            false => Ok(()),
        };
    }
    let errno = finding.errno.clone().unwrap_or_default();
    if loaded || !said.contains(&format!("({errno})")) {
        return Err(format!(
            "foretold {errno} at {}: {}",
            stage.name(),
            finding.what
        ));
    }
    // The address is another one in each guest.
    let line = finding.kernel_says.as_deref().unwrap_or_default();
    let line = line.split(" val ").next().unwrap_or_default();
    match said.contains(line) {
        true => Ok(()),
        false => Err(format!("foretold {line:?}")),
    }
}
