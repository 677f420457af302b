// SPDX-License-Identifier: MIT OR Apache-2.0
//! Child processes: that they do not outlive this one, and which files they get.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::{fcntl_setfd, FdFlags};
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

/// Lets the child have a file of this process's under the same number, which is returned. The file is to be
/// open until the child was started.
pub fn pass_on(command: &mut Command, file: &OwnedFd) -> RawFd {
    let number = file.as_raw_fd();
    let keep = move || {
        // SAFETY: The caller keeps the file open, so the number is its in the child too, and it is not closed
        // while this is borrowed.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(file, FdFlags::empty())?;
        Ok(())
    };
    // SAFETY: The closure makes one system call and touches no memory that
    // another thread could hold locked while the process forks.
    unsafe { command.pre_exec(keep) };
    number
}
