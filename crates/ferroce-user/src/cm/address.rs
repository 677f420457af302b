// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses of ids: IPv4, IPv6, and those of InfiniBand, of which there is only the wildcard on RoCE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use zerocopy::IntoBytes;

use super::abi::{parse, ps, structures, LongAddress, ShortAddress};

/// `AF_IB`.
const AF_IB: u16 = 27;

structures! {
    SockaddrIn { family: u16, port: [u8; 2], addr: [u8; 4], zero: [u8; 8], }
    SockaddrIn6 { family: u16, port: [u8; 2], flowinfo: u32, addr: [u8; 16], scope_id: u32, }
    /// `struct sockaddr_ib`.
    SockaddrIb {
        family: u16, pkey: u16, flowinfo: u32, addr: [u8; 16], sid: [u8; 8], sid_mask: [u8; 8],
        scope_id: u64,
    }
}

/// An address with a port.
#[derive(Clone, Copy, Debug)]
pub enum Address {
    V4(SocketAddrV4),
    V6(SocketAddrV6),
    Ib(SockaddrIb),
}

/// An address with its length in bytes, if its family is one of those that are known.
pub fn read(bytes: &[u8]) -> Option<(Address, usize)> {
    let family: u16 = parse(bytes);
    match i32::from(family) {
        libc::AF_INET => {
            let read: SockaddrIn = parse(bytes);
            let port = u16::from_be_bytes(read.port);
            let address = SocketAddrV4::new(read.addr.into(), port);
            Some((Address::V4(address), size_of::<SockaddrIn>()))
        }
        libc::AF_INET6 => {
            let read: SockaddrIn6 = parse(bytes);
            let port = u16::from_be_bytes(read.port);
            let address = SocketAddrV6::new(read.addr.into(), port, read.flowinfo, read.scope_id);
            Some((Address::V6(address), size_of::<SockaddrIn6>()))
        }
        _ if family == AF_IB => {
            let read: SockaddrIb = parse(bytes);
            Some((Address::Ib(read), size_of::<SockaddrIb>()))
        }
        _ => None,
    }
}

/// An address that fits where an IPv6 one does.
pub fn read_short(bytes: &ShortAddress) -> Option<Address> {
    let (address, length) = read(bytes)?;
    (length <= bytes.len()).then_some(address)
}

/// An address whose length is said to be this.
pub fn read_long(bytes: &LongAddress, length: u16) -> Option<Address> {
    let (address, is) = read(bytes)?;
    (is == usize::from(length)).then_some(address)
}

impl Address {
    /// The wildcard address of the family of another, on the interface that a link-local one is on.
    pub fn any_for(other: &Self) -> Self {
        match other {
            Self::V4(_) => Self::any_v4(),
            Self::V6(other) => {
                let any = Ipv6Addr::UNSPECIFIED;
                Self::V6(SocketAddrV6::new(any, 0, 0, other.scope_id()))
            }
            Self::Ib(other) => {
                let (family, pkey) = (AF_IB, other.pkey);
                Self::Ib(SockaddrIb {
                    family,
                    pkey,
                    ..super::abi::zeroed()
                })
            }
        }
    }

    pub fn any_v4() -> Self {
        Self::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))
    }

    /// The IP address. `None` of InfiniBand.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::V4(address) => Some((*address.ip()).into()),
            Self::V6(address) => Some((*address.ip()).into()),
            Self::Ib(_) => None,
        }
    }

    /// With another IP address of the same family.
    pub fn with_ip(mut self, ip: IpAddr) -> Self {
        match (&mut self, ip) {
            (Self::V4(address), IpAddr::V4(ip)) => address.set_ip(ip),
            (Self::V6(address), IpAddr::V6(ip)) => address.set_ip(ip),
            _ => {}
        }
        self
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::V4(address) => address.port(),
            Self::V6(address) => address.port(),
            Self::Ib(address) => {
                let [sid, mask] = [address.sid, address.sid_mask].map(u64::from_be_bytes);
                (sid & mask) as u16
            }
        }
    }

    pub fn set_port(&mut self, port: u16) {
        match self {
            Self::V4(address) => address.set_port(port),
            Self::V6(address) => address.set_port(port),
            Self::Ib(address) => {
                let [sid, mask] = [address.sid, address.sid_mask].map(u64::from_be_bytes);
                address.sid = (sid & mask | u64::from(port)).to_be_bytes();
                address.sid_mask = [0xff; 8];
            }
        }
    }

    /// The interface that a link-local address is on. `Err` if that is not told.
    pub fn link(&self) -> Result<u32, ()> {
        match self {
            Self::V6(address) if address.ip().is_unicast_link_local() => match address.scope_id() {
                0 => Err(()),
                scope => Ok(scope),
            },
            _ => Ok(0),
        }
    }

    /// Whether it stands for all addresses (`ipv4_is_zeronet` in Linux).
    pub fn is_any(&self) -> bool {
        match self {
            Self::V4(address) => address.ip().octets()[0] == 0,
            Self::V6(address) => address.ip().is_unspecified(),
            Self::Ib(address) => address.addr == [0; 16],
        }
    }

    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_loopback())
    }

    pub fn is_multicast(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_multicast())
    }

    /// Whether the families are the same.
    pub fn is_like(&self, other: &Self) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other)
    }

    /// Whether both are the same but for the port.
    pub fn is_same_host(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ib(one), Self::Ib(other)) => one.addr == other.addr,
            _ => self.ip().is_some() && self.ip() == other.ip() && self.link() == other.link(),
        }
    }

    /// The GID: an IPv4 address is mapped (IBTA annex A17). All of 127.0.0.0/8 is the host, and has one.
    pub fn gid(&self) -> [u8; 16] {
        match self {
            Self::V4(address) if address.ip().is_loopback() => {
                Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets()
            }
            Self::V4(address) => address.ip().to_ipv6_mapped().octets(),
            Self::V6(address) => address.ip().octets(),
            Self::Ib(address) => address.addr,
        }
    }

    /// The service that a port of a port space is (IBTA annex A11), in the order of bytes of the network.
    pub fn service_id(&self, ps: u16) -> [u8; 8] {
        match self {
            Self::Ib(address) => address.sid,
            _ => (u64::from(ps) << 16 | u64::from(self.port())).to_be_bytes(),
        }
    }

    /// Its bytes, and how many there are.
    pub fn write<const N: usize>(&self) -> ([u8; N], u16) {
        let mut bytes = [0; N];
        let mut put = |address: &[u8]| {
            // One of InfiniBand's does not fit where an IPv6 one does: as much of it as Linux shows.
            let length = address.len().min(N);
            bytes[..length].copy_from_slice(&address[..length]);
            length as u16
        };
        let length = match self {
            Self::V4(address) => put(SockaddrIn {
                family: libc::AF_INET as u16,
                port: address.port().to_be_bytes(),
                addr: address.ip().octets(),
                zero: [0; 8],
            }
            .as_bytes()),
            Self::V6(address) => put(SockaddrIn6 {
                family: libc::AF_INET6 as u16,
                port: address.port().to_be_bytes(),
                flowinfo: address.flowinfo(),
                addr: address.ip().octets(),
                scope_id: address.scope_id(),
            }
            .as_bytes()),
            Self::Ib(address) => put(address.as_bytes()),
        };
        (bytes, length)
    }

    /// As an address of InfiniBand, of a GID.
    pub fn to_ib(self, ps: u16, gid: [u8; 16]) -> Self {
        match self {
            Self::Ib(_) => self,
            _ => Self::Ib(SockaddrIb {
                family: AF_IB,
                pkey: 0xffff,
                addr: gid,
                sid: self.service_id(ps),
                ..super::abi::zeroed()
            }),
        }
    }

    /// The port space that an id of a port space has its port in; of InfiniBand the service tells, which is
    /// filled in.
    pub fn select_ps(&mut self, own: u16) -> Option<u16> {
        let Self::Ib(address) = self else {
            return Some(own);
        };
        const IP_PS_MASK: u64 = 0xffff_ffff_ffff_0000;
        let [sid, sid_mask] = [address.sid, address.sid_mask].map(u64::from_be_bytes);
        let mask = sid_mask & IP_PS_MASK;
        let mut candidates = [ps::IB, ps::TCP, ps::UDP].into_iter();
        let found = candidates.find(|ps| {
            let may = own == ps::IB || own == *ps;
            may && sid & mask == u64::from(*ps) << 16 & mask
        })?;
        let port = self.port();
        if let Self::Ib(address) = self {
            address.sid = (u64::from(found) << 16 | u64::from(port)).to_be_bytes();
            address.sid_mask = (IP_PS_MASK | sid_mask).to_be_bytes();
        }
        Some(found)
    }
}
