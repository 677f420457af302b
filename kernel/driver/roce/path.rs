// SPDX-License-Identifier: GPL-2.0

//! How packets get to a peer.

use super::{port::Sockets, receive::Incoming, UDP_PORT};
use crate::{
    counters::Port as Counter,
    device::{Ferroce, KnownPort},
    net::{
        route::{With, UDP},
        Flow, InFlight, IpHeader, Packet, Route, UdpSocket,
    },
    rdma::{Device, Gid, GidType, NetDevice},
};
use core::net::IpAddr;

/// The flag of IPv4 that forbids fragments: a path MTU is meant.
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];

/// How long to wait for what is on its way, in nanoseconds.
pub(crate) const PAUSE: u64 = 50_000;

/// What an address vector says of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) sgid: [u8; 16],
    pub(crate) dgid: [u8; 16],
    pub(crate) traffic_class: u8,
    pub(crate) flow_label: u32,
    pub(crate) hop_limit: u8,
    /// What tells the flow from others between the two hosts, if the flow label does not.
    pub(crate) entropy: u32,
}

impl Address {
    /// The UDP port that packets come from: one of the upper quarter, by flow, so that switches and
    /// receive queues tell flows apart (IBTA A17.4.2; `rdma_get_udp_sport()`).
    fn source_port(&self) -> u16 {
        let hash = match self.flow_label {
            0 => self.entropy.wrapping_mul(0x9e37_79b1) >> 12,
            label => label,
        };
        (hash ^ hash >> 14) as u16 & 0x3fff | 0xc000
    }
}

/// The way to a peer.
pub(crate) struct Path {
    address: Address,
    flow: Option<Flow>,
    route: Option<Route>,
    port: KnownPort,
    /// The identification of the next packet, of IPv4.
    id: u16,
}

impl Path {
    /// From one of the device's addresses to another.
    pub(crate) fn new(device: &Device<Ferroce>, address: Address) -> Self {
        let gid = Gid(address.sgid);
        let netdev = device
            .find_gid(&gid, GidType::RoceV2, 1)
            .and_then(|gid| gid.netdev());
        // If the address is not there any more, there is no route from it either.
        let flow = netdev.and_then(|netdev| {
            let with = With {
                ifindex: netdev.ifindex(),
                traffic_class: address.traffic_class,
                flow_label: address.flow_label,
                ports: (address.source_port(), UDP_PORT),
            };
            Flow::new(gid.ip(), Gid(address.dgid).ip(), with)
        });
        Self {
            address,
            flow,
            route: None,
            port: KnownPort::default(),
            id: 0,
        }
    }

    /// Whether it is that of an address.
    pub(crate) fn is_to(&self, address: &Address) -> bool {
        self.address == *address
    }

    fn socket<'a>(&self, sockets: &'a Sockets) -> Option<&'a UdpSocket<Incoming>> {
        sockets.of(matches!(self.flow?, Flow::V6 { .. }))
    }

    /// Sends what was made of so many packets on its way; if there is no way it is gone.
    pub(crate) fn send(
        &mut self,
        device: &Device<Ferroce>,
        mut packet: Packet,
        count: u16,
        in_flight: &InFlight,
    ) {
        let mut known = core::mem::take(&mut self.port);
        let port = device.port(&mut known);
        let sent = port.and_then(|port| {
            port.with(|sockets| {
                let socket = self.socket(sockets)?;
                if !self.route.as_ref().is_some_and(Route::is_valid) {
                    self.route = socket.route(&self.flow?).ok();
                }
                let route = self.route.as_ref()?;
                if count > 1 && self.is_short(route) {
                    packet.keep_whole();
                }
                socket.send(packet, route, in_flight);
                Some(())
            })
        });
        self.port = known;
        let counter = match sent.flatten() {
            Some(()) => Counter::SentPackets,
            None => Counter::NoRoute,
        };
        device.counters.add(counter, count.into());
    }

    /// Whether a route ends right where it leaves the network namespace, at another device of ours.
    fn is_short(&self, route: &Route) -> bool {
        let is_there = |peer: &NetDevice| {
            let owner = peer.with_address(Gid(self.address.dgid).ip())?;
            let is_it = owner.ifindex() == peer.ifindex();
            (is_it && Device::<Ferroce>::from_netdev(peer).is_some()).then_some(())
        };
        route.with_peer(is_there).flatten().is_some()
    }

    /// Notes that packets were made.
    pub(super) fn made(&mut self, count: u16) {
        self.id = self.id.wrapping_add(count);
    }

    /// The IP header of the next packet, but for its length.
    pub(super) fn ip_header(&self) -> IpHeader {
        let Address {
            sgid,
            dgid,
            traffic_class,
            flow_label,
            hop_limit,
            ..
        } = self.address;
        // One that is zero would not get anywhere; many programs leave it so.
        let hop_limit = if hop_limit == 0 { 64 } else { hop_limit };
        match (Gid(sgid).ip(), Gid(dgid).ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = [0; 20];
                ip[0] = 0x45;
                ip[1] = traffic_class;
                ip[4..6].copy_from_slice(&self.id.to_be_bytes());
                ip[6..8].copy_from_slice(&DONT_FRAGMENT);
                ip[8] = hop_limit;
                ip[9] = UDP;
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
                IpHeader::V4(ip)
            }
            _ => {
                let mut ip = [0; 40];
                let first = 6 << 28 | u32::from(traffic_class) << 20 | flow_label & 0xf_ffff;
                ip[..4].copy_from_slice(&first.to_be_bytes());
                ip[6] = UDP;
                ip[7] = hop_limit;
                ip[8..24].copy_from_slice(&sgid);
                ip[24..40].copy_from_slice(&dgid);
                IpHeader::V6(ip)
            }
        }
    }

    /// The UDP header of a packet that carries so many bytes.
    pub(super) fn udp_header(&self, length: usize) -> [u8; 8] {
        let [a, b] = self.address.source_port().to_be_bytes();
        let [c, d] = UDP_PORT.to_be_bytes();
        let [e, f] = ((length + 8) as u16).to_be_bytes();
        // No checksum: the ICRC covers more.
        [a, b, c, d, e, f, 0, 0]
    }
}
