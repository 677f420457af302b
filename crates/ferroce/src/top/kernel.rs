// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices of the running kernel: ferroce's, rdma_rxe's and hardware's, as far as netlink tells.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::Result;

use super::model::{Cq, Device, Program, Qp, Queue, Snapshot};
use crate::link::{self, nldev, Nldev};

pub fn snapshot(nldev: &Nldev) -> Result<Snapshot> {
    let mut devices = Vec::new();
    for found in link::devices(nldev)? {
        // One that goes meanwhile is not shown.
        if let Ok(device) = device(nldev, &found) {
            devices.push(device);
        }
    }
    Ok(Snapshot {
        at: Instant::now(),
        devices,
    })
}

fn device(nldev: &Nldev, found: &nldev::Device) -> Result<Device, nldev::Refusal> {
    let ports = nldev.ports(found.index)?;
    let mut counters = BTreeMap::new();
    for port in &ports {
        for (name, value) in nldev.counters(found.index, port.number)? {
            let sum: &mut u64 = counters.entry(name).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    let mut programs: BTreeMap<nldev::Owner, Program> = BTreeMap::new();
    for found in nldev.qps(found.index)? {
        program(&mut programs, &found.owner).qps.push(qp(&found));
    }
    for found in nldev.cqs(found.index)? {
        program(&mut programs, &found.owner).cqs.push(cq(&found));
    }
    let first = ports.first();
    Ok(Device {
        name: found.name.clone(),
        state: first.map_or("-".to_owned(), |port| link::port_state(port.state)),
        netdev: first.and_then(|port| port.netdev.clone()),
        counters,
        programs: programs.into_values().collect(),
    })
}

fn program<'a>(
    programs: &'a mut BTreeMap<nldev::Owner, Program>,
    owner: &nldev::Owner,
) -> &'a mut Program {
    programs.entry(owner.clone()).or_insert_with(|| {
        let (pid, name) = match owner {
            nldev::Owner::Process(pid) => (Some(*pid), command(*pid)),
            nldev::Owner::Kernel(name) => (None, format!("[{name}]")),
            nldev::Owner::Gone => (None, "(has ended)".to_owned()),
        };
        Program {
            pid,
            name,
            ..Program::default()
        }
    })
}

/// The name of a process, as ps(1) has it.
pub fn command(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

/// A number that goes up, of which the driver tells 32 bits.
fn position(details: &nldev::Details, name: &str) -> Option<u32> {
    Some(*details.get(name)? as u32)
}

fn queue(details: &nldev::Details, posted: &str, done: &str) -> Option<Queue> {
    Some(Queue {
        posted: position(details, posted)?,
        done: position(details, done)?,
    })
}

fn qp(found: &nldev::Qp) -> Qp {
    let details = &found.details;
    let is = |name: &str| details.get(name).is_some_and(|value| *value != 0);
    Qp {
        number: found.number,
        kind: kind(found.kind).to_owned(),
        state: state(found.state).to_owned(),
        peer: found.peer.filter(|peer| *peer != 0),
        send: queue(details, "sq_producer", "sq_consumer"),
        receive: queue(details, "rq_producer", "rq_consumer"),
        psn: Some(found.send_psn),
        rnr_tries: position(details, "rnr_tries").unwrap_or(0),
        ack_tries: position(details, "ack_tries").unwrap_or(0),
        is_executing: is("sq_executing"),
        is_waiting: is("sq_waits"),
    }
}

fn cq(found: &nldev::Cq) -> Cq {
    Cq {
        number: found.number,
        entries: found.entries,
        completions: queue(&found.details, "producer", "consumer"),
        is_overrun: found.details.get("overrun").is_some_and(|lost| *lost != 0),
    }
}

/// `enum ib_qp_type`.
fn kind(kind: u8) -> &'static str {
    match kind {
        0 => "SMI",
        1 => "GSI",
        2 => "RC",
        3 => "UC",
        4 => "UD",
        8 => "RAW",
        9 => "XRC_INI",
        10 => "XRC_TGT",
        _ => "DRIVER",
    }
}

/// `enum ib_qp_state`.
fn state(state: u8) -> &'static str {
    ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"]
        .get(usize::from(state))
        .copied()
        .unwrap_or("-")
}
