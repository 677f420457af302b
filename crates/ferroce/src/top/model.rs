// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be seen at one moment, and what has become of it since the last one.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

/// All devices at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub at: Instant,
    pub devices: Vec<Device>,
}

#[derive(Debug, Clone, Default)]
pub struct Device {
    pub name: String,
    /// Of its first port.
    pub state: String,
    pub netdev: Option<String>,
    /// Those of its ports, summed up.
    pub counters: BTreeMap<String, u64>,
    pub programs: Vec<Program>,
}

/// A process, or a module of the kernel's.
#[derive(Debug, Clone, Default)]
pub struct Program {
    /// None of a module of the kernel's.
    pub pid: Option<u32>,
    pub name: String,
    pub qps: Vec<Qp>,
    pub cqs: Vec<Cq>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Qp {
    pub number: u32,
    /// "RC", "UC", "UD".
    pub kind: String,
    /// "INIT", "RTR", "RTS".
    pub state: String,
    pub peer: Option<u32>,
    /// None, if the device does not tell.
    pub send: Option<Queue>,
    /// As above; and none with a shared receive queue.
    pub receive: Option<Queue>,
    /// The PSN of the next packet, 24 bits, if the device tells it.
    pub psn: Option<u32>,
    /// How often the oldest request was tried in vain since the peer had no receive.
    pub rnr_tries: u32,
    /// How often since the peer did not answer.
    pub ack_tries: u32,
    /// Whether a thread executes requests right now, so that nothing is told of them.
    pub is_executing: bool,
    /// Whether the oldest request waits for its next try, or for an answer.
    pub is_waiting: bool,
}

/// A queue of requests, by numbers that go up, modulo 2^32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// How many were posted.
    pub posted: u32,
    /// How many of them are done.
    pub done: u32,
}

impl Queue {
    /// How many are not done.
    pub fn pending(self) -> u32 {
        self.posted.wrapping_sub(self.done)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cq {
    pub number: u32,
    pub entries: u32,
    /// Posted are completions, and done those that were polled. None, if the device does not tell.
    pub completions: Option<Queue>,
    /// Whether completions were lost since there was no room.
    pub is_overrun: bool,
}

/// What has become of a device since the last moment; rates are for each second.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRow {
    pub name: String,
    pub state: String,
    pub netdev: Option<String>,
    /// Messages of this device's programs.
    pub messages: Option<f64>,
    /// Bytes of payload or, where the device counts these alone, packets.
    pub sent: Option<f64>,
    pub received: Option<f64>,
    /// What these two count: "bytes" or "packets".
    pub unit: &'static str,
    /// How often a peer had no receive.
    pub rnr: Option<f64>,
    /// How often something was sent once more.
    pub retransmissions: Option<f64>,
    pub programs: Vec<ProgramRow>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ProgramRow {
    pub pid: Option<u32>,
    pub name: String,
    /// Of all queue pairs.
    pub messages: Option<f64>,
    /// How many completions were not polled yet.
    pub completions: Option<u32>,
    /// Whether completions were lost, since a queue had no room.
    pub is_overrun: bool,
    pub qps: Vec<QpRow>,
}

#[derive(Debug, Clone, Serialize)]
pub struct QpRow {
    pub number: u32,
    #[serde(rename = "type")]
    pub kind: String,
    pub state: String,
    pub peer: Option<u32>,
    /// Requests that were done.
    pub messages: Option<f64>,
    /// Receives that were taken by messages.
    pub received: Option<f64>,
    /// Packets that were sent, where the device tells no more than the PSN.
    pub packets: Option<f64>,
    /// How many requests were posted and are not done.
    pub send_pending: Option<u32>,
    /// How many receives are there to be taken.
    pub receives: Option<u32>,
    pub rnr_tries: u32,
    pub ack_tries: u32,
    /// What it waits for, if it has not moved since the last moment.
    pub waits_for: Option<String>,
}

impl QpRow {
    /// Messages both ways, or else packets, a second; zero where neither is known.
    pub fn rate(&self) -> f64 {
        let sent = self.messages.or(self.packets);
        sent.unwrap_or(0.0) + self.received.unwrap_or(0.0)
    }
}

/// The counters that tell that something was sent once more: rdma_rxe's and mlx5's names.
const RETRANSMISSIONS: [&str; 4] = [
    "local_ack_timeout_err",
    "rcvd_seq_err",
    "packet_seq_err",
    "implied_nak_seq_err",
];
/// That a peer had no receive.
const RNR: [&str; 2] = ["rcvd_rnr_err", "rnr_nak_retry_err"];

/// What has become of the devices between two moments.
pub fn rows(before: &Snapshot, now: &Snapshot) -> Vec<DeviceRow> {
    let seconds = now.at.duration_since(before.at).as_secs_f64();
    let find = |name: &str| before.devices.iter().find(|device| device.name == name);
    let devices = now.devices.iter();
    devices
        .map(|device| device_row(find(&device.name), device, seconds))
        .collect()
}

/// How much more for each second; nothing where there is no earlier number.
fn rate(more: Option<u64>, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then_some(more? as f64 / seconds)
}

fn device_row(before: Option<&Device>, now: &Device, seconds: f64) -> DeviceRow {
    let counter = |name: &str| {
        let earlier = before?.counters.get(name)?;
        // One that was made again begins at zero.
        Some(now.counters.get(name)?.saturating_sub(*earlier))
    };
    let sum = |names: &[&str]| {
        let found: Vec<u64> = names.iter().filter_map(|name| counter(name)).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    };
    let (unit, sent, received) = match now.counters.contains_key("sent_bytes") {
        true => ("bytes", counter("sent_bytes"), counter("rcvd_bytes")),
        false => ("packets", counter("sent_pkts"), counter("rcvd_pkts")),
    };
    let earlier = |program: &Program| {
        let programs = &before?.programs;
        programs
            .iter()
            .find(|p| (p.pid, &p.name) == (program.pid, &program.name))
    };
    let programs = now.programs.iter();
    let programs: Vec<ProgramRow> = programs
        .map(|program| program_row(earlier(program), program, seconds))
        .collect();
    let messages = rate(counter("rdma_sends"), seconds);
    DeviceRow {
        name: now.name.clone(),
        state: now.state.clone(),
        netdev: now.netdev.clone(),
        messages: messages.or_else(|| total(programs.iter().map(|program| program.messages))),
        sent: rate(sent, seconds),
        received: rate(received, seconds),
        unit,
        rnr: rate(sum(&RNR), seconds),
        retransmissions: rate(sum(&RETRANSMISSIONS), seconds),
        programs,
    }
}

/// The sum of those that are known.
fn total(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.flatten().reduce(|sum, rate| sum + rate)
}

fn program_row(before: Option<&Program>, now: &Program, seconds: f64) -> ProgramRow {
    let earlier = |number: u32| before?.qps.iter().find(|qp| qp.number == number);
    let qps = now.qps.iter();
    let qps: Vec<QpRow> = qps
        .map(|qp| qp_row(earlier(qp.number), qp, seconds))
        .collect();
    let completions = now.cqs.iter().filter_map(|cq| cq.completions);
    ProgramRow {
        pid: now.pid,
        name: now.name.clone(),
        messages: total(qps.iter().map(|qp| qp.messages)),
        completions: completions.map(Queue::pending).reduce(u32::saturating_add),
        is_overrun: now.cqs.iter().any(|cq| cq.is_overrun),
        qps,
    }
}

/// PSNs have 24 bits.
const PSN_MASK: u32 = 0x00ff_ffff;

fn qp_row(before: Option<&Qp>, now: &Qp, seconds: f64) -> QpRow {
    let done = |qp: &Qp| Some(qp.send?.done);
    let messages = before
        .and_then(done)
        .zip(done(now))
        .map(|(before, now)| u64::from(now.wrapping_sub(before)));
    let packets = before
        .and_then(|before| before.psn)
        .zip(now.psn)
        .filter(|_| now.send.is_none())
        .map(|(before, now)| u64::from(now.wrapping_sub(before) & PSN_MASK));
    let taken = |qp: &Qp| Some(qp.receive?.done);
    let received = before
        .and_then(taken)
        .zip(taken(now))
        .map(|(before, now)| u64::from(now.wrapping_sub(before)));
    let has_moved = before.is_none()
        || now.is_executing
        || [messages, packets, received]
            .iter()
            .flatten()
            .any(|more| *more > 0);
    QpRow {
        number: now.number,
        kind: now.kind.clone(),
        state: now.state.clone(),
        peer: now.peer,
        messages: rate(messages, seconds),
        received: rate(received, seconds),
        packets: rate(packets, seconds),
        send_pending: now.send.map(Queue::pending),
        receives: now.receive.map(Queue::pending),
        rnr_tries: now.rnr_tries,
        ack_tries: now.ack_tries,
        waits_for: match has_moved {
            true => None,
            false => waits_for(now).map(str::to_owned),
        },
    }
}

/// What a queue pair that does not move waits for.
fn waits_for(qp: &Qp) -> Option<&'static str> {
    let pending = qp.send.is_some_and(|send| send.pending() > 0);
    match qp.state.as_str() {
        "ERR" | "SQE" => Some("reset: it has failed"),
        "RESET" if qp.send.is_some() || qp.receive.is_some() => Some("INIT"),
        "INIT" => Some("RTR"),
        "RTR" => Some("RTS, or a message"),
        "SQD" => Some("RTS: it is drained"),
        _ if pending && qp.rnr_tries > 0 => Some("no receive at peer"),
        _ if pending && qp.ack_tries > 0 => Some("no answer of peer"),
        _ if pending && qp.is_waiting => Some("answer of peer"),
        _ if pending => Some("its turn"),
        _ if qp.receive.is_some_and(|receive| receive.pending() == 0) => Some("work; no receive"),
        _ if qp.receive.is_some() => Some("work, or a message"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn qp(done: u32, posted: u32) -> Qp {
        Qp {
            number: 17,
            kind: "RC".to_owned(),
            state: "RTS".to_owned(),
            peer: Some(18),
            send: Some(Queue { posted, done }),
            ..Qp::default()
        }
    }

    /// A device with one program and one queue pair, and a counter.
    fn snapshot(at: Instant, qp: Qp, counter: (&str, u64)) -> Snapshot {
        let program = Program {
            pid: Some(1234),
            name: "ib_send_bw".to_owned(),
            qps: vec![qp],
            cqs: vec![Cq {
                number: 3,
                entries: 127,
                completions: Some(Queue { posted: 5, done: 2 }),
                is_overrun: false,
            }],
        };
        let device = Device {
            name: "fr0".to_owned(),
            state: "ACTIVE".to_owned(),
            counters: BTreeMap::from([(counter.0.to_owned(), counter.1)]),
            programs: vec![program],
            ..Device::default()
        };
        Snapshot {
            at,
            devices: vec![device],
        }
    }

    fn two(before: Qp, now: Qp) -> QpRow {
        let at = Instant::now();
        let before = snapshot(at, before, ("sent_bytes", 100));
        let now = snapshot(at + Duration::from_secs(2), now, ("sent_bytes", 4100));
        let row = rows(&before, &now).remove(0);
        assert_eq!((row.sent, row.unit), (Some(2000.0), "bytes"));
        assert_eq!(row.programs[0].completions, Some(3));
        row.programs[0].qps[0].clone()
    }

    #[test]
    fn a_rate_is_for_a_second_and_survives_the_end_of_the_numbers() {
        let row = two(qp(u32::MAX - 9, u32::MAX), qp(10, 30));
        assert_eq!(row.messages, Some(10.0));
        assert_eq!(row.send_pending, Some(20));
        assert_eq!(row.waits_for, None);
    }

    #[test]
    fn what_has_not_moved_says_what_it_waits_for() {
        let stuck = |change: fn(&mut Qp)| {
            let mut qp = qp(10, 12);
            change(&mut qp);
            two(qp.clone(), qp).waits_for.unwrap_or_default()
        };
        assert!(stuck(|qp| qp.rnr_tries = 3).contains("no receive at"));
        assert!(stuck(|qp| qp.ack_tries = 1).contains("no answer"));
        assert!(stuck(|qp| qp.state = "ERR".to_owned()).contains("failed"));
        assert!(stuck(|qp| qp.state = "INIT".to_owned()).contains("RTR"));
        assert!(stuck(|_| ()).contains("its turn"));
        let idle = stuck(|qp| {
            qp.send = Some(Queue::default());
            qp.receive = Some(Queue { posted: 4, done: 4 });
        });
        assert!(idle.contains("no receive"), "{idle}");
    }

    #[test]
    fn a_device_that_tells_nothing_but_psns_has_packets() {
        let at = |psn| Qp {
            send: None,
            psn: Some(psn),
            ..qp(0, 0)
        };
        let row = two(at(0x00ff_fffe), at(2));
        assert_eq!((row.messages, row.packets), (None, Some(2.0)));
    }

    #[test]
    fn what_is_new_has_no_rate_yet() {
        let at = Instant::now();
        let before = Snapshot {
            at,
            devices: Vec::new(),
        };
        let now = snapshot(at + Duration::from_secs(1), qp(5, 5), ("sent_bytes", 7));
        let row = rows(&before, &now).remove(0);
        assert_eq!(row.sent, None);
        assert_eq!(row.programs[0].qps[0].messages, None);
    }
}
