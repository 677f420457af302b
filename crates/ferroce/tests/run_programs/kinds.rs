// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kinds of programs: those that load libibverbs, those in Go, those that will see no device, and those to which
//! system calls are refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferroce_lab::prerequisites::Purpose;

use super::{filter, guest, install, Group, Ran};

/// Compiles a program of the lab's guests.
fn compile(group: &Group, source: &str, options: &[&str]) -> PathBuf {
    let program = group.folder.path().join("program");
    let compiled = Command::new("gcc")
        .args(["-O2", "-Wall", "-Werror", "-o"])
        .arg(&program)
        .arg(guest(source))
        .args(options)
        .status();
    assert!(compiled.unwrap().success());
    program
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_program_that_loads_libibverbs_as_nccl_does() {
    let group = Group::new("loads");
    let program = compile(&group, "programs/loads.c", &["-ldl"]);
    let ran = group.run(&[], &[text(&program)]).succeeds();
    ran.says("100 messages, every byte right");
}

/// Go's compiler takes 220 MB.
#[test]
#[ignore = "it installs Go: cargo test --release -p ferroce --test run_programs -- --ignored go"]
fn a_program_in_go() {
    let group = Group::new("go");
    install(&[Purpose::Go]);
    let program = group.folder.path().join("program");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(guest("programs/go/verbs.go"))
        .env("GOCACHE", group.folder.path().join("cache"))
        .env("GO111MODULE", "off")
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:#?}");
    let ran = group.run(&[], &[text(&program)]).succeeds();
    ran.says("1600 messages, every byte right");
}

/// It is told once that a program will see no device, and the program runs.
#[track_caller]
fn is_told(ran: &Ran, reason: &str, said: &str) {
    assert_eq!(ran.output.matches("ferroce: ").count(), 1, "{ran:#?}");
    let is_told = ran.output.contains(reason) && ran.output.contains(said);
    assert!(is_told, "{ran:#?}");
}

#[test]
fn a_static_program_is_told_and_run() {
    let group = Group::new("static");
    let source = group.folder.path().join("hello.c");
    fs::write(
        &source,
        "#include <stdio.h>\nint main(void) { puts(\"hello\"); }\n",
    )
    .unwrap();
    for kind in ["-static", "-static-pie"] {
        let program = compile(&group, text(&source), &[kind]);
        let ran = group.run(&[], &[text(&program)]);
        is_told(&ran, "it is statically linked", "hello");
    }
}

#[test]
fn a_setuid_program_is_told_and_run() {
    let group = Group::new("setuid");
    // SAFETY: It has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let (program, argument, said) = if is_root {
        // One with the rights of another user.
        let program = group.folder.path().join("env");
        fs::copy("/usr/bin/env", &program).unwrap();
        std::os::unix::fs::chown(&program, Some(65_534), None).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
        (program, "--version", "env (GNU coreutils)")
    } else {
        (
            PathBuf::from("/usr/bin/su"),
            "--version",
            "su from util-linux",
        )
    };
    let ran = group.run(&[], &[text(&program), argument]);
    is_told(
        &ran,
        "it runs with rights that its caller does not have",
        said,
    );
}

/// Has a filter refuse these system calls to programs, and connects two of them. Returns what both say.
fn ping_pong_without(name: &str, refused: &'static [libc::c_long]) -> [Ran; 2] {
    let group = Group::new(name);
    let refuse = move || filter::refuse(refused);
    let port = group.port.to_string();
    let words = ["ibv_rc_pingpong", "-g", "1", "-c", "-n", "500", "-p", &port];
    let server = group.start_after(refuse, &[], &words);
    group.wait_for_port();
    let client = group.start_after(refuse, &[], &[&words[..], &["localhost"]].concat());
    [client.end(), server.end()]
}

#[test]
fn without_process_vm_writev_memory_is_reached_another_way() {
    let refused = &[libc::SYS_process_vm_writev, libc::SYS_process_vm_readv];
    for ran in ping_pong_without("no-vm", refused) {
        is_told(
            &ran,
            "by a slower way: process_vm_writev is refused",
            "500 iters",
        );
        assert!(ran.success, "{ran:#?}");
    }
}

#[test]
fn without_memfd_create_it_is_told_that_no_device_can_be_opened() {
    let group = Group::new("no-memfd");
    let refuse = || filter::refuse(&[libc::SYS_memfd_create]);
    let ran = group.start_after(refuse, &[], &["ibv_devinfo"]).end();
    let lines = ran.output.lines();
    let told = lines.filter(|line| line.starts_with("ferroce: programs will not be able to open"));
    assert_eq!(told.count(), 1, "{ran:#?}");
    assert!(!ran.success, "{ran:#?}");
}
