// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a request's turn is, and what asks for acknowledgements.

use super::*;

#[test]
fn many_requests_get_one_acknowledgement() {
    let mut pair = Pair::rc();
    for _ in 0..10 {
        pair.post(Operation::RdmaWrite(TARGET), 8);
    }
    let sent = pair.requests();
    let asks: Vec<_> = sent.iter().map(|sent| sent.packet().bth.ack_req).collect();
    assert_eq!(asks, [vec![false; 9], vec![true]].concat());
    for packet in &sent {
        pair.give(packet);
    }
    let answers = pair.responses();
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].psn(), sent[9].psn());
    assert!(matches!(answers[0].packet().headers, Headers::Aeth(aeth) if aeth.msn == 10));
    pair.answer(&answers[0].packet());
    assert_eq!(pair.completed(), [WcStatus::Success; 10]);
}

#[test]
fn a_long_message_waits_for_acknowledgements_on_its_way() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 300 * MTU);
    let sent = pair.requests();
    assert_eq!(sent.len(), 256);
    assert!(sent.back().unwrap().packet().bth.ack_req);
    for packet in &sent {
        pair.give(packet);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success]);
    let length = 300 * MTU as usize;
    let written = pair.own.queues.memory.get(0, length);
    assert!(pair.peer.queues.memory.is(4096, &written));
}

#[test]
fn a_fence_waits_for_what_is_read() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaRead(TARGET), 8);
    pair.post_with(Operation::RdmaWrite(TARGET), &[sge(0, 8)], SendFlags::FENCE);
    assert_eq!(pair.requests().len(), 1);
    let read = Sent(pair.own_packet(Kind::ReadRequest, FIRST));
    pair.give(&read);
    let response = pair.responses();
    pair.answer(&response[0].packet());
    assert_eq!(pair.requests()[0].kind(), Kind::WriteOnly);
}

#[test]
fn a_request_of_the_hosts_own_waits_for_those_before_and_holds_those_behind() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 1);
    pair.post(bind(), 0);
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let first = pair.requests();
    assert_eq!(first.len(), 1);
    assert!(first[0].packet().bth.ack_req);
    pair.answer(&acknowledgement(first[0].psn(), Syndrome::UNLIMITED));
    // Until it is executed: the caller may be in a context where it cannot be.
    for _ in 0..2 {
        assert!(!pair.own.requester.has_sent_all());
        assert_eq!(pair.own.request(pair.now).err(), Some(Transmit::Local(1)));
    }
    pair.own.requester.executed(1, Ok(()), &pair.own.queues);
    assert_eq!(pair.completed(), [WcStatus::Success; 2]);
    assert_eq!(pair.requests().len(), 1);

    // The last one that was posted as well.
    let mut pair = Pair::rc();
    pair.post(bind(), 0);
    for _ in 0..2 {
        assert!(!pair.own.requester.has_sent_all());
        assert_eq!(pair.own.request(pair.now).err(), Some(Transmit::Local(0)));
    }
    pair.post(Operation::Send, 1);
    let status = WcStatus::MwBindErr;
    pair.own
        .requester
        .executed(0, Err(status), &pair.own.queues);
    assert_eq!(pair.completed(), [status]);
    assert!(pair.own.requester.has_failed());
}

#[test]
fn a_queue_that_is_to_drain_begins_no_other_request() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let sent = pair.requests();
    pair.own.requester.hold(true);
    pair.post(Operation::RdmaWrite(TARGET), 1);
    assert!(pair.requests().is_empty());
    assert!(!pair.own.requester.is_drained());
    pair.answer(&acknowledgement(sent[0].psn(), Syndrome::UNLIMITED));
    assert!(pair.own.requester.is_drained() && !pair.own.requester.is_empty());
    pair.own.requester.hold(false);
    assert_eq!(pair.requests().len(), 1);
}

#[test]
fn a_peer_that_counts_its_receives_gets_no_more_messages_than_that_but_one_to_ask_by() {
    let mut pair = Pair::rc();
    let credited = |psn, credits, msn| {
        let mut packet = acknowledgement(psn, Syndrome::Ack(credits));
        packet.headers = Headers::Aeth(Aeth {
            syndrome: Syndrome::Ack(credits),
            msn,
        });
        packet
    };
    pair.post(Operation::Send, 1);
    let first = pair.requests();
    // One message is complete, and there are no receives more.
    pair.answer(&credited(first[0].psn(), 0, 1));
    for _ in 0..4 {
        pair.post(Operation::Send, 1);
    }
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let asking = pair.requests();
    assert_eq!(asking.len(), 1);
    assert!(asking[0].packet().bth.ack_req);
    pair.answer(&credited(asking[0].psn(), 2, 2));
    let allowed = pair.requests();
    assert_eq!(allowed.len(), 2);
    assert!(allowed[1].packet().bth.ack_req);
    pair.answer(&credited(allowed[1].psn(), 31, 4));
    assert_eq!(pair.requests().len(), 2);
}

#[test]
fn no_region_is_kept_from_one_batch_to_the_next() {
    let mut pair = Pair::rc();
    let (own, peer) = (
        pair.own.queues.memory.clone(),
        pair.peer.queues.memory.clone(),
    );
    let users = [own.users(), peer.users()];
    pair.post_receive(8 * MTU);
    pair.post(Operation::Send, 4 * MTU);
    pair.post(Operation::RdmaWrite(TARGET), 4 * MTU);
    pair.post(Operation::RdmaRead(TARGET), 4 * MTU);
    let sent = pair.requests();
    assert_eq!(own.users(), users[0]);
    for packet in &sent {
        pair.give(packet);
        pair.responses().iter().for_each(|response| {
            pair.answer(&response.packet());
            pair.requests();
            assert_eq!(own.users(), users[0]);
        });
        assert_eq!(peer.users(), users[1]);
    }
    assert_eq!(pair.completed(), [WcStatus::Success; 3]);
}

#[test]
fn no_region_is_kept_by_who_stops_in_the_middle_of_a_batch() {
    let mut pair = Pair::rc();
    let (own, peer) = (
        pair.own.queues.memory.clone(),
        pair.peer.queues.memory.clone(),
    );
    let users = [own.users(), peer.users()];
    pair.post(Operation::RdmaWrite(TARGET), 4 * MTU);
    pair.post(Operation::RdmaRead(TARGET), 4 * MTU);
    for kind in [Kind::WriteFirst, Kind::WriteMiddle] {
        let sent = Sent(pair.own.request(pair.now).unwrap().to_vec());
        assert_eq!(sent.kind(), kind);
        assert_eq!(own.users(), users[0] + 1);
        pair.own.requester.end_batch();
        assert_eq!(own.users(), users[0]);
        pair.give(&sent);
        pair.peer.responder.end_batch();
        assert_eq!(peer.users(), users[1]);
    }
    for sent in pair.requests() {
        pair.give(&sent);
    }
    for kind in [Kind::ReadResponseFirst, Kind::ReadResponseMiddle] {
        let response = Sent(pair.peer.respond().unwrap().to_vec());
        assert_eq!(response.kind(), kind);
        assert_eq!(peer.users(), users[1] + 1);
        pair.peer.responder.end_batch();
        assert_eq!(peer.users(), users[1]);
        pair.answer(&response.packet());
        pair.own.requester.end_batch();
        assert_eq!(own.users(), users[0]);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success; 2]);
    assert_eq!([own.users(), peer.users()], users);
}

#[test]
fn a_packet_that_is_too_long_for_the_buffer_waits_for_a_longer_one() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 100);
    let own = &mut pair.own;
    let mut short = [0; 64];
    let needed = Bth::LEN + 16 + 100;
    for _ in 0..2 {
        let transmit = own.requester.poll_transmit(0, &own.queues, &mut short);
        assert_eq!(transmit, Transmit::NeedsRoom(needed));
    }
    let mut long = [0; 256];
    let transmit = own.requester.poll_transmit(0, &own.queues, &mut long);
    assert_eq!(transmit, Transmit::Packet(needed));
}

#[test]
fn a_solicited_message_says_so_with_its_last_packet() {
    let mut pair = Pair::rc();
    pair.post_receive(4 * MTU);
    pair.post_with(Operation::Send, &[sge(0, 2 * MTU)], SendFlags::SOLICITED);
    // That of an operation that no receive hears of says nothing.
    pair.post_with(
        Operation::RdmaWrite(TARGET),
        &[sge(0, 1)],
        SendFlags::SOLICITED,
    );
    let sent = pair.requests();
    let solicited: Vec<_> = sent
        .iter()
        .map(|sent| sent.packet().bth.solicited)
        .collect();
    assert_eq!(solicited, [false, true, false]);
    for packet in &sent {
        pair.give(packet);
    }
    let received = pair.peer.queues.received.borrow();
    assert!(received[0].solicited);
    assert_eq!(received[0].opcode, WcOpcode::Recv);
}

#[test]
fn the_responder_hears_of_the_peers_requests_in_their_turn() {
    let mut pair = Pair::rc();
    for _ in 0..3 {
        pair.post(Operation::Send, 8);
    }
    let sent = pair.requests();
    let heard = |pair: &Pair| pair.peer.queues.requests.get();
    assert_eq!(pair.give(&sent[1]), Request::OutOfSequence);
    assert_eq!(heard(&pair), 0);
    // That the peer is there is known, though there is no receive for it.
    assert_eq!(pair.give(&sent[0]), Request::NotReady);
    assert_eq!(heard(&pair), 1);
    pair.post_receive(64);
    assert_eq!(pair.give(&sent[0]), Request::Taken);
    assert_eq!(pair.give(&sent[0]), Request::Duplicate);
    assert_eq!(heard(&pair), 2);
    // Whatever comes begins a connection that is not reliable.
    let mut pair = Pair::new(QpType::Uc, |_| {});
    for _ in 0..2 {
        pair.post(Operation::Send, 8);
    }
    let sent = pair.requests();
    assert_eq!(pair.give(&sent[1]), Request::NotReady);
    assert_eq!(heard(&pair), 1);
}
