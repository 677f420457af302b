// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's log, /dev/kmsg (Documentation/ABI/testing/dev-kmsg).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::OFlags;

use crate::error::{Error, Result};

/// The file, and its longest record (PRINTKRB_RECORD_MAX and a prefix).
const PATH: &str = "/dev/kmsg";
const RECORD: usize = 8192;

/// The kernel's log, read on from some point.
#[derive(Debug)]
pub struct KernelLog(File);

/// A message of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// How urgent it is, from 0 (emergency) to 7 (debug).
    pub level: u8,
    /// When it was logged, since the machine booted.
    pub time: Duration,
    /// Its text.
    pub text: String,
}

impl KernelLog {
    /// All that is still in it, and what comes.
    pub fn from_start() -> Result<Self> {
        Self::open(SeekFrom::Start(0))
    }

    /// What comes from now on.
    pub fn from_now() -> Result<Self> {
        Self::open(SeekFrom::End(0))
    }

    fn open(from: SeekFrom) -> Result<Self> {
        let open = || {
            let mut file = File::options()
                .read(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(PATH)?;
            file.seek(from)?;
            io::Result::Ok(file)
        };
        open().map(Self).map_err(Error::file("read", PATH))
    }

    /// What is there, without waiting.
    pub fn records(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        while let Some(record) = self.next() {
            records.extend(record);
        }
        records
    }

    /// Waits until there is something to read.
    pub fn wait(&self) -> Result<()> {
        let mut fds = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(Error::file("wait for", PATH)(e.into())),
        }
    }

    /// One record a read; nothing at the end. A record that was overwritten
    /// before it was read, or that is none, is left out.
    fn next(&mut self) -> Option<Option<Record>> {
        let mut buffer = [0; RECORD];
        match self.0.read(&mut buffer) {
            Ok(n @ 1..) => Some(parse(&String::from_utf8_lossy(&buffer[..n]))),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Some(None),
            _ => None,
        }
    }
}

/// `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,...];TEXT`, and a dictionary that is
/// of no use here.
fn parse(record: &str) -> Option<Record> {
    let (prefix, text) = record.split_once(';')?;
    let mut prefix = prefix.split(',');
    let priority: u32 = prefix.next()?.parse().ok()?;
    let time = prefix.nth(1)?.parse().ok()?;
    Some(Record {
        level: (priority & 7) as u8,
        time: Duration::from_micros(time),
        text: text.lines().next()?.to_owned(),
    })
}

/// A line as /dev/kmsg has it: bytes that are not printable ASCII, and the
/// backslash, are escaped (`append_char()` in kernel/printk/printk.c). What
/// [`crate::elf::text()`] has escaped stays so.
pub fn as_logged(line: &str) -> String {
    let mut logged = String::with_capacity(line.len());
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            b'\\' if is_escape(&line.as_bytes()[index..]) => logged.push('\\'),
            b' '..127 if byte != b'\\' => logged.push(byte.into()),
            _ => logged += &format!("\\x{byte:02x}"),
        }
    }
    logged
}

/// Whether a byte that is no ASCII is escaped here.
fn is_escape(text: &[u8]) -> bool {
    matches!(text, [_, b'x', b'8'..=b'9' | b'a'..=b'f', low, ..] if low.is_ascii_hexdigit())
}

impl Record {
    /// Whether it is by a module, or about it: `hello: ...`, or a place in its
    /// code, as oopses have them: `init_module+0x10/0x20 [hello]`.
    pub fn concerns(&self, module: &str) -> bool {
        let name = module.replace('-', "_");
        let text = self.text.replace('-', "_");
        let by = text
            .strip_prefix(&name)
            .is_some_and(|rest| rest.starts_with(':') || rest.starts_with(' '));
        let about = ["module ", "Module ", "Modules: module "]
            .iter()
            .any(|start| {
                let rest = text.strip_prefix(start).and_then(|t| t.strip_prefix(&name));
                rest.is_some_and(|rest| rest.starts_with([':', ' ']))
            });
        by || about || text.contains(&format!("[{name}]"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_a_level_a_time_and_a_text() {
        let record = parse("6,339,5140900,-;hello: hello, world\n SUBSYSTEM=x\n").unwrap();
        assert_eq!(record.level, 6);
        assert_eq!(record.time, Duration::from_micros(5_140_900));
        assert_eq!(record.text, "hello: hello, world");
        assert!(parse("nonsense").is_none());
    }

    #[test]
    fn a_line_is_escaped_as_the_kernel_does() {
        assert_eq!(as_logged("a: b"), "a: b");
        assert_eq!(as_logged("a\nb\\c\u{e9}"), "a\\x0ab\\x5cc\\xc3\\xa9");
        let text = crate::elf::text(b"\xffad");
        assert_eq!(as_logged(&text), "\\xffad");
    }

    #[test]
    fn what_concerns_a_module_is_told_from_what_does_not() {
        let says = |text: &str| parse(&format!("6,1,1,-;{text}")).unwrap();
        assert!(says("hello: hi").concerns("hello"));
        assert!(says(" ? init_module+0x10/0x20 [hello]").concerns("hello"));
        assert!(says("module hello: .gnu.linkonce.this_module").concerns("hello"));
        assert!(says("snd-hda: hi").concerns("snd_hda"));
        assert!(!says("hellogoodbye: hi").concerns("hello"));
        assert!(!says("other: hello: hi").concerns("hello"));
    }
}
