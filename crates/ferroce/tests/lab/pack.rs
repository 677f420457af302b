// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab in a file, and a cache with a kernel, for machines without sources and compilers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::support::{ferroce, kernel_dir, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "a lab that was packed runs where there are no sources and no compilers",
        packed,
    ),
    (
        "a kernel in the cache is used without Rust, and what needs Rust says so",
        without_rust,
    ),
];

/// A folder with links to the programs that guests need, and to no compiler.
fn programs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "sh", "ls", "ip", "rdma", "modprobe", "uname", "ldconfig", "cat",
    ] {
        let found = which(name);
        symlink(&found, folder.path().join(name)).unwrap();
    }
    folder
}

fn which(name: &str) -> String {
    let script = format!("PATH=$PATH:/usr/sbin:/sbin command -v {name}");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    let path = String::from_utf8(output.stdout).unwrap();
    assert!(!path.is_empty(), "{name} is not here");
    path.trim().to_owned()
}

/// A program that has nothing to build with: no sources, no Rust, no apt, and a cache of its own.
fn bare(program: &Path, cache: &Path, path: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("FERROCE_CACHE", cache)
        .env("FERROCE_KERNEL_DIR", "/nowhere")
        .env("PATH", path)
        .env_remove("FERROCE_NO_INSTALL");
    command
}

const USE: &str = "ip link add eth0 type dummy; ip link set eth0 up; \
    rdma link add fr0 type ferroce netdev eth0; rdma link; ferroce link show; uname -r";

fn packed(flavor: &Flavor) {
    let folder = tempfile::tempdir().unwrap();
    let (file, cache) = (
        folder.path().join("lab.tar.gz"),
        folder.path().join("cache"),
    );
    ran(ferroce()
        .args(["lab", "pack", "-o"])
        .arg(&file)
        .args(flavor.args))
    .ends_with(0)
    .says("Packed")
    .says("lab unpack");

    // As an unprivileged user, if this one is root.
    let tar = Command::new("tar")
        .arg("-xzf")
        .arg(&file)
        .arg("-C")
        .arg(folder.path())
        .arg("ferroce")
        .status();
    assert!(tar.unwrap().success());
    let program = folder.path().join("ferroce");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let programs = programs();
    fs::set_permissions(programs.path(), Permissions::from_mode(0o755)).unwrap();
    let bare = |words: &[&str]| {
        let mut command = bare(&program, &cache, programs.path());
        command.args(words).env("HOME", folder.path());
        if rustix::process::geteuid().is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(65534).gid(65534);
        }
        command
    };
    ran(&mut bare(&["lab", "run", "--", "true"]))
        .ends_with(125)
        .says("this machine lacks Rust (https://rustup.rs;")
        .says("lab unpack");
    ran(bare(&["lab", "unpack"]).arg(&file))
        .ends_with(0)
        .says("Unpacked");
    let ran = ran(&mut bare(&["lab", "run", "--", "sh", "-c", USE]))
        .ends_with(0)
        .prints("link fr0/1 state ACTIVE")
        .prints("fr0/1  ACTIVE")
        .prints("-ferroce-uml\n");
    assert!(!ran.stderr.contains("Building"), "{ran:#?}");
}

fn without_rust(_: &Flavor) {
    let programs = programs();
    let ferroce = ferroce();
    let program = Path::new(ferroce.get_program());
    let cache = ferroce_lab::cache::Cache::open().unwrap().path("");
    let run = |words: &[&str]| {
        let mut command = bare(program, &cache, programs.path());
        command.env("FERROCE_KERNEL_DIR", kernel_dir()).args(words);
        command
    };
    ran(&mut run(&["lab", "run", "--", "sh", "-c", USE]))
        .ends_with(0)
        .prints("link fr0/1 state ACTIVE");
    ran(&mut run(&["lab", "build"]))
        .ends_with(125)
        .says("this machine lacks Rust (https://rustup.rs;");
}
