// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce vm`, by its command line.
//!
//! Those that boot an image take long where instructions are emulated, and make the image first: they run on
//! request, and print how long things took.
//!
//! ```sh
//! cargo test --release -p ferroce --test vm -- --ignored --nocapture
//! ```

mod boots;
mod image;

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use ferroce_lab::cache::Cache;
use ferroce_lab::prerequisites::{ensure, Install, Purpose};
use serde_json::Value;
use tempfile::TempDir;

/// Whether what is missing may be installed.
fn install() -> Install {
    match std::env::var_os("FERROCE_NO_INSTALL") {
        Some(_) => Install::No,
        None => Install::Yes,
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
}

/// A user with no machines, and with an image that has nothing on it.
struct User {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
struct Ran {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl User {
    fn new() -> Self {
        let cache = Cache::open().unwrap();
        ensure(&cache, &[Purpose::VirtualMachine], install()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let image = File::create(folder.path().join("empty.img")).unwrap();
        image.set_len(1 << 20).unwrap();
        Self { folder }
    }

    fn image(&self) -> String {
        self.folder.path().join("empty.img").display().to_string()
    }

    /// The folder of a machine.
    fn vm(&self, name: &str) -> PathBuf {
        self.folder.path().join("ferroce/vm").join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferroce"));
        command
            .arg("vm")
            .args(arguments)
            .env("XDG_DATA_HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn ferroce(&self, arguments: &[&str]) -> Ran {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(arguments).output().unwrap();
        Ran {
            status: status.code(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// Makes a machine that is not started, with options.
    fn create(&self, name: &str, options: &[&str]) -> Ran {
        let image = self.image();
        let arguments = ["create", name, "--image", &image, "--no-start"];
        self.ferroce(&[&arguments, options].concat())
    }

    fn list(&self) -> Vec<Value> {
        let ran = self.ferroce(&["list", "--json"]).ends_with(0);
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for vm in self.list() {
            self.ferroce(&["delete", "--force", vm["name"].as_str().unwrap()]);
        }
    }
}

impl Ran {
    #[track_caller]
    fn ends_with(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    #[track_caller]
    fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
        self
    }
}

#[test]
fn a_machine_is_made_listed_and_deleted_and_its_image_is_left_alone() {
    let user = User::new();
    let share = user.folder.path().join("with space");
    fs::create_dir(&share).unwrap();
    let options = ["--share", share.to_str().unwrap(), "--disk", "8G"];
    user.create("one", &options)
        .ends_with(0)
        .says("ferroce vm start one");
    user.create("two", &["--mem", "512M", "--cpus", "3"])
        .ends_with(0);

    let listed = user.list();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["name"], "one");
    assert_eq!(listed[0]["running"], false);
    assert_eq!(listed[0]["disk"], 8u64 << 30);
    assert_eq!(listed[0]["share"], share.to_str().unwrap());
    assert_eq!(listed[1]["memory"], 512 << 20);
    assert_eq!(listed[1]["cpus"], 3);
    // Each has a port of its own.
    assert_ne!(listed[0]["ssh_port"], listed[1]["ssh_port"]);
    let table = user.ferroce(&["list"]).ends_with(0).stdout;
    let row = table.lines().find(|line| line.starts_with("one ")).unwrap();
    assert!(
        row.contains("stopped") && row.contains("8.00 GiB"),
        "{table}"
    );

    // What is in it: the disk is small yet, the keys are for nobody else.
    let folder = user.vm("one");
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(fs::metadata(folder.join("disk.qcow2")).unwrap().len() < 1 << 20);
    for file in ["seed.img", "key", "key.pub", "known_hosts"] {
        assert!(folder.join(file).exists(), "{file}");
    }

    user.create("one", &[])
        .ends_with(1)
        .says("there is a virtual machine one already");
    user.ferroce(&["delete", "one", "three"])
        .ends_with(1)
        .says("there is no virtual machine three, but one, two");
    assert_eq!(user.list().len(), 2, "none is deleted if one is not there");
    user.ferroce(&["delete", "one", "two"])
        .ends_with(0)
        .says("Deleted one");
    assert_eq!(user.list().len(), 0);
    assert_eq!(fs::read(user.image()).unwrap(), vec![0; 1 << 20]);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_made() {
    let user = User::new();
    let wrong: [(&[&str], i32, &str); 6] = [
        (&["Lesson"], 2, "letters a to z, digits and hyphens"),
        (
            &["a", "--image", "fedora"],
            2,
            "debian, ubuntu, or the file of an image",
        ),
        (&["a", "--mem", "1M"], 2, "too little"),
        (&["a", "--image", "/nowhere/x.img"], 1, "/nowhere/x.img"),
        (
            &["a", "--share", "/nowhere"],
            1,
            "the folder to share, /nowhere",
        ),
        (&["a", "--install", "--no-start"], 2, "cannot be used with"),
    ];
    for (arguments, status, text) in wrong {
        let ran = user.ferroce(&[&["create"], arguments].concat());
        ran.ends_with(status).says(text);
    }
    user.create("a", &["--disk", "1K"])
        .ends_with(1)
        .says("--disk 1G or more");
    assert_eq!(user.list().len(), 0);
    user.ferroce(&["start", "a"])
        .ends_with(1)
        .says("there is no virtual machine a, nor any other. To make it: ferroce vm create a");
}

#[test]
fn a_taken_port_is_told_with_another_one() {
    let user = User::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    user.create("a", &["--ssh-port", &port])
        .ends_with(1)
        .says(&format!(
            "port {port}, which is to lead to ssh of a, is taken by another program"
        ))
        .says("Give another: --ssh-port ");
    drop(listener);
    user.create("a", &["--ssh-port", &port]).ends_with(0);
    let _listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    user.ferroce(&["start", "a"])
        .ends_with(1)
        .says("is taken by another program");
}

#[test]
fn a_machine_that_does_not_run_has_no_shell_and_no_console() {
    let user = User::new();
    user.create("a", &[]).ends_with(0);
    for command in ["ssh", "console"] {
        user.ferroce(&[command, "a"])
            .ends_with(1)
            .says("a does not run: ferroce vm start a");
    }
    user.ferroce(&["stop", "a"])
        .ends_with(0)
        .says("a did not run");
    // The number of a process that is not its QEMU, as after a crash of this machine.
    fs::write(
        user.vm("a").join("qemu.pid"),
        std::process::id().to_string(),
    )
    .unwrap();
    assert_eq!(user.list()[0]["running"], false);
    user.ferroce(&["delete", "a"]).ends_with(0);
}

#[test]
fn an_image_that_was_changed_or_went_away_is_not_booted() {
    let user = User::new();
    user.create("a", &[]).ends_with(0);
    let kept = user.folder.path().join("kept.img");
    fs::rename(user.image(), &kept).unwrap();
    user.ferroce(&["start", "a"])
        .ends_with(1)
        .says("is not there any more: put it back");
    fs::rename(&kept, user.image()).unwrap();
    let file = File::options().write(true).open(user.image()).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    user.ferroce(&["start", "a"])
        .ends_with(1)
        .says("was changed since");
}

#[test]
fn an_image_without_a_boot_loader_is_told_and_its_machine_can_be_ended() {
    let user = User::new();
    let image = user.image();
    user.ferroce(&["create", "a", "--image", &image, "--mem", "128M"])
        .ends_with(1)
        .says("cannot be booted: the firmware, a BIOS, finds no boot loader on it")
        .says("ferroce vm delete --force a");
    assert_eq!(user.list()[0]["running"], true);
    user.ferroce(&["delete", "a"])
        .ends_with(1)
        .says("a runs: ferroce vm stop a first");
    let port = user.list()[0]["ssh_port"].to_string();
    user.create("b", &["--ssh-port", &port])
        .ends_with(1)
        .says("is taken by the virtual machine a");
    // It has nothing that would power off.
    user.ferroce(&["stop", "a", "--timeout", "0"])
        .ends_with(0)
        .says("Stopped a in");
    assert_eq!(user.list()[0]["running"], false);
}
