// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the devices are that are measured: both ends of a connection on one
//! host, or on two, that is in two network namespaces with a pair of virtual
//! Ethernet devices between them.

use std::ffi::OsString;
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use ferroce_lab::prerequisites::find_program;
use rustix::fd::AsFd;
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};

use super::measure::Device;
use super::perftest::{Pair, Side, LIMIT, PORT};
use crate::link::{gid, Nldev};

/// The client's device, which is the server's as well if there is one host.
pub const DEVICE: &str = "bench";

/// A host.
struct Host {
    /// Its network namespace, if that is not the guest's own.
    namespace: Option<&'static str>,
    netdev: &'static str,
    address: &'static str,
    device: &'static str,
    nldev: Nldev,
}

/// One host, or two.
pub struct Network {
    client: Host,
    /// `None` if the server is on the same one.
    server: Option<Host>,
}

impl Network {
    /// One host, with a network interface that leads nowhere.
    pub fn of_one(mtu: u32) -> Result<Self> {
        let client = Host {
            namespace: None,
            netdev: "bench0",
            address: "10.0.0.1",
            device: DEVICE,
            nldev: Nldev::open()?,
        };
        let mtu = mtu.to_string();
        let kind = ["mtu", &mtu, "type", "dummy"];
        ip(&[&["link", "add", client.netdev], &kind[..]].concat())?;
        client.set_up()?;
        Ok(Self {
            client,
            server: None,
        })
    }

    /// Two hosts, with a wire between them.
    pub fn of_two(mtu: u32) -> Result<Self> {
        let host = |namespace, netdev, address, device| -> Result<Host> {
            ip(&["netns", "add", namespace])?;
            Ok(Host {
                namespace: Some(namespace),
                netdev,
                address,
                device,
                nldev: nldev_in(namespace)?,
            })
        };
        let client = host("client", "bench0", "10.0.0.1", DEVICE)?;
        let server = host("server", "bench1", "10.0.0.2", "peer")?;
        let mtu = mtu.to_string();
        let one = ["link", "add", client.netdev, "netns", "client"];
        let other = ["peer", "name", server.netdev, "netns", "server"];
        let kind = ["mtu", &mtu, "type", "veth"];
        ip(&[&one[..], &kind, &other, &["mtu", &mtu]].concat())?;
        client.set_up()?;
        server.set_up()?;
        Ok(Self {
            client,
            server: Some(server),
        })
    }

    fn server(&self) -> &Host {
        self.server.as_ref().unwrap_or(&self.client)
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.client).chain(&self.server)
    }
}

impl Host {
    /// Gives the network interface its address, and has it go up.
    fn set_up(&self) -> Result<()> {
        let inside: &[&str] = match &self.namespace {
            Some(namespace) => &["-n", namespace],
            None => &[],
        };
        let address = format!("{}/24", self.address);
        ip(&[inside, &["addr", "add", &address, "dev", self.netdev]].concat())?;
        ip(&[inside, &["link", "set", self.netdev, "up"]].concat())
    }

    /// Adds a device, and waits for its address. Returns the index of its GID.
    fn add_device(&self, kind: &str) -> Result<u32> {
        self.nldev
            .new_link(self.device, kind, self.netdev)
            .map_err(|r| r.reason)
            .with_context(|| format!("cannot make a device of type {kind}"))?;
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let gids = gid::table(self.device, 1)?;
            if let Some(gid) = gids.iter().find(|g| g.address() == self.address) {
                return Ok(gid.index);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("the device has no GID for {}", self.address)
    }

    fn delete_device(&self) {
        let devices = self.nldev.devices().unwrap_or_default();
        if let Some(device) = devices.iter().find(|d| d.name == self.device) {
            let _ = self.nldev.del_link(device.index);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let program = find_program("ip").unwrap_or_else(|| "ip".into());
    let status = Command::new(program).args(arguments).status()?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

/// Devices are made in the network namespace of who asks for them, and a socket
/// stays in that of the thread that has opened it.
fn nldev_in(namespace: &str) -> Result<Nldev> {
    let path = format!("/run/netns/{namespace}");
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    let open = || -> Result<Nldev> {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(Nldev::open()?)
    };
    std::thread::scope(|scope| scope.spawn(open).join())
        .map_err(|_| anyhow!("cannot enter the network namespace {namespace}"))?
}

/// Devices that are there for one step, one on each host: both drivers want the
/// same UDP port, so that those of one kind are there at a time.
pub struct Link<'a> {
    network: &'a Network,
    /// Of each host's GID.
    indexes: Vec<u32>,
}

impl<'a> Link<'a> {
    pub fn new(network: &'a Network, kind: &str) -> Result<Self> {
        let mut link = Self {
            network,
            indexes: Vec::new(),
        };
        for host in network.hosts() {
            link.indexes.push(host.add_device(kind)?);
        }
        Ok(link)
    }
}

impl Device for Link<'_> {
    fn start(&self, program: &str, gid_option: &str, more: &[&str]) -> Result<Pair> {
        let side = |host: &Host, index: Option<&u32>| {
            let index = index.context("a host has no device")?.to_string();
            let own = ["-d", host.device, gid_option, &index];
            let arguments = own.iter().chain(more).map(|a| (*a).to_owned());
            anyhow::Ok(Side {
                by: host.namespace.map_or_else(Vec::new, |namespace| {
                    ["ip", "netns", "exec", namespace]
                        .map(OsString::from)
                        .to_vec()
                }),
                arguments: arguments.collect(),
            })
        };
        let client = side(&self.network.client, self.indexes.first())?;
        let server = side(self.network.server(), self.indexes.last())?;
        // Two programs of one host do not need the network to find each other.
        let other = self.network.server.as_ref();
        let address = other.map_or("localhost", |host| host.address);
        Pair::start(program, &server, &client, (address, PORT))
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        self.network.hosts().for_each(Host::delete_device);
    }
}
