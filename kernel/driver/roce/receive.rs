// SPDX-License-Identifier: GPL-2.0

//! What comes in.

use super::{burst::icrc_of, datagram};
use crate::{
    counters::Port,
    device::Ferroce,
    net::{Datagram, IpHeader, Receiver},
    qp::state,
    queue_pair::{Peer, Qp},
    rdma::{self, Device, DeviceRef, Gid},
    verbs::limits,
    wire::{Packet, Service, ICRC_LEN},
};
use core::{iter::Enumerate, net::IpAddr, slice::Chunks};

/// Who takes what comes to the port.
pub(crate) struct Incoming;

impl Receiver for Incoming {
    fn receive(datagram: Datagram) {
        let Some(device) = device_of(&datagram) else {
            return;
        };
        if device.is_apart() {
            return;
        }
        if datagram.payload().is_empty() {
            device.counters.count(Port::RcvdPackets);
            device.counters.count(Port::Malformed);
            return;
        }
        let mut packets = Packets::of(&device, &datagram);
        while let Some(first) = packets.next() {
            let taken = first.and_then(|first| take(&device, &first, &mut packets));
            if let Err(dropped) = taken {
                device.counters.count(dropped);
            }
        }
    }
}

/// The device that a packet is for: the one over the network device that it came by, or that has the
/// address, if the packet came by another way: from this host, or by a VLAN. A group is no device's address:
/// what comes to one by a VLAN is for the device below it. (What comes to one by a bridge is for nobody.)
fn device_of(datagram: &Datagram) -> Option<DeviceRef<Ferroce>> {
    let netdev = datagram.netdev()?;
    if let Some(device) = Device::from_netdev(netdev) {
        return Some(device);
    }
    let destination = datagram.ip().destination();
    if destination.is_multicast() && netdev.is_vlan() {
        let namespace = netdev.namespace()?;
        return netdev.find_below(|lower| {
            Device::from_netdev(lower).filter(|_| lower.namespace() == Some(namespace))
        });
    }
    let owner = netdev.with_address(destination)?;
    Device::from_netdev(&owner).or_else(|| {
        owner.find_below(|lower| {
            let device = Device::<Ferroce>::from_netdev(lower)?;
            Ferroce::has_address(&device, destination).then_some(device)
        })
    })
}

/// The packets that have come as one.
struct Packets<'a> {
    device: &'a Device<Ferroce>,
    ip: &'a IpHeader,
    ports: (u16, u16),
    parts: Enumerate<Chunks<'a, u8>>,
    /// One that was looked at and left.
    left: Option<Result<Arrived<'a>, Port>>,
}

/// A packet whose ICRC and partition are right.
struct Arrived<'a> {
    /// Which of those that have come as one it is.
    index: usize,
    packet: Packet<'a>,
}

impl<'a> Arrived<'a> {
    /// Whether another is for the same queue pair, and the same half of that.
    fn is_like(&self, other: &Self) -> bool {
        let of = |packet: &Packet<'_>| {
            let opcode = packet.bth.opcode;
            let half = opcode.kind().is_response();
            (packet.bth.dest_qp, opcode.service(), half)
        };
        of(&self.packet) == of(&other.packet)
    }
}

impl<'a> Packets<'a> {
    fn of(device: &'a Device<Ferroce>, datagram: &'a Datagram) -> Self {
        let payload = datagram.payload();
        let size = datagram.segment_size().unwrap_or(payload.len()).max(1);
        Self {
            device,
            ip: datagram.ip(),
            ports: datagram.ports(),
            parts: payload.chunks(size).enumerate(),
            left: None,
        }
    }

    /// The next one, or what is wrong with it.
    fn next(&mut self) -> Option<Result<Arrived<'a>, Port>> {
        if self.left.is_some() {
            return self.left.take();
        }
        let (index, bytes) = self.parts.next()?;
        self.device.counters.count(Port::RcvdPackets);
        Some(self.check(index, bytes))
    }

    /// The next one, if it is like that before.
    fn next_like(&mut self, before: &Arrived<'_>) -> Option<Packet<'a>> {
        match self.next()? {
            Ok(next) if next.is_like(before) => Some(next.packet),
            other => {
                self.left = Some(other);
                None
            }
        }
    }

    fn check(&self, index: usize, bytes: &'a [u8]) -> Result<Arrived<'a>, Port> {
        let ip = self.ip.segment(index as u16, bytes.len());
        let (transport, icrc) = bytes
            .split_last_chunk::<ICRC_LEN>()
            .ok_or(Port::Malformed)?;
        let ([a, b], [c, d]) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let [e, f] = ((bytes.len() + 8) as u16).to_be_bytes();
        if icrc_of(&ip, &[a, b, c, d, e, f, 0, 0], transport) != *icrc {
            return Err(Port::WrongIcrc);
        }
        let packet = Packet::parse(transport).map_err(|_| Port::Malformed)?;
        // Both are of the partition, and one of them is a full member of it: this one (IBTA 10.9.3).
        if packet.bth.pkey & 0x7fff != limits::DEFAULT_PKEY & 0x7fff {
            return Err(Port::WrongPkey);
        }
        Ok(Arrived { index, packet })
    }
}

/// Takes a packet to its queue pair, with those that follow it there, or says what keeps it from there.
fn take<'a>(
    device: &Device<Ferroce>,
    first: &Arrived<'a>,
    packets: &mut Packets<'a>,
) -> Result<(), Port> {
    let service = first.packet.bth.opcode.service();
    match service {
        Service::Ud => {
            let length = first.packet.len() + ICRC_LEN;
            let ip = packets.ip.segment(first.index as u16, length);
            datagram::receive(device, &ip, first.packet.bth.dest_qp, &first.packet)
        }
        Service::Rc | Service::Uc => {
            let qp = device
                .qps
                .get(first.packet.bth.dest_qp)
                .ok_or(Port::UnknownQp)?;
            if Service::of(qp.qp_type) != service {
                return Err(Port::UnknownQp);
            }
            let ip = packets.ip;
            let check = || check_peer(&qp, ip, &first.packet);
            let next = || packets.next_like(first);
            qp.connection.take(&qp, &first.packet, next, check)
        }
        // There is no congestion control that would slow down.
        Service::Cnp => Ok(()),
    }
}

/// Checks that a packet is of the peer that a queue pair is connected to, and that the queue pair is in
/// a state to take it, and on what terms.
fn check_peer<'a>(
    qp: &'a rdma::Qp<Qp>,
    ip: &IpHeader,
    packet: &Packet<'_>,
) -> Result<Peer<'a>, Port> {
    let shared = qp.shared.lock();
    let state = shared.attr.state;
    let takes = match packet.bth.opcode.kind().is_response() {
        true => state::accepts_responses(state),
        false => state::accepts_requests(state),
    };
    if shared.is_gone || !takes {
        return Err(Port::NotReady);
    }
    let is = |gid: [u8; 16], address: IpAddr| Gid(gid).ip() == address;
    // IBTA 9.6.1.2.1, 9.6.1.2.2: both are to be checked.
    if !is(shared.attr.ah_attr.dgid, ip.source()) || !is(shared.sgid, ip.destination()) {
        return Err(Port::WrongSource);
    }
    Ok(Peer::of(qp, &shared.attr))
}
