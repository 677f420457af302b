// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce link`: RDMA devices of the running kernel, as `rdma link` of
//! iproute2 has them, for machines without that.

pub mod gid;
pub mod nldev;
mod user;

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{anyhow, bail, Context, Result};
use comfy_table::{presets, Table};
use rustix::io::Errno;
use serde::Serialize;

use crate::args::Link;
use gid::Gid;
pub use nldev::Nldev;
use nldev::{Device, Port, Refusal};
pub use user::{devices as user_devices, is_here as is_user_space};

/// The type of the links that ferroce's driver makes.
const KIND: &str = "ferroce";

pub fn run(command: &Link) -> Result<i32> {
    if user::is_here() {
        return user::run(command);
    }
    let nldev = open()?;
    match command {
        Link::Add { name, netdev } => add(&nldev, name, netdev)?,
        Link::Del { name } => del(&nldev, name)?,
        Link::Show { name, json } => show(&nldev, name.as_deref(), *json)?,
    }
    Ok(0)
}

/// A connection to this kernel's RDMA core.
pub fn open() -> Result<Nldev> {
    Nldev::open().map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::PROTONOSUPPORT) => anyhow!(
            "this kernel has no RDMA: its module ib_core is not loaded (modprobe ib_core), \
             or it was built without"
        ),
        _ => anyhow!("cannot reach the kernel's RDMA core: {error}"),
    })
}

/// The network interface of a device's first port.
pub fn netdev(device: &str) -> Result<String> {
    let nldev = open()?;
    let found = find(&nldev, device)?;
    let ports = ports(&nldev, &found)?;
    ports.into_iter().find_map(|p| p.netdev).with_context(|| {
        format!(
            "{device} has no network interface in this network namespace. Where it has one: \
             ip netns exec NAMESPACE ..."
        )
    })
}

fn add(nldev: &Nldev, name: &str, netdev: &str) -> Result<()> {
    nldev.new_link(name, KIND, netdev).map_err(|refusal| {
        let devices = nldev.devices().unwrap_or_default();
        let taken = devices.iter().any(|d| d.name == name);
        let has_driver = Path::new("/sys/module").join(KIND).exists();
        let why = match Errno::from_io_error(&refusal.reason) {
            Some(Errno::PERM) => permission(),
            Some(Errno::NODEV) => format!(
                "there is no network interface {netdev}, but {}",
                list(&names_in("/sys/class/net"))
            ),
            // ib_core has ENFILE for a name that is in use.
            Some(Errno::NFILE | Errno::EXIST) if taken => {
                "there is an RDMA device of that name already".to_owned()
            }
            Some(Errno::EXIST) => format!("{netdev} has an RDMA device of ferroce's already"),
            Some(Errno::INVAL) if !has_driver && !name.contains('%') => {
                "the kernel has no driver for it: its module ferroce is not loaded, and modprobe \
                 does not find it. See `ferroce install --help`, and `ferroce lab` for guests that \
                 have it"
                    .to_owned()
            }
            Some(Errno::INVAL) => {
                "the kernel refuses the name or the interface. A name has at most 63 characters \
                 and no %; the interface is an Ethernet one and no VLAN, or the loopback one. The \
                 end of the kernel's log may say more: dmesg | tail"
                    .to_owned()
            }
            Some(Errno::NETDOWN) => format!("it must be up first: ip link set {netdev} up"),
            _ => refusal.reason.to_string(),
        };
        said(format!("cannot add {name} over {netdev}: {why}"), &refusal)
    })
}

fn del(nldev: &Nldev, name: &str) -> Result<()> {
    let device = find(nldev, name)?;
    nldev.del_link(device.index).map_err(|refusal| {
        let why = match Errno::from_io_error(&refusal.reason) {
            Some(Errno::PERM) => permission(),
            Some(Errno::INVAL) => "it is no device that was added: its hardware has it".to_owned(),
            _ => refusal.reason.to_string(),
        };
        said(format!("cannot remove {name}: {why}"), &refusal)
    })
}

/// What only root may do, is said with the command for root.
pub fn permission() -> String {
    let command = crate::root::command(std::env::args_os().skip(1));
    format!("only root may do that:\n  {command}")
}

/// An error with what the kernel said about it.
fn said(text: String, refusal: &Refusal) -> anyhow::Error {
    match &refusal.message {
        Some(message) => anyhow!("{text}\nThe kernel says: {message}"),
        None => anyhow!(text),
    }
}

fn find(nldev: &Nldev, name: &str) -> Result<Device> {
    let devices = devices(nldev)?;
    if let Some(device) = devices.iter().find(|d| d.name == name) {
        return Ok(device.clone());
    }
    if devices.is_empty() {
        bail!("there is no RDMA device {name}, nor any other");
    }
    let names: Vec<_> = devices.iter().map(|d| &d.name).collect();
    bail!("there is no RDMA device {name}, but {}", list(&names));
}

pub fn devices(nldev: &Nldev) -> Result<Vec<Device>> {
    nldev
        .devices()
        .map_err(|e| said(format!("cannot list the RDMA devices: {}", e.reason), &e))
}

fn ports(nldev: &Nldev, device: &Device) -> Result<Vec<Port>> {
    nldev
        .ports(device.index)
        .map_err(|e| said(format!("cannot query {}: {}", device.name, e.reason), &e))
}

/// A row of the table; the names are those of `rdma --json link`.
#[derive(Debug, Serialize)]
struct Row {
    ifindex: u32,
    ifname: String,
    port: u32,
    state: String,
    physical_state: String,
    netdev: Option<String>,
    /// Of the network interface, in bytes.
    netdev_mtu: Option<u32>,
    gids: Vec<Gid>,
}

fn show(nldev: &Nldev, name: Option<&str>, json: bool) -> Result<()> {
    let devices = match name {
        Some(name) => vec![find(nldev, name)?],
        None => devices(nldev)?,
    };
    let mut rows = Vec::new();
    for device in devices {
        for port in ports(nldev, &device)? {
            rows.push(Row {
                ifindex: device.index,
                ifname: device.name.clone(),
                port: port.number,
                state: port_state(port.state),
                physical_state: named(&PHYSICAL_STATES, port.physical_state),
                netdev_mtu: port.netdev.as_deref().and_then(mtu),
                netdev: port.netdev,
                gids: gid::table(&device.name, port.number)?,
            });
        }
    }
    let text = if json {
        serde_json::to_string_pretty(&rows)?
    } else if rows.is_empty() {
        eprintln!("ferroce: there are no RDMA devices. Make one: ferroce link add fr0 NETDEV");
        return Ok(());
    } else {
        table(&rows)
    };
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "LINK", "STATE", "PHYSICAL", "NETDEV", "MTU", "GID", "ADDRESS", "TYPE",
    ]);
    fn lines(gids: &[Gid], each: impl Fn(&Gid) -> String) -> String {
        gids.iter().map(each).collect::<Vec<_>>().join("\n")
    }
    fn or_dash(value: &Option<impl Display>) -> String {
        value.as_ref().map_or("-".to_owned(), ToString::to_string)
    }
    for row in rows {
        table.add_row([
            format!("{}/{}", row.ifname, row.port),
            row.state.clone(),
            row.physical_state.clone(),
            or_dash(&row.netdev),
            or_dash(&row.netdev_mtu),
            lines(&row.gids, |gid| gid.index.to_string()),
            lines(&row.gids, Gid::address),
            lines(&row.gids, |gid| gid.kind.clone()),
        ]);
    }
    text(table)
}

/// A table's text: two spaces between columns, none around them.
fn text(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `enum ib_port_state`, in the words of rdma(8).
const STATES: [&str; 6] = ["NOP", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"];
/// `enum ib_port_phys_state`.
const PHYSICAL_STATES: [&str; 8] = [
    "NOP",
    "SLEEP",
    "POLLING",
    "DISABLED",
    "PORT_CONFIGURATION_TRAINING",
    "LINK_UP",
    "LINK_ERROR_RECOVERY",
    "PHY_TEST",
];

/// The name of a port's state (`enum ib_port_state`).
pub fn port_state(state: u8) -> String {
    named(&STATES, state)
}

fn named(names: &[&str], number: u8) -> String {
    names
        .get(usize::from(number))
        .map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

fn mtu(netdev: &str) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{netdev}/mtu")).ok()?;
    text.trim().parse().ok()
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_row_with_a_line_for_each_gid() {
        let gid = |index, text: &str| Gid {
            index,
            gid: text.parse().unwrap(),
            kind: "RoCE v2".to_owned(),
        };
        let rows = [
            Row {
                ifindex: 0,
                ifname: "fr0".to_owned(),
                port: 1,
                state: named(&STATES, 4),
                physical_state: named(&PHYSICAL_STATES, 5),
                netdev: Some("eth0".to_owned()),
                netdev_mtu: Some(1500),
                gids: vec![gid(0, "fe80::1"), gid(1, "::ffff:10.0.0.1")],
            },
            Row {
                ifindex: 1,
                ifname: "mlx5_0".to_owned(),
                port: 2,
                state: named(&STATES, 1),
                physical_state: named(&PHYSICAL_STATES, 9),
                netdev: None,
                netdev_mtu: None,
                gids: Vec::new(),
            },
        ];
        assert_eq!(
            table(&rows).lines().collect::<Vec<_>>(),
            [
                "LINK      STATE   PHYSICAL  NETDEV  MTU   GID  ADDRESS   TYPE",
                "fr0/1     ACTIVE  LINK_UP   eth0    1500  0    fe80::1   RoCE v2",
                "                                          1    10.0.0.1  RoCE v2",
                "mlx5_0/2  DOWN    9         -       -",
            ]
        );
    }
}
