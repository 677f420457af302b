// SPDX-License-Identifier: GPL-2.0

//! Packets in the making.

use super::{icrc::icrc, path::Path};
use crate::{net::Packet, wire::ICRC_LEN};

/// How long packets that are sent as one may be together: as much as fits into 32 KiB beside what an
/// `sk_buff` needs for itself, which is what the kernel has at hand (`PAGE_ALLOC_COSTLY_ORDER`).
const LIMIT: usize = 31 << 10;

/// Packets in the making, of one length but the last, that are sent as one.
pub(super) struct GsoBatch<'a> {
    path: &'a mut Path,
    packet: Packet,
    /// What the first has behind its UDP header.
    length: usize,
    count: u16,
    /// Nothing may follow: the last is shorter.
    is_complete: bool,
}

impl<'a> GsoBatch<'a> {
    /// An empty one, with room for `count` packets of so many bytes from the BTH on, without the ICRC,
    /// or for fewer, one at least. `None` without memory.
    pub(super) fn new(path: &'a mut Path, length: usize, count: u32) -> Option<Self> {
        let length = length + ICRC_LEN;
        let count = usize::try_from(count).unwrap_or(1).min(LIMIT / length);
        let some = (count > 1).then(|| Packet::new(length * count));
        let packet = match some.flatten() {
            Some(packet) => packet,
            None => Packet::new(length)?,
        };
        Some(Self {
            path,
            packet,
            length,
            count: 0,
            is_complete: false,
        })
    }

    /// How many packets there are.
    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Whether there is room for another.
    pub(super) fn has_room(&self) -> bool {
        !self.is_complete && self.packet.room() >= self.length
    }

    /// Has a packet written, from the BTH on, and adds its ICRC. `fill` returns its length, if there is
    /// one, which is no more than it has room for.
    pub(super) fn add<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (Option<usize>, R)) -> R {
        let Self { path, packet, .. } = self;
        let (index, limit) = (self.count, self.length);
        let (added, result) = packet.extend(|room| {
            let room = room.get_mut(..limit).unwrap_or_default();
            let place = room.len().saturating_sub(ICRC_LEN);
            let (length, result) = fill(room.get_mut(..place).unwrap_or_default());
            let written = length.and_then(|length| room.split_at_mut_checked(length));
            let Some((transport, rest)) = written else {
                return (0, (None, result));
            };
            let total = transport.len() + ICRC_LEN;
            let icrc = icrc(path.preceding(index, total), transport);
            if let Some(place) = rest.first_chunk_mut() {
                *place = icrc;
            }
            (total, (Some(total), result))
        });
        if let Some(total) = added {
            self.count += 1;
            self.is_complete = total < self.length;
        }
        result
    }

    /// What there is, to be sent by its path.
    pub(super) fn finish(self) -> (&'a mut Path, Packet) {
        let Self {
            path, mut packet, ..
        } = self;
        let (ip, udp) = path.headers(0, packet.len());
        packet.set_headers(&ip, &udp);
        if let (2.., Ok(size)) = (self.count, u16::try_from(self.length)) {
            packet.set_segments(size, self.count);
        }
        (path, packet)
    }
}
