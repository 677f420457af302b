// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses the card, for people to look at.

use core::sync::atomic::Ordering;
use std::io;
use std::os::fd::AsFd;

use ferroce_core::ring::{Executor, Queue, RecvQueue, SendQueue};
use ferroce_core::verbs::{QpState, QpType};

use crate::broker::Client;
use crate::segment::{RingRecord, Segment, CQS, QPS};
use crate::{cq, qp, side};

/// A process that has a device open.
#[derive(Debug)]
pub struct User {
    /// Its number, as it has it itself.
    pub pid: u32,
    /// Its queue pairs.
    pub qps: Vec<QpSeen>,
    /// Its completion queues, of whatever device.
    pub cqs: Vec<CqSeen>,
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
    /// Its send queue.
    pub send: Option<QueueSeen>,
    /// Its receive queue, if it has one of its own.
    pub receive: Option<QueueSeen>,
    /// How often the oldest request was tried in vain since the peer had no receive.
    pub rnr_tries: u32,
    /// How often since the peer did not answer.
    pub ack_tries: u32,
}

/// A completion queue.
#[derive(Debug)]
pub struct CqSeen {
    /// Its number.
    pub number: u32,
    /// How many entries it has.
    pub entries: u32,
    /// Completions that were written, and those that were polled.
    pub completions: QueueSeen,
    /// Whether completions were lost.
    pub is_overrun: bool,
}

/// How far a queue is. The numbers go up, modulo 2^32, and may be any: its process may have written there.
#[derive(Debug, Clone, Copy)]
pub struct QueueSeen {
    /// How many entries were posted.
    pub posted: u32,
    /// How many of them are done.
    pub done: u32,
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
        let has_receives = record.srq.load(Ordering::Relaxed) == 0;
        let receives = &record.receives.ring;
        let tries = record.tries.load(Ordering::Relaxed);
        Some(QpSeen {
            send: queue::<SendQueue>(segment, &record.sends),
            receive: has_receives
                .then(|| queue::<RecvQueue>(segment, receives))
                .flatten(),
            rnr_tries: tries & 0xff,
            ack_tries: tries >> 8 & 0xff,
            device: record.device.load(Ordering::Relaxed),
            number,
            qp_type,
            state: attr.state,
            peer: (attr.dest_qp_num != 0).then_some(attr.dest_qp_num),
        })
    });
    // Without their locks: a number that changes meanwhile is shown as it was or is.
    let cqs = (0..CQS as u32).filter_map(|number| {
        let record = segment.cq(number)?;
        let queue = cq::open(segment, record)?;
        let at = queue.producer.positions();
        Some(CqSeen {
            number,
            entries: record.entries.load(Ordering::Relaxed),
            completions: QueueSeen {
                posted: at.producer,
                done: at.consumer,
            },
            is_overrun: queue.producer.is_failed(),
        })
    });
    User {
        qps: qps.collect(),
        cqs: cqs.collect(),
        pid: segment.header().pid.load(Ordering::Relaxed),
    }
}

/// How far a work queue is, by what both sides have written into its ring.
fn queue<Q: Queue>(segment: &Segment, record: &RingRecord) -> Option<QueueSeen> {
    let geometry = record.geometry::<Q>()?;
    let offset = record.offset.load(Ordering::Relaxed);
    let base = segment.ring(offset, geometry.len())?;
    // SAFETY: The ring is within the segment, which outlives the executor. It is a ring's alone, and this
    // one only reads.
    let ring = unsafe { Executor::new(base, geometry.len(), geometry) }.ok()?;
    let (posted, done) = ring.announced();
    Some(QueueSeen { posted, done })
}
