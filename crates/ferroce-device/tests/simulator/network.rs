// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network between hosts that drops, duplicates, delays and reorders, and keeps some packets for long.

use fastrand::Rng;
use ferroce_core::verbs::limits::GRH_LENGTH;

/// A packet, from the BTH to the padding, and the hosts that it is from and to.
#[derive(Clone, Debug)]
pub struct Packet {
    pub from: usize,
    pub to: usize,
    pub bytes: Vec<u8>,
    /// It is not lost.
    pub is_final: bool,
    /// Copies of it come soon or never.
    pub is_short_lived: bool,
    /// The number of the message, of those that may be lost.
    pub message: Option<usize>,
    /// What the receiver of a datagram is told of where it comes from.
    pub grh: Option<[u8; GRH_LENGTH as usize]>,
}

/// What the network does to packets, each in so many of a hundred.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    pub drop: u32,
    pub duplicate: u32,
    pub reorder: u32,
    /// A duplicate comes much later.
    pub keep: u32,
}

/// How many packets are lost before the sending side has made progress, at most: fewer than `retry_cnt`,
/// so that no loss is taken for a peer that is gone.
const MOST_LOST: u32 = 5;

pub struct Network {
    conditions: Conditions,
    rng: Rng,
    under_way: Vec<Packet>,
    /// Duplicates that come much later.
    kept: Vec<Packet>,
    /// Those that are kept if all that is under way now is done.
    recent: Vec<Packet>,
    lost: u32,
}

impl Network {
    pub fn new(conditions: Conditions, rng: Rng) -> Self {
        Self {
            conditions,
            rng,
            under_way: Vec::new(),
            kept: Vec::new(),
            recent: Vec::new(),
            lost: 0,
        }
    }

    fn happens(&mut self, share: u32) -> bool {
        share > 0 && self.rng.u32(..100) < share
    }

    pub fn send(&mut self, packet: Packet) {
        let may_be_lost = packet.message.is_some() || self.lost < MOST_LOST;
        if !packet.is_final && may_be_lost && self.happens(self.conditions.drop) {
            self.lost += u32::from(packet.message.is_none());
            return;
        }
        if self.happens(self.conditions.duplicate) {
            self.put(packet.clone());
        }
        if !packet.is_short_lived && self.happens(self.conditions.keep) {
            self.recent.push(packet.clone());
        }
        self.put(packet);
    }

    /// Whether what is sent now would overtake something: now and then, on a bad network.
    pub fn is_busy(&mut self) -> bool {
        self.happens(self.conditions.reorder / 8)
    }

    /// Whether there is no memory to send something by: as often, and no more often than packets are lost.
    pub fn has_no_memory(&mut self) -> bool {
        let has_none = self.lost < MOST_LOST && self.happens(self.conditions.drop / 8);
        self.lost += u32::from(has_none);
        has_none
    }

    fn put(&mut self, packet: Packet) {
        let at = match self.happens(self.conditions.reorder) {
            true => self.rng.usize(..=self.under_way.len()),
            false => self.under_way.len(),
        };
        self.under_way.insert(at, packet);
    }

    /// The packet that arrives next.
    pub fn receive(&mut self) -> Option<Packet> {
        (!self.under_way.is_empty()).then(|| self.under_way.remove(0))
    }

    /// There was progress: packets may be lost again.
    pub fn progress(&mut self) {
        self.lost = 0;
    }

    /// A queue pair begins to send. Some packets that were kept come now: among those that are sent, or, if
    /// they are not without effect, before.
    pub fn begin(&mut self) -> Vec<Packet> {
        let mut before = Vec::new();
        while !self.kept.is_empty() && self.happens(30) {
            let at = self.rng.usize(..self.kept.len());
            let packet = self.kept.swap_remove(at);
            match packet.message {
                None => self.put(packet),
                Some(_) => before.push(packet),
            }
        }
        before
    }

    /// A queue pair has sent what it could. If `is_done`, none of the packets is to be sent again: copies of
    /// them are of no use whenever they come.
    pub fn end(&mut self, is_done: bool) {
        match is_done {
            true => self.kept.append(&mut self.recent),
            false => self.recent.clear(),
        }
    }
}
