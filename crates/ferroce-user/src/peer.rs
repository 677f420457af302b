// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process as others have it, and this process as it has itself.

use core::sync::atomic::{fence, Ordering};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::reach::Reach;
use crate::registry::slot_of;
use crate::segment::Segment;

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
        if let Some(users) = header.users.get(own_slot) {
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

    /// Enters: until the answer is dropped, what is found of the process's objects stays there.
    pub fn enter(&self) -> Entered<'_> {
        let header = self.segment.header();
        let phase = header.phase.load(Ordering::Relaxed) as usize & 1;
        if let Some(users) = header.users.get(self.own_slot) {
            users[phase].fetch_add(1, Ordering::Relaxed);
        }
        // Pairs with the fence in `Waiter::wait`: either that sees the count, or what is looked at from here
        // on is what it was changed to before.
        fence(Ordering::SeqCst);
        Entered { peer: self, phase }
    }
}

/// See [`Peer::enter`].
pub struct Entered<'a> {
    peer: &'a Peer,
    phase: usize,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let header = self.peer.segment.header();
        if let Some(users) = header.users.get(self.peer.own_slot) {
            // Release: what was done is before what the waiter does.
            users[self.phase].fetch_sub(1, Ordering::Release);
        }
    }
}

/// Waits until every thread that uses objects of this process has left, of those that may have found them
/// as they were before. Two such waits must not overlap.
pub fn wait_for_users(own: &Peer, is_alive: impl Fn(usize) -> bool) {
    let header = own.segment.header();
    fence(Ordering::SeqCst);
    let phase = header.phase.load(Ordering::Relaxed) as usize & 1;
    // Those of the other phase are few: since the last wait they enter by this one.
    for phase in [1 - phase, phase] {
        header.phase.store(1 - phase as u32, Ordering::SeqCst);
        for (slot, users) in header.users.iter().enumerate() {
            let mut looks = 0_u32;
            // Acquire: pairs with whoever has left.
            while users[phase].load(Ordering::Acquire) != 0 {
                looks += 1;
                if looks < 100 {
                    core::hint::spin_loop();
                } else if is_alive(slot) {
                    std::thread::sleep(core::time::Duration::from_micros(50));
                } else {
                    users[phase].store(0, Ordering::Relaxed);
                }
            }
        }
    }
}
