// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cache of builds.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::support::{ferroce, kernel_dir, ran, Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    ("a second build does nothing and says so", fresh),
    ("a module is built by the line that is printed", yours),
    (
        "of two builds at once the second waits and says for what",
        two_at_once,
    ),
    (
        "of two that miss a program one installs it, and the other waits",
        two_install,
    ),
    ("modules that were damaged are built again", damaged_modules),
    (
        "a module that does not compile is told with the compiler's reason",
        does_not_compile,
    ),
    (
        "an option that the kernel's configuration drops is named",
        dropped_option,
    ),
    ("kernel code passes clippy", clippy),
];

/// Of a kernel that clang compiles.
pub const DEBUG_TESTS: &[Test] = &[(
    "debug: a module is built by the line that is printed",
    yours,
)];

fn fresh(flavor: &Flavor) {
    let ran = ran(ferroce().args(["lab", "build"]).args(flavor.args))
        .ends_with(0)
        .says("Fresh");
    assert!(!ran.stderr.contains("Building"), "{ran:#?}");
}

fn yours(flavor: &Flavor) {
    let printed = ran(ferroce().args(["lab", "build"]).args(flavor.args)).ends_with(0);
    let line = printed
        .stderr
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("Yours "));
    // The example alone, as somebody would begin with.
    let sources = tempfile::tempdir().unwrap();
    let copied = Command::new("cp")
        .arg("-r")
        .arg(kernel_dir().join("examples/hello"))
        .arg(sources.path())
        .status();
    assert!(copied.unwrap().success());
    let module = sources.path().join("hello");
    let make = line.expect("it is printed");
    ran(Command::new("sh").args(["-c", make]).current_dir(&module)).ends_with(0);
    let built = module.join("hello.ko");
    let built = built.to_str().expect("the path is text");
    ran(flavor.lab(&["--module", built]).arg("dmesg"))
        .ends_with(0)
        .prints("hello, ");
}

/// A copy of the modules' sources, which makes for a build of its own.
struct Sources(tempfile::TempDir);

impl Sources {
    fn path(&self) -> PathBuf {
        self.0.path().join("kernel")
    }
}

fn copy_of_sources(note: &str) -> Sources {
    let dir = Sources(tempfile::tempdir().unwrap());
    let status = Command::new("cp")
        .arg("-r")
        .arg(kernel_dir())
        .arg(dir.path())
        .status();
    assert!(status.unwrap().success());
    // The driver is built of the protocol core's files, too, and the plug-in of the workspace's.
    for name in ["crates", "Cargo.toml", "Cargo.lock"] {
        std::os::unix::fs::symlink(kernel_dir().join("..").join(name), dir.0.path().join(name))
            .unwrap();
    }
    let hello = dir.path().join("examples/hello/hello.rs");
    let text = fs::read_to_string(&hello).unwrap();
    fs::write(hello, format!("{text}\n{note}\n")).unwrap();
    dir
}

fn build(sources: &Path) -> Command {
    let mut command = ferroce();
    command
        .args(["lab", "build", "--kernel-dir"])
        .arg(sources)
        .stdin(Stdio::null());
    command
}

fn two_at_once(_: &Flavor) {
    let sources = copy_of_sources("// Two at once.");
    let commands = [(); 2].map(|()| build(&sources.path()));
    second_waits(commands, "Building", || {});
}

/// What is missing is bc, and apt-get is a script that has it be there.
fn two_install(_: &Flavor) {
    let bin = tempfile::tempdir().unwrap();
    for program in fs::read_dir("/usr/bin").unwrap() {
        let program = program.unwrap();
        if !["bc", "apt-get"].iter().any(|n| program.file_name() == *n) {
            symlink(program.path(), bin.path().join(program.file_name())).unwrap();
        }
    }
    let bc = bin.path().join("bc");
    let go = bin.path().join("go");
    let script = format!(
        "#!/bin/sh\nfor i in $(seq 6000); do [ -e {} ] && break; sleep 0.1; done\nln -s /usr/bin/bc {}\n",
        go.display(),
        bc.display()
    );
    let apt = bin.path().join("apt-get");
    fs::write(&apt, script).unwrap();
    fs::set_permissions(&apt, Permissions::from_mode(0o755)).unwrap();
    let mut path = vec![bin.path().to_owned()];
    let before = std::env::var_os("PATH").unwrap();
    path.extend(std::env::split_paths(&before).filter(|dir| !dir.join("bc").exists()));
    let path = std::env::join_paths(path).unwrap();
    let commands = [(); 2].map(|()| {
        let mut command = ferroce();
        command.args(["lab", "build"]).env("PATH", &path);
        command
    });
    // The first is stopped, but not what it runs.
    second_waits(commands, "Installing", || fs::write(go, "").unwrap());
    assert!(bc.exists());
}

/// Starts two of ferroce. The first is stopped when it says what it does, until the second has said that
/// it waits, and `go` is called. The second does not have to do it again.
fn second_waits([mut first, mut second]: [Command; 2], does: &str, go: impl FnOnce()) {
    let mut first = first.stderr(Stdio::piped()).spawn().unwrap();
    let first_id = Pid::from_raw(first.id().try_into().unwrap());
    let mut said = BufReader::new(first.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains(does)));
    kill(first_id, Signal::SIGSTOP).unwrap();

    let mut second = second.stderr(Stdio::piped()).spawn().unwrap();
    let mut said_by_second = BufReader::new(second.stderr.take().unwrap()).lines();
    let does_it = does.to_lowercase();
    let waits = format!("Waiting for another ferroce, process {first_id}, which is {does_it}");
    let mut before = Vec::new();
    let waited = said_by_second.any(|line| {
        before.push(line.unwrap());
        before.last().unwrap().contains(&waits)
    });
    go();
    kill(first_id, Signal::SIGCONT).unwrap();
    assert!(waited, "the second did not wait, but said {before:#?}");

    said.for_each(|line| drop(line.unwrap()));
    assert!(first.wait().unwrap().success());
    assert!(said_by_second.all(|line| !line.unwrap().contains(does)));
    assert!(second.wait().unwrap().success());
}

fn modules_of(ran: &Ran) -> PathBuf {
    let line = ran
        .stderr
        .lines()
        .find(|l| l.trim_start().starts_with("Modules "))
        .expect("it names the folder");
    PathBuf::from(line.trim_start().trim_start_matches("Modules "))
}

fn damaged_modules(_: &Flavor) {
    let sources = copy_of_sources("// To be damaged.");
    let built = ran(&mut build(&sources.path())).ends_with(0);
    let hello = modules_of(&built).join("hello.ko");
    let whole = fs::read(&hello).unwrap();
    let mut bytes = whole.clone();
    bytes[whole.len() / 2] ^= 1;
    fs::write(&hello, bytes).unwrap();
    ran(&mut build(&sources.path()))
        .ends_with(0)
        .says("Building");
    assert!(fs::read(&hello).unwrap() == whole);
    fs::remove_file(&hello).unwrap();
    ran(&mut build(&sources.path()))
        .ends_with(0)
        .says("Building");
    assert!(fs::read(&hello).unwrap() == whole);
}

fn does_not_compile(_: &Flavor) {
    let sources = copy_of_sources("const WRONG: u32 = \"text\";");
    ran(&mut build(&sources.path()))
        .ends_with(125)
        .says("mismatched types")
        .says("hello.rs")
        .says("All of it is in");
}

fn dropped_option(_: &Flavor) {
    let sources = copy_of_sources("// With an option that does not exist.");
    let config = sources.path().join("config/um.config");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("{text}CONFIG_NO_SUCH_OPTION=y\n")).unwrap();
    ran(&mut build(&sources.path()))
        .ends_with(125)
        .says("would not keep CONFIG_NO_SUCH_OPTION=y");
}

fn clippy(_: &Flavor) {
    ran(ferroce().args(["lab", "build", "--clippy"]))
        .ends_with(0)
        .says("no warnings");
    let sources = copy_of_sources("fn unused() { let x = 5; return drop(x); }");
    ran(build(&sources.path()).arg("--clippy"))
        .ends_with(125)
        .says("hello.rs");
}
