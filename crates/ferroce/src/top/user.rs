// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices in user space, of the programs that `ferroce run` has started.

use std::time::Instant;

use anyhow::{Context, Result};
use ferroce_user::{device, observe};

use super::kernel::command;
use super::model::{Cq, Device, Program, Qp, Queue, Snapshot};
use crate::link;

pub fn snapshot() -> Result<Snapshot> {
    let users = observe::users().context("cannot ask the broker")?;
    let devices = link::user_devices().into_iter().map(|(name, folder)| {
        let guid = device::guid(&folder);
        let programs = users.iter().filter_map(|user| program(user, guid));
        Device {
            name,
            state: "ACTIVE".to_owned(),
            programs: programs.collect(),
            ..Device::default()
        }
    });
    Ok(Snapshot {
        at: Instant::now(),
        devices: devices.collect(),
    })
}

/// A process, as far as it uses the device of that GUID.
fn program(user: &observe::User, guid: u64) -> Option<Program> {
    let qps: Vec<Qp> = user
        .qps
        .iter()
        .filter(|qp| qp.device == guid)
        .map(qp)
        .collect();
    (!qps.is_empty()).then(|| Program {
        pid: Some(user.pid),
        name: command(user.pid),
        qps,
        cqs: user.cqs.iter().map(cq).collect(),
    })
}

fn queue(seen: observe::QueueSeen) -> Queue {
    Queue {
        posted: seen.posted,
        done: seen.done,
    }
}

fn qp(seen: &observe::QpSeen) -> Qp {
    Qp {
        number: seen.number,
        kind: format!("{:?}", seen.qp_type).to_uppercase(),
        state: format!("{:?}", seen.state).to_uppercase(),
        peer: seen.peer,
        send: seen.send.map(queue),
        receive: seen.receive.map(queue),
        psn: None,
        rnr_tries: seen.rnr_tries,
        ack_tries: seen.ack_tries,
        is_executing: false,
        is_waiting: seen.rnr_tries + seen.ack_tries > 0,
    }
}

fn cq(seen: &observe::CqSeen) -> Cq {
    Cq {
        number: seen.number,
        entries: seen.entries,
        completions: Some(queue(seen.completions)),
        is_overrun: seen.is_overrun,
    }
}
