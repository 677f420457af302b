// SPDX-License-Identifier: MIT OR Apache-2.0
//! A number of a queue pair that was another one's before.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ferroce_core::qp::{AttrMask, RequestedAttr};
use ferroce_core::ring::{Operation, Sge};
use ferroce_core::verbs::{QpState, WcOpcode, WcStatus};

use super::endpoint::{Endpoint, Shared};
use super::{device_folder, open, wait_for_broker, Process};

const DEPTH: u32 = 8;
const LENGTH: u32 = 64;

pub fn test() {
    let group = format!("numbers-{}", std::process::id());
    Process::start(&group, &device_folder(), &["reuser"]).end();
    wait_for_broker(&group);
}

/// Makes queue pairs until one with a shared queue has the number of one that had its own, the memory of which is
/// another's by then.
pub fn reuser() {
    let device = open();
    let memory = vec![Cell::new(0_u8); LENGTH as usize];
    let sge = Sge {
        addr: memory.as_ptr() as u64,
        length: LENGTH,
        lkey: device.register(&memory),
    };
    let first = Endpoint::new(&device, DEPTH);
    let number = first.qp.number;
    first.destroy();
    let other = Endpoint::new(&device, DEPTH);
    other.connect(other.qp.number);
    (0..DEPTH).for_each(|wr_id| other.post_receive(wr_id.into(), sge));

    let shared = Shared::new(&device, DEPTH);
    let begin = Instant::now();
    let again = loop {
        let endpoint = Endpoint::with(&device, DEPTH, None, Some(&shared));
        if endpoint.qp.number == number {
            break endpoint;
        }
        endpoint.destroy();
        assert!(begin.elapsed() < Duration::from_secs(60), "it comes never");
    };
    again.connect(number);
    let requested = RequestedAttr {
        qp_state: QpState::Err.into(),
        ..RequestedAttr::default()
    };
    again.qp.modify(AttrMask::STATE, &requested, None).unwrap();
    assert_eq!(again.poll(), None);

    for wr_id in 0..u64::from(DEPTH) {
        assert!(other.post(100, Operation::Send, sge));
        let received = std::iter::from_fn(|| other.poll())
            .inspect(|cqe| assert_eq!(cqe.status, WcStatus::Success))
            .find(|cqe| cqe.opcode == WcOpcode::Recv);
        assert_eq!(received.map(|cqe| cqe.wr_id), Some(wr_id));
    }
    again.destroy();
    other.destroy();
    shared.destroy();
}
