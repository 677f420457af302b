// SPDX-License-Identifier: GPL-2.0

//! How packets get to a peer.

use super::{port::Sockets, receive::Incoming, UDP_PORT};
use crate::{
    counter::PortCounter as Counter,
    device::{Ferroce, KnownPort},
    net::{
        route::{With, UDP},
        skb::UDP_HEADER,
        Flow, InFlight, IpHeader, Packet, Route, UdpSocket,
    },
    rdma::{Device, Gid, GidType, NetDevice},
    wire::icrc::Preceding,
};
use core::net::IpAddr;
use kernel::sync::rcu;

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

    /// The IP header of a packet, but for its length. Packets that are not to be cut up need no
    /// identification of their own (RFC 6864, section 4.1).
    fn ip_header(&self) -> IpHeader {
        // One that is zero would not get anywhere; many programs leave it so.
        let hop_limit = match self.hop_limit {
            0 => 64,
            limit => limit,
        };
        match (Gid(self.sgid).ip(), Gid(self.dgid).ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut ip = [0; 20];
                ip[0] = 0x45;
                ip[1] = self.traffic_class;
                ip[6..8].copy_from_slice(&DONT_FRAGMENT);
                ip[8] = hop_limit;
                ip[9] = UDP;
                ip[12..16].copy_from_slice(&source.octets());
                ip[16..20].copy_from_slice(&destination.octets());
                IpHeader::V4(ip)
            }
            _ => {
                let mut ip = [0; 40];
                let traffic_class = u32::from(self.traffic_class);
                let first = 6 << 28 | traffic_class << 20 | self.flow_label;
                ip[..4].copy_from_slice(&first.to_be_bytes());
                ip[6] = UDP;
                ip[7] = hop_limit;
                ip[8..24].copy_from_slice(&self.sgid);
                ip[24..40].copy_from_slice(&self.dgid);
                IpHeader::V6(ip)
            }
        }
    }

    /// Its UDP header, but for the length. It has no checksum: the ICRC covers more.
    fn udp_header(&self) -> [u8; UDP_HEADER] {
        let [a, b] = self.source_port().to_be_bytes();
        let [c, d] = UDP_PORT.to_be_bytes();
        [a, b, c, d, 0, 0, 0, 0]
    }
}

/// What the route between two addresses is looked for by; `None` if the device does not have the first one.
fn flow(device: &Device<Ferroce>, address: &Address) -> Option<Flow> {
    let gid = Gid(address.sgid);
    let netdev = device.find_gid(&gid, GidType::RoceV2, 1)?.netdev()?;
    let with = With {
        ifindex: netdev.ifindex(),
        traffic_class: address.traffic_class,
        flow_label: address.flow_label,
        ports: (address.source_port(), UDP_PORT),
    };
    Flow::new(gid.ip(), Gid(address.dgid).ip(), with)
}

/// The way to a peer.
pub(crate) struct Path {
    address: Address,
    /// What the route is looked for by; `None` if the device does not have the source address.
    flow: Option<Flow>,
    /// How many [addresses the device had lost](Ferroce::gids_removed) when it was found to have that one.
    gids_removed: u32,
    route: Option<Route>,
    port: KnownPort,
    /// The headers of a packet, but for its length.
    ip: IpHeader,
    udp: [u8; UDP_HEADER],
    /// What precedes the BTH of the last packet that came alone or first, and how long that was: most are
    /// as long as the one before.
    preceding: Option<(usize, Preceding)>,
}

impl Path {
    /// From one of the device's addresses to another.
    pub(crate) fn new(address: Address) -> Self {
        Self {
            address,
            flow: None,
            gids_removed: 0,
            route: None,
            port: KnownPort::default(),
            ip: address.ip_header(),
            udp: address.udp_header(),
            preceding: None,
        }
    }

    /// Whether it is that of an address.
    pub(crate) fn is_to(&self, address: &Address) -> bool {
        self.address == *address
    }

    /// Looks for the source address, unless the device is known to have it still. IPv4 finds no route from an
    /// address that is not there, but IPv6 does.
    fn refresh(&mut self, device: &Device<Ferroce>) {
        // Taken down before the address is looked for.
        let gids_removed = device.gids_removed();
        if self.flow.is_none() || self.gids_removed != gids_removed {
            self.flow = flow(device, &self.address);
            self.gids_removed = gids_removed;
            self.route = None;
        }
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
        self.refresh(device);
        let mut known = core::mem::take(&mut self.port);
        let port = device.port(&mut known);
        let guard = rcu::read_lock();
        let sent = port.and_then(|port| {
            let socket = self.socket(port.sockets(&guard)?)?;
            if !self.route.as_ref().is_some_and(Route::is_valid) {
                self.route = socket.route(&self.flow?).ok();
            }
            let route = self.route.as_ref()?;
            if count > 1 && self.is_short(route) {
                packet.keep_whole();
            }
            socket.send(packet, route, super::own_priority(), in_flight, &guard);
            Some(())
        });
        drop(guard);
        self.port = known;
        let counter = match sent {
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

    /// The headers of a packet that carries so many bytes behind them: of one that goes alone, or of this
    /// one of those that go as one.
    pub(super) fn headers(&self, index: u16, length: usize) -> (IpHeader, [u8; UDP_HEADER]) {
        let mut udp = self.udp;
        udp[4..6].copy_from_slice(&((length + UDP_HEADER) as u16).to_be_bytes());
        (self.ip.segment(index, length), udp)
    }

    /// The same, as the ICRC has them.
    pub(super) fn preceding(&mut self, index: u16, length: usize) -> Preceding {
        match self.preceding {
            Some((known, preceding)) if index == 0 && known == length => preceding,
            _ => {
                let (ip, udp) = self.headers(index, length);
                let preceding = preceding(&ip, &udp);
                if index == 0 {
                    self.preceding = Some((length, preceding));
                }
                preceding
            }
        }
    }
}

/// Headers as the ICRC has them.
pub(super) fn preceding(ip: &IpHeader, udp: &[u8; UDP_HEADER]) -> Preceding {
    match ip {
        IpHeader::V4(ip) => Preceding::ipv4(ip, udp),
        IpHeader::V6(ip) => Preceding::ipv6(ip, udp),
    }
}
