// SPDX-License-Identifier: MIT OR Apache-2.0
//! READs, atomics, and responses that make no sense.

use super::*;

#[test]
fn a_long_read_is_asked_for_in_parts_and_as_many_as_may_be() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.max_rd_atomic = 2);
    pair.post(Operation::RdmaRead(TARGET), 130 * MTU + 1);
    let sent = pair.requests();
    let parts: Vec<_> = sent.iter().map(|sent| sent.packet().headers).collect();
    let lengths: Vec<_> = parts
        .iter()
        .map(|headers| match headers {
            Headers::Reth(reth) => reth.dma_len,
            _ => 0,
        })
        .collect();
    assert_eq!(lengths, [64 * MTU, 64 * MTU]);
    assert_eq!(sent[1].psn().since(sent[0].psn()), 64);
    for packet in &sent {
        pair.give(packet);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success]);
    let length = 130 * MTU as usize + 1;
    let read = pair.peer.queues.memory.get(4096, length);
    assert!(pair.own.queues.memory.is(0, &read));
}

#[test]
fn what_a_response_answers_is_not_acknowledged_besides() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 1);
    pair.post(Operation::RdmaRead(TARGET), 8);
    pair.post(FETCH_ADD, 8);
    let mut sent = pair.requests();
    for packet in &mut sent {
        // Each asks for an acknowledgement, as rdma_rxe's do: the first bit behind the destination QP.
        packet.0[8] |= 0x80;
        assert_eq!(pair.give(packet), Request::Taken);
    }
    let kinds = |sent: &VecDeque<Sent>| -> Vec<_> { sent.iter().map(Sent::kind).collect() };
    let responses = pair.responses();
    assert_eq!(
        kinds(&responses),
        [Kind::ReadResponseOnly, Kind::AtomicAcknowledge]
    );
    // They may be lost, so what is acknowledged again is no more than the WRITE.
    assert_eq!(pair.give(&sent[0]), Request::Duplicate);
    let again = pair.responses();
    assert_eq!(kinds(&again), [Kind::Acknowledge]);
    assert_eq!(again[0].psn(), sent[0].psn());
}

#[test]
fn what_comes_again_is_acknowledged_if_it_asks() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 2 * MTU);
    let sent = pair.requests();
    for packet in &sent {
        assert_eq!(pair.give(packet), Request::Taken);
    }
    pair.responses();
    assert_eq!(pair.give(&sent[0]), Request::Duplicate);
    assert!(pair.responses().is_empty());
    assert_eq!(pair.give(&sent[1]), Request::Duplicate);
    let again = pair.responses();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].kind(), Kind::Acknowledge);
    assert_eq!(again[0].psn(), sent[1].psn());
}

#[test]
fn a_lost_response_is_asked_for_from_there_on() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaRead(TARGET), 5 * MTU);
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let sent = pair.requests();
    for packet in &sent {
        pair.give(packet);
    }
    let responses = pair.responses();
    assert_eq!(responses.len(), 6);
    assert_eq!(pair.answer(&responses[0].packet()), Response::Taken);
    assert_eq!(pair.answer(&responses[2].packet()), Response::ImpliedNak);
    for late in responses.range(3..) {
        assert_eq!(pair.answer(&late.packet()), Response::Ignored);
    }
    let again = pair.requests();
    let Headers::Reth(reth) = again[0].packet().headers else {
        panic!("{again:?}");
    };
    assert_eq!(again[0].psn(), sent[0].psn() + 1);
    assert_eq!(reth.remote.addr, TARGET.addr + u64::from(MTU));
    assert_eq!(reth.dma_len, 4 * MTU);
    for packet in &again {
        assert_eq!(pair.give(packet), Request::Duplicate);
    }
    pair.settle();
    assert_eq!(pair.completed(), [WcStatus::Success; 2]);
}

#[test]
fn an_atomic_that_comes_again_is_answered_again_and_not_done_again() {
    let mut pair = Pair::rc();
    pair.post(FETCH_ADD, 8);
    let sent = pair.requests();
    pair.give(&sent[0]);
    let after = pair.peer.queues.memory.get(4096, 8);
    let first = pair.responses();
    assert_eq!(pair.give(&sent[0]), Request::Duplicate);
    assert_eq!(pair.responses()[0].0, first[0].0);
    assert_eq!(pair.peer.queues.memory.get(4096, 8), after);
    // With other operands it is another one's, which nobody may have sent.
    let mut forged = sent[0].0.clone();
    forged[Bth::LEN + 19] ^= 1;
    assert_eq!(pair.give(&Sent(forged)), Request::Dropped);
    // What is not remembered any more is not answered.
    for _ in 0..4 {
        pair.post(Operation::RdmaRead(TARGET), 1);
    }
    pair.answer(&first[0].packet());
    pair.settle();
    assert_eq!(pair.give(&sent[0]), Request::Dropped);
    assert!(pair.responses().is_empty());
}

#[test]
fn ghosts_and_nonsense_among_the_responses_change_nothing() {
    let mut pair = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let psn = pair.requests()[0].psn();
    let ack = Syndrome::UNLIMITED;
    let strays = [
        // Of what is not sent yet, or long done.
        acknowledgement(psn + 1, ack),
        acknowledgement(psn - 1, ack),
        acknowledgement(psn + 0x0080_0000, ack),
        acknowledgement(psn - 1, Syndrome::Nak(Nak::RemoteAccessError)),
        acknowledgement(psn, Syndrome::Reserved(0x5f)),
        acknowledgement(psn, Syndrome::Reserved(0x7f)),
    ];
    for stray in strays {
        assert_eq!(pair.answer(&stray), Response::Ignored, "{stray:?}");
    }
    assert!(pair.completed().is_empty());
    assert_eq!(pair.answer(&acknowledgement(psn, ack)), Response::Taken);
    assert_eq!(pair.answer(&acknowledgement(psn, ack)), Response::Ignored);
    assert_eq!(pair.completed(), [WcStatus::Success]);
}

#[test]
fn a_response_that_does_not_answer_the_request_is_a_bad_one() {
    let forge: [fn(&mut Vec<u8>); 3] = [
        // A word less.
        |bytes| bytes.truncate(bytes.len() - 4),
        // The last response of more.
        |bytes| bytes[0] = Kind::ReadResponseFirst.number(),
        // A NAK in its header.
        |bytes| bytes[Bth::LEN] = 0x61,
    ];
    for forge in forge {
        let mut pair = Pair::rc();
        pair.post(Operation::RdmaRead(TARGET), 8);
        let sent = pair.requests();
        pair.give(&sent[0]);
        let mut response = pair.responses().pop_front().unwrap();
        forge(&mut response.0);
        let status = WcStatus::BadRespErr;
        assert_eq!(pair.answer(&response.packet()), Response::Failed(status));
        assert_eq!(pair.completed(), [status]);
    }
    // Data for who has not asked for any.
    let mut pair = Pair::rc();
    let mut reader = Pair::rc();
    pair.post(Operation::RdmaWrite(TARGET), 8);
    reader.post(Operation::RdmaRead(TARGET), 8);
    pair.requests();
    let read = reader.requests();
    reader.give(&read[0]);
    let response = reader.responses();
    pair.answer(&response[0].packet());
    assert_eq!(pair.completed(), [WcStatus::BadRespErr]);
}
