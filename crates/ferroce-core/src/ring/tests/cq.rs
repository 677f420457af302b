// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues, one side after the other.

use super::Shared;
use crate::ring::*;
use crate::verbs::*;

fn cqe(wr_id: u64) -> Cqe {
    Cqe::new(wr_id, 17, WcOpcode::Send, WcStatus::Success)
}

fn queue(entries: u32) -> (Shared, Producer, Poller) {
    let geometry = CqGeometry::new(entries).unwrap();
    let shared = Shared::new(geometry.len());
    let producer = shared.producer(geometry);
    let poller = shared.poller(geometry);
    (shared, producer, poller)
}

#[test]
fn every_field_survives_the_ring() {
    let (_shared, mut producer, mut poller) = queue(4);
    let whole = Cqe {
        wr_id: 0x0102_0304_0506_0708,
        status: WcStatus::GeneralErr,
        opcode: WcOpcode::RecvRdmaWithImm,
        byte_len: 1 << 31,
        imm_or_rkey: [9, 8, 7, 6],
        qp_num: 0xff_ffff,
        src_qp: 0xff_fffe,
        flags: WcFlags::ALL,
        pkey_index: 0xffff,
        sl: 15,
        network_hdr_type: 3,
        vendor_err: u32::MAX,
        timestamp: u64::MAX - 1,
    };
    let with_imm = cqe(1).with_imm(ImmData([1, 2, 3, 4]));
    let invalidated = cqe(2).with_invalidated(0x1234);
    for cqe in [&whole, &with_imm, &invalidated] {
        producer.push(cqe, false).unwrap();
    }
    assert_eq!(poller.poll(), Some(whole));
    let polled = poller.poll().unwrap();
    assert_eq!(polled.imm_data(), Some(ImmData([1, 2, 3, 4])));
    assert_eq!(polled.invalidated_rkey(), None);
    let polled = poller.poll().unwrap();
    assert_eq!(polled.imm_data(), None);
    assert_eq!(polled.invalidated_rkey(), Some(0x1234));
    assert_eq!(poller.poll(), None);
}

#[test]
fn a_full_queue_overruns_once_and_stays_in_error() {
    let (_shared, mut producer, mut poller) = queue(2);
    producer.push(&cqe(1), false).unwrap();
    producer.push(&cqe(2), false).unwrap();
    // Taken, but not handed back.
    assert_eq!(poller.poll(), Some(cqe(1)));
    assert_eq!(producer.push(&cqe(3), false), Err(CqError::Overrun));
    assert!(producer.is_failed());
    poller.hand_back();
    assert_eq!(producer.push(&cqe(3), false), Err(CqError::Failed));
    // What came before the error is still there.
    assert_eq!(poller.poll(), Some(cqe(2)));
    assert_eq!(poller.poll(), None);
}

#[test]
fn positions_wrap() {
    let (_shared, mut producer, mut poller) = queue(4);
    producer.start_at(u32::MAX - 5);
    poller.start_at(u32::MAX - 5);
    for wr_id in 0..40 {
        assert_eq!(poller.poll(), None);
        producer.push(&cqe(wr_id), false).unwrap();
        assert!(poller.has_completion());
        assert_eq!(poller.poll(), Some(cqe(wr_id)));
        poller.hand_back();
    }
}

#[test]
fn a_request_gets_one_event() {
    let (_shared, mut producer, mut poller) = queue(64);
    let mut complete = |solicited| {
        producer.push(&cqe(0), solicited).unwrap();
        producer.notify()
    };
    assert!(!complete(false));
    poller.arm(Notify::Next);
    // Asked twice, and still one event.
    poller.arm(Notify::Next);
    assert!(complete(false));
    assert!(!complete(false));
    poller.arm(Notify::Next);
    assert!(complete(true));
    assert!(!complete(true));
}

#[test]
fn nothing_happens_without_a_completion() {
    let (_shared, mut producer, mut poller) = queue(4);
    poller.arm(Notify::Next);
    assert!(!producer.notify());
    producer.push(&cqe(0), false).unwrap();
    assert!(producer.notify());
    assert!(!producer.notify());
}

#[test]
fn a_solicited_request_waits_for_a_solicited_completion_or_an_error() {
    let (_shared, mut producer, mut poller) = queue(64);
    let failed = Cqe::new(0, 1, WcOpcode::Recv, WcStatus::WrFlushErr);
    poller.arm(Notify::Solicited);
    producer.push(&cqe(0), false).unwrap();
    assert!(!producer.notify());
    producer.push(&failed, false).unwrap();
    assert!(producer.notify());
    poller.arm(Notify::Solicited);
    // One solicited completion in a batch is enough, wherever it is.
    producer.push(&cqe(0), true).unwrap();
    producer.push(&cqe(0), false).unwrap();
    assert!(producer.notify());
}

#[test]
fn a_request_is_widened_and_never_narrowed() {
    let (_shared, mut producer, mut poller) = queue(64);
    let mut complete = |solicited| {
        producer.push(&cqe(0), solicited).unwrap();
        producer.notify()
    };
    poller.arm(Notify::Next);
    poller.arm(Notify::Solicited);
    assert!(complete(false));
    poller.arm(Notify::Solicited);
    poller.arm(Notify::Next);
    assert!(complete(false));
    // The next request starts afresh.
    poller.arm(Notify::Solicited);
    assert!(!complete(false));
    assert!(complete(true));
}

#[test]
fn a_request_made_beside_completions_that_wait_is_served_at_once() {
    let (_shared, mut producer, mut poller) = queue(64);
    let ask = |poller: &mut Poller, producer: &mut Producer, notify| {
        poller.arm(notify);
        producer.notify_waiting()
    };
    assert!(!producer.notify_waiting(), "nobody has asked");
    assert!(
        !ask(&mut poller, &mut producer, Notify::Next),
        "nothing waits"
    );
    producer.push(&cqe(1), false).unwrap();
    assert!(producer.notify());
    // It has had its event. It has not been taken.
    assert!(ask(&mut poller, &mut producer, Notify::Next));
    assert!(!producer.notify_waiting(), "once for each request");
    assert!(
        !ask(&mut poller, &mut producer, Notify::Solicited),
        "it is not solicited"
    );
    producer.push(&cqe(2), true).unwrap();
    assert!(producer.notify());
    assert!(ask(&mut poller, &mut producer, Notify::Solicited));
    poller.poll().unwrap();
    poller.hand_back();
    assert!(ask(&mut poller, &mut producer, Notify::Solicited));
    poller.poll().unwrap();
    poller.hand_back();
    assert!(!ask(&mut poller, &mut producer, Notify::Solicited));
    assert!(!ask(&mut poller, &mut producer, Notify::Next));
    // The request is still there for the next one.
    producer.push(&cqe(3), false).unwrap();
    assert!(producer.notify());
}

#[test]
fn asking_for_ever_does_not_wear_the_sequence_out() {
    let (_shared, mut producer, mut poller) = queue(64);
    for _ in 0..if cfg!(miri) { 100 } else { 100_000 } {
        poller.arm(Notify::Solicited);
    }
    producer.push(&cqe(0), true).unwrap();
    assert!(producer.notify());
}

#[test]
fn a_moved_queue_keeps_what_waits_and_the_event_asked_for() {
    let (_old, mut producer, mut poller) = queue(4);
    producer.push(&cqe(1), false).unwrap();
    producer.push(&cqe(2), false).unwrap();
    assert_eq!(poller.poll(), Some(cqe(1)));
    poller.hand_back();
    assert!(!producer.notify(), "nobody has asked");
    poller.arm(Notify::Next);

    let (_new, mut to, mut from) = queue(8);
    producer.move_to(&mut to).unwrap();
    from.resume(&poller);
    assert!(!to.notify(), "what has been there raises no event");
    assert_eq!(from.poll(), Some(cqe(2)));
    to.push(&cqe(3), false).unwrap();
    assert!(to.notify(), "the next does");
    from.arm(Notify::Next);
    to.push(&cqe(4), false).unwrap();
    assert!(to.notify(), "and so after it was asked for again");
}

#[test]
fn a_queue_is_not_moved_into_one_that_is_too_small() {
    let (_old, mut producer, mut poller) = queue(4);
    for n in 0..3 {
        producer.push(&cqe(n), false).unwrap();
    }
    let (_new, mut to, _) = queue(2);
    assert_eq!(producer.move_to(&mut to), Err(CqError::Overrun));
    assert_eq!(poller.poll(), Some(cqe(0)));
    producer.push(&cqe(3), false).unwrap();
}

#[test]
fn completions_of_a_qp_that_has_gone_are_nobodys() {
    let (_shared, mut producer, mut poller) = queue(4);
    let of = |qp_num, wr_id| Cqe {
        qp_num,
        ..cqe(wr_id)
    };
    producer.start_at(u32::MAX - 1);
    poller.start_at(u32::MAX - 1);
    producer.push(&of(5, 0), false).unwrap();
    assert_eq!(poller.poll(), Some(of(5, 0)));
    poller.hand_back();
    // A full ring, over the end of the positions.
    for (qp_num, wr_id) in [(5, 1), (6, 2), (5, 3), (6, 4)] {
        producer.push(&of(qp_num, wr_id), false).unwrap();
    }
    let mut disown = poller.begin_disown(5);
    assert!(!poller.disown(&mut disown, 5));
    for expected in [of(0, 1), of(6, 2), of(0, 3), of(6, 4)] {
        assert_eq!(poller.poll(), Some(expected));
    }
    assert_eq!(poller.poll(), None);
    poller.hand_back();
    producer.push(&of(5, 5), false).unwrap();
    assert_eq!(poller.poll(), Some(of(5, 5)));
}

#[test]
fn completions_of_a_qp_that_has_gone_are_found_in_pieces() {
    let (_shared, mut producer, mut poller) = queue(8);
    let of = |qp_num, wr_id| Cqe {
        qp_num,
        ..cqe(wr_id)
    };
    producer.start_at(u32::MAX - 3);
    poller.start_at(u32::MAX - 3);
    for wr_id in 0..8 {
        producer.push(&of(5, wr_id), false).unwrap();
    }
    let mut disown = poller.begin_disown(5);
    // No more than it is told to look at.
    assert!(poller.disown(&mut disown, 2));
    for expected in [of(0, 0), of(0, 1), of(5, 2), of(5, 3), of(5, 4)] {
        assert_eq!(poller.poll(), Some(expected));
    }
    poller.hand_back();
    // What comes meanwhile is of the next QP with that number, and nobody looks at it.
    for wr_id in 8..13 {
        producer.push(&of(5, wr_id), false).unwrap();
    }
    // It goes on behind what was taken, over the end of the positions.
    assert!(poller.disown(&mut disown, 3));
    assert!(!poller.disown(&mut disown, 3));
    for expected in [of(0, 5), of(0, 6), of(0, 7)] {
        assert_eq!(poller.poll(), Some(expected));
    }
    for wr_id in 8..13 {
        assert_eq!(poller.poll(), Some(of(5, wr_id)));
    }
    assert_eq!(poller.poll(), None);

    // All that there was is taken before the next piece.
    poller.hand_back();
    producer.push(&of(6, 13), false).unwrap();
    let mut disown = poller.begin_disown(6);
    assert_eq!(poller.poll(), Some(of(6, 13)));
    assert!(!poller.disown(&mut disown, 1));
}
