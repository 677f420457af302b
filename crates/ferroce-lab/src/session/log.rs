// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's log as it comes.

use std::io::{PipeReader, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What was read so far, and who reads it.
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Log {
    /// The most that is kept; what comes later in a flood says less.
    const LIMIT: usize = 16 << 20;

    /// Reads it to its end, and shows it if it is to be shown.
    pub fn collect(mut from: PipeReader, mut show: Option<impl Write + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = text.clone();
        let reader = thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                if let Some(show) = &mut show {
                    let _ = show.write_all(&buf[..n]);
                }
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                if kept.len() < Self::LIMIT {
                    kept.extend(&buf[..n]);
                }
            }
        });
        Self { text, reader }
    }

    /// All of it, once the machine has ended.
    pub fn end(self) -> String {
        // A process that outlived the machine may hold the pipe open.
        let end = Instant::now() + Duration::from_secs(1);
        while !self.reader.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        let text = self.text.lock().unwrap_or_else(|e| e.into_inner());
        String::from_utf8_lossy(&text).replace('\r', "")
    }
}
