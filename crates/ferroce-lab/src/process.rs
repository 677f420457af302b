// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes that do not outlive this one.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{set_parent_process_death_signal, Signal};

/// Has the kernel send `signal` to the child when this process ends, however
/// that happens.
///
/// It is the end of the thread that starts the child that counts (prctl(2),
/// PR_SET_PDEATHSIG): start it from one that stays.
pub fn die_with_parent(command: &mut Command, signal: Signal) {
    let ask = move || {
        set_parent_process_death_signal(Some(signal))?;
        Ok(())
    };
    // SAFETY: The closure makes one system call and touches no memory that
    // another thread could hold locked while the process forks.
    unsafe { command.pre_exec(ask) };
}
