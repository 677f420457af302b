// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work queues, one side after the other.

use std::vec::Vec;

use super::{send, Shared};
use crate::ring::*;

fn fetch(executor: &mut Executor<SendQueue>) -> Option<u64> {
    let mut buffer = [0; MAX_SEND_STRIDE];
    executor.fetch(&mut buffer).unwrap().map(SendRequest::wr_id)
}

fn four_entries() -> (Shared, Poster<SendQueue>, Executor<SendQueue>) {
    let geometry = WqGeometry::<SendQueue>::new(4, 1, 0).unwrap();
    let shared = Shared::new(geometry.len());
    let poster = shared.poster(geometry);
    let executor = shared.executor(geometry);
    (shared, poster, executor)
}

#[test]
fn what_is_staged_is_not_seen_until_it_is_published() {
    let (_shared, mut poster, mut executor) = four_entries();
    poster.push(&send(1), Payload::NONE).unwrap();
    poster.push(&send(2), Payload::NONE).unwrap();
    assert_eq!(fetch(&mut executor), None);
    let _ = poster.publish();
    assert_eq!(executor.available(), Ok(2));
    assert_eq!(fetch(&mut executor), Some(1));
    assert_eq!(fetch(&mut executor), Some(2));
    assert_eq!(fetch(&mut executor), None);
}

#[test]
fn what_is_aborted_is_never_seen() {
    let (_shared, mut poster, mut executor) = four_entries();
    poster.push(&send(1), Payload::NONE).unwrap();
    let _ = poster.publish();
    poster.push(&send(2), Payload::NONE).unwrap();
    poster.abort();
    poster.push(&send(3), Payload::NONE).unwrap();
    let _ = poster.publish();
    assert_eq!(fetch(&mut executor), Some(1));
    assert_eq!(fetch(&mut executor), Some(3));
    assert_eq!(fetch(&mut executor), None);
}

#[test]
fn a_slot_is_free_when_it_is_handed_back_and_not_before() {
    let (_shared, mut poster, mut executor) = four_entries();
    for wr_id in 0..4 {
        poster.push(&send(wr_id), Payload::NONE).unwrap();
    }
    assert_eq!(poster.push(&send(9), Payload::NONE), Err(PostError::Full));
    let _ = poster.publish();
    assert_eq!(fetch(&mut executor), Some(0));
    assert_eq!(fetch(&mut executor), Some(1));
    assert_eq!(poster.push(&send(9), Payload::NONE), Err(PostError::Full));
    executor.hand_back(1);
    poster.push(&send(4), Payload::NONE).unwrap();
    assert_eq!(poster.push(&send(9), Payload::NONE), Err(PostError::Full));
    // No more than was fetched: one.
    executor.hand_back(100);
    poster.push(&send(5), Payload::NONE).unwrap();
    assert_eq!(poster.push(&send(9), Payload::NONE), Err(PostError::Full));
    let _ = poster.publish();
    let rest: Vec<u64> = core::iter::from_fn(|| fetch(&mut executor)).collect();
    assert_eq!(rest, [2, 3, 4, 5]);
}

#[test]
fn indexes_wrap() {
    let (_shared, mut poster, mut executor) = four_entries();
    poster.start_at(u32::MAX - 5);
    executor.start_at(u32::MAX - 5);
    for wr_id in (0..60).step_by(3) {
        for i in 0..3 {
            poster.push(&send(wr_id + i), Payload::NONE).unwrap();
        }
        let _ = poster.publish();
        for i in 0..3 {
            assert_eq!(fetch(&mut executor), Some(wr_id + i));
        }
        assert_eq!(fetch(&mut executor), None);
        executor.hand_back(3);
    }
}

#[test]
fn the_doorbell_is_rung_for_a_sleeper_alone() {
    let (_shared, mut poster, mut executor) = four_entries();
    poster.push(&send(1), Payload::NONE).unwrap();
    // A new executor is awake.
    assert_eq!(poster.publish(), Doorbell::Skip);
    // It will not sleep over work.
    assert_eq!(executor.sleep(), Ok(Idle::Work));
    poster.push(&send(2), Payload::NONE).unwrap();
    assert_eq!(poster.publish(), Doorbell::Skip);
    assert_eq!(fetch(&mut executor), Some(1));
    assert_eq!(fetch(&mut executor), Some(2));
    assert_eq!(executor.sleep(), Ok(Idle::Asleep));
    // Nothing published, nothing to ring for.
    assert_eq!(poster.publish(), Doorbell::Skip);
    poster.push(&send(3), Payload::NONE).unwrap();
    assert_eq!(poster.publish(), Doorbell::Ring);
    executor.stay_awake();
    poster.push(&send(4), Payload::NONE).unwrap();
    assert_eq!(poster.publish(), Doorbell::Skip);
}

#[test]
fn a_reset_empties_the_queue() {
    let (_shared, mut poster, mut executor) = four_entries();
    for wr_id in 0..4 {
        poster.push(&send(wr_id), Payload::NONE).unwrap();
    }
    let _ = poster.publish();
    assert_eq!(fetch(&mut executor), Some(0));
    executor.discard_all();
    assert_eq!(fetch(&mut executor), None);
    for wr_id in 10..14 {
        poster.push(&send(wr_id), Payload::NONE).unwrap();
    }
    let _ = poster.publish();
    assert_eq!(fetch(&mut executor), Some(10));
}

#[test]
fn a_short_buffer_is_the_callers_mistake_and_costs_nothing() {
    let (_shared, mut poster, mut executor) = four_entries();
    poster.push(&send(1), Payload::NONE).unwrap();
    let _ = poster.publish();
    assert_eq!(executor.fetch(&mut [0; 127]), Err(RingError::Buffer));
    assert_eq!(fetch(&mut executor), Some(1));
}

/// A receive queue of so many entries.
fn receives(entries: u32) -> (Shared, Poster<RecvQueue>, Executor<RecvQueue>) {
    let geometry = WqGeometry::<RecvQueue>::new(entries, 1).unwrap();
    let shared = Shared::new(geometry.len());
    let poster = shared.poster(geometry);
    let executor = shared.executor(geometry);
    (shared, poster, executor)
}

/// Posts up to the first that cannot be, and returns how many.
fn post(poster: &mut Poster<RecvQueue>, wr_ids: core::ops::Range<u64>) -> usize {
    let sge = |wr_id| Sge {
        addr: wr_id,
        length: 1,
        lkey: 2,
    };
    let posted = wr_ids
        .take_while(|&wr_id| poster.push(&RecvRequest { wr_id }, &[sge(wr_id)]).is_ok())
        .count();
    let _ = poster.publish();
    posted
}

fn receive(executor: &mut Executor<RecvQueue>) -> Option<u64> {
    let mut buffer = [0; MAX_RECV_STRIDE];
    let entry = executor.fetch(&mut buffer).unwrap()?;
    let (request, sges) = RecvRequest::decode(entry).unwrap();
    assert_eq!(sges.iter().next().unwrap().addr, request.wr_id);
    Some(request.wr_id)
}

#[test]
fn what_is_posted_is_moved_in_its_order() {
    // Positions that wrap, in the ring and as numbers; larger, smaller and of the same size.
    let large = if cfg!(miri) { 16 } else { 1024 };
    for start in [0, 3, u32::MAX - 1] {
        for (before, after) in [(4, 8), (8, 4), (4, 4), (4, large)] {
            let (_old, mut poster, mut executor) = receives(before);
            poster.start_at(start);
            executor.start_at(start);
            assert_eq!(post(&mut poster, 0..4), 4);
            assert_eq!(receive(&mut executor), Some(0));
            executor.hand_back(1);
            // Looked at, and left.
            assert_eq!(receive(&mut executor), Some(1));

            let (_new, mut new_poster, mut new_executor) = receives(after);
            executor.move_to(&mut new_executor).unwrap();
            new_poster.resume(&poster);
            let room = after as usize - 3;
            assert_eq!(post(&mut new_poster, 4..9999), room);
            for wr_id in 1..4 + room as u64 {
                assert_eq!(receive(&mut new_executor), Some(wr_id));
            }
            assert_eq!(receive(&mut new_executor), None);
            new_executor.hand_back(after);
            assert_eq!(post(&mut new_poster, 0..9999), after as usize);
        }
    }
}

#[test]
fn what_does_not_fit_stays_where_it_is() {
    let (_old, mut poster, mut executor) = receives(8);
    assert_eq!(post(&mut poster, 0..5), 5);
    assert_eq!(receive(&mut executor), Some(0));
    // What is not handed back counts.
    let (_small, _, mut small) = receives(4);
    let (posted, entries) = (5, 4);
    let no_room = RingError::NoRoom { posted, entries };
    assert_eq!(executor.move_to(&mut small), Err(no_room));
    let geometry = WqGeometry::<RecvQueue>::new(8, 2).unwrap();
    let wide = Shared::new(geometry.len());
    let moved = executor.move_to(&mut wide.executor(geometry));
    assert_eq!(moved, Err(RingError::Buffer));
    assert_eq!(receive(&mut executor), Some(1));
    assert_eq!(post(&mut poster, 5..6), 1);
    executor.hand_back(1);
    let (_small, _, mut small) = receives(4);
    assert!(executor.move_to(&mut small).is_err());
    executor.hand_back(1);
    executor.move_to(&mut small).unwrap();
    assert_eq!(receive(&mut small), Some(2));
}

#[test]
fn a_sleeper_is_rung_for_in_the_new_ring() {
    let (_old, poster, mut executor) = receives(2);
    assert_eq!(executor.sleep(), Ok(Idle::Asleep));
    let (_new, mut new_poster, mut new_executor) = receives(4);
    executor.move_to(&mut new_executor).unwrap();
    new_poster.resume(&poster);
    new_poster.push(&RecvRequest { wr_id: 1 }, &[]).unwrap();
    assert_eq!(new_poster.publish(), Doorbell::Ring);
    new_executor.stay_awake();
    new_poster.push(&RecvRequest { wr_id: 2 }, &[]).unwrap();
    assert_eq!(new_poster.publish(), Doorbell::Skip);
}
