// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices that a channel's program sees, with their addresses; and which of its addresses the host would
//! send from.

use std::ffi::CString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::address::Address;
use crate::device::guid;

/// A device.
#[derive(Debug, PartialEq, Eq)]
pub struct Device {
    /// Its GUID.
    pub guid: u64,
    gids: Vec<Gid>,
}

/// An entry of a device's table.
#[derive(Debug, PartialEq, Eq)]
struct Gid {
    address: Ipv6Addr,
    /// The index of the interface that has the address.
    link: u32,
}

/// The devices of a program, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Devices(Vec<Arc<Device>>);

/// How many entries a device's table has at most: an index has 8 bits.
const GIDS: usize = 256;

impl Devices {
    /// Those of a folder that `ferroce run` has made.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(folder.join("devices/ferroce"))? {
            let place = entry?.path();
            let only = |class: &str| -> Option<PathBuf> {
                Some(fs::read_dir(place.join(class)).ok()?.next()?.ok()?.path())
            };
            let (Some(device), Some(verbs)) = (only("infiniband"), only("infiniband_verbs")) else {
                continue;
            };
            let name = verbs.file_name().unwrap_or_default().to_string_lossy();
            let number: u32 = name
                .trim_start_matches("uverbs")
                .parse()
                .unwrap_or(u32::MAX);
            devices.push((number, Device::read(&device)));
        }
        devices.sort_by_key(|(number, _)| *number);
        let devices = devices.into_iter().map(|(_, device)| Arc::new(device));
        Ok(Self(devices.collect()))
    }

    /// The first device.
    pub fn first(&self) -> Option<&Arc<Device>> {
        self.0.first()
    }

    /// The first device that has an address, on an interface if that is not zero, and the index there.
    pub fn find(&self, address: &Address, link: u32) -> Option<(Arc<Device>, u8)> {
        // InfiniBand's addresses are not RoCE's.
        address.ip()?;
        let wanted = Ipv6Addr::from(address.gid());
        let is = |gid: &Gid| gid.address == wanted && (link == 0 || gid.link == link);
        self.0.iter().find_map(|device| {
            let index = device.gids.iter().position(is)?;
            Some((device.clone(), u8::try_from(index).ok()?))
        })
    }

    /// An address to send from where the host knows no way.
    fn any(&self, like: IpAddr) -> Option<IpAddr> {
        let gids = &self.first()?.gids;
        let mut ips = gids.iter().rev().map(|gid| gid.address.to_canonical());
        ips.find(|ip| ip.is_ipv4() == like.is_ipv4())
    }

    /// The address that a packet for another host, or a group, would be sent from.
    pub fn source(&self, to: IpAddr, link: u32) -> io::Result<IpAddr> {
        let found = route(to, link);
        match found {
            // Without a network there are groups on the loopback interface still.
            Err(_) if to.is_multicast() => {
                let none = || io::Error::from_raw_os_error(libc::ENODEV);
                self.any(to).ok_or_else(none)
            }
            found => found,
        }
    }
}

impl Device {
    fn read(folder: &Path) -> Self {
        let port = folder.join("ports/1");
        let read = |name: String| fs::read_to_string(port.join(name)).ok();
        let mut gids = Vec::new();
        while gids.len() < GIDS {
            let index = gids.len();
            let Some(address) = read(format!("gids/{index}")) else {
                break;
            };
            let netdev = read(format!("gid_attrs/ndevs/{index}")).unwrap_or_default();
            gids.push(Gid {
                address: address.trim().parse().unwrap_or(Ipv6Addr::UNSPECIFIED),
                link: interface(netdev.trim()),
            });
        }
        Self {
            guid: guid(folder),
            gids,
        }
    }

    #[cfg(test)]
    pub fn with(guid: u64, addresses: &[Ipv6Addr]) -> Devices {
        let gid = |address: &Ipv6Addr| Gid {
            address: *address,
            link: 1,
        };
        let gids = addresses.iter().map(gid).collect();
        Devices(vec![Arc::new(Self { guid, gids })])
    }
}

/// The index of an interface; zero if there is none of the name.
fn interface(name: &str) -> u32 {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: The name is a C string.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

/// The address that the host would send from. Nothing is sent.
fn route(to: IpAddr, link: u32) -> io::Result<IpAddr> {
    const DISCARD: u16 = 9;
    let (any, to): (IpAddr, SocketAddr) = match to {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), (to, DISCARD).into()),
        IpAddr::V6(ip) => {
            let to = SocketAddrV6::new(ip, DISCARD, 0, link);
            (Ipv6Addr::UNSPECIFIED.into(), to.into())
        }
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    Ok(socket.local_addr()?.ip())
}

/// Whether an address is one of the host's, of a device or not.
pub fn is_of_host(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}
