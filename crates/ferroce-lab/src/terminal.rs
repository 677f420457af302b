// SPDX-License-Identifier: MIT OR Apache-2.0
//! The host's terminal, for an interactive guest.

use rustix::stdio::{stdin, stdout};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, OptionalActions, Termios};

/// Its lines and columns.
pub fn size() -> (u16, u16) {
    match tcgetwinsize(stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}

/// Passes each key on as it is pressed, for as long as it lives.
#[derive(Debug)]
pub struct Raw(Option<Termios>);

impl Raw {
    /// Has no effect where standard input is not a terminal.
    pub fn enter() -> Self {
        let Ok(before) = tcgetattr(stdin()) else {
            return Self(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        Self(Some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}
