// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection manager: what programs find at `/dev/infiniband/rdma_cm`, for those of one user on one host.
//!
//! It is a state machine of the broker's, so that it sees all ids, and outlives the programs: one that is
//! killed has closed its channels, as a file is closed. A program's commands come in, answers and events go
//! out ([`server`]). It holds no lock and makes no call that waits; time is told to it.
//!
//! - [`abi`], [`address`]: the commands as they are in memory.
//! - [`commands`]: what each does. [`resolve`]: addresses and routes. [`connect`]: connections.
//! - [`id`], [`ports`], [`devices`]: what it knows.
//!
//! What the kernel's manager refuses is refused, with its errnos and its order of checks
//! (`drivers/infiniband/core/{ucma,cma,cm}.c` in Linux). What differs, as the devices are other ones: the
//! loopback addresses are addresses of theirs, a connection is not tied to the device it was asked for at,
//! and IPv6 has groups.

mod abi;
mod address;
mod commands;
mod connect;
mod devices;
mod events;
mod id;
mod ports;
mod query;
mod resolve;
pub mod server;
#[cfg(test)]
mod tests;

use core::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use self::devices::Devices;
use self::events::Event;
use self::id::{Group, Id, IdRef, Message};
use self::ports::Ports;
use crate::{Errno, Result};

/// A channel, by a number that no other one ever has.
pub type Channel = u64;

/// A file that a program has opened.
#[derive(Debug, Default)]
struct File {
    devices: Arc<Devices>,
    events: VecDeque<Event>,
}

/// What an id waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// That somebody answers at an address, in vain.
    Address,
    /// That a listener takes its request.
    Request,
    /// That its peer confirms the end.
    Disconnect,
    /// That nothing of the connection is under way any more.
    Timewait,
}

/// The state of it all.
#[derive(Debug)]
pub struct Manager {
    now: Instant,
    files: HashMap<Channel, File>,
    ids: Slab<Id>,
    groups: Slab<Group>,
    ports: Ports,
    next_serial: u64,
    timers: BinaryHeap<Reverse<(Instant, usize, u64, Timer)>>,
    /// What ids have sent to others.
    mail: VecDeque<(IdRef, Message)>,
    /// The channels that there are new events for.
    woken: Vec<Channel>,
}

/// How many ids there are at most.
const IDS: usize = 1 << 20;
/// How many events wait for a program at most where it makes them itself.
const EVENTS: usize = 1 << 16;

impl Manager {
    pub fn new(now: Instant) -> Self {
        Self {
            now,
            files: HashMap::new(),
            ids: Slab::new(),
            groups: Slab::new(),
            ports: Ports::default(),
            next_serial: 1,
            timers: BinaryHeap::new(),
            mail: VecDeque::new(),
            woken: Vec::new(),
        }
    }

    /// A program has opened the file.
    pub fn open(&mut self, channel: Channel, devices: Arc<Devices>) {
        let file = File {
            devices,
            events: VecDeque::new(),
        };
        self.files.insert(channel, file);
    }

    /// All descriptors of the file have been closed.
    pub fn close(&mut self, channel: Channel, now: Instant) {
        self.now = now;
        let of_channel = |(number, id): (usize, &Id)| (id.channel == channel).then_some(number);
        let numbers: Vec<usize> = self.ids.iter().filter_map(of_channel).collect();
        for number in numbers {
            self.destroy(number);
        }
        self.deliver();
        self.files.remove(&channel);
    }

    /// How many events wait for a program.
    pub fn event_count(&self, channel: Channel) -> usize {
        self.files.get(&channel).map_or(0, |file| file.events.len())
    }

    /// The channels that events have been added to since the last call.
    pub fn take_woken(&mut self) -> Vec<Channel> {
        core::mem::take(&mut self.woken)
    }

    /// When [`ring`](Self::ring) is to be called.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((time, ..))| *time)
    }

    /// Does what is due.
    pub fn ring(&mut self, now: Instant) {
        self.now = now;
        while let Some(Reverse((time, number, serial, timer))) = self.timers.peek().copied() {
            if time > now {
                break;
            }
            self.timers.pop();
            if self.id_at(IdRef { number, serial }).is_some() {
                self.expire(number, timer);
            }
        }
        self.deliver();
    }

    fn file(&mut self, channel: Channel) -> Result<&mut File> {
        self.files.get_mut(&channel).ok_or(Errno(libc::EBADF))
    }

    fn set_timer(&mut self, number: usize, after: Duration, timer: Timer) {
        let serial = self.ids[number].serial;
        let time = self.now + after;
        self.timers.push(Reverse((time, number, serial, timer)));
    }

    fn reference(&self, number: usize) -> IdRef {
        let serial = self.ids[number].serial;
        IdRef { number, serial }
    }

    /// An id that another one knows of, if it is still there.
    fn id_at(&mut self, at: IdRef) -> Option<&mut Id> {
        let id = self.ids.get_mut(at.number)?;
        (id.serial == at.serial).then_some(id)
    }

    /// An id that a program names.
    fn id_of(&mut self, channel: Channel, number: u32) -> Result<&mut Id> {
        let id = self.ids.get_mut(number as usize);
        let id = id.ok_or(Errno(libc::ENOENT))?;
        match id.channel == channel {
            true => Ok(id),
            false => Err(Errno(libc::EINVAL)),
        }
    }

    /// As above, of one that has a device.
    fn id_with_device(&mut self, channel: Channel, number: u32) -> Result<&mut Id> {
        let id = self.id_of(channel, number)?;
        match id.device.is_some() {
            true => Ok(id),
            false => Err(Errno(libc::EINVAL)),
        }
    }

    /// Makes an id.
    fn create(&mut self, channel: Channel, uid: u64, ps: u16, qp_type: u8) -> Result<usize> {
        if self.ids.len() >= IDS {
            return Err(Errno(libc::ENOMEM));
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        Ok(self.ids.insert(Id {
            serial,
            channel,
            uid,
            events_reported: 0,
            ps,
            qp_type,
            state: id::State::Idle,
            src: None,
            dst: None,
            device: None,
            link: 0,
            bound: None,
            reuseaddr: false,
            afonly: false,
            afonly_set: false,
            tos: None,
            ack_timeout: None,
            qkey: 0,
            path: None,
            backlog: 0,
            waiting: VecDeque::new(),
            cm: None,
            peer: None,
            qp_num: 0,
            psn: crate::table::random() as u32 & 0xff_ffff,
            remote_psn: 0,
            remote_qpn: 0,
            terms: id::Terms::default(),
            srq: 0,
            ece: abi::zeroed(),
            groups: Vec::new(),
        }))
    }

    /// An id goes, with all that is its own. Returns how many events the program has had of it.
    fn destroy(&mut self, number: usize) -> u32 {
        if !self.ids.contains(number) {
            return 0;
        }
        self.end_connection(number);
        let id = &mut self.ids[number];
        let groups = core::mem::take(&mut id.groups);
        let waiting = core::mem::take(&mut id.waiting);
        let bound = &self.ids[number];
        self.ports.release(bound, number);
        // The listener is gone: who still waits is told so.
        for request in waiting {
            self.request(request);
        }
        for group in groups {
            self.groups.try_remove(group);
        }
        for request in self.take_events(number) {
            self.destroy(request);
        }
        self.ids.remove(number).events_reported
    }
}

#[cfg(test)]
impl Manager {
    /// Everything that is left.
    fn leftovers(&self) -> (usize, usize, usize) {
        (self.ids.len(), self.groups.len(), self.files.len())
    }
}
