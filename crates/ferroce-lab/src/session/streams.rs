// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command's streams on this side.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex};

use serde_bytes::ByteBuf;

use crate::channel::{self, ToGuest, WINDOW};
use crate::terminal;

/// Writes at once.
pub fn pass(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// How many bytes of standard input may be sent.
pub struct Credit {
    left: Mutex<usize>,
    more: Condvar,
}

impl Default for Credit {
    fn default() -> Self {
        Self {
            left: Mutex::new(WINDOW),
            more: Condvar::new(),
        }
    }
}

impl Credit {
    /// Gives back what was passed on.
    pub fn give(&self, bytes: usize) {
        *self.left.lock().unwrap_or_else(|e| e.into_inner()) += bytes;
        self.more.notify_one();
    }

    /// Waits until there is some; only one thread takes.
    fn wait(&self) -> usize {
        let left = self.left.lock().unwrap_or_else(|e| e.into_inner());
        *self
            .more
            .wait_while(left, |left| *left == 0)
            .unwrap_or_else(|e| e.into_inner())
    }

    fn take(&self, bytes: usize) {
        *self.left.lock().unwrap_or_else(|e| e.into_inner()) -= bytes;
    }
}

/// Passes standard input on, until it ends.
pub fn pass_input(stream: &Mutex<UnixStream>, credit: &Credit) {
    let mut buf = [0; WINDOW];
    let mut stdin = io::stdin().lock();
    loop {
        let most = credit.wait().min(WINDOW);
        let n = match stdin.read(&mut buf[..most]) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => 0,
        };
        credit.take(n);
        let message = match n {
            0 => ToGuest::StdinEnd,
            n => ToGuest::Stdin(ByteBuf::from(&buf[..n])),
        };
        if tell(stream, &message).is_err() || n == 0 {
            return;
        }
    }
}

/// Tells the guest of each new size of our terminal.
pub fn pass_size(stream: &Mutex<UnixStream>) {
    let Ok(mut signals) = signal_hook::iterator::Signals::new([signal_hook::consts::SIGWINCH])
    else {
        return;
    };
    for _ in signals.forever() {
        let (rows, columns) = terminal::size();
        if tell(stream, &ToGuest::Resize { rows, columns }).is_err() {
            return;
        }
    }
}

/// Sends a message.
pub fn tell(stream: &Mutex<UnixStream>, message: &ToGuest) -> io::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(|e| e.into_inner());
    channel::send(&mut *stream, message)
}

/// Whole lines, each with a prefix.
pub struct Prefixed<W: Write> {
    to: W,
    prefix: String,
    line: Vec<u8>,
}

impl<W: Write> Prefixed<W> {
    /// With the name of a host in front.
    pub fn new(to: W, name: &str) -> Self {
        Self {
            to,
            prefix: format!("{name}: "),
            line: Vec::new(),
        }
    }

    fn end_line(&mut self) -> io::Result<()> {
        // In one piece, for others write to the same place.
        let text = [self.prefix.as_bytes(), &self.line, b"\n"].concat();
        self.line.clear();
        self.to.write_all(&text)
    }
}

impl<W: Write> Write for Prefixed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    self.line.extend(end);
                    self.end_line()?;
                }
                None => self.line.extend(part),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Prefixed<W> {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            let _ = self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_hosts_name_however_it_comes() {
        let mut all = Vec::new();
        let mut host = Prefixed::new(&mut all, "host1");
        for part in ["a", "b\nc\n", "\n", "end"] {
            host.write_all(part.as_bytes()).unwrap();
        }
        drop(host);
        assert_eq!(all, b"host1: ab\nhost1: c\nhost1: \nhost1: end\n");
    }
}
