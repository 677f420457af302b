// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unreliable connections.

use super::*;

#[test]
fn an_unreliable_connection_drops_the_message_that_has_a_gap_and_keeps_its_receive() {
    let mut pair = Pair::new(QpType::Uc, |_| {});
    pair.post_receive(4 * MTU);
    pair.post(Operation::Send, 3 * MTU);
    pair.post(Operation::SendImm(IMM), 2 * MTU);
    pair.post(Operation::RdmaWrite(TARGET), 2 * MTU);
    let sent = pair.requests();
    // Whatever becomes of them.
    assert_eq!(pair.completed(), [WcStatus::Success; 3]);
    assert!(sent.iter().all(|sent| !sent.packet().bth.ack_req));
    assert_eq!(pair.give(&sent[0]), Request::Taken);
    assert_eq!(pair.give(&sent[2]), Request::OutOfSequence);
    assert_eq!(pair.give(&sent[3]), Request::Taken);
    assert_eq!(pair.give(&sent[4]), Request::Taken);
    assert_eq!(pair.give(&sent[6]), Request::OutOfSequence);
    assert!(pair.responses().is_empty());
    let received = pair.peer.queues.received.borrow().clone();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].extra, Extra::Immediate(IMM));
    assert_eq!((received[0].wr_id, received[0].byte_len), (100, 2 * MTU));
    let message = pair.own.queues.memory.get(0, 2 * MTU as usize);
    assert!(pair.peer.queues.memory.is(SIZE / 2, &message));
    assert_eq!(pair.peer.queues.failed.get(), None);
}

#[test]
fn an_unreliable_connection_tells_nobody_what_it_refuses() {
    let mut pair = Pair::new(QpType::Uc, |_| {});
    let bad = Remote {
        addr: BASE,
        rkey: RKEY + 1,
    };
    pair.post(Operation::RdmaWrite(bad), 8);
    pair.post(Operation::Send, 8);
    pair.post(Operation::Send, 9);
    pair.post(Operation::Send, 8);
    let sent = pair.requests();
    assert_eq!(pair.give(&sent[0]), Request::Dropped);
    assert_eq!(pair.give(&sent[1]), Request::NotReady);
    pair.post_receive(8);
    // As on one host: what the receive does not take finds none.
    assert_eq!(pair.give(&sent[2]), Request::NotReady, "too long");
    assert_eq!(pair.give(&sent[3]), Request::Taken);
    assert!(pair.responses().is_empty());
    assert_eq!(pair.peer.queues.failed.get(), None);
    assert_eq!(pair.completed(), [WcStatus::Success; 4]);
}

#[test]
fn a_packet_of_another_service_is_dropped() {
    let mut reliable = Pair::rc();
    let mut unreliable = Pair::new(QpType::Uc, |_| {});
    reliable.post(Operation::RdmaWrite(TARGET), 8);
    unreliable.post(Operation::RdmaWrite(TARGET), 8);
    let (rc, uc) = (reliable.requests(), unreliable.requests());
    assert_eq!(reliable.give(&uc[0]), Request::Dropped);
    assert_eq!(unreliable.give(&rc[0]), Request::Dropped);
    assert_eq!(reliable.give(&rc[0]), Request::Taken);
    assert_eq!(unreliable.give(&uc[0]), Request::Taken);
}

#[test]
fn a_requester_goes_on_after_an_error_if_its_qp_is_brought_back() {
    let bad_key = Sge {
        lkey: LKEY + 1,
        ..sge(0, MTU)
    };
    let mut pair = Pair::new(QpType::Uc, |_| {});
    pair.post_receive(2048);
    pair.post(Operation::Send, 8);
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success]);
    // In the middle of a message.
    let halves = [sge(0, MTU), sge(1024, MTU)];
    pair.post_with(Operation::Send, &halves, SendFlags::EMPTY);
    assert!(pair.own.request(pair.now).is_ok());
    pair.own.queues.lkey.set(LKEY + 1);
    pair.post(Operation::Send, 8);
    assert!(pair.requests().is_empty());
    pair.own.queues.lkey.set(LKEY);
    assert!(!pair.own.requester.flush(&pair.own.queues));
    let statuses = [WcStatus::LocProtErr, WcStatus::WrFlushErr];
    assert_eq!(pair.completed(), statuses);
    for _ in 0..2 {
        pair.own.requester.recover();
        pair.post_receive(2048);
        pair.post(Operation::Send, 2 * MTU + 1);
        pair.settle();
        assert_eq!(pair.completed(), [WcStatus::Success]);
        // Before it has sent anything, too.
        pair.post_with(Operation::Send, &[bad_key], SendFlags::EMPTY);
        assert!(pair.requests().is_empty());
        assert_eq!(pair.completed(), [WcStatus::LocProtErr]);
    }
    let received = pair.peer.queues.received.borrow();
    let lengths: Vec<_> = received.iter().map(|r| r.byte_len).collect();
    assert_eq!(lengths, [8, 2 * MTU + 1, 2 * MTU + 1]);
}
