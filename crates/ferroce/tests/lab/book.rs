// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sessions that the book shows (`docs/book/sessions`), each run as a reader would type it.
//!
//! A line that begins with `$ ` is a command on this machine. One that begins with `# ` is typed into the guest
//! of the `ferroce lab shell` before it. What follows is what the command prints: numbers may be others, a line
//! `...` stands for any number of lines. Lines with `ANCHOR` part a session for the pages.
//!
//! `FERROCE_BLESS=1` before the command has the files take over what is printed now, where that is different.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{kernel_dir, Flavor, Test};

/// Declares a test for each session, by the name of its file.
macro_rules! sessions {
    ($tests:ident: $($name:ident)*) => {
        $(fn $name(_: &Flavor) {
            run(stringify!($name));
        })*

        pub const $tests: &[Test] = &[$((concat!("book: ", stringify!($name)), $name)),*];
    };
}

sessions! { SESSIONS:
    doctor
    environment
    shell
    hello
    modules
    several
    stack
    tiny1
    tiny2
    tiny3
    rings
    wire
    oops
}

sessions! { QEMU_SESSIONS:
    card
}

sessions! { DEBUG_SESSIONS:
    kasan
}

sessions! { QEMU_DEBUG_SESSIONS:
    lockdep
}

pub const TESTS: &[Test] = &[
    ("book: each session has a test", all_are_run),
    ("book: the commands that set everything up", setup),
];

/// What cargo would build is what this test was built with: in its place is a script.
fn setup(_: &Flavor) {
    let folder = workspace();
    let built = folder.path().join("target/release");
    fs::create_dir_all(&built).unwrap();
    symlink(env!("CARGO_BIN_EXE_ferroce"), built.join("ferroce")).unwrap();
    let cargo = folder.path().join(".bin/cargo");
    fs::write(&cargo, "#!/bin/sh\n[ \"$*\" = 'build --release' ]\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    bash("sh docs/book/scripts/setup.sh", folder.path());
}

/// Where they are.
fn folder() -> PathBuf {
    kernel_dir().join("../docs/book/sessions")
}

fn all_are_run(_: &Flavor) {
    let there: BTreeSet<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tests = [SESSIONS, DEBUG_SESSIONS, QEMU_SESSIONS, QEMU_DEBUG_SESSIONS].concat();
    let run: BTreeSet<String> = tests
        .iter()
        .filter_map(|(name, _)| Some(format!("{}.console", name.strip_prefix("book: ")?)))
        .collect();
    assert_eq!(there, run);
}

/// A command, and what it prints.
struct Step {
    /// The lines that part the session there.
    before: Vec<String>,
    /// `$` or `#`.
    prompt: char,
    command: String,
    output: Vec<String>,
}

/// The commands, and the lines that part the session behind the last one.
fn parse(text: &str) -> (Vec<Step>, Vec<String>) {
    let mut steps: Vec<Step> = Vec::new();
    let mut before = Vec::new();
    for line in text.lines() {
        if line.contains("ANCHOR") {
            before.push(line.to_owned());
            continue;
        }
        let command = line
            .strip_prefix("$ ")
            .map(|command| ('$', command))
            .or_else(|| line.strip_prefix("# ").map(|command| ('#', command)));
        match (command, steps.last_mut()) {
            (Some((prompt, command)), _) => steps.push(Step {
                before: std::mem::take(&mut before),
                prompt,
                command: command.to_owned(),
                output: Vec::new(),
            }),
            (None, Some(step)) => step.output.push(line.to_owned()),
            (None, None) => panic!("a session begins with a command: {line}"),
        }
    }
    (steps, before)
}

/// A folder with all that is in the project's, where files may be made.
fn workspace() -> tempfile::TempDir {
    let root = kernel_dir().join("..").canonicalize().unwrap();
    let dir = tempfile::tempdir().unwrap();
    for name in ["kernel", "crates", "docs", "examples", "README.md"] {
        symlink(root.join(name), dir.path().join(name)).unwrap();
    }
    let bin = dir.path().join(".bin");
    fs::create_dir(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_ferroce"), bin.join("ferroce")).unwrap();
    dir
}

/// Runs a script of bash's, and returns what it prints.
fn bash(script: &str, folder: &Path) -> String {
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-c", &format!("exec 2>&1; {script}")])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", folder.join(".bin").display()))
        .env("FERROCE_KERNEL_DIR", kernel_dir())
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{script}: {}\n{text}",
        output.status
    );
    // The folder is the reader's own.
    text.replace(folder.to_str().unwrap(), "/home/ada/ferroce")
}

/// What stands before the output of each command that is typed into a guest.
const MARK: char = '\u{1}';

/// What each command prints.
fn outputs(steps: &[Step], folder: &Path) -> Vec<String> {
    let mut outputs = Vec::new();
    let mut rest = steps;
    while let Some((step, after)) = rest.split_first() {
        let typed = after.iter().take_while(|step| step.prompt == '#').count();
        let (typed, after) = after.split_at(typed);
        rest = after;
        let Some(options) = step.command.strip_prefix("ferroce lab shell") else {
            assert!(typed.is_empty(), "no guest to type into: {}", step.command);
            outputs.push(bash(&step.command, folder));
            continue;
        };
        let mut script = String::from("exec 2>&1\n");
        for step in typed {
            writeln!(script, "printf '\\001'\n{}", step.command).unwrap();
        }
        fs::write(folder.join(".typed"), script + "true\n").unwrap();
        let printed = bash(&format!("ferroce lab run{options} -- bash .typed"), folder);
        outputs.extend(printed.split(MARK).map(str::to_owned));
    }
    outputs
}

/// Whether make finds that a guest's clock is behind this machine's, as it is when that has much else to do.
fn is_clock_skew(line: &str) -> bool {
    line.starts_with("make") && (line.contains("Clock skew") || line.contains("modification time"))
}

/// A line with spaces for tabs, as a terminal has it: a browser has other columns.
fn expanded(line: &str) -> String {
    let mut expanded = String::new();
    for c in line.chars() {
        match c {
            '\t' => {
                let column = expanded.chars().count();
                expanded.extend(std::iter::repeat_n(' ', 8 - column % 8));
            }
            _ => expanded.push(c),
        }
    }
    expanded
}

/// A line without what is different each time: numbers, addresses, and how wide columns are.
fn masked(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let is_number = |c: char| c.is_ascii_hexdigit() || ":.x/+-%".contains(c);
        let bare = word.trim_matches(|c: char| ",;()[]".contains(c));
        match bare.contains(|c: char| c.is_ascii_digit()) && bare.chars().all(is_number) {
            true => word.replace(bare, "0"),
            false => masked_parts(word),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A word with a zero for each number in it, decimal or hexadecimal.
fn masked_parts(word: &str) -> String {
    let mut masked = String::new();
    let is_part = |c: char| c.is_ascii_alphanumeric();
    for piece in word.split_inclusive(|c| !is_part(c)) {
        let part = piece.trim_end_matches(|c| !is_part(c));
        let digits = part.trim_start_matches("0x");
        let is_hex = digits.chars().all(|c| c.is_ascii_hexdigit());
        if part.contains(|c: char| c.is_ascii_digit()) && is_hex {
            masked.push('0');
        } else {
            for c in part.chars() {
                match c.is_ascii_digit() {
                    true if masked.ends_with('0') => {}
                    true => masked.push('0'),
                    false => masked.push(c),
                }
            }
        }
        masked += &piece[part.len()..];
    }
    masked
}

/// Whether lines are those that are expected, of which `...` are any number.
fn matches(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.is_empty(),
        Some((first, expected)) if first == "..." => {
            (0..=lines.len()).any(|skip| matches(expected, &lines[skip..]))
        }
        Some((first, expected)) => lines
            .split_first()
            .is_some_and(|(line, lines)| masked(first) == masked(line) && matches(expected, lines)),
    }
}

fn run(name: &str) {
    let file = folder().join(name).with_extension("console");
    let (steps, last) = parse(&fs::read_to_string(&file).unwrap());
    let folder = workspace();
    let outputs = outputs(&steps, folder.path());
    assert_eq!(outputs.len(), steps.len(), "{outputs:#?}");

    let mut actual = String::new();
    let mut is_right = true;
    for (step, output) in steps.iter().zip(&outputs) {
        let lines = output.lines().filter(|line| !is_clock_skew(line));
        let lines: Vec<String> = lines.map(expanded).collect();
        let lines: Vec<&str> = lines.iter().map(|line| line.trim_end()).collect();
        let as_shown = matches(&step.output, &lines);
        is_right &= as_shown;
        let shown: Vec<&str> = match as_shown {
            true => step.output.iter().map(String::as_str).collect(),
            false => lines,
        };
        let command = format!("{} {}", step.prompt, step.command);
        let before = step.before.iter().map(String::as_str);
        for line in before.chain([command.as_str()]).chain(shown) {
            writeln!(actual, "{line}").unwrap();
        }
    }
    for line in last {
        writeln!(actual, "{line}").unwrap();
    }
    if !is_right && std::env::var_os("FERROCE_BLESS").is_some() {
        fs::write(&file, &actual).unwrap();
        return;
    }
    assert!(
        is_right,
        "{} shows something else; now it is:\n{actual}",
        file.display()
    );
}
