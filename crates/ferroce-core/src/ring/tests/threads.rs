// SPDX-License-Identifier: MIT OR Apache-2.0
//! Both sides at once, on two real threads: everything arrives, in order and whole, and nobody
//! sleeps for ever. Under Miri the memory model's weak behaviours are part of it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use super::{Random, Shared};
use crate::ring::*;
use crate::verbs::*;

/// Far longer than any wait takes (Miri's clock counts its own steps): to fail, not to hang.
const LOST: Duration = Duration::from_secs(if cfg!(miri) { 2 } else { 60 });

/// Tells the other thread when this one ends, by a failure too: it must not wait for ever either.
struct Leaves<'a>(&'a AtomicBool);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn count(native: u64) -> u64 {
    if cfg!(miri) {
        200
    } else {
        native
    }
}

/// A request whose every part says which one it is.
fn request(number: u64) -> (SendRequest, [Sge; 2]) {
    let request = SendRequest {
        wr_id: number,
        flags: SendFlags::SIGNALED,
        operation: Operation::FetchAdd {
            remote: Remote {
                addr: number,
                rkey: number as u32,
            },
            add: !number,
        },
        destination: None,
    };
    let sge = Sge {
        addr: number,
        length: 8,
        lkey: number as u32,
    };
    (request, [sge; 2])
}

#[test]
fn no_doorbell_is_lost() {
    let total = count(300_000);
    for entries in [1, 8] {
        let geometry = WqGeometry::<SendQueue>::new(entries, 2, 0).unwrap();
        let shared = Shared::new(geometry.len());
        let mut poster = shared.poster(geometry);
        let mut executor = shared.executor(geometry);
        poster.start_at(u32::MAX - 50);
        executor.start_at(u32::MAX - 50);
        let (doorbell, doorbells) = mpsc::channel();
        let left = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _leaves = Leaves(left);
            scope.spawn(move || {
                let mut random = Random::new(11);
                let mut number = 0;
                while number < total && !left.load(Ordering::Relaxed) {
                    let batch = 1 + random.below(3);
                    for _ in 0..batch {
                        let (request, sges) = request(number);
                        match poster.push(&request, Payload::Sges(&sges)) {
                            Ok(()) => number += 1,
                            Err(PostError::Full) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    match poster.publish() {
                        Doorbell::Ring => {
                            let _ = doorbell.send(());
                        }
                        Doorbell::Skip => std::thread::yield_now(),
                    }
                }
            });
            let mut buffer = [0; MAX_SEND_STRIDE];
            let mut next = 0;
            while next < total {
                let Some(entry) = executor.fetch(&mut buffer).unwrap() else {
                    if executor.sleep().unwrap() == Idle::Asleep {
                        doorbells.recv_timeout(LOST).expect("a lost doorbell");
                        executor.stay_awake();
                    }
                    continue;
                };
                let (decoded, data) = SendRequest::decode(entry, QpType::Rc, Origin::User).unwrap();
                let (expected, sges) = request(next);
                assert_eq!(decoded, expected);
                let Data::Sges(list) = data else { panic!() };
                assert!(list.iter().eq(sges));
                next += 1;
                executor.hand_back(1);
            }
        });
    }
}

#[test]
fn no_event_is_lost() {
    let total = count(300_000);
    for entries in [2, 16] {
        let geometry = CqGeometry::new(entries).unwrap();
        let shared = Shared::new(geometry.len());
        let mut producer = shared.producer(geometry);
        let mut poller = shared.poller(geometry);
        producer.start_at(u32::MAX - 50);
        poller.start_at(u32::MAX - 50);
        let (event, events) = mpsc::channel();
        // How many completions the poller has taken: so that the producer does not overrun.
        let taken = AtomicU64::new(0);
        let taken = &taken;
        let left = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _leaves = Leaves(left);
            scope.spawn(move || {
                let mut random = Random::new(12);
                let mut number = 0;
                while number < total && !left.load(Ordering::Relaxed) {
                    let batch = 1 + random.below(3);
                    for _ in 0..batch {
                        // Acquire: pairs with the release store in `drain`, so that the producer then
                        // sees the consumer index too.
                        let room = u64::from(entries) + taken.load(Ordering::Acquire);
                        if number == total || number >= room {
                            break;
                        }
                        let mut cqe =
                            Cqe::new(number, number as u32, WcOpcode::Recv, WcStatus::Success);
                        cqe.timestamp = !number;
                        match producer.push(&cqe, number % 2 == 0) {
                            Ok(()) => number += 1,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    if producer.notify() {
                        let _ = event.send(());
                    } else {
                        std::thread::yield_now();
                    }
                }
            });
            let mut next = 0;
            let mut drain = |poller: &mut Poller| {
                let before = next;
                while let Some(cqe) = poller.poll() {
                    assert_eq!(cqe.wr_id, next);
                    assert_eq!((cqe.qp_num, cqe.timestamp), (next as u32, !next));
                    next += 1;
                    poller.hand_back();
                }
                taken.store(next, Ordering::Release);
                (next < total, next > before)
            };
            loop {
                let (more, _) = drain(&mut poller);
                if !more {
                    break;
                }
                poller.arm(Notify::Next);
                let (more, found) = drain(&mut poller);
                if !more {
                    break;
                }
                if !found {
                    events.recv_timeout(LOST).expect("a lost event");
                }
            }
        });
    }
}
