// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where what is in a QP's memory.

use fastrand::Rng;
use ferroce_core::ring::Sge;

use crate::front::{Front, LKEY, SEND_ENTRIES, SEND_SGES};
use crate::memory::BASE;

/// Receives that are posted at most.
pub const RECEIVES: usize = 8;

/// What a receive's buffer is filled with beforehand.
pub const UNTOUCHED: u8 = 0xee;

/// Where what is in a QP's memory; the same in all.
#[derive(Clone, Copy)]
pub struct Layout {
    pub mtu: usize,
    /// The longest message, in bytes.
    pub longest: usize,
}

impl Layout {
    pub fn area(&self) -> usize {
        self.longest.next_multiple_of(64).max(1024)
    }

    /// What is sent, and read by the peer: it never changes.
    pub fn source(&self) -> usize {
        0
    }

    /// What the peer writes to, and reads again.
    pub fn target(&self) -> usize {
        self.area()
    }

    /// Where a READ's data goes, or an atomic's result.
    pub fn result(&self, slot: u32) -> usize {
        2 * self.area() + slot as usize * self.area()
    }

    pub fn receive(&self, number: usize) -> usize {
        self.result(SEND_ENTRIES) + number * self.area()
    }

    pub fn len(&self) -> usize {
        self.receive(RECEIVES)
    }
}

/// Some memory as a list of pieces, one after the other.
pub fn pieces(at: usize, length: usize, rng: &mut Rng) -> Vec<Sge> {
    let mut sges = Vec::new();
    let (mut at, mut left) = (at, length);
    let count = rng.u32(1..=SEND_SGES);
    for number in 1..=count {
        let now = if number == count {
            left
        } else {
            rng.usize(..=left)
        };
        // A piece of no bytes names no memory.
        let lkey = if now == 0 { 0 } else { LKEY };
        sges.push(Sge {
            addr: BASE + at as u64,
            length: now as u32,
            lkey,
        });
        at += now;
        left -= now;
    }
    sges
}

/// Posts a receive.
pub fn post_receive(front: &Front, layout: &Layout, number: usize, rng: &mut Rng) {
    let at = layout.receive(number);
    let length = layout.area();
    front.queues.memory.fill(at, length, UNTOUCHED);
    let entries = pieces(at, length, rng);
    let entries = entries.iter().map(bytes_of).collect();
    let mut receives = front.queues.receives.borrow_mut();
    receives.push_back((number as u64, entries));
}

/// An entry of a list as it is in a ring.
pub fn bytes_of(sge: &Sge) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sge.addr.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sge.length.to_ne_bytes());
    bytes[12..].copy_from_slice(&sge.lkey.to_ne_bytes());
    bytes
}
