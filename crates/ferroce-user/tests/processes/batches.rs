// SPDX-License-Identifier: MIT OR Apache-2.0
//! WRITEs and READs that share a system call: lists of them, and those that are posted one after the other and
//! left for a while.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ferroce_core::ring::{Cqe, Operation, Remote, Sge};
use ferroce_core::verbs::{SendFlags, WcStatus};
use ferroce_user::keys;

use super::endpoint::{Device, Endpoint};
use super::{device_folder, hear, is_long, open, say, wait_for_broker, Process};

const DEPTH: u32 = 64;
/// Bytes of what the target lends, the last page of which goes.
const LENGTH: usize = 16 * PAGE;
const PAGE: usize = 4096;
/// Of each kind of test that has to do with chance.
const ROUNDS: u8 = 20;
const LONG_ROUNDS: u8 = 250;

fn rounds() -> u8 {
    match is_long() {
        true => LONG_ROUNDS,
        false => ROUNDS,
    }
}

pub fn test() {
    let folder = device_folder();
    let group = format!("batches-{}", std::process::id());
    let mut target = Process::start(&group, &folder, &["target"]);
    let mut initiator = Process::start(&group, &folder, &["initiator"]);
    // What the initiator says is for the target, whose answer it gets, until it has ended.
    loop {
        let line = initiator.hear();
        let is_last = line.starts_with("last ");
        target.tell(line.trim_start_matches("last "));
        if is_last {
            break;
        }
        initiator.tell(&target.hear());
    }
    initiator.end();
    assert_eq!(target.hear(), "seen");
    target.tell("end");
    target.end();
    wait_for_broker(&group);
}

/// Memory of whole pages.
fn pages(length: usize) -> &'static [Cell<u8>] {
    // SAFETY: It is new memory, which stays for ever unless `unmap` is called with it.
    unsafe {
        let base = libc::mmap(
            core::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(base, libc::MAP_FAILED);
        core::slice::from_raw_parts(base.cast(), length)
    }
}

/// Takes the last page of memory away, which nobody looks at any more.
fn unmap_last_page(memory: &[Cell<u8>]) {
    let last = memory[memory.len() - PAGE..].as_ptr().cast_mut();
    // SAFETY: By this function's contract.
    assert_eq!(unsafe { libc::munmap(last.cast(), PAGE) }, 0);
}

/// Looks at memory that others write, until it is as it should be.
fn wait_for(memory: &[Cell<u8>], at: usize, value: u8) {
    let begin = Instant::now();
    // SAFETY: It is a byte of the memory.
    while unsafe { memory[at..].as_ptr().cast::<u8>().read_volatile() } != value {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{value} does not come"
        );
        std::hint::spin_loop();
    }
}

/// Does as it is told.
pub fn target() {
    let device = open();
    let memory = pages(LENGTH);
    let mut key = device.register(memory);
    let mut endpoint = None;
    loop {
        let line = hear();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "connect" => {
                let new = Endpoint::new(&device, DEPTH);
                new.connect(number(1) as u32);
                let place = (new.qp.number, memory.as_ptr() as u64, key);
                say(&format!("{} {} {}", place.0, place.1, place.2));
                if let Some(old) = endpoint.replace(new) {
                    Endpoint::destroy(old);
                }
            }
            "wait" => {
                wait_for(memory, number(1), number(2) as u8);
                say("seen");
            }
            "byte" => say(&memory[number(1)].get().to_string()),
            "deregister" => {
                // While the initiator writes.
                std::thread::sleep(Duration::from_micros(number(1) as u64));
                keys::deregister(device.context.process, key).unwrap();
                memory.iter().for_each(|byte| byte.set(0xee));
                std::thread::sleep(Duration::from_millis(2));
                let is_left_alone = memory.iter().all(|byte| byte.get() == 0xee);
                memory.iter().for_each(|byte| byte.set(0));
                key = device.register(memory);
                say(&is_left_alone.to_string());
            }
            "unmap" => {
                unmap_last_page(memory);
                say("done");
            }
            _ => return,
        }
    }
}

/// The target, as the initiator has it.
struct Target {
    endpoint: Endpoint,
    memory: Remote,
}

impl Target {
    fn connect(device: &Device) -> Self {
        let endpoint = Endpoint::new(device, DEPTH);
        let answer = ask(&format!("connect {}", endpoint.qp.number));
        let mut numbers = answer.split(' ').map(|word| word.parse::<u64>().unwrap());
        let mut next = || numbers.next().unwrap();
        endpoint.connect(next() as u32);
        let (addr, rkey) = (next(), next() as u32);
        Self {
            endpoint,
            memory: Remote { addr, rkey },
        }
    }

    fn at(&self, offset: usize) -> Remote {
        Remote {
            addr: self.memory.addr + offset as u64,
            ..self.memory
        }
    }

    /// So many completions, in the order of their requests.
    fn completions(&self, count: usize) -> Vec<Cqe> {
        let begin = Instant::now();
        let mut found = Vec::new();
        while found.len() < count {
            found.extend(self.endpoint.poll());
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{} of {count}",
                found.len()
            );
        }
        for (number, cqe) in found.iter().enumerate() {
            assert_eq!(cqe.wr_id, number as u64);
        }
        assert!(self.endpoint.poll().is_none());
        found
    }

    /// Completions of which one fails, and those after it are flushed. Returns its status.
    fn fails_at(&self, count: usize, bad: usize) -> WcStatus {
        let statuses: Vec<WcStatus> = self.completions(count).iter().map(|c| c.status).collect();
        assert!(statuses[..bad].iter().all(|s| *s == WcStatus::Success));
        let flushed = WcStatus::WrFlushErr;
        assert!(statuses[bad + 1..].iter().all(|s| *s == flushed));
        statuses[bad]
    }
}

/// Has the target do something.
fn ask(line: &str) -> String {
    say(line);
    hear()
}

/// The memory of the initiator.
struct Own {
    memory: &'static [Cell<u8>],
    key: u32,
}

impl Own {
    fn sge(&self, at: usize, length: usize) -> Sge {
        Sge {
            addr: self.memory[at..].as_ptr() as u64,
            length: length as u32,
            lkey: self.key,
        }
    }
}

const SIGNALED: SendFlags = SendFlags::SIGNALED;

pub fn initiator() {
    let device = open();
    let memory = pages(LENGTH);
    let key = device.register(memory);
    let own = Own { memory, key };
    lists(&device, &own);
    one_by_one(&device, &own);
    forked(&device, &own);
    deregistered(&device, &own);
    failures(&device, &own);
    // The process ends, and has looked for nothing.
    let target = Target::connect(&device);
    own.memory[0].set(0x77);
    for _ in 0..60 {
        let write = Operation::RdmaWrite(target.at(PAGE));
        target.endpoint.post(0, write, own.sge(0, 1));
    }
    say(&format!("last wait {PAGE} {}", 0x77));
    // SAFETY: It has no preconditions that a process could break which ends.
    unsafe { libc::exit(0) };
}

/// Each byte is where it should be, in the order of the requests, and all of it is read back.
fn lists(device: &Device, own: &Own) {
    let target = Target::connect(device);
    for seed in 0..u64::from(rounds()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut expected = vec![0_u8; PAGE];
        own.memory.iter().for_each(|byte| byte.set(random.u8(..)));
        let count = random.usize(1..=DEPTH as usize);
        let zero = Operation::RdmaWrite(target.at(0));
        own.memory[..PAGE].iter().for_each(|byte| byte.set(0));
        assert!(target.endpoint.post(0, zero, own.sge(0, PAGE)));
        target.completions(1);
        // Of which many overlap, and some follow each other on one side or on both.
        let (mut from, mut to) = (PAGE, 0);
        for number in 0..count {
            if random.bool() {
                from = PAGE + random.usize(..PAGE);
            }
            if random.bool() {
                to = random.usize(..PAGE);
            }
            let length = random.usize(..=(PAGE - to).min(300));
            for at in 0..length {
                expected[to + at] = own.memory[from + at].get();
            }
            let write = Operation::RdmaWrite(target.at(to));
            let sge = own.sge(from, length);
            assert!(target.endpoint.stage(number as u64, SIGNALED, write, sge));
            (from, to) = (from + length, (to + length) % PAGE);
        }
        target.endpoint.publish();
        let done = target.completions(count);
        assert!(done.iter().all(|cqe| cqe.status == WcStatus::Success));
        let parts = PAGE / DEPTH as usize;
        for number in 0..DEPTH as usize {
            let at = number * parts;
            let read = Operation::RdmaRead(target.at(at));
            let sge = own.sge(2 * PAGE + at, parts);
            assert!(target.endpoint.stage(number as u64, SIGNALED, read, sge));
        }
        target.endpoint.publish();
        let done = target.completions(DEPTH as usize);
        assert!(done.iter().all(|cqe| cqe.status == WcStatus::Success));
        let found: Vec<u8> = own.memory[2 * PAGE..3 * PAGE]
            .iter()
            .map(Cell::get)
            .collect();
        assert!(found == expected, "seed {seed}");
    }
    target.endpoint.destroy();
}

/// What is posted arrives, though nobody looks for its completion; and no more is left than there is room for.
fn one_by_one(device: &Device, own: &Own) {
    let target = Target::connect(device);
    let mut value = 0_u8;
    for round in 0..rounds() {
        for _ in 0..200 {
            value = value.wrapping_add(1);
            let at = value as usize;
            own.memory[at].set(value);
            let write = Operation::RdmaWrite(target.at(PAGE));
            let none = SendFlags::EMPTY;
            assert!(target.endpoint.post_with(0, none, write, own.sge(at, 1)));
        }
        assert_eq!(ask(&format!("wait {PAGE} {value}")), "seen");
        if round % 2 == 0 {
            // Now it looks, after each few, as most programs do.
            for _ in 0..10 {
                for number in 0..DEPTH as usize {
                    let read = Operation::RdmaRead(target.at(PAGE));
                    let sge = own.sge(PAGE + number, 1);
                    assert!(target.endpoint.post(number as u64, read, sge));
                }
                let done = target.completions(DEPTH as usize);
                assert!(done.iter().all(|cqe| cqe.status == WcStatus::Success));
                let found = &own.memory[PAGE..][..DEPTH as usize];
                assert!(found.iter().all(|byte| byte.get() == value));
            }
        }
    }
    // What follows finds it done.
    for _ in 0..DEPTH - 1 {
        value = value.wrapping_add(1);
        own.memory[value as usize].set(value);
        let write = Operation::RdmaWrite(target.at(PAGE));
        let sge = own.sge(value as usize, 1);
        assert!(target.endpoint.post_with(0, SendFlags::EMPTY, write, sge));
    }
    let add = Operation::FetchAdd {
        remote: target.at(PAGE),
        add: 0,
    };
    assert!(target.endpoint.post(0, add, own.sge(PAGE, 8)));
    target.completions(1);
    assert_eq!(own.memory[PAGE].get(), value);
    target.endpoint.destroy();
}

/// A child harms nothing of what was posted.
fn forked(device: &Device, own: &Own) {
    let target = Target::connect(device);
    for value in 0..4 {
        own.memory[0].set(value);
        for _ in 0..40 {
            let write = Operation::RdmaWrite(target.at(2 * PAGE));
            let none = SendFlags::EMPTY;
            assert!(target.endpoint.post_with(0, none, write, own.sge(0, 1)));
        }
        // SAFETY: The child does no more than look, for which it takes no lock, and ends.
        unsafe {
            match libc::fork() {
                0 => {
                    target.endpoint.poll();
                    libc::_exit(0);
                }
                child => assert_eq!(libc::waitpid(child, core::ptr::null_mut(), 0), child),
            }
        }
        assert_eq!(ask(&format!("wait {} {value}", 2 * PAGE)), "seen");
    }
    target.endpoint.destroy();
}

/// When a region was given up, nothing is written there.
fn deregistered(device: &Device, own: &Own) {
    let mut random = fastrand::Rng::with_seed(7);
    own.memory.iter().for_each(|byte| byte.set(0x11));
    for _ in 0..rounds() {
        let target = Target::connect(device);
        say(&format!("deregister {}", random.u64(..500)));
        let mut failed = None;
        while failed.is_none() {
            for number in 0..DEPTH as usize {
                let write = Operation::RdmaWrite(target.at(number * 100));
                let sge = own.sge(number, 100);
                // No list is longer than there is room for, while some have not failed.
                let _ = target.endpoint.stage(number as u64, SIGNALED, write, sge);
            }
            target.endpoint.publish();
            while let Some(cqe) = target.endpoint.poll() {
                if cqe.status != WcStatus::Success {
                    failed.get_or_insert(cqe.status);
                }
            }
        }
        assert_eq!(failed, Some(WcStatus::RemAccessErr));
        assert_eq!(hear(), "true", "it was written after it was given up");
        target.endpoint.destroy();
    }
}

/// What comes before a request that fails is done, and what comes after is not.
fn failures(device: &Device, own: &Own) {
    const COUNT: usize = 40;
    const BAD: usize = 17;
    let list = |target: &Target, value: u8, bad: &dyn Fn(Operation, Sge) -> (Operation, Sge)| {
        own.memory[0].set(value);
        for number in 0..COUNT {
            let write = Operation::RdmaWrite(target.at(number));
            let (write, sge) = match number {
                BAD => bad(write, own.sge(0, 1)),
                _ => (write, own.sge(0, 1)),
            };
            assert!(target.endpoint.stage(number as u64, SIGNALED, write, sge));
        }
        target.endpoint.publish();
        let status = target.fails_at(COUNT, BAD);
        assert_eq!(ask(&format!("byte {}", BAD - 1)), value.to_string());
        assert_ne!(ask(&format!("byte {}", BAD + 1)), value.to_string());
        status
    };
    let last = LENGTH - PAGE;
    // A key that there is not.
    let target = Target::connect(device);
    let status = list(&target, 1, &|_, sge| {
        let nowhere = Remote {
            rkey: target.memory.rkey ^ 0xff,
            ..target.at(0)
        };
        (Operation::RdmaWrite(nowhere), sge)
    });
    assert_eq!(status, WcStatus::RemAccessErr);
    target.endpoint.destroy();
    // Memory of the initiator that is not there any more.
    let gone = Own {
        memory: pages(2 * PAGE),
        key: 0,
    };
    let gone = Own {
        key: device.register(gone.memory),
        ..gone
    };
    unmap_last_page(gone.memory);
    let target = Target::connect(device);
    let status = list(&target, 2, &|write, _| (write, gone.sge(PAGE, 1)));
    assert_eq!(status, WcStatus::LocProtErr);
    target.endpoint.destroy();
    // Memory of the target.
    assert_eq!(ask("unmap"), "done");
    let target = Target::connect(device);
    let status = list(&target, 3, &|_, sge| {
        (Operation::RdmaWrite(target.at(last)), sge)
    });
    assert_eq!(status, WcStatus::RemAccessErr);
    target.endpoint.destroy();
    // The same for what is read.
    let target = Target::connect(device);
    own.memory[..COUNT].iter().for_each(|byte| byte.set(0xfe));
    for number in 0..COUNT {
        let at = if number == BAD { last } else { number };
        let read = Operation::RdmaRead(target.at(at));
        let sge = own.sge(number, 1);
        assert!(target.endpoint.stage(number as u64, SIGNALED, read, sge));
    }
    target.endpoint.publish();
    assert_eq!(target.fails_at(COUNT, BAD), WcStatus::RemAccessErr);
    assert_eq!(own.memory[BAD - 1].get(), 3);
    assert!(own.memory[BAD..COUNT].iter().all(|byte| byte.get() == 0xfe));
    target.endpoint.destroy();
}
