// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that have come from another host: whom each is for, and what keeps it from there.
//!
//! In this order: the host checks the ICRC and that the packet is not one of this host's; [`Arrival::of`]
//! what it is for; the host finds the queue pair (and whether a datagram's address is the device's, before);
//! [`Attrs`](crate::attrs::Attrs) says whether that takes it, and on what terms. What is wrong first decides
//! which counter of the port tells of it.

use crate::counter::PortCounter;
use crate::verbs::{limits, QpType};
use crate::wire::{Bth, Headers, Packet, Service};

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A queue pair of this number that is connected.
    Connected(u32),
    /// A queue pair that takes datagrams with this Q_Key.
    Datagram {
        /// Its number.
        qpn: u32,
        /// The Q_Key.
        qkey: u32,
    },
    /// The members of the group that it was sent to, as far as they have this Q_Key.
    Group {
        /// The Q_Key.
        qkey: u32,
    },
    /// Nobody: there is no congestion control that would slow down.
    Nobody,
}

impl Arrival {
    /// What bytes from the BTH to the padding are, or what counts them if they are no packet for this host.
    pub fn of(bytes: &[u8]) -> Result<(Packet<'_>, Self), PortCounter> {
        let packet = Packet::parse(bytes).map_err(|_| PortCounter::Malformed)?;
        // Both are of the partition, and one of them is a full member of it: this one (IBTA 10.9.3).
        if packet.bth.pkey & 0x7fff != limits::DEFAULT_PKEY & 0x7fff {
            return Err(PortCounter::WrongPkey);
        }
        let qpn = packet.bth.dest_qp;
        let arrival = match packet.bth.opcode.service() {
            Service::Rc | Service::Uc => Self::Connected(qpn),
            Service::Cnp => Self::Nobody,
            Service::Ud => {
                let (Headers::Deth(deth) | Headers::DethImm(deth, _)) = packet.headers else {
                    return Err(PortCounter::Malformed);
                };
                match qpn {
                    limits::MULTICAST_QPN => Self::Group { qkey: deth.qkey },
                    _ => Self::Datagram {
                        qpn,
                        qkey: deth.qkey,
                    },
                }
            }
        };
        Ok((packet, arrival))
    }
}

/// Checks that a packet is of the transport of a connected queue pair.
pub fn check_transport(qp_type: QpType, bth: &Bth) -> Result<(), PortCounter> {
    match Service::of(qp_type) == bth.opcode.service() {
        true => Ok(()),
        false => Err(PortCounter::UnknownQp),
    }
}

/// Whether two packets of connections are for the same half of the same queue pair, and so can be taken
/// without the second being looked at again.
pub fn are_alike(one: &Bth, other: &Bth) -> bool {
    let of = |bth: &Bth| {
        let opcode = bth.opcode;
        let half = opcode.kind().is_response();
        (bth.dest_qp, opcode.service(), half, bth.pkey)
    };
    of(one) == of(other)
}
