// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ferroce lab run` promises of streams, files and ends.

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{ferroce, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    ("the exit status is the command's", exit_status),
    ("standard input comes back byte for byte", stdin_round_trip),
    (
        "standard output and error stay apart and complete",
        streams_apart,
    ),
    ("output arrives while the command runs", output_is_live),
    ("a reader that goes away ends the guest", broken_pipe),
    (
        "the command runs in the current folder as root",
        current_folder,
    ),
    (
        "arguments and variables that are not UTF-8 pass through",
        raw_bytes,
    ),
    ("changes vanish, except in --rw folders", overlay),
    (
        "what the command leaves in the background does not keep the guest",
        background,
    ),
    ("--cpus and --mem are what the guest has", machine_size),
    (
        "programs learn the processors' clock speed from /proc/cpuinfo",
        clock_speed,
    ),
    ("ferroce is a command in the guest, and the same", itself),
    (
        "--timeout ends the guest with 124 and shows the log",
        timeout,
    ),
    ("Ctrl-C ends the guest and leaves nothing", interrupt),
    ("killing ferroce ends the guest", killed),
    ("a command that does not exist ends with 127", no_command),
    ("a file that is no program ends with 126", no_program),
    ("fifty runs in a row", fifty),
    ("four runs at once", four),
    (
        "the shell has a terminal and a prompt that says where it is",
        shell,
    ),
    ("a guest takes no privileges", no_privileges),
];

pub const QEMU_TESTS: &[Test] = &[
    ("qemu: the exit status is the command's", exit_status),
    (
        "qemu: standard input comes back byte for byte",
        stdin_round_trip,
    ),
    ("qemu: changes vanish, except in --rw folders", overlay),
    (
        "qemu: --cpus and --mem are what the guest has",
        machine_size,
    ),
    ("qemu: Ctrl-C ends the guest and leaves nothing", interrupt),
    ("qemu: it says which accelerator it uses", accelerator),
];

pub fn exit_status(flavor: &Flavor) {
    flavor.sh("exit 7").ends_with(7);
    flavor.sh("kill -TERM $$").ends_with(128 + 15);
}

/// Bytes that do not repeat and include every value.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn stdin_round_trip(flavor: &Flavor) {
    let bytes = noise(1 << 20);
    let mut child = flavor
        .lab(&[])
        .arg("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let mut back = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(
        back == bytes,
        "{} bytes came back of {}",
        back.len(),
        bytes.len()
    );
}

fn streams_apart(flavor: &Flavor) {
    let ran = flavor.sh("seq 1 20000; seq 1 500 >&2").ends_with(0);
    assert_eq!(ran.stdout.lines().count(), 20000);
    assert_eq!(ran.stdout.lines().last(), Some("20000"));
    assert_eq!(ran.stderr.lines().count(), 500, "{}", ran.stderr);
}

fn output_is_live(flavor: &Flavor) {
    let mut child = flavor
        .lab(&[])
        .args(["sh", "-c", "echo up; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The command still waits for its input when this arrives.
    let mut first = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    assert_eq!(&first, b"up\n");
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn broken_pipe(flavor: &Flavor) {
    let mut child = flavor
        .lab(&[])
        .arg("yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 2];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
}

fn current_folder(flavor: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    let ran = ran(flavor
        .lab(&[])
        .args(["sh", "-c", "pwd; id -u; uname -r; ls /proc/sysrq-trigger"])
        .current_dir(dir.path()))
    .ends_with(0);
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(
        lines[0],
        dir.path().canonicalize().unwrap().to_str().unwrap()
    );
    assert_eq!(lines[1], "0");
    assert!(
        lines[2].ends_with(&format!("-ferroce-{}", flavor.name)),
        "{lines:?}"
    );
}

fn raw_bytes(flavor: &Flavor) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let odd = OsStr::from_bytes(b"a \xff\n\"'$b");
    let output = flavor
        .lab(&[])
        .args(["sh", "-c", r#"printf '%s|%s' "$1" "$ODD""#, "sh"])
        .arg(odd)
        .env("ODD", odd)
        .output()
        .unwrap();
    let twice = [odd.as_bytes(), b"|", odd.as_bytes()].concat();
    assert_eq!(output.stdout, twice);
}

pub fn overlay(flavor: &Flavor) {
    let kept = tempfile::tempdir().unwrap();
    let lost = tempfile::tempdir().unwrap();
    fs::write(lost.path().join("old"), "old").unwrap();
    fs::write(kept.path().join("old"), "old").unwrap();
    let (k, l) = (kept.path().display(), lost.path().display());
    let script = format!(
        "set -e; echo new > {l}/old; echo new > {l}/new; rm -rf /etc/passwd; echo x > /ferroce-was-here; \
         test $(cat {l}/old) = new; echo new > {k}/new; echo more >> {k}/old"
    );
    ran(flavor
        .lab(&["--rw", kept.path().to_str().unwrap()])
        .args(["sh", "-c", &script]))
    .ends_with(0);
    assert_eq!(fs::read_to_string(lost.path().join("old")).unwrap(), "old");
    assert!(!lost.path().join("new").exists());
    assert!(std::path::Path::new("/etc/passwd").exists());
    assert!(!std::path::Path::new("/ferroce-was-here").exists());
    assert_eq!(
        fs::read_to_string(kept.path().join("new")).unwrap(),
        "new\n"
    );
    assert_eq!(
        fs::read_to_string(kept.path().join("old")).unwrap(),
        "oldmore\n"
    );
}

fn background(flavor: &Flavor) {
    let started = Instant::now();
    flavor
        .sh("sleep 600 & (setsid sleep 600 &); echo done")
        .ends_with(0)
        .prints("done");
    assert!(
        started.elapsed() < Duration::from_secs(300),
        "it waited for the sleepers"
    );
}

fn machine_size(flavor: &Flavor) {
    let script = "nproc; awk '/MemTotal/ {print $2}' /proc/meminfo";
    let ran = ran(flavor
        .lab(&["--cpus", "3", "--mem", "300M"])
        .args(["sh", "-c", script]))
    .ends_with(0);
    let numbers: Vec<u64> = ran.stdout.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(numbers[0], 3);
    assert!(
        (200 << 10..=300 << 10).contains(&numbers[1]),
        "{numbers:?} KiB"
    );
}

fn clock_speed(flavor: &Flavor) {
    let script = "grep -c '^processor' /proc/cpuinfo; grep -c '^cpu MHz.*[1-9]' /proc/cpuinfo; \
                  mkdir /tmp/root; mount --rbind / /tmp/root; \
                  chroot /tmp/root grep -c '^cpu MHz' /proc/cpuinfo";
    ran(flavor.lab(&["--cpus", "3"]).args(["sh", "-c", script]))
        .ends_with(0)
        .prints("3\n3\n3\n");
}

fn itself(flavor: &Flavor) {
    let script = "command -v ferroce; ferroce link show; realpath $(command -v ferroce)";
    let program = fs::canonicalize(ferroce().get_program()).unwrap();
    flavor
        .sh(script)
        .ends_with(0)
        .says("there are no RDMA devices")
        .prints(program.to_str().unwrap());
}

fn timeout(flavor: &Flavor) {
    ran(flavor.lab(&["--timeout", "4"]).args(["sleep", "600"]))
        .ends_with(124)
        .says("ended after 4 s")
        .says("as init process");
}

/// The guests' folders and processes of this machine that belong to `child`.
fn left_of(pid: u32) -> Vec<String> {
    let parent = format!("PPid:\t{pid}");
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if fs::read_to_string(entry.path().join("status"))
            .is_ok_and(|s| s.lines().any(|l| l == parent))
        {
            left.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    left
}

/// Starts a guest that sleeps, in a temporary folder of its own, and waits
/// until its command runs.
fn sleeper(flavor: &Flavor, temp: &std::path::Path) -> Child {
    let mut child = flavor
        .lab(&[])
        .args(["sh", "-c", "echo up; sleep 600"])
        .env("TMPDIR", temp)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut first = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut first)
        .unwrap();
    child
}

fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}

/// Waits until the process is gone; it is not ours to wait for.
fn gone(pid: &str) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn interrupt(flavor: &Flavor) {
    let temp = tempfile::tempdir().unwrap();
    let mut child = sleeper(flavor, temp.path());
    let guests = left_of(child.id());
    assert!(!guests.is_empty());
    signal(child.id(), "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(guests.iter().all(|pid| gone(pid)), "{guests:?} live on");
    let left: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

fn killed(flavor: &Flavor) {
    let temp = tempfile::tempdir().unwrap();
    let mut child = sleeper(flavor, temp.path());
    let guests = left_of(child.id());
    assert!(!guests.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(guests.iter().all(|pid| gone(pid)), "{guests:?} live on");
}

fn no_command(flavor: &Flavor) {
    ran(flavor.lab(&[]).arg("no-such-command"))
        .ends_with(127)
        .says("there is no command no-such-command");
}

fn no_program(flavor: &Flavor) {
    ran(flavor.lab(&[]).arg("/etc/passwd"))
        .ends_with(126)
        .says("cannot run /etc/passwd");
}

fn fifty(flavor: &Flavor) {
    for n in 0..50 {
        flavor
            .sh(&format!("echo {n}"))
            .ends_with(0)
            .prints(&format!("{n}\n"));
    }
}

fn four(flavor: &Flavor) {
    std::thread::scope(|scope| {
        for n in 0..4 {
            scope.spawn(move || {
                flavor
                    .sh(&format!("echo {n}"))
                    .ends_with(0)
                    .prints(&format!("{n}\n"))
            });
        }
    });
}

fn shell(_: &Flavor) {
    // script(1) gives it a terminal on this side.
    let mut child = std::process::Command::new("script")
        .args([
            "-qec",
            &format!("{} lab shell", ferroce().get_program().display()),
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"tty; stty size; exit 9\r")
        .unwrap();
    let mut text = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(text.contains("(ferroce uml)"), "{text}");
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(9), "{text}");
}

fn no_privileges(flavor: &Flavor) {
    // Without capabilities root is a user like any other, and still owns the
    // cache; for another user this takes nothing away.
    let lab = flavor.lab(&[]);
    let mut command = std::process::Command::new("setpriv");
    command.args(["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
    command
        .arg(lab.get_program())
        .args(lab.get_args())
        .args(["sh", "-c", "id -u; modprobe hello"]);
    ran(command.stdin(Stdio::null())).ends_with(0).prints("0\n");
}

fn accelerator(flavor: &Flavor) {
    let ran = flavor.sh("true").ends_with(0);
    assert!(
        ran.stderr.contains("QEMU with KVM") || ran.stderr.contains("QEMU with TCG ("),
        "{ran:#?}"
    );
}
