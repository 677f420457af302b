// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams: on the way to another QP of this host, or to and from the wire.

use super::{
    extra_of, list, AccessError, Checked, Extra, Fault, LocalMemory, Message, Receive, Received,
    Region, RegionList, Responder, Source, Stopped, Taken,
};
use crate::ring::{Data, SendRequest, SgeList};
use crate::verbs::limits::GRH_LENGTH;
use crate::verbs::{SendFlags, WcOpcode, WcStatus};
use crate::wire::{emit_with, Bth, Deth, EmitError, Headers, Kind, Opcode, Packet, Psn};

/// A datagram whose data has been checked against the sender's keys.
pub struct Datagram<'a, R> {
    message: Message<'a, R>,
    from: Source,
}

impl<'a, R: Region> Datagram<'a, R> {
    /// Checks a request's data; `mtu` is what one packet carries, in bytes
    /// (IBTA 9.8.4: a datagram is one packet). `list` is an empty one.
    pub fn new(
        request: &SendRequest,
        data: Data<'a>,
        requester: &impl LocalMemory<Region = R>,
        mtu: u32,
        from: Source,
        list: &'a mut RegionList<R>,
    ) -> Result<Self, WcStatus> {
        let length = match u32::try_from(data.length()) {
            Ok(length) if length <= mtu => length,
            _ => return Err(WcStatus::LocLenErr),
        };
        let checked = match data {
            Data::Inline(bytes) => Checked::Inline(bytes),
            Data::Sges(sges) => {
                list.check(requester, sges, false)
                    .map_err(|AccessError| WcStatus::LocProtErr)?;
                Checked::Regions(list.regions())
            }
        };
        Ok(Self {
            message: Message {
                data: checked,
                length,
                extra: extra_of(&request.operation),
                solicited: request.flags.contains(SendFlags::SOLICITED),
            },
            from,
        })
    }

    /// Writes it as a packet, from the BTH to the padding, to the front of a buffer. Returns how long that
    /// is.
    pub fn emit(
        &self,
        dest_qp: u32,
        qkey: u32,
        psn: Psn,
        buffer: &mut [u8],
    ) -> Result<Result<usize, Fault>, EmitError> {
        let deth = Deth {
            qkey,
            src_qp: self.from.qpn,
        };
        let (kind, headers) = match self.message.extra {
            Extra::Immediate(imm) => (Kind::SendOnlyImm, Headers::DethImm(deth, imm)),
            _ => (Kind::SendOnly, Headers::Deth(deth)),
        };
        let mut bth = Bth::new(Opcode::ud(kind), dest_qp, psn);
        bth.solicited = self.message.solicited;
        let length = self.message.length as usize;
        let emitted = emit_with(&bth, &headers, length, buffer, |payload| {
            match &self.message.data {
                Checked::Inline(bytes) => {
                    bytes.iter().zip(payload).for_each(|(from, to)| *to = *from)
                }
                Checked::Regions(list) => list.read(payload)?,
            }
            Ok(())
        })?;
        Ok(emitted.map(|(length, ())| length))
    }

    /// Its length in bytes, without the GRH.
    pub fn length(&self) -> u32 {
        self.message.length
    }

    /// Delivers it to one QP, whose Q_Key the front end has checked, and says
    /// whether it arrived. What does not fit, or finds no receive, is dropped
    /// without a word (IBTA 9.8.3). If memory of either side is only there
    /// [`Later`](Fault::Later), the receive is there for the next.
    pub fn deliver<P: Responder<Region = R>>(&self, peer: &P) -> Delivery {
        let message = &self.message;
        let received = received(message.length, message.extra, message.solicited, self.from);
        let mut undelivered = Delivery::Dropped;
        let taken = peer.take_receive(
            |receive| receive.capacity() >= u64::from(received.byte_len),
            |receive| {
                let placed = match self.place(peer, receive.scatter) {
                    Ok(()) => Ok(()),
                    Err(Stopped::Peer(Fault::Gone)) => Err(Fault::Gone),
                    Err(stopped) => {
                        undelivered = match stopped {
                            Stopped::Own(Fault::Gone) => Delivery::Failed(WcStatus::LocProtErr),
                            Stopped::Own(Fault::Later) => Delivery::OwnMemoryLater,
                            // It is shorter than a part, so nothing pauses.
                            Stopped::Peer(_) | Stopped::Paused => Delivery::MemoryLater,
                        };
                        return None;
                    }
                };
                Some(received_as(receive, received, placed))
            },
        );
        match complete(peer, taken) {
            true => Delivery::Done,
            false => undelivered,
        }
    }

    fn place<P: Responder<Region = R>>(
        &self,
        peer: &P,
        scatter: SgeList<'_>,
    ) -> Result<(), Stopped> {
        list::write(peer, scatter, 0, &self.from.grh).map_err(Stopped::Peer)?;
        self.message.place(peer, scatter, GRH_LENGTH, &mut 0)
    }
}

/// What has become of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It has arrived.
    Done,
    /// It is lost: there was no receive for it, or the receiver's was wrong.
    Dropped,
    /// The receiver's memory is not there yet: it may be delivered again a little later, or is lost.
    MemoryLater,
    /// The sender's own memory is not there yet.
    OwnMemoryLater,
    /// The sender's own memory is gone.
    Failed(WcStatus),
}

/// A datagram that came over the wire.
pub struct Arrived<'a> {
    payload: &'a [u8],
    length: u32,
    extra: Extra,
    solicited: bool,
    from: Source,
}

impl<'a> Arrived<'a> {
    /// Of a packet, unless that is none.
    pub fn new(packet: &Packet<'a>, grh: [u8; GRH_LENGTH as usize]) -> Option<Self> {
        let (deth, extra) = match packet.headers {
            Headers::Deth(deth) => (deth, Extra::None),
            Headers::DethImm(deth, imm) => (deth, Extra::Immediate(imm)),
            _ => return None,
        };
        Some(Self {
            payload: packet.payload,
            length: u32::try_from(packet.payload.len()).ok()?,
            extra,
            solicited: packet.bth.solicited,
            from: Source {
                qpn: deth.src_qp,
                grh,
            },
        })
    }

    /// Its length in bytes, without the GRH.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// As [`Datagram::deliver`]; whether it has arrived.
    pub fn deliver<P: Responder>(&self, peer: &P) -> bool {
        let received = received(self.length, self.extra, self.solicited, self.from);
        let taken = peer.take_receive(
            |receive| receive.capacity() >= u64::from(received.byte_len),
            |receive| {
                let placed = list::write(peer, receive.scatter, 0, &self.from.grh)
                    .and_then(|()| list::write(peer, receive.scatter, GRH_LENGTH, self.payload));
                (placed != Err(Fault::Later)).then(|| received_as(receive, received, placed))
            },
        );
        complete(peer, taken)
    }
}

/// What the receiver of a datagram is told, but for its receive and the status.
fn received(length: u32, extra: Extra, solicited: bool, from: Source) -> Received {
    Received {
        wr_id: 0,
        status: WcStatus::Success,
        opcode: WcOpcode::Recv,
        byte_len: length.saturating_add(GRH_LENGTH),
        extra,
        solicited,
        source: Some(from),
    }
}

/// How a receive ends that a datagram was put in, or could not be.
fn received_as(receive: &Receive<'_>, received: Received, placed: Result<(), Fault>) -> Received {
    Received {
        wr_id: receive.wr_id,
        status: match placed {
            Ok(()) => WcStatus::Success,
            Err(_) => WcStatus::LocProtErr,
        },
        ..received
    }
}

/// Completes the receive of a datagram, and says whether that has arrived.
fn complete<P: Responder>(peer: &P, taken: Taken<Received>) -> bool {
    let Taken::Done(received) = taken else {
        return false;
    };
    peer.complete(&received);
    if received.status != WcStatus::Success {
        // The receiver's own fault (IBTA 10.10.2.2).
        peer.fail(None);
    }
    received.status == WcStatus::Success
}
