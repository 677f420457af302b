// SPDX-License-Identifier: MIT OR Apache-2.0
//! A network that drops, duplicates, reorders, delays and corrupts.

use fastrand::Rng;
use ferroce_core::wire::{icrc::Preceding, ICRC_LEN};

/// Nanoseconds.
pub type Time = u64;

/// What the network does to packets, each in so many of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    pub drop: u32,
    pub duplicate: u32,
    pub reorder: u32,
    pub corrupt: u32,
    /// The longest time a packet takes.
    pub delay: Time,
}

impl Conditions {
    /// Each trouble alone, some together, or none.
    pub fn random(rng: &mut Rng) -> Self {
        let mut some = |share, most| {
            if rng.u32(..100) < share {
                rng.u32(1..=most)
            } else {
                0
            }
        };
        Self {
            drop: some(50, 50),
            duplicate: some(40, 50),
            reorder: some(40, 250),
            corrupt: some(30, 10),
            delay: [1_000, 10_000, 100_000][rng.usize(..3)],
        }
    }
}

/// A packet on its way, with the ICRC.
#[derive(Clone)]
pub struct Frame(Vec<u8>);

/// The headers that the ICRC covers beside the packet: those of some two hosts.
fn headers(length: usize) -> ([u8; 20], [u8; 8]) {
    let udp_length = (length + 8 + ICRC_LEN) as u16;
    let mut ip = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    ip[2..4].copy_from_slice(&(udp_length + 20).to_be_bytes());
    let mut udp = [0xc0, 0, 0x12, 0xb7, 0, 0, 0, 0];
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    (ip, udp)
}

impl Frame {
    pub fn new(packet: &[u8]) -> Self {
        let (ip, udp) = headers(packet.len());
        let mut bytes = packet.to_vec();
        bytes.extend(Preceding::ipv4(&ip, &udp).icrc(packet));
        Self(bytes)
    }

    /// The packet, if its ICRC is right.
    pub fn packet(&self) -> Option<&[u8]> {
        let (packet, crc) = self.0.split_last_chunk::<ICRC_LEN>()?;
        let (ip, udp) = headers(packet.len());
        (Preceding::ipv4(&ip, &udp).icrc(packet) == *crc).then_some(packet)
    }

    fn corrupt(&mut self, rng: &mut Rng) {
        let bit = rng.usize(..self.0.len() * 8);
        self.0[bit / 8] ^= 1 << (bit % 8);
    }
}

/// One direction between two QPs.
#[derive(Default)]
pub struct Path {
    last: Time,
}

impl Path {
    /// When which copies of a packet arrive.
    pub fn send(
        &mut self,
        now: Time,
        frame: Frame,
        conditions: &Conditions,
        rng: &mut Rng,
    ) -> Vec<(Time, Frame)> {
        let mut copies = Vec::new();
        let mut happens = |share| share > 0 && rng.u32(..1000) < share;
        let number = match (happens(conditions.drop), happens(conditions.duplicate)) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        for _ in 0..number {
            let mut frame = frame.clone();
            let is_late = conditions.reorder > 0 && rng.u32(..1000) < conditions.reorder;
            if conditions.corrupt > 0 && rng.u32(..1000) < conditions.corrupt {
                frame.corrupt(rng);
            }
            let delay = conditions.delay / 4 + rng.u64(..=conditions.delay);
            let arrival = if is_late {
                now + delay * 4
            } else {
                self.last = self.last.max(now + delay);
                self.last
            };
            copies.push((arrival, frame));
        }
        copies
    }
}
