// SPDX-License-Identifier: MIT OR Apache-2.0
//! Processes that are killed at any moment, and one that goes on with others.

use std::cell::Cell;
use std::time::{Duration, Instant};

use ferroce_core::ring::{Operation, Remote, Sge};
use ferroce_core::verbs::{SendFlags, WcOpcode, WcStatus};

use super::endpoint::Endpoint;
use super::{device_folder, hear, is_long, open, say, wait_for_broker, Process};

const LENGTH: usize = 4096;
const DEPTH: u32 = 8;

pub fn test() {
    let kills = if is_long() { 2_000 } else { 60 };
    let folder = device_folder();
    let group = format!("kill-{}", std::process::id());
    let mut survivor = Process::start(&group, &folder, &["survivor", &kills.to_string()]);
    let mut random = fastrand::Rng::with_seed(1);
    for number in 0..kills {
        let mut victim = Process::start(&group, &folder, &["victim"]);
        // Each learns where the other is.
        let (of_victim, of_survivor) = (victim.hear(), survivor.hear());
        victim.tell(&of_survivor);
        survivor.tell(&of_victim);
        std::thread::sleep(Duration::from_micros(random.u64(..3_000)));
        if number % 10 == 0 {
            // Stopped for a while first, wherever it is.
            // SAFETY: The process is a child that nobody has waited for.
            unsafe { libc::kill(victim.child.id().cast_signed(), libc::SIGSTOP) };
            std::thread::sleep(Duration::from_millis(20));
        }
        victim.child.kill().unwrap();
        victim.child.wait().unwrap();
        assert_eq!(survivor.hear(), "seen");
    }
    survivor.end();
    wait_for_broker(&group);
}

fn place(endpoint: &Endpoint, memory: &[Cell<u8>], key: u32) -> String {
    format!("{} {} {key}", endpoint.qp.number, memory.as_ptr() as u64)
}

fn parse(line: &str) -> (u32, Remote) {
    let mut numbers = line.split(' ').map(|number| number.parse::<u64>().unwrap());
    let mut next = || numbers.next().unwrap();
    let number = next() as u32;
    let (addr, rkey) = (next(), next() as u32);
    (number, Remote { addr, rkey })
}

/// Sends, writes, reads and adds for ever, and is killed.
pub fn victim() {
    let device = open();
    let memory = vec![Cell::new(0_u8); LENGTH];
    let key = device.register(&memory);
    let endpoint = Endpoint::new(&device, DEPTH);
    say(&place(&endpoint, &memory, key));
    let (peer, remote) = parse(&hear());
    let sge = Sge {
        addr: memory.as_ptr() as u64,
        length: LENGTH as u32,
        lkey: key,
    };
    (0..DEPTH).for_each(|_| endpoint.post_receive(0, sge));
    endpoint.connect(peer);
    let word = Sge { length: 8, ..sge };
    let mut rounds = 0;
    loop {
        let _ = endpoint.post(1, Operation::Send, sge);
        // Some of these stay in the send queue for a while, or are a batch.
        for _ in 0..3 {
            let _ = endpoint.post(2, Operation::RdmaWrite(remote), sge);
        }
        for _ in 0..3 {
            let read = Operation::RdmaRead(remote);
            let _ = endpoint.stage(3, SendFlags::SIGNALED, read, word);
        }
        endpoint.publish();
        let _ = endpoint.post(4, Operation::FetchAdd { remote, add: 1 }, word);
        rounds += 1;
        if rounds % 4 != 0 {
            continue;
        }
        while let Some(cqe) = endpoint.poll() {
            if cqe.opcode == WcOpcode::Recv {
                endpoint.post_receive(0, sge);
            }
        }
    }
}

/// Has one peer after another, all of which are killed, and traffic with itself all the time.
pub fn survivor(kills: usize) {
    let device = open();
    let memory = vec![Cell::new(0_u8); 3 * LENGTH];
    let key = device.register(&memory);
    let sge = Sge {
        addr: memory.as_ptr() as u64,
        length: LENGTH as u32,
        lkey: key,
    };
    let own = Remote {
        addr: sge.addr + LENGTH as u64,
        rkey: key,
    };
    let same = Endpoint::new(&device, DEPTH);
    same.connect(same.qp.number);
    for number in 0..kills {
        let endpoint = Endpoint::new(&device, DEPTH);
        (0..DEPTH).for_each(|_| endpoint.post_receive(0, sge));
        say(&place(&endpoint, &memory, key));
        let (peer, remote) = parse(&hear());
        endpoint.connect(peer);
        let begin = Instant::now();
        let mut is_broken = false;
        while !is_broken {
            let _ = endpoint.post(1, Operation::Send, sge);
            for _ in 0..3 {
                let _ = endpoint.post(2, Operation::RdmaRead(remote), sge);
            }
            while let Some(cqe) = endpoint.poll() {
                match (cqe.opcode, cqe.status) {
                    (WcOpcode::Recv, WcStatus::Success) => endpoint.post_receive(0, sge),
                    (_, WcStatus::Success) => {}
                    (_, WcStatus::RetryExcErr) => is_broken = true,
                    // After it, or what the victim has broken off.
                    (_, WcStatus::WrFlushErr) => is_broken = true,
                    other => panic!("{number}: {other:?}"),
                }
            }
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{number}: it hangs"
            );
        }
        endpoint.destroy();
        // Everything else goes on.
        let value = number as u8;
        memory[..LENGTH].iter().for_each(|byte| byte.set(value));
        assert!(same.post(9, Operation::RdmaWrite(own), sge));
        let begin = Instant::now();
        let cqe = loop {
            if let Some(cqe) = same.poll() {
                break cqe;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "{number}: no completion"
            );
        };
        assert_eq!((cqe.wr_id, cqe.status), (9, WcStatus::Success));
        assert!(memory[LENGTH..2 * LENGTH]
            .iter()
            .all(|byte| byte.get() == value));
        say("seen");
    }
    same.destroy();
    ferroce_user::keys::deregister(device.context.process, key).unwrap();
}
