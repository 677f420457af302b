// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is sent again, when, and how often.

use super::*;

#[test]
fn a_peer_without_a_receive_is_tried_again_after_its_time_and_so_often() {
    let mut pair = Pair::rc();
    pair.post(Operation::Send, 10);
    for _ in 0..2 {
        pair.settle();
        // Code 14 is 1.28 ms (IBTA table 45).
        assert_eq!(
            pair.own.requester.next_deadline(),
            Some(pair.now + 1_280_000)
        );
        assert!(pair.requests().is_empty(), "before its time");
        assert_eq!(pair.wait(), None);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::RnrRetryExcErr]);
    assert!(pair.own.requester.has_failed());

    // With a receive in time, and the next request has all its retries again.
    let mut pair = Pair::rc();
    for _ in 0..2 {
        pair.post(Operation::RdmaWriteImm(TARGET, IMM), 10);
        pair.settle();
        pair.wait();
        pair.settle();
        pair.wait();
        pair.post_receive(10);
        pair.settle();
        assert_eq!(pair.completed(), [WcStatus::Success]);
    }
}

#[test]
fn a_peer_that_is_not_ready_gets_one_packet_at_a_time() {
    let mut pair = Pair::rc();
    pair.post(Operation::Send, 10 * MTU);
    let sent = pair.requests();
    assert_eq!(sent.len(), 10);
    assert_eq!(pair.give(&sent[0]), Request::NotReady);
    pair.settle();
    pair.wait();
    pair.post_receive(10 * MTU);
    let again = pair.requests();
    assert_eq!(again.len(), 1);
    assert!(again[0].packet().bth.ack_req);
    assert_eq!(pair.give(&again[0]), Request::Taken);
    for response in pair.responses() {
        pair.answer(&response.packet());
    }
    assert_eq!(pair.requests().len(), 9, "now it is ready");
}

#[test]
fn a_peer_may_be_unready_for_ever() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.rnr_retry = 7);
    pair.post(Operation::Send, 10);
    for _ in 0..100 {
        pair.settle();
        pair.wait();
    }
    pair.post_receive(10);
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success]);
}

#[test]
fn without_an_answer_a_request_is_sent_again_retry_cnt_times() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 2 * MTU);
    pair.post(Operation::Send, 1);
    // 4.096 µs · 2^10.
    let timeout = 4096 << 10;
    for retry in 0..=3 {
        let sent = pair.requests();
        assert_eq!(sent.len(), 3, "in try {retry}");
        assert!(sent
            .iter()
            .all(|sent| sent.kind().part().begins() || retry == 0 || sent.packet().bth.ack_req));
        assert_eq!(pair.own.requester.next_deadline(), Some(pair.now + timeout));
        let expected = match retry {
            3 => TimedOut::Exceeded,
            _ => TimedOut::Retry,
        };
        assert_eq!(pair.wait(), Some(expected));
    }
    assert_eq!(pair.completed(), [WcStatus::RetryExcErr]);
    assert_eq!(pair.own.requester.next_deadline(), None);
    assert!(pair.requests().is_empty());
    assert!(!pair.own.requester.flush(&pair.own.queues));
    assert_eq!(pair.completed(), [WcStatus::WrFlushErr]);
    assert!(pair.own.requester.is_empty());
}

#[test]
fn with_a_timeout_of_zero_no_answer_is_waited_for() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.timeout = AckTimeout::default());
    pair.post(Operation::RdmaWrite(TARGET), 1);
    assert_eq!(pair.requests().len(), 1);
    assert_eq!(pair.own.requester.next_deadline(), None);
}

#[test]
fn missing_packets_are_asked_for_once() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 5 * MTU);
    let sent = pair.requests();
    assert_eq!(pair.give(&sent[0]), Request::Taken);
    for late in sent.range(2..) {
        assert_eq!(pair.give(late), Request::OutOfSequence);
    }
    let naks = pair.responses();
    assert_eq!(naks.len(), 1);
    let nak = naks[0].packet();
    assert_eq!(nak.bth.psn, sent[1].psn());
    let expected = Syndrome::Nak(Nak::PsnSequenceError);
    assert!(matches!(nak.headers, Headers::Aeth(aeth) if aeth.syndrome == expected));
    assert_eq!(pair.give(&sent[4]), Request::OutOfSequence);
    assert!(pair.responses().is_empty());

    assert_eq!(pair.answer(&nak), Response::SequenceError);
    // A copy of it has nothing sent once more.
    let again = pair.requests();
    assert_eq!(pair.answer(&nak), Response::Ignored);
    assert_eq!(again.len(), 4);
    assert!(pair.requests().is_empty());
    assert_eq!(again[0].psn(), sent[1].psn());
    for packet in &again {
        assert_eq!(pair.give(packet), Request::Taken);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success]);
}

#[test]
fn a_second_gap_is_told_as_the_first_was() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 5 * MTU);
    let sent = pair.requests();
    let told = [(1, 1), (0, 0), (2, 1), (3, 0), (1, 0), (4, 1)];
    for (packet, naks) in told {
        pair.give(&sent[packet]);
        let answers = pair.responses();
        let is_nak = |sent: &&Sent| {
            matches!(sent.packet().headers, Headers::Aeth(aeth)
                if aeth.syndrome == Syndrome::Nak(Nak::PsnSequenceError))
        };
        assert_eq!(answers.iter().filter(is_nak).count(), naks, "at {packet}");
    }
}

#[test]
fn a_read_whose_memory_takes_longer_than_all_retries_waits_for_it() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.rnr_retry = 7);
    pair.peer.queues.memory.set_missing(true);
    pair.post(Operation::RdmaRead(TARGET), 2 * MTU);
    pair.post(Operation::RdmaWrite(TARGET), 0);
    let sent = pair.requests();
    sent.iter().for_each(|request| {
        assert_eq!(pair.give(request), Request::Taken);
    });
    assert!(pair.responses().is_empty(), "it may be there in time");
    for _ in 0..20 {
        assert_eq!(pair.wait(), Some(TimedOut::Retry));
        for request in pair.requests() {
            assert_eq!(pair.give(&request), Request::Duplicate);
        }
        // What came after it is not acknowledged before it is answered.
        let answers = pair.responses();
        assert_eq!(answers.len(), 1);
        let told = answers[0].packet();
        assert!(matches!(told.headers, Headers::Aeth(aeth)
            if matches!(aeth.syndrome, Syndrome::RnrNak(_))));
        assert_eq!(told.bth.psn, sent[0].psn());
        assert_eq!(pair.answer(&told), Response::NotReady);
        // Until the time is over that it is told to wait.
        assert_eq!(pair.wait(), None);
        assert_eq!(pair.requests().len(), 1, "which is lost");
    }
    pair.peer.queues.memory.set_missing(false);
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success; 2]);
}
