// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device's GIDs: the addresses of the host's interfaces.
//!
//! They are in the order that programs expect of a RoCE device:
//!
//! | index | address |
//! |---|---|
//! | 0 | link-local IPv6: the first interface's, or one made of the device's GUID |
//! | 1 | IPv4 of the first interface that has one |
//! | .. | all others, interface by interface: IPv4, then IPv6 |
//! | last | of the loopback interface: 127.0.0.1, ::1 |
//!
//! So without any network index 1 is 127.0.0.1. Interfaces that have a carrier come before those that have
//! none (a bridge without ports); those that are down do not count.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::InterfaceAddress;
use nix::net::if_::{if_nametoindex, InterfaceFlags};

/// How many a table has at most: a host with more interfaces than this has more of use than of these.
const MOST: usize = 128;

/// An entry of a port's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gid {
    pub address: Ipv6Addr,
    /// The interface that has the address.
    pub netdev: String,
}

impl Gid {
    /// As sysfs shows it.
    pub fn sysfs(&self) -> String {
        let groups = self.address.segments().map(|group| format!("{group:04x}"));
        groups.join(":")
    }
}

/// As people write it.
pub fn shown(gid: &Gid) -> String {
    match gid.address.to_ipv4_mapped() {
        Some(address) => address.to_string(),
        None => gid.address.to_string(),
    }
}

/// An address of an interface that is up.
#[derive(Debug, Clone)]
struct Address {
    address: IpAddr,
    netdev: String,
    index: u32,
    loopback: bool,
    carrier: bool,
}

impl Address {
    fn new(found: &InterfaceAddress) -> Option<Self> {
        if !found.flags.contains(InterfaceFlags::IFF_UP) {
            return None;
        }
        let storage = found.address.as_ref()?;
        let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))?;
        Some(Self {
            address,
            index: if_nametoindex(found.interface_name.as_str()).unwrap_or(u32::MAX),
            netdev: found.interface_name.clone(),
            loopback: found.flags.contains(InterfaceFlags::IFF_LOOPBACK),
            carrier: found.flags.contains(InterfaceFlags::IFF_RUNNING),
        })
    }

    fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }

    fn gid(&self) -> Gid {
        Gid {
            address: match self.address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            },
            netdev: self.netdev.clone(),
        }
    }
}

/// The table for a device with this GUID.
pub fn table(guid: u64) -> Vec<Gid> {
    // A host that does not tell its addresses has its loopback interface's.
    let found = nix::ifaddrs::getifaddrs();
    let found = found.into_iter().flatten();
    order(found.filter_map(|a| Address::new(&a)).collect(), guid)
}

fn order(mut addresses: Vec<Address>, guid: u64) -> Vec<Gid> {
    let rank = |address: &Address| match address.address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    };
    // It is stable: the addresses of an interface stay in the kernel's order, a primary one first.
    addresses.sort_by_key(|a| (a.loopback, !a.carrier, a.index, rank(a)));
    let (loopback, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.loopback);

    let link_local = others.iter().find(|a| a.is_link_local()).map(Address::gid);
    let netdev = others.first().or(loopback.first());
    let first = link_local.unwrap_or_else(|| Gid {
        address: default_gid(guid),
        netdev: netdev.map_or("lo", |a| &a.netdev).to_owned(),
    });
    let second = others.iter().find(|a| a.address.is_ipv4());

    let mut gids = vec![first];
    let mut add = |gid: Gid| {
        // An address that two interfaces have is one.
        if !gids.iter().any(|have| have.address == gid.address) {
            gids.push(gid);
        }
    };
    let others = second.into_iter().chain(&others).take(MOST);
    others.map(Address::gid).for_each(&mut add);
    loopback.iter().map(Address::gid).for_each(&mut add);
    for address in [Ipv4Addr::LOCALHOST.to_ipv6_mapped(), Ipv6Addr::LOCALHOST] {
        let netdev = "lo".to_owned();
        add(Gid { address, netdev });
    }
    gids
}

/// What a port without an address has: fe80::/64 and its GUID (IBTA 4.1.1).
fn default_gid(guid: u64) -> Ipv6Addr {
    Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(guid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: u64 = 0x0211_2233_4455_6677;

    fn address(netdev: &str, index: u32, address: &str) -> Address {
        Address {
            address: address.parse().unwrap(),
            netdev: netdev.to_owned(),
            index,
            loopback: netdev == "lo",
            carrier: netdev != "docker0",
        }
    }

    fn ordered(addresses: &[Address]) -> Vec<String> {
        let gids = order(addresses.to_vec(), GUID);
        let texts = gids
            .iter()
            .map(|gid| format!("{} {}", gid.netdev, shown(gid)));
        texts.collect()
    }

    #[test]
    fn link_local_comes_first_and_loopback_last() {
        let addresses = [
            address("lo", 1, "127.0.0.1"),
            address("lo", 1, "::1"),
            address("docker0", 2, "172.17.0.1"),
            address("eth0", 3, "192.0.2.2"),
            address("eth0", 3, "2001:db8::2"),
            address("eth0", 3, "fe80::1"),
            address("eth1", 4, "198.51.100.1"),
            address("eth1", 4, "fe80::2"),
        ];
        let expected = [
            "eth0 fe80::1",
            "eth0 192.0.2.2",
            "eth0 2001:db8::2",
            "eth1 198.51.100.1",
            "eth1 fe80::2",
            "docker0 172.17.0.1",
            "lo 127.0.0.1",
            "lo ::1",
        ];
        assert_eq!(ordered(&addresses), expected);
    }

    #[test]
    fn without_a_network_there_is_the_loopback_interface() {
        let expected = ["lo fe80::211:2233:4455:6677", "lo 127.0.0.1", "lo ::1"];
        assert_eq!(ordered(&[]), expected);
        assert_eq!(ordered(&[address("lo", 1, "127.0.0.1")]), expected);
    }

    #[test]
    fn an_interface_without_ipv6_lends_its_name_to_the_default_gid() {
        let addresses = [address("lo", 1, "::1"), address("eth0", 2, "192.0.2.2")];
        let gids = ordered(&addresses);
        assert_eq!(
            gids[..2],
            ["eth0 fe80::211:2233:4455:6677", "eth0 192.0.2.2"]
        );
    }

    #[test]
    fn an_address_is_there_once() {
        let addresses = [
            address("eth0", 2, "192.0.2.2"),
            address("eth1", 3, "192.0.2.2"),
        ];
        assert_eq!(ordered(&addresses).len(), 4);
    }

    #[test]
    fn many_interfaces_leave_room_for_loopback() {
        let many = (0..1000).map(|i| {
            let text = Ipv4Addr::from(0x0a00_0000 + i).to_string();
            address("veth", i, &text)
        });
        let gids = ordered(&many.collect::<Vec<_>>());
        assert!(gids.len() <= MOST + 3);
        assert_eq!(gids[gids.len() - 2..], ["lo 127.0.0.1", "lo ::1"]);
    }

    #[test]
    fn sysfs_has_eight_groups() {
        let gid = &order(Vec::new(), GUID)[1];
        assert_eq!(gid.sysfs(), "0000:0000:0000:0000:0000:ffff:7f00:0001");
    }
}
