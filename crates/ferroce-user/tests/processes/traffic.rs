// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verified traffic between processes, each with each and with itself.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferroce_core::ring::{Operation, Remote, Sge};
use ferroce_core::verbs::{SendFlags, WcOpcode, WcStatus};

use super::endpoint::{Device, Endpoint};
use super::{device_folder, hear, is_long, open, say, wait_for_broker, Process};

const PROCESSES: usize = 8;
/// How many requests of a queue pair are under way.
const DEPTH: usize = 16;
/// Bytes of a message at most, and of the memory that each process has at each other.
const SLICE: usize = 4096;

pub fn test() {
    let operations = if is_long() { 1_000_000 } else { 100_000 } / PROCESSES;
    let folder = device_folder();
    let group = format!("traffic-{}", std::process::id());
    let mut processes: Vec<Process> = (0..PROCESSES)
        .map(|own| {
            let numbers = [own, PROCESSES, operations].map(|number| number.to_string());
            let args = ["traffic", &numbers[0], &numbers[1], &numbers[2]];
            Process::start(&group, &folder, &args)
        })
        .collect();
    // Where each is; that all are connected; what they have added; that all has come.
    for _ in 0..3 {
        let lines: Vec<String> = processes.iter_mut().map(Process::hear).collect();
        let all = lines.join(";");
        processes.iter_mut().for_each(|process| process.tell(&all));
    }
    processes.into_iter().for_each(Process::end);
    wait_for_broker(&group);
}

/// The place of one process, as the others learn it.
struct Place {
    address: u64,
    key: u32,
    /// By the process that each is connected to.
    qpns: Vec<u32>,
}

impl Place {
    fn parse(text: &str) -> Self {
        let mut numbers = text.split(' ').map(|number| number.parse::<u64>().unwrap());
        Self {
            address: numbers.next().unwrap(),
            key: numbers.next().unwrap() as u32,
            qpns: numbers.map(|number| number as u32).collect(),
        }
    }
}

/// The memory of a process, in bytes: a counter, then a slice for each peer, then what it sends and
/// receives.
struct Memory {
    bytes: Vec<Cell<u8>>,
    count: usize,
}

impl Memory {
    fn slice(&self, peer: usize) -> usize {
        64 + peer * SLICE
    }

    fn receives(&self, peer: usize, slot: usize) -> usize {
        64 + self.count * SLICE + (peer * DEPTH + slot) * SLICE
    }

    fn sends(&self, peer: usize, slot: usize) -> usize {
        self.receives(peer, slot) + self.count * DEPTH * SLICE
    }

    fn new(count: usize) -> Self {
        let length = 64 + count * SLICE + 2 * count * DEPTH * SLICE;
        let bytes = vec![Cell::new(0); length];
        Self { bytes, count }
    }

    fn sge(&self, at: usize, length: usize, lkey: u32) -> Sge {
        Sge {
            addr: self.bytes[at..].as_ptr() as u64,
            length: length as u32,
            lkey,
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.bytes[at..]
            .iter()
            .zip(bytes)
            .for_each(|(to, from)| to.set(*from));
    }

    fn read(&self, at: usize, length: usize) -> Vec<u8> {
        self.bytes[at..at + length].iter().map(Cell::get).collect()
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.read(at, 8).try_into().unwrap())
    }
}

/// What is in the message of a number.
fn message(from: usize, to: usize, number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed((from as u64) << 48 ^ (to as u64) << 32 ^ number);
    let length = random.usize(8..=SLICE);
    let mut bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    bytes[..8].copy_from_slice(&number.to_ne_bytes());
    bytes
}

/// A request that is under way.
enum Sent {
    Send,
    Write,
    /// What is to be found.
    Read(Vec<u8>),
    Add,
}

pub fn child(own: usize, count: usize, operations: u64) {
    let device = open();
    let memory = Memory::new(count);
    let key = device.register(&memory.bytes);
    let endpoints: Vec<_> = (0..count)
        .map(|_| Endpoint::new(&device, DEPTH as u32))
        .collect();
    let qpns: Vec<String> = endpoints.iter().map(|e| e.qp.number.to_string()).collect();
    say(&format!(
        "{} {key} {}",
        memory.bytes.as_ptr() as u64,
        qpns.join(" ")
    ));
    let places: Vec<Place> = hear().split(';').map(Place::parse).collect();
    let mut process = Running {
        own,
        device: &device,
        memory: &memory,
        key,
        endpoints: &endpoints,
        places: &places,
        shadows: vec![vec![0; SLICE]; count],
        under_way: (0..count).map(|_| HashMap::new()).collect(),
        sent: vec![0; count],
        received: vec![0; count],
        added: vec![0; count],
        writes: vec![0; count],
    };
    for (peer, endpoint) in endpoints.iter().enumerate() {
        (0..DEPTH).for_each(|slot| process.post_receive(peer, slot));
        endpoint.connect(places[peer].qpns[own]);
    }
    say("connected");
    hear();
    process.run(operations);
    // How many messages each has for each, and what it has added.
    let told: Vec<String> = (0..count)
        .map(|peer| format!("{} {}", process.sent[peer], process.added[peer]))
        .collect();
    // The others are served until all have said so.
    let all = process.serve_until(|| {
        say(&told.join(","));
        hear()
    });
    let for_this: Vec<(u64, u64)> = all
        .split(';')
        .map(|line| {
            let mut numbers = line.split(',').nth(own).unwrap().split(' ');
            let mut next = || numbers.next().unwrap().parse::<u64>().unwrap();
            (next(), next())
        })
        .collect();
    let begin = Instant::now();
    while (0..count).any(|peer| process.received[peer] != for_this[peer].0) {
        (0..count).for_each(|peer| process.poll(peer));
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "messages are lost"
        );
    }
    let added = for_this.iter().map(|(_, added)| added).sum::<u64>();
    assert_eq!(memory.word(0), added, "what was added");
    endpoints.into_iter().for_each(Endpoint::destroy);
    ferroce_user::keys::deregister(device.context.process, key).unwrap();
}

struct Running<'a> {
    own: usize,
    #[allow(dead_code)] // Kept open.
    device: &'a Device,
    memory: &'a Memory,
    key: u32,
    endpoints: &'a [Endpoint],
    places: &'a [Place],
    /// What this process has written to its slice at each peer.
    shadows: Vec<Vec<u8>>,
    /// By the slots.
    under_way: Vec<HashMap<usize, Sent>>,
    sent: Vec<u64>,
    received: Vec<u64>,
    added: Vec<u64>,
    /// Writes that are under way.
    writes: Vec<usize>,
}

impl Running<'_> {
    fn post_receive(&self, peer: usize, slot: usize) {
        let sge = self
            .memory
            .sge(self.memory.receives(peer, slot), SLICE, self.key);
        self.endpoints[peer].post_receive(slot as u64, sge);
    }

    fn run(&mut self, operations: u64) {
        let mut random = fastrand::Rng::with_seed(self.own as u64);
        let mut posted = 0;
        let begin = Instant::now();
        while posted < operations || self.under_way.iter().any(|requests| !requests.is_empty()) {
            let peer = random.usize(..self.endpoints.len());
            // One, or a list.
            for _ in 0..random.usize(1..=6) {
                if posted < operations && self.stage(peer, &mut random) {
                    posted += 1;
                }
            }
            self.endpoints[peer].publish();
            self.poll(peer);
            assert!(
                begin.elapsed() < Duration::from_secs(600),
                "it does not end"
            );
        }
    }

    /// Goes on serving the others while another thread waits for the answer.
    fn serve_until(&mut self, ask: impl FnOnce() -> String + Send) -> String {
        std::thread::scope(|scope| {
            let asking = scope.spawn(ask);
            while !asking.is_finished() {
                (0..self.endpoints.len()).for_each(|peer| self.poll(peer));
            }
            asking.join().unwrap()
        })
    }

    fn stage(&mut self, peer: usize, random: &mut fastrand::Rng) -> bool {
        let under_way = &self.under_way[peer];
        let Some(slot) = (0..DEPTH).find(|slot| !under_way.contains_key(slot)) else {
            return false;
        };
        let at = self.memory.sends(peer, slot);
        let place = &self.places[peer];
        let slice = place.address + self.memory.slice(self.own) as u64;
        let remote = |offset: usize| Remote {
            addr: slice + offset as u64,
            rkey: place.key,
        };
        let (operation, length, sent) = match random.u8(..4) {
            0 => {
                let message = message(self.own, peer, self.sent[peer]);
                self.memory.write(at, &message);
                self.sent[peer] += 1;
                (Operation::Send, message.len(), Sent::Send)
            }
            1 => {
                let from = random.usize(..SLICE);
                let length = random.usize(..=SLICE - from);
                let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
                self.memory.write(at, &bytes);
                self.shadows[peer][from..from + length].copy_from_slice(&bytes);
                self.writes[peer] += 1;
                (Operation::RdmaWrite(remote(from)), length, Sent::Write)
            }
            2 => {
                let from = random.usize(..SLICE);
                let length = random.usize(..=SLICE - from);
                // A READ finds what was written before it on the same connection (IBTA table 79).
                let expected = self.shadows[peer][from..from + length].to_vec();
                (
                    Operation::RdmaRead(remote(from)),
                    length,
                    Sent::Read(expected),
                )
            }
            _ => {
                let add = random.u64(..1000);
                self.added[peer] += add;
                let remote = Remote {
                    addr: place.address,
                    rkey: place.key,
                };
                (Operation::FetchAdd { remote, add }, 8, Sent::Add)
            }
        };
        let sge = self.memory.sge(at, length, self.key);
        self.under_way[peer].insert(slot, sent);
        let flags = SendFlags::SIGNALED;
        assert!(self.endpoints[peer].stage(slot as u64, flags, operation, sge));
        true
    }

    fn poll(&mut self, peer: usize) {
        while let Some(cqe) = self.endpoints[peer].poll() {
            assert_eq!(cqe.status, WcStatus::Success, "{cqe:?}");
            let slot = cqe.wr_id as usize;
            if cqe.opcode == WcOpcode::Recv {
                let expected = message(peer, self.own, self.received[peer]);
                let found = self
                    .memory
                    .read(self.memory.receives(peer, slot), cqe.byte_len as usize);
                assert!(
                    found == expected,
                    "message {} of {peer}",
                    self.received[peer]
                );
                self.received[peer] += 1;
                self.post_receive(peer, slot);
                continue;
            }
            match self.under_way[peer].remove(&slot).unwrap() {
                Sent::Read(expected) => {
                    let found = self
                        .memory
                        .read(self.memory.sends(peer, slot), expected.len());
                    assert!(found == expected, "what {} has read of {peer}", self.own);
                }
                Sent::Write => self.writes[peer] -= 1,
                Sent::Send | Sent::Add => {}
            }
        }
    }
}
