// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process as others have it, and this process as it has itself.

use core::ops::Deref;
use core::sync::atomic::Ordering;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::reach::Reach;
use crate::registry::{slot_of, SLOTS};
use crate::segment::Segment;
use crate::users::{self, Counts};

/// A process whose objects can be reached.
pub struct Peer {
    /// Its serial number.
    pub serial: u32,
    /// What it lends.
    pub segment: Segment,
    /// The way to its memory.
    pub reach: Reach,
    /// The slot of this process, which its own threads are counted by there.
    own_slot: usize,
}

impl Peer {
    /// This process itself, whose memory file is another way to it.
    pub fn own(serial: u32, segment: Segment, memory: Option<OwnedFd>) -> io::Result<Self> {
        segment.header().serial.store(serial, Ordering::Release);
        Ok(Self {
            serial,
            reach: Reach::find(std::process::id(), memory, segment.probe())?,
            segment,
            own_slot: slot_of(serial) as usize,
        })
    }

    /// Another process. `own` is the serial number of this one.
    pub fn attach(
        serial: u32,
        segment: &OwnedFd,
        memory: Option<OwnedFd>,
        own: u32,
    ) -> io::Result<Self> {
        let segment = Segment::attach(segment.as_fd())?;
        let header = segment.header();
        if header.serial.load(Ordering::Acquire) != serial {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        let pid = header.pid.load(Ordering::Relaxed);
        let reach = Reach::find(pid, memory, segment.probe())?;
        let own_slot = slot_of(own) as usize;
        if let Some(users) = header.users.get(place(own_slot)) {
            // Those of a process that had this slot before, and has ended.
            users
                .iter()
                .for_each(|count| count.store(0, Ordering::Relaxed));
        }
        Ok(Self {
            serial,
            segment,
            reach,
            own_slot,
        })
    }
}

impl Peer {
    /// Forgets the threads that use this process's objects of those processes that have ended.
    pub fn forget_users(&self, has_ended: impl Fn(usize) -> bool) {
        let counts = self.segment.header().users.iter().flatten().enumerate();
        for (number, count) in counts.filter(|(_, count)| count.load(Ordering::Relaxed) != 0) {
            if has_ended(slot_at(number / 2)) {
                count.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// A thread has entered a process: until this is dropped, what is found of the process's objects stays there.
pub struct Entered<P: Deref<Target = Peer>> {
    /// The process.
    pub peer: P,
    phase: usize,
}

impl<P: Deref<Target = Peer>> Entered<P> {
    /// Enters a process.
    pub fn new(peer: P) -> Self {
        let header = peer.segment.header();
        let counts = header.users.get(place(peer.own_slot));
        let phase = counts.map_or(0, |counts| users::enter(&header.phase, counts));
        Self { peer, phase }
    }
}

impl<P: Deref<Target = Peer>> Drop for Entered<P> {
    fn drop(&mut self) {
        let header = self.peer.segment.header();
        if let Some(counts) = header.users.get(place(self.peer.own_slot)) {
            users::leave(counts, self.phase);
        }
    }
}

/// Counts in a cache line.
const IN_LINE: usize = 64 / size_of::<Counts>();

/// Where the threads of the process of a slot are counted: those of neighbours in different cache lines.
const fn place(slot: usize) -> usize {
    let lines = SLOTS / IN_LINE;
    slot % lines * IN_LINE + slot / lines
}

/// The slot that is counted at a place.
const fn slot_at(place: usize) -> usize {
    let lines = SLOTS / IN_LINE;
    place % IN_LINE * lines + place / IN_LINE
}

/// Waits until every thread that uses objects of this process has left, of those that may have found them
/// as they were before. Two such waits must not overlap.
pub fn wait_for_users(own: &Peer, is_alive: impl Fn(usize) -> bool) {
    let header = own.segment.header();
    users::wait(&header.phase, &header.users, |place, looks| {
        if looks < 100 {
            core::hint::spin_loop();
            return false;
        }
        let has_ended = !is_alive(slot_at(place));
        if !has_ended {
            std::thread::sleep(core::time::Duration::from_micros(50));
        }
        has_ended
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_has_a_place_and_neighbours_are_not_in_one_cache_line() {
        for slot in 0..SLOTS {
            assert!(place(slot) < SLOTS);
            assert_eq!(slot_at(place(slot)), slot);
        }
        assert!((1..SLOTS).all(|slot| place(slot) / IN_LINE != place(slot - 1) / IN_LINE));
    }
}
