// SPDX-License-Identifier: GPL-2.0

//! What comes in.

use super::{datagram, icrc, path::preceding};
use crate::{
    arrival::{self, Arrival},
    counter::PortCounter,
    counters::HostCounter,
    device::Ferroce,
    net::{Datagram, IpHeader, Receiver},
    queue_pair::{Peer, Qp},
    rdma::{self, Device, DeviceRef, NetDevice},
    wire::{Packet, ICRC_LEN},
};
use core::{iter::Enumerate, slice::Chunks};

/// Who takes what comes to the port.
pub(crate) struct Incoming;

impl Receiver for Incoming {
    fn receive(datagram: Datagram) {
        let Some(device) = device_of(&datagram) else {
            return;
        };
        if device.netns_mismatch() {
            return;
        }
        if is_from_this_host(&datagram) && !super::takes_from_this_host(&datagram) {
            let packets = Packets::of(&device, &datagram).count();
            device.counters.add(PortCounter::RcvdPackets, packets);
            device.counters.add(PortCounter::FromThisHost, packets);
            return;
        }
        if datagram.payload().is_empty() {
            device.counters.count(PortCounter::RcvdPackets);
            device.counters.count(PortCounter::Malformed);
            return;
        }
        let began = device.counters.is_timed().then(rdma::clock);
        let mut packets = Packets::of(&device, &datagram);
        while let Some(first) = packets.next() {
            let taken = first.and_then(|first| take(&device, first, &mut packets));
            if let Err(dropped) = taken {
                device.counters.count(dropped);
            }
        }
        if let Some(began) = began {
            device.counters.took(HostCounter::LongestBottomHalf, began);
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

/// Whether a packet was sent in this very network namespace, or says so: its source address is one here.
/// IPv4 drops the latter itself if they come by a network (`fib_validate_source()`), IPv6 does not.
fn is_from_this_host(datagram: &Datagram) -> bool {
    let has_address = |netdev: &NetDevice| netdev.with_address(datagram.ip().source()).is_some();
    datagram.is_looped_back() || datagram.netdev().is_some_and(has_address)
}

/// The packets that have come as one.
struct Packets<'a> {
    device: &'a Device<Ferroce>,
    ip: &'a IpHeader,
    ports: (u16, u16),
    /// There are several, with the headers of the first.
    are_segments: bool,
    parts: Enumerate<Chunks<'a, u8>>,
    /// Which of them was looked at last.
    index: usize,
    /// That one, if it was left.
    left: Option<Result<&'a [u8], PortCounter>>,
}

impl<'a> Packets<'a> {
    fn of(device: &'a Device<Ferroce>, datagram: &'a Datagram) -> Self {
        let payload = datagram.payload();
        let segment_size = datagram.segment_size();
        let size = segment_size.unwrap_or(payload.len()).max(1);
        Self {
            device,
            ip: datagram.ip(),
            ports: datagram.ports(),
            are_segments: segment_size.is_some(),
            parts: payload.chunks(size).enumerate(),
            index: 0,
            left: None,
        }
    }

    /// How many there are, of which none has been looked at yet.
    fn count(&self) -> u64 {
        self.parts.len().max(1) as u64
    }

    /// The next one from the BTH on, whose ICRC is right, or what is wrong with it.
    fn next(&mut self) -> Option<Result<&'a [u8], PortCounter>> {
        if self.left.is_some() {
            return self.left.take();
        }
        let (index, bytes) = self.parts.next()?;
        self.device.counters.count(PortCounter::RcvdPackets);
        self.index = index;
        Some(self.check(bytes))
    }

    /// The next one, if it is like that before.
    fn next_like(&mut self, before: &Packet<'_>) -> Option<Packet<'a>> {
        let next = self.next()?;
        match next.map(Packet::parse) {
            Ok(Ok(packet)) if arrival::are_alike(&packet.bth, &before.bth) => Some(packet),
            _ => {
                self.left = Some(next);
                None
            }
        }
    }

    fn check(&self, bytes: &'a [u8]) -> Result<&'a [u8], PortCounter> {
        let (transport, found) = bytes
            .split_last_chunk::<ICRC_LEN>()
            .ok_or(PortCounter::Malformed)?;
        let ([a, b], [c, d]) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let [e, f] = ((bytes.len() + 8) as u16).to_be_bytes();
        let udp = [a, b, c, d, e, f, 0, 0];
        let preceding = match self.are_segments {
            true => preceding(&self.header(bytes.len()), &udp),
            false => preceding(self.ip, &udp),
        };
        match icrc::icrc(preceding, transport) == *found {
            true => Ok(transport),
            false => Err(PortCounter::WrongIcrc),
        }
    }

    /// The IP header of the one that was looked at last, with so many bytes behind the UDP header.
    fn header(&self, length: usize) -> IpHeader {
        self.ip.segment(self.index as u16, length)
    }
}

/// Takes a packet to its queue pair, with those that follow it there, or says what keeps it from there.
fn take<'a>(
    device: &Device<Ferroce>,
    first: &'a [u8],
    packets: &mut Packets<'a>,
) -> Result<(), PortCounter> {
    let length = first.len();
    let (first, arrival) = &Arrival::of(first)?;
    match *arrival {
        Arrival::Group { .. } | Arrival::Datagram { .. } => {
            let ip = packets.header(length + ICRC_LEN);
            datagram::receive(device, &ip, *arrival, first)
        }
        Arrival::Connected(qpn) => {
            let qp = device.qps.get(qpn).ok_or(PortCounter::UnknownQp)?;
            arrival::check_transport(qp.kind.qp_type, &first.bth)?;
            let ip = packets.ip;
            let check = || check_peer(&qp, ip, first);
            let next = || packets.next_like(first);
            qp.connection.take(&qp, first, next, check)
        }
        Arrival::Nobody => Ok(()),
    }
}

/// Checks that a packet is of the peer that a queue pair is connected to, and that the queue pair is in
/// a state to take it, and on what terms.
fn check_peer<'a>(
    qp: &'a rdma::Qp<Qp>,
    ip: &IpHeader,
    packet: &Packet<'_>,
) -> Result<Peer<'a>, PortCounter> {
    let is_response = packet.bth.opcode.kind().is_response();
    let terms = qp
        .shared
        .lock()
        .takes_packet(is_response, |peer, own| ip.is_from(peer) && ip.is_to(own))?;
    Ok(Peer::on(qp, terms))
}
