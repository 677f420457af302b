// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether a process may have a seccomp filter, by which User-Mode Linux gets its processes' system calls.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::unistd::{getpgid, Pid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// An error that the system call below does not have by itself.
const ERROR: Errno = Errno::EXDEV;

/// Has another process try it, since a filter stays. Returns what is wrong.
pub fn obstacle() -> Result<Option<String>> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let output = Command::new(program)
        .args(["doctor", "--seccomp"])
        .output()
        .context("cannot start a second process")?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((!output.status.success()).then_some(text))
}

/// Installs a filter for one system call, and makes that.
pub fn try_on_self() -> Result<i32> {
    let rules = BTreeMap::from([(nix::libc::SYS_getpgid, Vec::new())]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(ERROR as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program).context("seccomp filters are not allowed here")?;
    let result = getpgid(Some(Pid::this()));
    ensure!(
        result == Err(ERROR),
        "a seccomp filter has no effect here: the system call returned {result:?}"
    );
    Ok(0)
}
