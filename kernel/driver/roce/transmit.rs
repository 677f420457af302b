// SPDX-License-Identifier: GPL-2.0

//! Sending what a requester or a responder has to send.

use super::{gso::GsoBatch, tx_flow::TxFlow};
use crate::{
    queue_pair::Qp, rdma, requester::Transmit, ring::Operation, verbs::QpType,
    wire::MAX_HEADERS_LEN,
};

/// What makes packets.
pub(super) trait Source {
    /// Whether there is nothing to send: a quick answer, for what is asked after each packet.
    fn has_sent_all(&self) -> bool;

    /// How many packets may go as one with that which is next.
    fn batch_len(&mut self) -> u32;

    /// Makes the next packet.
    fn poll(&mut self, room: &mut [u8]) -> Transmit;
}

/// Why sending ended.
pub(super) enum Stopped {
    /// All is sent that can be.
    Idle,
    /// There have been enough packets for now.
    More,
    /// More would be lost, or would overtake what another CPU has sent: to be tried again a little later.
    Busy,
    /// It is the turn of a request of this host's alone, in this slot.
    Local(u32),
    /// Memory on demand is missing, and a thread has it be there.
    Later,
}

/// How a visit to a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// All is sent that can be.
    Idle,
    /// There is more to send.
    More,
    /// It is the turn of a request of this host's alone, in this slot.
    Local(u32, Operation),
    /// Memory on demand is missing, and a thread has it be there.
    Later,
}

impl Next {
    /// Has a thread go on, if one is to.
    pub(super) fn leave_to_thread(self, qp: &rdma::Qp<Qp>) {
        if matches!(self, Self::More | Self::Local(..)) {
            qp.deferred.queue();
        }
    }
}

/// How many packets are sent while the lock is held, with bottom halves off.
const PACKETS_AT_ONCE: u32 = 64;

/// Bytes of a packet that is made before it is known how long it is: with a few bytes of payload.
const SMALL: usize = MAX_HEADERS_LEN + 24;

/// Sends packets, until there is none or there have been enough. With bottom halves off.
pub(super) fn transmit(
    qp: &rdma::Qp<Qp>,
    tx_flow: &mut TxFlow,
    source: &mut impl Source,
) -> Stopped {
    let device = qp.device();
    let mut sent = 0;
    while !source.has_sent_all() {
        if sent >= PACKETS_AT_ONCE {
            return Stopped::More;
        }
        // Who has a reliable connection is held back by the peer.
        if !tx_flow.keeps_order() || (qp.kind.qp_type == QpType::Uc && tx_flow.is_full()) {
            return Stopped::Busy;
        }
        let (path, in_flight) = tx_flow.path(qp);
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
        let Some(mut batch) = GsoBatch::new(path, length, batch_len) else {
            // Later there may be memory. A packet that was made is as good as lost.
            return Stopped::More;
        };
        let mut last = Transmit::Nothing;
        while batch.has_room() && u32::from(batch.count()) < batch_len {
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
        let count = batch.count();
        if count == 0 {
            // What would have been sent could not be made. That memory is missing is said once.
            match last {
                Transmit::Later => return Stopped::Later,
                _ => continue,
            }
        }
        sent += u32::from(count);
        let packet = batch.finish();
        path.send(device, packet, count, in_flight);
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
