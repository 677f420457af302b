// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ferroce-user` and `ferroce-shim` agree on: how the broker is found, and how the commands on the
//! connection manager's file (`/dev/infiniband/rdma_cm`) get to it.
//!
//! A program that opens that file gets a socket instead, of the kind `SOCK_SEQPACKET`, which is connected to
//! the broker: a channel. The broker sends a message of one byte, a token, for each event that waits for the
//! program, so that `poll` and `O_NONBLOCK` work as on the file. A command is a message of
//! [`CommandHeader`], the bytes that the program has written, and an option's value; with it comes a socket
//! for the answer, which is [`AnswerHeader`] and what goes to the program.

/// Changes with all that processes of different releases would have to agree on: these do not find each
/// other, since each has a broker of its own.
pub const VERSION: u32 = 6;

/// The environment's name for the program that is the broker. It is there only under `ferroce run`.
pub const PROGRAM: &str = "FERROCE_RUN";
/// The environment's name for a group of programs that do not know of others of the same user: tests, say.
pub const GROUP: &str = "FERROCE_GROUP";

/// What a name of the broker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Processes with devices.
    Devices,
    /// Channels of the connection manager.
    ConnectionManager,
}

/// A name in the abstract namespace of Unix sockets.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    bytes: [u8; Self::MAX],
    length: usize,
}

impl Name {
    /// `sun_path` without the NUL that an abstract name begins with.
    const MAX: usize = 107;

    /// The broker's, of a user's group. A group's name that is too long is cut off.
    pub fn new(purpose: Purpose, user: u32, group: &[u8]) -> Self {
        let mut name = Self {
            bytes: [0; Self::MAX],
            length: 0,
        };
        name.push(match purpose {
            Purpose::Devices => b"ferroce/",
            Purpose::ConnectionManager => b"ferroce-cm/",
        });
        name.push_number(user);
        name.push(b"/");
        name.push_number(VERSION);
        name.push(b"/");
        name.push(group);
        name
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn push_number(&mut self, number: u32) {
        let mut scale = 1_000_000_000;
        while scale > 0 {
            if number >= scale || scale == 1 {
                self.push(&[b'0' + (number / scale % 10) as u8]);
            }
            scale /= 10;
        }
    }
}

/// What a command begins with on its way to the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandHeader {
    /// The inode of a channel, as the program has it: of the one that is opened, for the first message, which
    /// comes with the folder of the devices; of the one that an id comes from, for Migrate ID; else zero.
    pub channel: u64,
    /// How many bytes the program has written.
    pub count: u64,
    /// How many of those follow: [`MAX_COMMAND`] at most.
    pub length: u32,
    /// How many bytes of an option's value follow after them: [`MAX_OPTION`] at most.
    pub option_length: u32,
}

/// What an answer begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerHeader {
    /// Zero, or an errno.
    pub status: u32,
    /// How many tokens are to be taken from the channel, as their events are gone: for Migrate ID from the
    /// channel that the id was on.
    pub stale: u32,
    /// Where in the program's memory what follows goes to.
    pub address: u64,
    /// How many bytes follow: [`MAX_ANSWER`] at most.
    pub length: u32,
}

/// Takes a number from the front of some bytes.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let mut taken = [0; N];
    if let Some((first, rest)) = bytes.split_first_chunk::<N>() {
        taken = *first;
        *bytes = rest;
    }
    taken
}

impl CommandHeader {
    /// As bytes of a message.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.channel.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.count.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_ne_bytes());
        bytes[20..].copy_from_slice(&self.option_length.to_ne_bytes());
        bytes
    }

    /// From bytes of a message.
    pub fn from_bytes(bytes: [u8; 24]) -> Self {
        let mut rest = &bytes[..];
        Self {
            channel: u64::from_ne_bytes(take(&mut rest)),
            count: u64::from_ne_bytes(take(&mut rest)),
            length: u32::from_ne_bytes(take(&mut rest)),
            option_length: u32::from_ne_bytes(take(&mut rest)),
        }
    }
}

impl AnswerHeader {
    /// As bytes of a message.
    pub fn to_bytes(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.status.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.stale.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.length.to_ne_bytes());
        bytes
    }

    /// From bytes of a message.
    pub fn from_bytes(bytes: [u8; 20]) -> Self {
        let mut rest = &bytes[..];
        Self {
            status: u32::from_ne_bytes(take(&mut rest)),
            stale: u32::from_ne_bytes(take(&mut rest)),
            address: u64::from_ne_bytes(take(&mut rest)),
            length: u32::from_ne_bytes(take(&mut rest)),
        }
    }
}

/// Bytes of a command that are looked at: no command is longer.
pub const MAX_COMMAND: usize = 512;
/// Bytes of an option's value.
pub const MAX_OPTION: usize = 2048;
/// Bytes of an answer.
pub const MAX_ANSWER: usize = 512;

/// Commands that the shim has a part in (`RDMA_USER_CM_CMD_..` of `rdma/rdma_user_cm.h`).
pub mod command {
    /// Takes a token first.
    pub const GET_EVENT: u32 = 12;
    /// Has a value elsewhere in the program's memory.
    pub const SET_OPTION: u32 = 14;
    /// Names another channel by its descriptor.
    pub const MIGRATE_ID: u32 = 18;

    /// The least room for an event: what the first `struct rdma_ucm_event_resp` had.
    pub const EVENT_ROOM: u16 = 324;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        let command = CommandHeader {
            channel: 1,
            count: 2,
            length: 3,
            option_length: 4,
        };
        assert_eq!(CommandHeader::from_bytes(command.to_bytes()), command);
        let answer = AnswerHeader {
            status: 1,
            stale: 2,
            address: 3,
            length: 4,
        };
        assert_eq!(AnswerHeader::from_bytes(answer.to_bytes()), answer);
    }

    #[test]
    fn names_are_of_a_user_and_a_group() {
        let name = Name::new(Purpose::Devices, 1000, b"tests");
        assert_eq!(name.bytes(), b"ferroce/1000/6/tests");
        let name = Name::new(Purpose::ConnectionManager, 0, b"");
        assert_eq!(name.bytes(), b"ferroce-cm/0/6/");
        let name = Name::new(Purpose::Devices, u32::MAX, &[b'x'; 200]);
        assert_eq!(name.bytes().len(), Name::MAX);
        assert!(name.bytes().starts_with(b"ferroce/4294967295/6/xxx"));
    }
}
