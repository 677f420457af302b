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
