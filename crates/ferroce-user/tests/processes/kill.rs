// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that are killed at any moment, and one that goes on with others.
//!
//! The survivor has three connections to each victim: with a receive queue of its own, with completions by events,
//! and with a shared receive queue. It knows of each receive that it has posted that it completes once, whenever
//! the victim is killed, and of each message that it is whole.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferroce_core::ring::{Cqe, Operation, Remote, Sge};
use ferroce_core::verbs::{SendFlags, WcOpcode, WcStatus};
use ferroce_user::broker::Client;
use ferroce_user::segment::{Lock, Segment, QPS};

use super::endpoint::{Device, Endpoint, Shared};
use super::{device_folder, hear, is_long, open, say, wait_for_broker, Process};

const LENGTH: usize = 4096;
const DEPTH: u32 = 8;
/// Connections of a survivor to a victim.
const LINKS: usize = 3;
/// How long something may take that does not hang: the transport's time-outs are a third of a second.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many processes are killed at random moments, and how many are stopped first with a lock of the survivor's.
fn counts() -> (usize, usize) {
    match is_long() {
        true => (2_000, 200),
        false => (60, 15),
    }
}

pub fn test() {
    let (kills, stops) = counts();
    let folder = device_folder();
    let group = format!("kill-{}", std::process::id());
    let mut survivor = Process::start(&group, &folder, &["survivor"]);
    let mut watcher = Process::start(&group, &folder, &["watcher"]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut locks = BTreeMap::<String, usize>::new();
    let mut missed = 0;
    for number in 0.. {
        let of_survivor = survivor.hear();
        if locks.values().sum::<usize>() == stops {
            survivor.tell("end");
            break;
        }
        // One that is to be stopped keeps its connections.
        let lasts = (number >= kills).to_string();
        let args = ["victim", &number.to_string(), &lasts];
        let mut victim = Process::start(&group, &folder, &args);
        if number < kills && number % 4 == 0 {
            // It joins, registers and creates.
            std::thread::sleep(Duration::from_micros(random.u64(..6_000)));
            victim.kill();
            survivor.tell("none");
            assert_eq!(survivor.hear(), "seen");
            continue;
        }
        let of_victim = victim.hear();
        victim.tell(&of_survivor);
        survivor.tell(&of_victim);
        if number < kills {
            // It connects, posts, polls and destroys.
            std::thread::sleep(Duration::from_micros(random.u64(..5_000)));
        } else {
            let serial = of_victim.split(' ').next().unwrap();
            let pid = victim.child.id();
            watcher.tell(&format!("{number} {pid} {serial} {of_survivor}"));
            match watcher.hear() {
                // It has not come to the lock for a while: one kill more at a random moment.
                none if none == "none" => missed += 1,
                lock => *locks.entry(lock).or_default() += 1,
            }
            // Stopped for a while, with the lock.
            std::thread::sleep(Duration::from_millis(5));
        }
        victim.kill();
        assert_eq!(survivor.hear(), "seen");
        assert!(missed <= stops, "{missed} were not stopped: {locks:?}");
    }
    survivor.end();
    watcher.tell("end");
    watcher.end();
    wait_for_broker(&group);
    println!("{kills} killed; more were stopped with a lock: {locks:?}, {missed} without");
}

/// An endpoint as the other process learns of it.
#[derive(Clone, Copy)]
struct Place {
    qpn: u32,
    remote: Remote,
}

/// The serial number of this process, and its places.
fn line(device: &Device, endpoints: &[&Endpoint], memory: &[Cell<u8>], key: u32) -> String {
    let mut line = device.context.process.own.serial.to_string();
    for endpoint in endpoints {
        let addr = memory.as_ptr() as u64;
        line += &format!(" {} {addr} {key}", endpoint.qp.number);
    }
    line
}

fn parse(line: &str) -> Vec<Place> {
    let numbers = line.split(' ').skip(1);
    let numbers: Vec<u64> = numbers.map(|number| number.parse().unwrap()).collect();
    let places = numbers.chunks(3).map(|place| Place {
        qpn: place[0] as u32,
        remote: Remote {
            addr: place[1],
            rkey: place[2] as u32,
        },
    });
    places.collect()
}

/// The byte of the message of a number.
fn byte(number: u64) -> u8 {
    (number % 251) as u8
}

/// Sends, writes, reads and adds by all connections, creates and destroys, for ever, and is killed.
pub fn victim(seed: u64, lasts: bool) {
    let mut random = fastrand::Rng::with_seed(seed);
    let device = open();
    // What it sends, and what it receives and reads.
    let memory = vec![Cell::new(0_u8); 2 * LENGTH];
    let key = device.register(&memory);
    let (memory, other) = memory.split_at(LENGTH);
    let mut links: Vec<_> = (0..LINKS)
        .map(|_| Some(Endpoint::new(&device, DEPTH)))
        .collect();
    let all: Vec<&Endpoint> = links.iter().flatten().collect();
    say(&line(&device, &all, other, key));
    let places = parse(&hear());
    let sge = Sge {
        addr: memory.as_ptr() as u64,
        length: LENGTH as u32,
        lkey: key,
    };
    let into = Sge {
        addr: other.as_ptr() as u64,
        ..sge
    };
    for (endpoint, place) in links.iter().flatten().zip(&places) {
        (0..DEPTH).for_each(|_| endpoint.post_receive(0, into));
        endpoint.connect(place.qpn);
    }
    let mut sent = [0_u64; LINKS];
    for round in 1.. {
        for (index, (link, place)) in links.iter().zip(&places).enumerate() {
            if let Some(endpoint) = link {
                traffic(
                    endpoint,
                    place.remote,
                    memory,
                    [sge, into],
                    &mut random,
                    &mut sent[index],
                );
            }
        }
        if round % 50 == 0 {
            // Its own objects, and traffic with itself.
            let other = vec![Cell::new(0_u8); LENGTH];
            let other_key = device.register(&other);
            let same = Endpoint::new(&device, DEPTH);
            same.connect(same.qp.number);
            same.post_receive(0, into);
            same.post(1, Operation::Send, Sge { length: 64, ..sge });
            while same.poll().is_some() {}
            same.destroy();
            ferroce_user::keys::deregister(device.context.process, other_key).unwrap();
        }
        if !lasts && round % 400 == 0 {
            // A connection ends before the process does.
            let last = links.iter_mut().rev().find(|link| link.is_some());
            if let Some(endpoint) = last.and_then(Option::take) {
                endpoint.destroy();
            }
        }
    }
}

/// A few requests of a victim's.
fn traffic(
    endpoint: &Endpoint,
    remote: Remote,
    memory: &[Cell<u8>],
    [sge, into]: [Sge; 2],
    random: &mut fastrand::Rng,
    sent: &mut u64,
) {
    let word = Sge { length: 8, ..into };
    // A message is all of one byte. One is under way at a time: its memory is this process's to change then.
    for long in [false, true] {
        memory.iter().for_each(|b| b.set(byte(*sent)));
        let length = if long { LENGTH as u32 } else { 64 };
        if endpoint.post(1, Operation::Send, Sge { length, ..sge }) {
            *sent += 1;
            let begin = Instant::now();
            loop {
                match endpoint.poll() {
                    Some(cqe)
                        if (cqe.opcode, cqe.status) == (WcOpcode::Recv, WcStatus::Success) =>
                    {
                        endpoint.post_receive(0, into);
                    }
                    Some(cqe) if cqe.wr_id == 1 => break,
                    Some(_) => {}
                    // The survivor may be slow.
                    None if begin.elapsed() > PATIENCE => panic!("the victim hangs"),
                    None => {}
                }
            }
        }
    }
    // To where nobody looks: the messages come to the first bytes. Some of these stay in the send queue for a
    // while, or are a batch.
    let far = Remote {
        addr: remote.addr + LENGTH as u64,
        ..remote
    };
    for _ in 0..random.u32(..4) {
        let _ = endpoint.post(2, Operation::RdmaWrite(far), sge);
    }
    for _ in 0..random.u32(..4) {
        let read = Operation::RdmaRead(far);
        let _ = endpoint.stage(3, SendFlags::SIGNALED, read, word);
    }
    endpoint.publish();
    if random.bool() {
        let _ = endpoint.post(
            4,
            Operation::FetchAdd {
                remote: far,
                add: 1,
            },
            word,
        );
    }
}

/// Stops processes at an instruction at which they have a lock of another one's, and says what lock.
pub fn watcher() {
    let (client, _) = loop {
        if let Some(found) = Client::look().unwrap() {
            break found;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    loop {
        let line = hear();
        if line == "end" {
            return;
        }
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [number, pid, victim] = [0, 1, 2].map(|index: usize| words[index].parse().unwrap());
        let of_survivor = words[3];
        let survivor = of_survivor.split(' ').next().unwrap().parse().unwrap();
        let qpns: Vec<u32> = parse(of_survivor).iter().map(|place| place.qpn).collect();
        let (segment, _) = client.lock().attach(survivor).unwrap();
        let segment = Segment::attach(segment.as_fd()).unwrap();
        let wanted = [
            "queue pair",
            "completion queue",
            "shared receive queue",
            "keys",
            "atomics",
        ];
        let wanted = wanted[number as usize % wanted.len()];
        let victim_thread = Traced::stop(pid);
        let mut random = fastrand::Rng::with_seed(number.into());
        let mut left = random.u32(..40);
        let begin = Instant::now();
        // To a lock, and then some instructions on, if it has the lock as long.
        let mut last = None;
        loop {
            let now = held(&segment, &qpns, victim);
            let is_wanted = now == Some(wanted);
            if is_wanted && left == 0 {
                break;
            }
            left -= u32::from(is_wanted && left > 0);
            if last == Some(wanted) && !is_wanted && left < 30 {
                // Sooner the next time.
                left = random.u32(..=left);
            }
            last = now;
            if begin.elapsed() > PATIENCE / 6 {
                break;
            }
            victim_thread.step();
        }
        say(held(&segment, &qpns, victim).unwrap_or("none"));
        victim_thread.wait_for_end();
    }
}

/// The first thread of a process, stopped.
struct Traced(i32);

impl Traced {
    fn stop(pid: u32) -> Self {
        let traced = Self(pid.cast_signed());
        traced.request(libc::PTRACE_SEIZE);
        traced.request(libc::PTRACE_INTERRUPT);
        traced.wait();
        traced
    }

    /// Has it execute an instruction.
    fn step(&self) {
        self.request(libc::PTRACE_SINGLESTEP);
        self.wait();
    }

    fn request(&self, request: libc::c_uint) {
        let none = core::ptr::null_mut::<libc::c_void>();
        // SAFETY: These requests have no arguments.
        let result = unsafe { libc::ptrace(request, self.0, none, none) };
        let error = std::io::Error::last_os_error();
        assert_eq!(result, 0, "{request}: {error}");
    }

    /// Returns whether it is still there.
    fn wait(&self) -> bool {
        let mut status = 0;
        // SAFETY: The status is there to be written.
        let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert_eq!(waited, self.0);
        libc::WIFSTOPPED(status)
    }

    fn wait_for_end(self) {
        while self.wait() {}
    }
}

/// The lock of a segment that a process has: of one of these queue pairs, of what they use, or of all.
fn held(segment: &Segment, qpns: &[u32], serial: u32) -> Option<&'static str> {
    let by = |lock: &Lock| lock.holder() == Some(serial);
    for qpn in qpns {
        let Some(qp) = segment.qp(qpn % QPS as u32) else {
            continue;
        };
        if by(&qp.lock) {
            return Some("queue pair");
        }
        let cq = segment.cq(qp.recv_cq.load(Ordering::Relaxed));
        if cq.is_some_and(|cq| by(&cq.lock)) {
            return Some("completion queue");
        }
        let srq = qp.srq.load(Ordering::Relaxed).checked_sub(1);
        let srq = srq.and_then(|number| segment.srq(number));
        if srq.is_some_and(|srq| by(&srq.lock)) {
            return Some("shared receive queue");
        }
    }
    let header = segment.header();
    if by(&header.keys_lock) {
        return Some("keys");
    }
    by(&header.atomics_lock).then_some("atomics")
}

/// The receives that the survivor has posted to one queue, each of which has a number and memory.
struct Receives<'a> {
    posted: RefCell<BTreeMap<u64, usize>>,
    /// How each has completed.
    done: RefCell<BTreeMap<u64, Cqe>>,
    free: RefCell<Vec<usize>>,
    /// The number of the next one: no other queue has the same.
    next: Cell<u64>,
    memory: &'a [Cell<u8>],
    key: u32,
}

impl<'a> Receives<'a> {
    /// Those of the queue of this index.
    fn new(index: usize, memory: &'a [Cell<u8>], key: u32) -> Self {
        Self {
            posted: RefCell::default(),
            done: RefCell::default(),
            free: RefCell::new((0..memory.len() / LENGTH).collect()),
            next: Cell::new((index as u64 + 1) << 32),
            memory,
            key,
        }
    }

    /// Posts one for each free piece of memory.
    fn fill(&self, post: impl Fn(u64, Sge)) {
        while let Some(slot) = self.free.borrow_mut().pop() {
            let wr_id = self.next.replace(self.next.get() + 1);
            self.posted.borrow_mut().insert(wr_id, slot);
            let sge = Sge {
                addr: self.memory[slot * LENGTH..].as_ptr() as u64,
                length: LENGTH as u32,
                lkey: self.key,
            };
            post(wr_id, sge);
        }
    }

    /// One has completed. Returns its bytes.
    fn complete(&self, cqe: &Cqe) -> &'a [Cell<u8>] {
        let slot = self.posted.borrow_mut().remove(&cqe.wr_id);
        let before = self.done.borrow_mut().insert(cqe.wr_id, *cqe);
        let slot = slot.unwrap_or_else(|| {
            let posted = &self.posted;
            panic!(
                "it is not posted: {cqe:x?}; it was completed: {before:x?}; posted are {posted:x?}"
            )
        });
        self.free.borrow_mut().push(slot);
        &self.memory[slot * LENGTH..][..LENGTH]
    }

    fn is_empty(&self) -> bool {
        self.posted.borrow().is_empty()
    }
}

/// A connection of the survivor's to a victim.
struct Link<'a> {
    endpoint: Endpoint,
    receives: &'a Receives<'a>,
    shared: Option<&'a Shared>,
    received: Cell<u64>,
    is_broken: Cell<bool>,
}

impl Link<'_> {
    fn fill(&self) {
        match self.shared {
            Some(shared) => self.receives.fill(|wr_id, sge| shared.post(wr_id, sge)),
            None => self
                .receives
                .fill(|wr_id, sge| self.endpoint.post_receive(wr_id, sge)),
        }
    }

    /// Takes a completion, if there is one.
    fn poll(&self) -> bool {
        let Some(cqe) = self.endpoint.poll() else {
            return false;
        };
        match (cqe.opcode, cqe.status) {
            (WcOpcode::Recv, WcStatus::Success) => {
                let expected = byte(self.received.replace(self.received.get() + 1));
                let bytes = self.receives.complete(&cqe);
                let bytes = &bytes[..cqe.byte_len as usize];
                let wrong = bytes.iter().position(|byte| byte.get() != expected);
                assert_eq!(wrong, None, "{expected}: {cqe:?}");
                if !self.is_broken.get() {
                    self.fill();
                }
            }
            (WcOpcode::Recv, WcStatus::WrFlushErr) => {
                self.receives.complete(&cqe);
                self.is_broken.set(true);
            }
            (_, WcStatus::Success) => {}
            (_, WcStatus::RetryExcErr | WcStatus::WrFlushErr) => self.is_broken.set(true),
            other => panic!("{other:?}"),
        }
        true
    }
}

/// Has one peer after another, all of which are killed, and traffic with itself all the time.
pub fn survivor() {
    let device = open();
    let memory = vec![Cell::new(0_u8); (LINKS * DEPTH as usize + 3) * LENGTH];
    let key = device.register(&memory);
    let (first, rest) = memory.split_at(3 * LENGTH);
    let rest: Vec<Receives> = rest
        .chunks(DEPTH as usize * LENGTH)
        .enumerate()
        .map(|(index, memory)| Receives::new(index, memory, key))
        .collect();
    let shared = Shared::new(&device, DEPTH);
    // Of the first bytes: what is sent, and two pages that are written to.
    let sge = Sge {
        addr: first.as_ptr() as u64,
        length: LENGTH as u32,
        lkey: key,
    };
    let same = Endpoint::with(&device, DEPTH, None, Some(&shared));
    same.connect(same.qp.number);
    let channel = super::endpoint::Channel::new();
    for number in 0.. {
        let links = [
            (Endpoint::new(&device, DEPTH), None),
            (Endpoint::with(&device, DEPTH, Some(&channel), None), None),
            (
                Endpoint::with(&device, DEPTH, None, Some(&shared)),
                Some(&shared),
            ),
        ];
        let links: Vec<_> = links
            .into_iter()
            .zip(&rest)
            .map(|((endpoint, shared), receives)| Link {
                endpoint,
                receives,
                shared,
                received: Cell::new(0),
                is_broken: Cell::new(false),
            })
            .collect();
        let all: Vec<&Endpoint> = links.iter().map(|link| &link.endpoint).collect();
        say(&line(&device, &all, first, key));
        let told = hear();
        if told == "end" {
            links.into_iter().for_each(|link| link.endpoint.destroy());
            break;
        }
        if told != "none" {
            with_victim(number, &parse(&told), &links, &channel, sge);
        }
        // What was posted to the shared queue is there for others.
        let begin = Instant::now();
        let mut is_sending = false;
        while !rest[2].is_empty() || is_sending {
            if rest[2].is_empty() {
                // The last one was flushed meanwhile.
                links[2].fill();
            }
            if !is_sending {
                is_sending = same.post(5, Operation::Send, Sge { length: 16, ..sge });
            }
            while let Some(cqe) = same.poll() {
                assert_eq!(cqe.status, WcStatus::Success, "{number}: {cqe:?}");
                match cqe.opcode {
                    WcOpcode::Recv => drop(rest[2].complete(&cqe)),
                    _ => is_sending = false,
                }
            }
            links[2].poll();
            let left = &rest[2].posted;
            assert!(begin.elapsed() < PATIENCE, "{number}: lost are {left:x?}");
        }
        links.into_iter().for_each(|link| link.endpoint.destroy());
        verify_own(number, &same, first, sge);
        say("seen");
    }
    same.destroy();
    shared.destroy();
    ferroce_user::keys::deregister(device.context.process, key).unwrap();
}

/// Has traffic until all connections are broken, and all receives completed.
fn with_victim(
    number: usize,
    places: &[Place],
    links: &[Link<'_>],
    channel: &super::endpoint::Channel,
    sge: Sge,
) {
    for (link, place) in links.iter().zip(places) {
        link.fill();
        link.endpoint.connect(place.qpn);
    }
    let begin = Instant::now();
    let is_done = |link: &Link<'_>| {
        link.is_broken.get() && (link.shared.is_some() || link.receives.is_empty())
    };
    while !links.iter().all(is_done) {
        for (index, (link, place)) in links.iter().zip(places).enumerate() {
            if !link.is_broken.get() {
                let short = Sge { length: 64, ..sge };
                let _ = link.endpoint.post(1, Operation::Send, short);
                let _ = link
                    .endpoint
                    .post(2, Operation::RdmaRead(place.remote), sge);
            }
            if index == 1 && !is_done(link) {
                // Each completion that comes after this look raises an event.
                link.endpoint.arm();
                if !link.poll() {
                    assert!(channel.wait(PATIENCE), "{number}: no event");
                }
            }
            while link.poll() {}
        }
        let left: Vec<_> = links.iter().map(|link| &link.receives.posted).collect();
        assert!(
            begin.elapsed() < PATIENCE,
            "{number}: it hangs; lost are {left:x?}"
        );
    }
}

/// Everything else goes on.
fn verify_own(number: usize, same: &Endpoint, memory: &[Cell<u8>], sge: Sge) {
    let value = number as u8;
    memory[..LENGTH].iter().for_each(|byte| byte.set(value));
    let own = Remote {
        addr: sge.addr + 2 * LENGTH as u64,
        rkey: sge.lkey,
    };
    assert!(same.post(9, Operation::RdmaWrite(own), sge));
    let begin = Instant::now();
    let cqe = loop {
        if let Some(cqe) = same.poll() {
            break cqe;
        }
        assert!(begin.elapsed() < PATIENCE, "{number}: no completion");
    };
    assert_eq!((cqe.wr_id, cqe.status), (9, WcStatus::Success));
    let written = &memory[2 * LENGTH..][..LENGTH];
    assert!(written.iter().all(|byte| byte.get() == value));
}
