// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's control socket: a line of JSON for each command and each answer (QMP).

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{json, Value};

/// How long QEMU may take to answer.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects, and is greeted.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let stream = BufReader::new(stream);
        let mut monitor = Self { stream };
        monitor.answer("QMP")?;
        monitor.execute("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Has QEMU do something that has no arguments.
    pub fn execute(&mut self, command: &str) -> io::Result<()> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        self.answer("return")
    }

    /// Reads up to a line with that key. Events may come at any time.
    fn answer(&mut self, key: &str) -> io::Result<()> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let answer: Value = serde_json::from_str(&line)?;
            if answer.get(key).is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                let text = error["desc"].as_str().unwrap_or("it failed");
                return Err(io::Error::other(text.to_owned()));
            }
        }
    }
}
