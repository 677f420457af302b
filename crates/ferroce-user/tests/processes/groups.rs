// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast groups with members in several processes.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ferroce_core::ring::{Cqe, Sge};
use ferroce_core::verbs::{limits, QpType, WcStatus};
use ferroce_device::address::Address;

use super::endpoint::{Endpoint, GID};
use super::{device_folder, hear, open, say, wait_for_broker, Process};

const GROUP: [u8; 16] = [0xff, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34];
const GRH: usize = limits::GRH_LENGTH as usize;
/// One that lies beside its completion, and one that does not.
const LENGTHS: [usize; 2] = [100, 2000];

pub fn test() {
    let folder = device_folder();
    let group = format!("groups-{}", std::process::id());
    let mut members = [(); 3].map(|()| Process::start(&group, &folder, &["member"]));
    let mut sender = Process::start(&group, &folder, &["sender"]);
    for length in LENGTHS {
        members
            .iter_mut()
            .for_each(|member| assert_eq!(member.hear(), "ready"));
        assert_eq!(sender.hear(), "ready");
        sender.tell(&length.to_string());
        members
            .iter_mut()
            .for_each(|member| member.tell(&length.to_string()));
        members
            .iter_mut()
            .for_each(|member| assert_eq!(member.hear(), "got"));
    }
    sender.end();
    members.into_iter().for_each(Process::end);
    wait_for_broker(&group);
}

fn byte(length: usize, at: usize) -> u8 {
    (length * 31 + at) as u8
}

fn completion(endpoint: &Endpoint) -> Cqe {
    let begin = Instant::now();
    loop {
        if let Some(cqe) = endpoint.poll() {
            return cqe;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "no completion");
    }
}

/// Has two queue pairs in the group, and one that has left it.
pub fn member() {
    let device = open();
    let memory = vec![Cell::new(0_u8); 4 * 4096];
    let key = device.register(&memory);
    let endpoints = [(); 3].map(|()| Endpoint::of_type(&device, 4, QpType::Ud));
    for endpoint in &endpoints {
        endpoint.start();
        endpoint.qp.attach(&GROUP).unwrap();
        assert_eq!(endpoint.qp.destroy().unwrap_err().0, libc::EBUSY);
    }
    let [first, second, third] = &endpoints;
    third.qp.detach(&GROUP).unwrap();
    assert!(third.qp.detach(&GROUP).is_err());
    for length in LENGTHS {
        for (number, endpoint) in endpoints.iter().enumerate() {
            let at = &memory[number * 4096..];
            let sge = Sge {
                addr: at.as_ptr() as u64,
                length: 4096,
                lkey: key,
            };
            endpoint.post_receive(0, sge);
        }
        say("ready");
        assert_eq!(hear(), length.to_string());
        for (number, endpoint) in [first, second].into_iter().enumerate() {
            let cqe = completion(endpoint);
            assert_eq!(cqe.status, WcStatus::Success);
            assert_eq!(cqe.byte_len as usize, GRH + length);
            let data = &memory[number * 4096 + GRH..][..length];
            assert!(data
                .iter()
                .enumerate()
                .all(|(at, found)| found.get() == byte(length, at)));
        }
        assert!(third.poll().is_none(), "it is in no group");
        say("got");
    }
    first.qp.detach(&GROUP).unwrap();
    second.qp.detach(&GROUP).unwrap();
    endpoints.into_iter().for_each(Endpoint::destroy);
}

/// Is in the group too, and gets nothing of what it sends itself.
pub fn sender() {
    let device = open();
    let memory = vec![Cell::new(0_u8); 2 * 4096];
    let key = device.register(&memory);
    let endpoint = Endpoint::of_type(&device, 4, QpType::Ud);
    endpoint.start();
    endpoint.qp.attach(&GROUP).unwrap();
    let ah = device.context.process.addresses().add(Address {
        pd: device.pd.id(),
        dgid: GROUP,
        sgid: GID,
        traffic_class: 0,
        flow_label: 0,
        hop_limit: 1,
    });
    let sge = |at: usize, length: usize| Sge {
        addr: memory[at..].as_ptr() as u64,
        length: length as u32,
        lkey: key,
    };
    endpoint.post_receive(1, sge(4096, 4096));
    for length in LENGTHS {
        (0..length).for_each(|at| memory[at].set(byte(length, at)));
        say("ready");
        assert_eq!(hear(), length.to_string());
        endpoint.send_to(ah, limits::MULTICAST_QPN, sge(0, length));
        let cqe = completion(&endpoint);
        assert_eq!((cqe.wr_id, cqe.status), (0, WcStatus::Success));
        assert!(endpoint.poll().is_none(), "what it has sent comes back");
    }
    endpoint.qp.detach(&GROUP).unwrap();
    endpoint.destroy();
}
