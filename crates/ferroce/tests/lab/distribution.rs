// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernels that the lab has not built: Debian's, and those that are given by a path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::run::{exit_status, overlay};
use crate::support::{ferroce, ran, Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    (
        "debian: its kernel runs a command, and modprobe has its modules",
        modules,
    ),
    ("debian: the exit status is the command's", exit_status),
    ("debian: changes vanish, except in --rw folders", overlay),
    (
        "debian: a crash is told and ends with 99, by the path of a kernel",
        crash,
    ),
    ("debian: what is no kernel is refused", no_kernel),
    (
        "debian: a version that is not on offer is refused with what is",
        no_version,
    ),
    ("debian: a kernel that lacks 9p is refused", no_9p),
    ("debian: module check knows it, but for its symbols", check),
];

fn modules(flavor: &Flavor) {
    let ran = flavor
        .sh("uname -v; echo $FERROCE_GUEST; modprobe nvmet-rdma && ls /sys/module/nvmet; rdma system")
        .ends_with(0)
        .prints("Debian")
        .prints("\ndebian\n")
        .prints("refcnt");
    assert!(!ran.stderr.contains("No such file"), "{ran:#?}");
}

/// The folder of the modules of Debian's kernel, with its `vmlinuz`, and its release.
pub fn folder() -> (PathBuf, String) {
    let built = ran(ferroce().args(["lab", "build", "--kernel", "debian"])).ends_with(0);
    let lines = built.stderr.lines();
    let mut folders = lines.filter_map(|line| line.trim_start().strip_prefix("Modules "));
    let folder = PathBuf::from(folders.next_back().expect("it is printed"));
    let release = folder.file_name().unwrap().to_str().unwrap().to_owned();
    (folder, release)
}

fn with_kernel(kernel: &Path, command: &str) -> Ran {
    ran(ferroce()
        .args(["lab", "run", "--kernel"])
        .arg(kernel)
        .args(["--", "sh", "-c", command])
        .stdin(std::process::Stdio::null()))
}

fn crash(_: &Flavor) {
    let (folder, _) = folder();
    let script = "echo up; echo c > /proc/sysrq-trigger";
    with_kernel(&folder.join("vmlinuz"), script)
        .ends_with(99)
        .prints("up\n")
        .says("reported trouble: Kernel panic - not syncing: sysrq triggered crash");
}

fn no_kernel(_: &Flavor) {
    let dir = tempfile::tempdir().unwrap();
    with_kernel(dir.path(), "true")
        .ends_with(125)
        .says("is no kernel: a file such as");
    let file = dir.path().join("vmlinuz");
    fs::write(&file, "nothing of the kind").unwrap();
    with_kernel(&file, "true")
        .ends_with(125)
        .says("is no kernel for x86-64: a bzImage");
    with_kernel(&dir.path().join("gone"), "true")
        .ends_with(125)
        .says("cannot find the kernel")
        .says("gone: No such file");
    with_kernel(Path::new("fedora"), "true")
        .ends_with(2)
        .says("debian:VERSION such as");
    ran(ferroce().args("lab run --kernel debian --backend uml -- true".split(' ')))
        .ends_with(125)
        .says("leave out --backend uml");
    ran(ferroce().args("lab run --kernel debian --debug -- true".split(' ')))
        .ends_with(125)
        .says("leave out --debug");
    ran(ferroce().args("lab build --kernel debian --clippy".split(' ')))
        .ends_with(125)
        .says("leave out --kernel");

    // A kernel whose modules are not there, and two whose are.
    let (folder, release) = folder();
    fs::copy(folder.join("vmlinuz"), &file).unwrap();
    with_kernel(&file, "true")
        .ends_with(125)
        .says(&format!("the modules of Linux {release}"))
        .says(&format!("lib/modules/{release}"));
    for name in ["1.0", "2.0"] {
        let modules = dir.path().join("lib/modules").join(name);
        fs::create_dir_all(&modules).unwrap();
        fs::write(modules.join("modules.order"), "").unwrap();
    }
    with_kernel(dir.path(), "true")
        .ends_with(125)
        .says("has several kernels; give one of:")
        .says("lib/modules/2.0");
    let one = dir.path().join("lib/modules/1.0");
    with_kernel(&one, "true")
        .ends_with(125)
        .says("the kernel of the modules in")
        .says("boot/vmlinuz-1.0");
    symlink(&file, one.join("vmlinuz")).unwrap();
    with_kernel(&one, "true")
        .ends_with(125)
        .says(&format!("is Linux {release}, and the modules in"));
}

fn no_version(_: &Flavor) {
    ran(ferroce().args(["lab", "run", "--kernel", "debian:2.6", "--", "true"]))
        .ends_with(125)
        .says("Debian's kernel 2.6 could not be had")
        .says("trixie-backports: it has ")
        .says("trixie: it has 6.12.");
}

fn no_9p(_: &Flavor) {
    let (folder, release) = folder();
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("lib/modules").join(&release);
    fs::create_dir_all(&modules).unwrap();
    for name in ["vmlinuz", "modules.builtin", "modules.dep.bin", "kernel"] {
        symlink(folder.join(name), modules.join(name)).unwrap();
    }
    let all = fs::read_to_string(folder.join("modules.dep")).unwrap();
    let left = all
        .lines()
        .filter(|line| !line.starts_with("kernel/fs/9p/"));
    fs::write(
        modules.join("modules.dep"),
        left.collect::<Vec<_>>().join("\n"),
    )
    .unwrap();
    with_kernel(dir.path(), "true")
        .ends_with(125)
        .says(&format!("Linux {release} cannot be a guest"))
        .says("it lacks 9p (CONFIG_9P_FS)");
}

fn check(_: &Flavor) {
    let (folder, release) = folder();
    let module = folder.join("kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko.xz");
    let ran = ran(ferroce()
        .args(["module", "check", "--kernel", "lab:debian"])
        .arg(module))
    // Which symbols it has, its package does not say.
    .ends_with(2)
    .prints(&format!("kernel: {release}"))
    .prints("ok  relocations");
    // Its own modules are compressed, and are compared with all the same.
    assert!(!ran.stdout.contains("no module of its own"), "{ran:#?}");
}
