// SPDX-License-Identifier: MIT OR Apache-2.0
//! What host and guest say to each other, over one stream of bytes: a socket
//! on the host, a serial line (UML) or a virtio port (QEMU) in the guest.
//!
//! A message is its length in four bytes, little-endian, and then itself in
//! postcard's encoding.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// A message to the guest.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToGuest {
    /// Bytes for the command's standard input.
    Stdin(ByteBuf),
    /// Standard input has ended.
    StdinEnd,
    /// All hosts are up: the command may start.
    Begin,
    /// The commands of all hosts have ended: the guest may power off.
    End,
    /// The terminal's size changed.
    Resize {
        /// Its height in lines.
        rows: u16,
        /// Its width in columns.
        columns: u16,
    },
}

/// A message to the host.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToHost {
    /// The guest is up and listens. What comes before it is lost.
    Ready,
    /// This one of several hosts is up, and waits for [`ToGuest::Begin`].
    Prepared,
    /// The command starts now.
    Started,
    /// Bytes of the command's standard output.
    Stdout(ByteBuf),
    /// Bytes of the command's standard error.
    Stderr(ByteBuf),
    /// So many bytes of standard input were passed on.
    Consumed(u32),
    /// The command has ended and all of its output was sent.
    Ended {
        /// Its exit status, 128 + n if signal n ended it.
        status: i32,
        /// The kernel's taint flags (Documentation/admin-guide/tainted-kernels.rst).
        taint: u64,
    },
    /// The guest could not bring the command to run.
    Failed {
        /// The reason, for the user.
        what: String,
        /// The exit status that says it to programs.
        status: i32,
    },
    /// The guest's kernel refused one of the job's module files.
    Refused {
        /// Which of them.
        file: u32,
        /// The kernel's reason, for the user.
        what: String,
    },
}

/// The most bytes of standard input that are under way to the guest at once.
///
/// User-Mode Linux reads a serial line from an interrupt, but from a work item
/// as well where the terminal's buffer of 4 KiB was full, and with several
/// processors the two mix up the bytes. Less than that never fills it.
pub const WINDOW: usize = 2 << 10;
/// The most bytes that a [`ToHost::Stdout`], or its like, carries.
pub const CHUNK: usize = 32 << 10;
/// The longest message that is accepted.
const LIMIT: usize = CHUNK + 64;

/// Sends one message.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    to.write_all(&bytes)?;
    to.flush()
}

/// Receives one message; `None` at the end of the stream.
pub fn receive<T: for<'de> Deserialize<'de>>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes"),
        ));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    postcard::from_bytes(&body)
        .map(Some)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let mut wire = Vec::new();
        send(&mut wire, &ToGuest::Stdin(ByteBuf::from(vec![7; CHUNK]))).unwrap();
        send(&mut wire, &ToGuest::StdinEnd).unwrap();
        let mut wire = &wire[..];
        assert!(matches!(receive(&mut wire), Ok(Some(ToGuest::Stdin(b))) if *b == [7; CHUNK]));
        assert!(matches!(receive(&mut wire), Ok(Some(ToGuest::StdinEnd))));
        assert!(matches!(receive::<ToGuest>(&mut wire), Ok(None)));
    }

    #[test]
    fn a_length_that_lies_is_refused_and_takes_no_memory() {
        let error = receive::<ToGuest>(&mut &[0xff; 8][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
