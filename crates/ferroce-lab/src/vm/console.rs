// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's console, at this terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;

use super::machine::CONSOLE;
use super::{Vm, PASSWORD, USER};
use crate::error::{Error, Result};
use crate::progress::note;
use crate::terminal::Raw;

/// Ctrl-], as telnet(1) has it.
const ESCAPE: u8 = 0x1d;

/// How much of what came before is shown.
const LINES: usize = 20;

impl Vm {
    /// Joins the console to this terminal until Ctrl-] is pressed, standard input ends, or the machine does.
    pub fn console(&self) -> Result<()> {
        self.must_run()?;
        let lock = self.path("console.lock");
        let lock = File::create(&lock).map_err(Error::file("create", &lock))?;
        if lock.try_lock().is_err() {
            return Err(Error::Usage(format!(
                "the console of {} is at another terminal: leave it there first, by Ctrl-]",
                self.name
            )));
        }
        let path = self.path(CONSOLE);
        let wrap = |source| Error::file("use", &path)(source);
        let mut stream = UnixStream::connect(&path).map_err(wrap)?;
        note(
            "Console",
            &format!(
                "of {}: Ctrl-] leaves it. The user is {USER}, the password {PASSWORD}; Enter has it ask again",
                self.name
            ),
        );
        eprintln!("{}", self.console_tail(LINES));
        let _raw = Raw::enter();
        let keys = stream.try_clone().map_err(wrap)?;
        // It ends with this process, where it waits for a key.
        thread::spawn(move || {
            let _ = pass_keys(io::stdin().lock(), &keys);
            let _ = keys.shutdown(Shutdown::Both);
        });
        let mut out = io::stdout().lock();
        let mut buffer = [0; 4096];
        // To end is all that can be done where the stream fails.
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let written = out.write_all(&buffer[..count]);
            if written.and_then(|()| out.flush()).is_err() {
                break;
            }
        }
        Ok(())
    }
}

/// Passes on what is typed, up to [`ESCAPE`].
fn pass_keys(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let count = from.read(&mut buffer)?;
        let keys = &buffer[..count];
        let end = keys.iter().position(|key| *key == ESCAPE);
        to.write_all(&keys[..end.unwrap_or(count)])?;
        if count == 0 || end.is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_passed_on_up_to_the_one_that_leaves() {
        let mut passed = Vec::new();
        pass_keys(&b"uname\r\x1dmore"[..], &mut passed).unwrap();
        assert_eq!(passed, b"uname\r");
        passed.clear();
        pass_keys(&b"\x03all"[..], &mut passed).unwrap();
        assert_eq!(passed, b"\x03all");
    }
}
