// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sending what a requester or a responder has to send, in batches of packets that go as one.

use core::ops::DerefMut;

use crate::local::{self, Region};
use crate::requester::Transmit;
use crate::responder::{Resource, Responder};
use crate::verbs::QpType;
use crate::wire::MAX_HEADERS_LEN;

/// The way of a connection to its peer, as the host has it.
pub trait Flow {
    /// Packets in the making.
    type Batch<'a>: Batch
    where
        Self: 'a;

    /// Whether a packet that is sent now comes after all that were sent before.
    fn keeps_order(&mut self) -> bool;

    /// Whether so much is on its way that more would be lost.
    fn is_full(&self) -> bool;

    /// A batch with room for `count` packets of `length` bytes from the BTH to the padding, or for fewer, one at
    /// least. `None` without memory.
    fn begin(&mut self, length: usize, count: u32) -> Option<Self::Batch<'_>>;
}

/// Packets of one length but the last, that are sent as one.
pub trait Batch {
    /// How many there are.
    fn count(&self) -> u32;

    /// Whether there is room for another.
    fn has_room(&self) -> bool;

    /// Has a packet written, and adds it if that returns its length.
    fn add<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (Option<usize>, R)) -> R;

    /// Sends what there is.
    fn send(self);
}

/// What makes packets.
pub(crate) trait Source {
    /// Whether there is nothing to send: a quick answer, for what is asked after each packet.
    fn has_sent_all(&self) -> bool;

    /// How many packets may go as one with that which is next.
    fn batch_len(&mut self) -> u32;

    /// Makes the next packet.
    fn poll(&mut self, room: &mut [u8]) -> Transmit;
}

/// Why sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// All is sent that can be.
    Idle,
    /// There have been enough packets for now.
    More,
    /// More would be lost, or would overtake what another CPU has sent: to be tried again a little later.
    Busy,
    /// It is the turn of a request of this host's alone, in this slot.
    Local(u32),
    /// Memory on demand is missing.
    Later,
}

/// How many packets are sent in one call: the host has a lock held.
pub const PACKETS_AT_ONCE: u32 = 64;

/// After how many bytes the last of them goes, for that reason: packets may be of 4 KiB and more.
const BYTES_AT_ONCE: usize = 1 << 16;

/// Bytes of a packet that is made before it is known how long it is: with a few bytes of payload.
const SMALL: usize = MAX_HEADERS_LEN + 24;

/// Sends packets, until there is none or there have been enough.
pub(crate) fn transmit(qp_type: QpType, flow: &mut impl Flow, source: &mut impl Source) -> Stopped {
    let (mut sent, mut bytes) = (0, 0);
    while !source.has_sent_all() {
        if sent >= PACKETS_AT_ONCE || bytes >= BYTES_AT_ONCE {
            return Stopped::More;
        }
        // Who has a reliable connection is held back by the peer.
        if !flow.keeps_order() || (qp_type == QpType::Uc && flow.is_full()) {
            return Stopped::Busy;
        }
        let batch_len = source.batch_len().min(PACKETS_AT_ONCE - sent);
        // A small one is there already. Of another this is to learn how much room it takes.
        let mut small = [0; SMALL];
        let (length, mut made) = match poll(source, &mut small) {
            Transmit::Packet(length) => (length, small.get(..length)),
            Transmit::NeedsRoom(length) => (length, None),
            Transmit::Nothing => return Stopped::Idle,
            Transmit::Later => return Stopped::Later,
            Transmit::Local(slot) => return Stopped::Local(slot),
        };
        let Some(mut batch) = flow.begin(length, batch_len) else {
            // Later there may be memory. A packet that was made is as good as lost.
            return Stopped::More;
        };
        let mut last = Transmit::Nothing;
        while batch.has_room() && batch.count() < batch_len {
            last = batch.add(|room| {
                let transmit = match made.take() {
                    Some(packet) => copy(packet, room),
                    None => poll(source, room),
                };
                match transmit {
                    Transmit::Packet(length) => (Some(length), transmit),
                    _ => (None, transmit),
                }
            });
            if !matches!(last, Transmit::Packet(_)) {
                break;
            }
        }
        // With none, what would have been sent could not be made.
        if batch.count() > 0 {
            sent += batch.count();
            bytes += length * batch.count() as usize;
            batch.send();
        }
        // The first of these is said once.
        match last {
            Transmit::Later => return Stopped::Later,
            Transmit::Local(slot) => return Stopped::Local(slot),
            Transmit::Packet(_) | Transmit::NeedsRoom(_) | Transmit::Nothing => {}
        }
    }
    Stopped::Idle
}

/// Not inlined, since it takes more of the stack than what sends the packet can spare.
#[inline(never)]
fn poll(source: &mut impl Source, room: &mut [u8]) -> Transmit {
    source.poll(room)
}

/// Puts a packet that is there already where there is room for it.
fn copy(packet: &[u8], room: &mut [u8]) -> Transmit {
    match room.get_mut(..packet.len()) {
        Some(place) => {
            place.copy_from_slice(packet);
            Transmit::Packet(packet.len())
        }
        None => Transmit::Nothing,
    }
}

/// Sends what a responder has to say to requests, and gives up the memory that it keeps.
pub fn respond<S, R, Q>(
    qp_type: QpType,
    responder: &mut Responder<S, R>,
    qp: &Q,
    flow: &mut impl Flow,
) -> Stopped
where
    S: DerefMut<Target = [Resource]>,
    R: Region,
    Q: local::Responder<Region = R>,
{
    let stopped = transmit(qp_type, flow, &mut Responses { responder, qp });
    responder.end_batch();
    stopped
}

struct Responses<'a, S, R, Q> {
    responder: &'a mut Responder<S, R>,
    qp: &'a Q,
}

impl<S, R, Q> Source for Responses<'_, S, R, Q>
where
    S: DerefMut<Target = [Resource]>,
    R: Region,
    Q: local::Responder<Region = R>,
{
    fn has_sent_all(&self) -> bool {
        self.responder.has_sent_all()
    }

    fn batch_len(&mut self) -> u32 {
        self.responder.batch_len().unwrap_or(1)
    }

    fn poll(&mut self, room: &mut [u8]) -> Transmit {
        self.responder.poll_transmit(self.qp, room)
    }
}
