// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only root may do.

use std::ffi::OsString;

/// The command that starts this program as root, with other arguments.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> String {
    // By its path: sudo has a PATH of its own.
    let program = std::env::current_exe().unwrap_or_else(|_| "ferroce".into());
    let words = ["sudo".into(), program.into_os_string()]
        .into_iter()
        .chain(arguments);
    shell_words::join(words.map(|w| w.to_string_lossy().into_owned()))
}
