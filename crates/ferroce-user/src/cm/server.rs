// SPDX-License-Identifier: MIT OR Apache-2.0
//! The manager's side of the channels: see [`ferroce_core::user`].

use core::time::Duration;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ferroce_core::user::{AnswerHeader, CommandHeader, MAX_COMMAND, MAX_OPTION};

use super::abi::{self, command};
use super::commands::{Answer, Command};
use super::devices::Devices;
use super::{Channel, Manager};
use crate::socket;

/// A channel.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// The inode of the program's end, once it has said so.
    inode: Option<u64>,
    /// Tokens that were sent and not given back.
    tokens: usize,
}

/// All channels of a user, and the manager.
#[derive(Debug)]
pub struct Server {
    manager: Manager,
    connections: HashMap<Channel, Connection>,
    by_inode: HashMap<u64, Channel>,
    /// Of the folders of devices, by device and inode: most programs have the same.
    devices: HashMap<(u64, u64), Weak<Devices>>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            manager: Manager::new(Instant::now()),
            connections: HashMap::new(),
            by_inode: HashMap::new(),
            devices: HashMap::new(),
        }
    }
}

impl Server {
    /// A program has connected.
    pub fn add(&mut self, channel: Channel, socket: OwnedFd) {
        let connection = Connection {
            socket,
            inode: None,
            tokens: 0,
        };
        self.connections.insert(channel, connection);
    }

    /// Whether there is no channel.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How long it is until [`ring`](Self::ring) has something to do.
    pub fn timeout(&self) -> Option<Duration> {
        let time = self.manager.next_timer()?;
        Some(time.saturating_duration_since(Instant::now()))
    }

    /// Does what is due.
    pub fn ring(&mut self) {
        self.manager.ring(Instant::now());
        self.signal();
    }

    /// Whether a channel is one of these.
    pub fn has(&self, channel: Channel) -> bool {
        self.connections.contains_key(&channel)
    }

    /// All descriptors of a channel have been closed.
    pub fn remove(&mut self, channel: Channel) {
        let Some(connection) = self.connections.remove(&channel) else {
            return;
        };
        let inode = connection.inode.unwrap_or_default();
        if self.by_inode.get(&inode) == Some(&channel) {
            self.by_inode.remove(&inode);
        }
        self.manager.close(channel, Instant::now());
        self.signal();
    }

    /// Takes a message from a channel. An error if there will be no other.
    pub fn receive(&mut self, channel: Channel) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let connection = self.connections.get(&channel).ok_or_else(ended)?;
        let mut bytes = [0; size_of::<[u8; 24]>() + MAX_COMMAND + MAX_OPTION];
        let (length, files) = match socket::receive_now(connection.socket.as_raw_fd(), &mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => received?,
        };
        if length == 0 {
            return Err(ended());
        }
        let is_open = connection.inode.is_some();
        let [reply, folder] = files;
        let message = bytes.get(..length).unwrap_or_default();
        // What a program has written by another way than its libc's `write` has no header, or no socket for the
        // answer.
        let (Some((header, rest)), Some(reply)) = (message.split_first_chunk(), reply) else {
            return Ok(());
        };
        let header = CommandHeader::from_bytes(*header);
        let (answer, stale) = match is_open {
            true => self.command(channel, &header, rest),
            false => (self.open(channel, &header, folder), 0),
        };
        respond(&reply, answer, stale);
        Ok(())
    }

    fn open(
        &mut self,
        channel: Channel,
        header: &CommandHeader,
        folder: Option<OwnedFd>,
    ) -> Answer {
        let devices = folder
            .ok_or(io::ErrorKind::NotFound.into())
            .and_then(|folder| self.devices(folder.as_fd()));
        let Ok(devices) = devices else {
            return Answer {
                status: libc::ENODEV.cast_unsigned(),
                ..Answer::default()
            };
        };
        if let Some(connection) = self.connections.get_mut(&channel) {
            connection.inode = Some(header.channel);
        }
        self.by_inode.insert(header.channel, channel);
        self.manager.open(channel, devices);
        Answer::default()
    }

    /// The devices of a folder.
    fn devices(&mut self, folder: BorrowedFd<'_>) -> io::Result<Arc<Devices>> {
        // By its descriptor, as the program may see other files than this process.
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
        let metadata = fs::metadata(&path)?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(devices) = self.devices.get(&key).and_then(Weak::upgrade) {
            return Ok(devices);
        }
        let devices = Arc::new(Devices::read(&path)?);
        self.devices.retain(|_, devices| devices.strong_count() > 0);
        self.devices.insert(key, Arc::downgrade(&devices));
        Ok(devices)
    }

    /// Carries out a command. Returns how many tokens are stale, too.
    fn command(&mut self, channel: Channel, header: &CommandHeader, rest: &[u8]) -> (Answer, u32) {
        let length = header.length as usize;
        let (bytes, option) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        let kind: u32 = abi::parse(bytes);
        let other = match kind {
            command::MIGRATE_ID => self.by_inode.get(&header.channel).copied(),
            _ => None,
        };
        if kind == command::GET_EVENT {
            self.give_back(channel, 1);
        }
        let command = Command {
            other,
            count: header.count,
            bytes,
            option: option
                .get(..header.option_length as usize)
                .unwrap_or_default(),
        };
        let answer = self.manager.command(channel, &command, Instant::now());
        self.signal();
        self.send_tokens(channel);
        // Events that the program will not get any more.
        let changed = other.unwrap_or(channel);
        let tokens = self.connections.get(&changed).map_or(0, |c| c.tokens);
        let stale = tokens.saturating_sub(self.manager.event_count(changed));
        self.give_back(changed, stale);
        (answer, u32::try_from(stale).unwrap_or(u32::MAX))
    }

    fn give_back(&mut self, channel: Channel, count: usize) {
        if let Some(connection) = self.connections.get_mut(&channel) {
            connection.tokens = connection.tokens.saturating_sub(count);
        }
    }

    /// Sends a token for each new event.
    fn signal(&mut self) {
        for channel in self.manager.take_woken() {
            self.send_tokens(channel);
        }
    }

    /// Has there be as many tokens as events, as far as there is room. The rest follow when the program takes
    /// events.
    fn send_tokens(&mut self, channel: Channel) {
        let count = self.manager.event_count(channel);
        let Some(connection) = self.connections.get_mut(&channel) else {
            return;
        };
        while connection.tokens < count {
            if socket::send_now(connection.socket.as_raw_fd(), &[0], &[]).is_err() {
                break;
            }
            connection.tokens += 1;
        }
    }
}

fn respond(reply: &OwnedFd, answer: Answer, stale: u32) {
    let header = AnswerHeader {
        status: answer.status,
        stale,
        address: answer.address,
        length: answer.bytes.len() as u32,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(answer.bytes);
    // A program that does not want it, or has gone.
    let _ = socket::send_now(reply.as_raw_fd(), &bytes, &[]);
}
