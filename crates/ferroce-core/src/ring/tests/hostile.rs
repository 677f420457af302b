// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other side writes anything, anywhere in the ring, at any time: before an access, and from
//! another thread during it. Nothing may panic, or leave the ring (see [`Shared`]'s guards; Miri
//! sees the reads too), and what is counted stays within the ring's size.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::{send, Random, Shared};
use crate::ring::*;
use crate::verbs::*;

impl Shared {
    /// One hostile write. It has the size the ring's own accesses have there: Rust's memory model
    /// has no atomics of two sizes on one place. A hostile process has no such limit, and gains
    /// nothing by it, as each word may be anything anyway.
    fn attack(&self, random: &mut Random, entries_have_sequences: bool) {
        let value = match random.below(4) {
            0 => random.next(),
            1 => random.below(64),
            2 => u64::MAX - random.below(64),
            // Plausible headers: small numbers in each byte.
            _ => random.next() & 0x0f0f_0f0f_0f0f_0f0f,
        };
        let words = self.len as u64 / 8;
        let header_words = HEADER_LEN as u64 / 8;
        // Every other write goes for the indexes.
        let word = if random.below(2) == 0 {
            8 * random.below(3)
        } else {
            random.below(words)
        };
        let offset = 8 * word as usize;
        let is_sequence = entries_have_sequences && word >= header_words && word % 8 == 7;
        if word < header_words || is_sequence {
            let offset = offset + 4 * (is_sequence || random.below(8) == 0) as usize;
            // SAFETY: Within the allocation, and aligned.
            let place = unsafe { AtomicU32::from_ptr(self.base().add(offset).cast().as_ptr()) };
            place.store(value as u32, Ordering::Relaxed);
        } else {
            // SAFETY: Within the allocation, and aligned.
            let place = unsafe { AtomicU64::from_ptr(self.base().add(offset).cast().as_ptr()) };
            place.store(value, Ordering::Relaxed);
        }
    }
}

fn rounds(native: u64) -> u64 {
    if cfg!(miri) {
        300
    } else {
        native
    }
}

/// What a driver does with its executor, with the checks it relies on.
fn execute<Q: Queue>(
    executor: &mut Executor<Q>,
    random: &mut Random,
    outstanding: &mut u32,
    decode: impl Fn(&[u8], u64),
) {
    let entries = executor.geometry().entries();
    let mut buffer = [0; MAX_SEND_STRIDE];
    match random.below(16) {
        0 => {
            executor.discard_all();
            *outstanding = 0;
        }
        1 => {
            let _ = executor.sleep();
        }
        2 => {
            if let Ok(available) = executor.available() {
                assert!(available + *outstanding <= entries);
            }
        }
        3..=6 => {
            let count = random.below(3) as u32;
            executor.hand_back(count);
            *outstanding -= count.min(*outstanding);
        }
        _ => {
            if let Ok(Some(entry)) = executor.fetch(&mut buffer) {
                *outstanding += 1;
                assert!(*outstanding <= entries);
                assert!(entry.len() <= executor.geometry().stride());
                decode(entry, random.next());
            }
        }
    }
}

fn decode_send(entry: &[u8], chance: u64) {
    let qp_type = QpType::ALL[chance as usize % 4];
    if let Ok((_, data)) = SendRequest::decode(entry, qp_type, Origin::User) {
        assert!(data.length() <= 1 << 31);
    }
}

fn decode_recv(entry: &[u8], _: u64) {
    let _ = RecvRequest::decode(entry);
}

#[test]
fn an_executor_survives_any_content() {
    for seed in 1..5 {
        let mut random = Random::new(seed);
        let send = WqGeometry::<SendQueue>::new(8, 4, 100).unwrap();
        let shared = Shared::new(send.len());
        let mut executor = shared.executor(send);
        let mut outstanding = 0;
        for _ in 0..rounds(200_000) {
            shared.attack(&mut random, false);
            execute(&mut executor, &mut random, &mut outstanding, decode_send);
        }

        let recv = WqGeometry::<RecvQueue>::new(4, 3).unwrap();
        let shared = Shared::new(recv.len());
        let mut executor = shared.executor(recv);
        let mut outstanding = 0;
        for _ in 0..rounds(200_000) {
            shared.attack(&mut random, false);
            execute(&mut executor, &mut random, &mut outstanding, decode_recv);
        }
    }
}

#[test]
fn an_executor_survives_writes_while_it_reads() {
    let geometry = WqGeometry::<SendQueue>::new(8, 4, 100).unwrap();
    let shared = Shared::new(geometry.len());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(77);
            while !done.load(Ordering::Relaxed) {
                shared.attack(&mut random, false);
            }
        });
        let mut random = Random::new(99);
        let mut executor = shared.executor(geometry);
        let mut outstanding = 0;
        for _ in 0..rounds(500_000) {
            execute(&mut executor, &mut random, &mut outstanding, decode_send);
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_claim_that_grows_after_the_header_was_read_changes_nothing() {
    // The header is copied before the claim in the copy is judged: whatever the ring says later,
    // the payload copied is what the copy claims.
    let geometry = WqGeometry::<SendQueue>::new(1, 1, 0).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    let sge = [Sge {
        addr: 1,
        length: 1,
        lkey: 1,
    }];
    poster.push(&send(1), Payload::Sges(&sge)).unwrap();
    let _ = poster.publish();
    let mut buffer = [0; MAX_SEND_STRIDE];
    let mut executor = shared.executor(geometry);
    let entry = executor.fetch(&mut buffer).unwrap().unwrap();
    let mut random = Random::new(5);
    for _ in 0..rounds(10_000) {
        shared.attack(&mut random, false);
    }
    let (request, data) = SendRequest::decode(entry, QpType::Rc, Origin::User).unwrap();
    assert_eq!((request, data.length()), (send(1), 1));
}

#[test]
fn an_impossible_index_is_reported_until_it_is_discarded() {
    let geometry = WqGeometry::<SendQueue>::new(4, 1, 0).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    let mut executor = shared.executor(geometry);
    let mut buffer = [0; MAX_SEND_STRIDE];
    for wr_id in 0..3 {
        poster.push(&send(wr_id), Payload::NONE).unwrap();
    }
    let _ = poster.publish();
    executor.fetch(&mut buffer).unwrap().unwrap();

    // SAFETY: Within the allocation, and aligned.
    let producer = unsafe { AtomicU32::from_ptr(shared.base().cast().as_ptr()) };
    // Five entries in a ring of four; and back behind what has been fetched.
    for index in [5, 0, u32::MAX, 1 << 31] {
        producer.store(index, Ordering::Relaxed);
        let error = RingError::Producer {
            producer: index,
            consumer: 0,
            fetched: 1,
        };
        assert_eq!(executor.available(), Err(error));
        assert_eq!(executor.sleep(), Err(error));
    }
    executor.discard_all();
    assert_eq!(executor.available(), Ok(0));
    assert_eq!(executor.sleep(), Ok(Idle::Asleep));
}

#[test]
fn a_move_survives_any_content() {
    let geometry = |entries| WqGeometry::<RecvQueue>::new(entries, 3).unwrap();
    let rings = [4, 8].map(|entries| Shared::new(geometry(entries).len()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(7);
            while !done.load(Ordering::Relaxed) {
                for ring in &rings {
                    ring.attack(&mut random, false);
                }
            }
        });
        let mut random = Random::new(8);
        let mut executor = rings[0].executor(geometry(4));
        let mut outstanding = 0;
        let mut moved = 0;
        for round in 0..rounds(300_000) {
            execute(&mut executor, &mut random, &mut outstanding, decode_recv);
            if round % 4 == 0 {
                let entries = [4, 8][random.below(2) as usize];
                let mut to = rings[entries as usize / 8].executor(geometry(entries));
                if executor.move_to(&mut to).is_ok() {
                    executor = to;
                    outstanding = 0;
                    moved += 1;
                }
            }
        }
        assert!(moved > 0);
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_poster_survives_any_content() {
    let geometry = WqGeometry::<SendQueue>::new(8, 4, 64).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    let mut random = Random::new(3);
    for _ in 0..rounds(200_000) {
        shared.attack(&mut random, false);
        let _ = poster.push(&send(1), Payload::Inline(&[&[1; 40]]));
        let _ = poster.push(&send(1), Payload::Sges(&[Sge::default(); 4]));
        let _ = poster.publish();
    }
}

#[test]
fn both_sides_of_a_completion_queue_survive_any_content() {
    let geometry = CqGeometry::new(8).unwrap();
    let shared = Shared::new(geometry.len());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(42);
            while !done.load(Ordering::Relaxed) {
                shared.attack(&mut random, true);
            }
        });
        let mut random = Random::new(43);
        let cqe = Cqe::new(1, 2, WcOpcode::Recv, WcStatus::Success);
        let mut poller = shared.poller(geometry);
        let mut producer = shared.producer(geometry);
        for _ in 0..rounds(300_000) {
            match random.below(5) {
                0 => {
                    if producer.push(&cqe, true) == Err(CqError::Overrun) {
                        assert!(producer.is_failed());
                        producer = shared.producer(geometry);
                    }
                }
                1 => {
                    let _ = producer.notify();
                }
                2 => {
                    let _ = poller.poll();
                }
                3 => poller.hand_back(),
                _ => poller.arm(Notify::Next),
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
