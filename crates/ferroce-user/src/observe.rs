// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses the card, for people to look at.

use core::sync::atomic::Ordering;
use std::io;
use std::os::fd::AsFd;

use ferroce_core::verbs::{QpState, QpType};

use crate::broker::Client;
use crate::segment::{Segment, QPS};
use crate::{qp, side};

/// A process that has a device open.
#[derive(Debug)]
pub struct User {
    /// Its number, as it has it itself.
    pub pid: u32,
    /// Its queue pairs.
    pub qps: Vec<QpSeen>,
}

/// A queue pair.
#[derive(Debug)]
pub struct QpSeen {
    /// The GUID of its device.
    pub device: u64,
    /// Its number.
    pub number: u32,
    /// Its transport.
    pub qp_type: QpType,
    /// Its state.
    pub state: QpState,
    /// The number of its peer, if it has one.
    pub peer: Option<u32>,
}

/// All processes that this one could have as peers.
pub fn users() -> io::Result<Vec<User>> {
    let Some((client, registry)) = Client::look()? else {
        return Ok(Vec::new());
    };
    let mut users = Vec::new();
    for serial in registry.alive() {
        // One that ends meanwhile is none.
        let Ok((segment, _)) = client.lock().attach(serial) else {
            continue;
        };
        if let Ok(segment) = Segment::attach(segment.as_fd()) {
            users.push(look(&segment));
        }
    }
    Ok(users)
}

fn look(segment: &Segment) -> User {
    let qps = (0..QPS as u32).filter_map(|index| segment.qp(index));
    let qps = qps.filter_map(|record| {
        let number = record.number.load(Ordering::Acquire);
        let qp_type = qp::qp_type(record).filter(|_| number != 0)?;
        let attr = side::attrs(record).attr;
        Some(QpSeen {
            device: record.device.load(Ordering::Relaxed),
            number,
            qp_type,
            state: attr.state,
            peer: (attr.dest_qp_num != 0).then_some(attr.dest_qp_num),
        })
    });
    User {
        qps: qps.collect(),
        pid: segment.header().pid.load(Ordering::Relaxed),
    }
}
