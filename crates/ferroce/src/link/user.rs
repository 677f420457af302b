// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce link show` under `ferroce run`: the devices of this user's programs, and who uses them.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{bail, Context, Result};
use comfy_table::{presets, Table};
use ferroce_user::observe::{self, QpSeen};
use ferroce_user::{device, process};
use serde::Serialize;

use super::gid::{self, Gid};
use super::list;
use crate::args::Link;

/// Whether this program was started by `ferroce run`.
pub fn is_here() -> bool {
    std::env::var_os(process::PROGRAM).is_some()
}

pub fn run(command: &Link) -> Result<i32> {
    match command {
        Link::Show { name, json } => show(name.as_deref(), *json)?,
        Link::Add { .. } | Link::Del { .. } => bail!(
            "under `ferroce run` there are as many devices as it was told to make: \
             ferroce run --devices N -- ..."
        ),
    }
    Ok(0)
}

#[derive(Debug, Serialize)]
struct Device {
    ifname: String,
    port: u32,
    state: &'static str,
    gids: Vec<Gid>,
    users: Vec<User>,
}

#[derive(Debug, Serialize)]
struct User {
    pid: u32,
    comm: String,
    qps: Vec<Qp>,
}

#[derive(Debug, Serialize)]
struct Qp {
    lqpn: u32,
    #[serde(rename = "type")]
    kind: String,
    state: String,
    rqpn: Option<u32>,
}

impl From<&QpSeen> for Qp {
    fn from(qp: &QpSeen) -> Self {
        Self {
            lqpn: qp.number,
            kind: format!("{:?}", qp.qp_type).to_uppercase(),
            state: format!("{:?}", qp.state).to_uppercase(),
            rqpn: qp.peer,
        }
    }
}

/// Where the devices are, as the shim shows them.
const FOLDER: &str = "/sys/class/infiniband";

/// The devices of this `ferroce run`: the name of each, and its folder.
pub fn devices() -> Vec<(String, PathBuf)> {
    let names = super::names_in(FOLDER).into_iter();
    names
        .map(|name| (name.clone(), PathBuf::from(FOLDER).join(name)))
        .collect()
}

fn show(name: Option<&str>, json: bool) -> Result<()> {
    let folder = PathBuf::from(FOLDER);
    let mut names = super::names_in(FOLDER);
    if let Some(name) = name {
        if !names.iter().any(|known| known == name) {
            bail!("there is no RDMA device {name}, but {}", list(&names));
        }
        names = vec![name.to_owned()];
    }
    let users = observe::users().context("cannot ask the broker")?;
    let mut devices = Vec::new();
    for name in names {
        let guid = device::guid(&folder.join(&name));
        let users = users.iter().filter_map(|user| {
            let qps: Vec<Qp> = user
                .qps
                .iter()
                .filter(|qp| qp.device == guid)
                .map(Qp::from)
                .collect();
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", user.pid));
            (!qps.is_empty()).then(|| User {
                pid: user.pid,
                comm: comm.unwrap_or_default().trim_end().to_owned(),
                qps,
            })
        });
        devices.push(Device {
            users: users.collect(),
            gids: gid::table(&name, 1)?,
            ifname: name,
            port: 1,
            state: "ACTIVE",
        });
    }
    let text = match json {
        true => serde_json::to_string_pretty(&devices)?,
        false => devices.iter().map(describe).collect::<Vec<_>>().join("\n"),
    };
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn describe(device: &Device) -> String {
    let mut links = table(["LINK", "STATE", "GID", "ADDRESS", "TYPE"]);
    let lines = |each: &dyn Fn(&Gid) -> String| {
        let lines: Vec<String> = device.gids.iter().map(each).collect();
        lines.join("\n")
    };
    links.add_row([
        format!("{}/{}", device.ifname, device.port),
        device.state.to_owned(),
        lines(&|gid| gid.index.to_string()),
        lines(&Gid::address),
        lines(&|gid| gid.kind.clone()),
    ]);
    let mut text = super::text(links);
    if !device.users.is_empty() {
        let mut users = table(["PID", "COMMAND", "QP", "TYPE", "STATE", "PEER"]);
        for user in &device.users {
            for qp in &user.qps {
                users.add_row([
                    user.pid.to_string(),
                    user.comm.clone(),
                    qp.lqpn.to_string(),
                    qp.kind.clone(),
                    qp.state.clone(),
                    qp.rqpn.map_or("-".to_owned(), |peer| peer.to_string()),
                ]);
            }
        }
        text = format!("{text}\n\n{}", super::text(users));
    }
    text
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}
