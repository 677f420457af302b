// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, routes, and groups of an id.

use core::time::Duration;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::abi::{event, ps, qp_type};
use super::address::Address;
use super::connect::UDP_QKEY;
use super::devices::is_of_host;
use super::events::Told;
use super::id::{Group, Id, Path, State};
use super::{Channel, Manager, Timer, EVENTS};
use crate::{Errno, Result};

use ferroce_core::verbs::Mtu;

/// The lifetime of a packet over RoCE, as 4.096 µs · 2^n (`CMA_IBOE_PACKET_LIFETIME`).
const PACKET_LIFE_TIME: u8 = 16;
/// As a host sends IP packets by default.
const HOP_LIMIT: u8 = 64;
/// The queue pair that is all members of a group.
const MULTICAST_QPN: u32 = 0xff_ffff;

impl Manager {
    /// Finds the device that an id's own address is of.
    fn acquire_device(&mut self, number: usize) -> Result<()> {
        let id = &self.ids[number];
        if id.ps == ps::IPOIB {
            return Err(Errno(libc::EINVAL));
        }
        let src = id.src.ok_or(Errno(libc::ENODEV))?;
        let file = self.files.get(&id.channel).ok_or(Errno(libc::EBADF))?;
        let found = file.devices.find(&src, id.link);
        self.ids[number].device = Some(found.ok_or(Errno(libc::ENODEV))?);
        Ok(())
    }

    /// Bind: gives an id an address and a port of its own.
    pub(super) fn bind(&mut self, number: usize, address: Address) -> Result<()> {
        let id = &mut self.ids[number];
        if id.state != State::Idle {
            return Err(Errno(libc::EINVAL));
        }
        let link = address.link().map_err(|()| Errno(libc::EINVAL))?;
        if link != 0 {
            id.link = link;
        }
        let before = id.src.replace(address);
        let bound = self.bind_there(number, address);
        let id = &mut self.ids[number];
        match bound {
            Ok(()) => id.state = State::AddrBound,
            Err(_) => (id.src, id.device) = (before, None),
        }
        bound
    }

    fn bind_there(&mut self, number: usize, address: Address) -> Result<()> {
        if !address.is_any() {
            self.acquire_device(number)
                .map_err(|error| match address.ip() {
                    Some(ip) if error == Errno(libc::ENODEV) && !is_of_host(ip) => {
                        Errno(libc::EADDRNOTAVAIL)
                    }
                    _ => error,
                })?;
        }
        let id = &mut self.ids[number];
        if !id.afonly_set {
            id.afonly = match address {
                Address::V4(_) => true,
                Address::V6(_) => is_v6_only(),
                Address::Ib(_) => id.afonly,
            };
        }
        self.ports.bind(&mut self.ids, number)
    }

    /// Resolve Address: finds the address to reach another from, and the device.
    pub(super) fn resolve_address(
        &mut self,
        number: usize,
        src: Option<Address>,
        dst: Address,
        timeout_ms: u32,
    ) -> Result<()> {
        if self.ids[number].state == State::AddrBound {
            self.ids[number].dst = Some(dst);
        } else {
            let before = self.ids[number].dst.replace(dst);
            if let Ok(link @ 1..) = dst.link() {
                self.ids[number].link = link;
            }
            let bound = self.bind(number, src.unwrap_or_else(|| Address::any_for(&dst)));
            if bound.is_err() {
                self.ids[number].dst = before;
                return bound;
            }
        }
        let src = self.ids[number].src.ok_or(Errno(libc::EINVAL))?;
        if !src.is_like(&dst) {
            return Err(Errno(libc::EINVAL));
        }
        self.ids[number].state = State::AddrQuery;
        let resolved = self.find_way(number, src, dst, timeout_ms);
        if resolved.is_err() && self.ids[number].state == State::AddrQuery {
            self.ids[number].state = State::AddrBound;
        }
        resolved
    }

    fn find_way(
        &mut self,
        number: usize,
        src: Address,
        dst: Address,
        timeout_ms: u32,
    ) -> Result<()> {
        let id = &self.ids[number];
        let file = self.files.get(&id.channel).ok_or(Errno(libc::EBADF))?;
        let devices = file.devices.clone();
        let loopback = match dst {
            Address::V4(_) => dst.with_ip(Ipv4Addr::LOCALHOST.into()),
            Address::V6(_) => dst.with_ip(Ipv6Addr::LOCALHOST.into()),
            // There is none on RoCE.
            Address::Ib(_) => return Err(Errno(libc::ENODEV)),
        };
        let dst = if dst.is_any() { loopback } else { dst };
        let Some(ip) = dst.ip() else {
            return Err(Errno(libc::ENODEV));
        };
        let is_here = dst.is_loopback() || devices.find(&dst, id.link).is_some();
        if !is_here && !dst.is_multicast() {
            // No packet goes to another host: it is as if nobody answered there.
            devices.source(ip, id.link)?;
            let after = Duration::from_millis(timeout_ms.into());
            self.set_timer(number, after, Timer::Address);
            return Ok(());
        }
        let own = match (src.is_any(), is_here) {
            (false, _) => src,
            // From the address itself.
            (true, true) => src.with_ip(ip),
            (true, false) => src.with_ip(devices.source(ip, id.link)?),
        };
        let id = &mut self.ids[number];
        id.dst = Some(dst);
        id.src = Some(own);
        let acquired = match id.device {
            Some(_) => Ok(()),
            None => self.acquire_device(number),
        };
        if let Err(Errno(errno)) = acquired {
            let id = &mut self.ids[number];
            (id.src, id.state) = (Some(src), State::AddrBound);
            self.raise(number, event::ADDR_ERROR, Told::status(-errno));
            return Ok(());
        }
        self.ids[number].state = State::AddrResolved;
        self.raise(number, event::ADDR_RESOLVED, Told::nothing());
        Ok(())
    }

    /// Nobody has answered at an address.
    pub(super) fn address_timed_out(&mut self, number: usize) {
        let id = &mut self.ids[number];
        if id.state == State::AddrQuery {
            id.state = State::AddrBound;
            self.raise(number, event::ADDR_ERROR, Told::status(-libc::ETIMEDOUT));
        }
    }

    /// Resolve Route.
    pub(super) fn resolve_route(&mut self, number: usize, timeout_ms: u32) -> Result<()> {
        let id = &mut self.ids[number];
        if timeout_ms == 0 || id.state != State::AddrResolved {
            return Err(Errno(libc::EINVAL));
        }
        let (Some(src), Some(dst)) = (id.src, id.dst) else {
            return Err(Errno(libc::EINVAL));
        };
        let packet_life_time = match id.ack_timeout {
            Some(timeout @ 1..) => timeout - 1,
            _ => PACKET_LIFE_TIME,
        };
        id.path = Some(Path {
            sgid: src.gid(),
            dgid: dst.gid(),
            flow_label: flow_label(&src, &dst),
            hop_limit: HOP_LIMIT,
            traffic_class: id.tos.unwrap_or(0),
            sl: 0,
            mtu: u32::from(Mtu::B4096) as u8,
            rate: 0,
            packet_life_time: packet_life_time.min(31),
        });
        id.state = State::RouteResolved;
        self.raise(number, event::ROUTE_RESOLVED, Told::nothing());
        Ok(())
    }

    /// Set Option, of a path.
    pub(super) fn set_path(&mut self, number: usize, path: Path) -> Result<()> {
        let id = &mut self.ids[number];
        if id.device.is_none() || id.state != State::AddrResolved {
            return Err(Errno(libc::EINVAL));
        }
        id.path = Some(path);
        id.state = State::RouteResolved;
        self.raise(number, event::ROUTE_RESOLVED, Told::nothing());
        Ok(())
    }

    /// Listen.
    pub(super) fn listen(&mut self, number: usize, backlog: u32) -> Result<()> {
        if self.ids[number].state != State::AddrBound {
            self.bind(number, Address::any_v4())?;
        }
        let id = &self.ids[number];
        if let (true, Some(ps), Some(src)) = (id.reuseaddr, id.bound, id.src) {
            self.ports.check(&self.ids, number, ps, src.port(), false)?;
            self.ids[number].reuseaddr = false;
        }
        let id = &mut self.ids[number];
        id.backlog = backlog;
        id.state = State::Listen;
        Ok(())
    }

    /// Join Multicast. Returns the number of the membership.
    pub(super) fn join(
        &mut self,
        channel: Channel,
        number: usize,
        address: Address,
        uid: u64,
    ) -> Result<usize> {
        if self.event_count(channel) >= EVENTS {
            return Err(Errno(libc::ENOMEM));
        }
        let id = &mut self.ids[number];
        let is_ready = matches!(id.state, State::AddrBound | State::AddrResolved);
        let device = id.device.as_ref().map(|(_, index)| *index);
        let index = device.ok_or(Errno(libc::EINVAL))?;
        if !is_ready || id.qp_type != qp_type::UD || address.is_any() {
            return Err(Errno(libc::EINVAL));
        }
        if address.ip().is_none() || id.groups.len() >= EVENTS {
            return Err(Errno(libc::ENODEV));
        }
        set_default_qkey(id);
        let path = Path {
            dgid: address.gid(),
            sgid: [0; 16],
            flow_label: 0,
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
            sl: 0,
            mtu: 0,
            rate: 0,
            packet_life_time: 0,
        };
        let told = Told::datagrams(path.ah_attr(index), MULTICAST_QPN, id.qkey, &[], 0);
        let group = self.groups.insert(Group {
            id: number,
            uid,
            events_reported: 0,
        });
        self.ids[number].groups.push(group);
        self.raise_joined(group, told);
        Ok(group)
    }

    /// Leave Multicast. Returns how many events the program has had of it.
    pub(super) fn leave(&mut self, channel: Channel, number: u32) -> Result<u32> {
        let group = number as usize;
        let id = self.groups.get(group).ok_or(Errno(libc::ENOENT))?.id;
        if self.ids[id].channel != channel {
            return Err(Errno(libc::EINVAL));
        }
        self.ids[id].groups.retain(|joined| *joined != group);
        self.take_group_events(id, group);
        Ok(self.groups.remove(group).events_reported)
    }
}

/// The Q_Key of an id that has none yet.
pub fn set_default_qkey(id: &mut Id) {
    if id.qkey == 0 && id.ps != ps::IPOIB {
        id.qkey = UDP_QKEY;
    }
}

/// What tells the flows of one pair of hosts apart, as Linux makes it of the ports.
fn flow_label(src: &Address, dst: &Address) -> u32 {
    const MASK: u32 = 0xf_ffff;
    let own = match src {
        Address::V6(address) => u32::from_be(address.flowinfo()) & MASK,
        _ => 0,
    };
    match own {
        0 => (u32::from(src.port()) * 31 + u32::from(dst.port())) & MASK,
        own => own,
    }
}

/// Whether the wildcard address of IPv6 is not that of IPv4 too.
fn is_v6_only() -> bool {
    let text = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
    text.is_ok_and(|text| text.trim() == "1")
}
