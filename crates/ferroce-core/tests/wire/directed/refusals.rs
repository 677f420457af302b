// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that are refused, by the peer or at home.

use ferroce_core::wire::{Feth, Reth};

use super::*;

#[test]
fn each_refusal_has_its_nak_its_status_and_its_event() {
    let bad = |at| Remote {
        addr: BASE + at,
        rkey: RKEY + 1,
    };
    let odd = Remote {
        addr: BASE + 1,
        rkey: RKEY,
    };
    let beyond = Remote {
        addr: BASE + SIZE as u64 - 1,
        rkey: RKEY,
    };
    let flush = Operation::Flush {
        remote: bad(0),
        length: 1,
        selectivity: FlushSelectivity::Range,
        placement: FlushPlacement::GLOBAL,
    };
    let odd_add = Operation::FetchAdd {
        remote: odd,
        add: 1,
    };
    let access = (WcStatus::RemAccessErr, Some(EventType::QpAccessErr), None);
    let invalid = (WcStatus::RemInvReqErr, Some(EventType::QpReqErr), None);
    let table = [
        (Operation::RdmaWrite(bad(0)), 8, access),
        (Operation::RdmaWrite(beyond), 8, access),
        (Operation::RdmaRead(bad(0)), 8, access),
        (Operation::AtomicWrite(bad(0)), 8, access),
        (Operation::AtomicWrite(odd), 8, invalid),
        (odd_add, 8, invalid),
        (flush, 0, access),
        // What the receive's completion tells, no event does.
        (
            Operation::Send,
            65,
            (WcStatus::RemInvReqErr, None, Some(WcStatus::LocLenErr)),
        ),
        (
            Operation::Send,
            2 * MTU,
            (WcStatus::RemInvReqErr, None, Some(WcStatus::LocLenErr)),
        ),
        (
            Operation::SendInvalidate { rkey: WINDOW + 1 },
            8,
            (WcStatus::RemAccessErr, None, Some(WcStatus::LocAccessErr)),
        ),
    ];
    for (operation, length, (status, event, received)) in table {
        let mut pair = Pair::rc();
        pair.post_receive(64);
        pair.post(Operation::RdmaWrite(TARGET), 3);
        pair.post(operation, length);
        pair.post(Operation::RdmaWrite(TARGET), 3);
        pair.settle();
        let name = operation.opcode();
        assert_eq!(pair.completed(), [WcStatus::Success, status], "{name:?}");
        assert_eq!(pair.peer.queues.failed.get(), Some(event), "{name:?}");
        let receives = pair.peer.queues.received.borrow();
        assert_eq!(receives.front().map(|r| r.status), received, "{name:?}");
        drop(receives);
        // A QP that has failed takes nothing any more.
        let again = Sent(pair.own_packet(Kind::WriteOnly, FIRST));
        assert_eq!(pair.give(&again), Request::Dropped);
    }
}

#[test]
fn a_qp_that_does_not_do_it_finds_the_request_invalid_whatever_its_key() {
    let rights = [
        (Operation::RdmaWrite(TARGET), AccessFlags::REMOTE_WRITE),
        (Operation::RdmaRead(TARGET), AccessFlags::REMOTE_READ),
        (FETCH_ADD, AccessFlags::REMOTE_ATOMIC),
    ];
    for (operation, right) in rights {
        let change = |attr: &mut QpAttr| attr.qp_access_flags = AccessFlags::REMOTE.without(right);
        let mut pair = Pair::new(QpType::Rc, change);
        pair.post(operation, 8);
        pair.settle();
        assert_eq!(pair.completed(), [WcStatus::RemInvReqErr]);
        assert_eq!(
            pair.peer.queues.failed.get(),
            Some(Some(EventType::QpReqErr))
        );
    }
    for operation in [Operation::RdmaRead(TARGET), FETCH_ADD] {
        let mut pair = Pair::new(QpType::Rc, |attr| attr.max_dest_rd_atomic = 0);
        pair.post(operation, 8);
        pair.settle();
        assert_eq!(pair.completed(), [WcStatus::RemInvReqErr]);
    }
}

#[test]
fn a_key_that_is_gone_in_the_middle_of_a_message_fails_it_once() {
    let answers = [
        Syndrome::UNLIMITED,
        Syndrome::Nak(Nak::RemoteAccessError),
        Syndrome::RnrNak(RnrTimer::default()),
        Syndrome::Nak(Nak::PsnSequenceError),
    ];
    for syndrome in answers {
        let mut pair = Pair::rc();
        pair.post(Operation::RdmaWrite(TARGET), 1);
        let halves = [sge(0, MTU), sge(1024, MTU)];
        pair.post_with(Operation::Send, &halves, SendFlags::EMPTY);
        for _ in 0..2 {
            assert!(pair.own.request(pair.now).is_ok());
        }
        pair.own.queues.lkey.set(LKEY + 1);
        assert!(pair.requests().is_empty());
        assert!(pair.completed().is_empty());
        pair.answer(&acknowledgement(Psn::new(FIRST) + 1, syndrome));
        let expected = [WcStatus::Success, WcStatus::LocProtErr];
        assert_eq!(pair.completed(), expected, "{syndrome:?}");
        assert_eq!(pair.own.requester.next_deadline(), None);
    }
}

#[test]
fn more_reads_than_agreed_are_an_invalid_request() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.max_rd_atomic = 16);
    for _ in 0..5 {
        pair.post(Operation::RdmaRead(TARGET), 1);
    }
    let sent = pair.requests();
    for packet in sent.iter().take(4) {
        assert_eq!(pair.give(packet), Request::Taken);
    }
    assert_eq!(
        pair.give(&sent[4]),
        Request::Refused(Some(Nak::InvalidRequest))
    );
    // Those before it are answered still.
    assert_eq!(pair.responses().len(), 5);
}

#[test]
fn a_request_that_cannot_be_sent_fails_when_those_before_are_done() {
    let bad_key = Sge {
        lkey: LKEY + 1,
        ..sge(0, 8)
    };
    for broken in [true, false] {
        let mut pair = Pair::rc();
        pair.post(Operation::RdmaWrite(TARGET), 1);
        if broken {
            pair.own.post_entry(vec![0xff; 64]);
        } else {
            pair.post_with(Operation::RdmaWrite(TARGET), &[bad_key], SendFlags::EMPTY);
        }
        pair.post(Operation::RdmaWrite(TARGET), 1);
        let sent = pair.requests();
        assert_eq!(sent.len(), 1);
        assert!(pair.completed().is_empty());
        pair.answer(&acknowledgement(sent[0].psn(), Syndrome::UNLIMITED));
        let status = if broken {
            WcStatus::LocQpOpErr
        } else {
            WcStatus::LocProtErr
        };
        assert_eq!(pair.completed(), [WcStatus::Success, status]);
        assert!(pair.requests().is_empty());
    }
}

#[test]
fn packets_that_do_not_belong_together_are_an_invalid_request() {
    let parts = |operation: Operation, length: u32| {
        let mut pair = Pair::rc();
        pair.post_receive(2048);
        pair.post(operation, length);
        pair.requests()
    };
    let send = parts(Operation::Send, 3 * MTU);
    let write = parts(Operation::RdmaWrite(TARGET), 3 * MTU);
    let read = parts(Operation::RdmaRead(TARGET), 8);
    let sequences = [
        (vec![&send[1]], "a middle without a first"),
        (vec![&write[2]], "a last without a first"),
        (vec![&send[0], &write[1]], "of two messages"),
        (vec![&write[0], &send[2]], "of two messages"),
        (vec![&send[0], &send[0]], "two firsts"),
        (vec![&write[0], &read[0]], "a READ within a message"),
        (vec![&write[0], &write[2]], "less than the RETH says"),
    ];
    for (sequence, what) in sequences {
        let mut pair = Pair::rc();
        pair.post_receive(2048);
        let mut last = Request::Taken;
        for (number, packet) in sequence.into_iter().enumerate() {
            assert_eq!(last, Request::Taken, "{what}");
            let mut packet = packet.clone();
            let psn = (Psn::new(FIRST) + number as u32).number().to_be_bytes();
            packet.0[9..12].copy_from_slice(&psn[1..]);
            last = pair.give(&packet);
        }
        assert_eq!(last, Request::Refused(Some(Nak::InvalidRequest)), "{what}");
        assert_eq!(
            pair.peer.queues.failed.get(),
            Some(Some(EventType::QpReqErr))
        );
        // A receive that was begun comes back.
        let begun = pair.peer.queues.received.borrow();
        assert!(begun
            .iter()
            .all(|received| received.status == WcStatus::WrFlushErr));
    }
    // Payload that is not as long as its place in the message demands.
    let mut short = send[0].clone();
    short.0.truncate(short.0.len() - 4);
    let mut pair = Pair::rc();
    pair.post_receive(2048);
    assert_eq!(
        pair.give(&short),
        Request::Refused(Some(Nak::InvalidRequest))
    );
}

#[test]
fn reads_and_atomics_that_may_not_be_under_way_fail_at_once() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.max_rd_atomic = 0);
    pair.post(Operation::RdmaRead(TARGET), 8);
    assert!(pair.requests().is_empty());
    let completed = pair.own.queues.completed.borrow();
    assert_eq!(completed[0].status, WcStatus::LocQpOpErr);
    assert_eq!(completed[0].opcode, SendOpcode::RdmaRead);
}

#[test]
fn a_flush_needs_the_rights_of_its_placement_and_a_range_or_the_whole_region() {
    const GLOBAL: u32 = FlushPlacement::GLOBAL.bits();
    const PERSISTENT: u32 = FlushPlacement::PERSISTENT.bits();
    let (range, mr) = (0, 1);
    let taken = Request::Taken;
    let access = Request::Refused(Some(Nak::RemoteAccessError));
    let invalid = Request::Refused(Some(Nak::InvalidRequest));
    let key = |addr| Remote { addr, rkey: RKEY };
    let bad_key = Remote {
        rkey: RKEY + 1,
        ..TARGET
    };
    let end = key(BASE + SIZE as u64 - 1);
    let no_right = AccessFlags::REMOTE.without(AccessFlags::FLUSH_GLOBAL);
    let all = AccessFlags::REMOTE;
    let table = [
        (GLOBAL, range, TARGET, 64, all, taken),
        (GLOBAL, range, TARGET, 0, all, taken),
        (GLOBAL, range, end, 2, all, access),
        (GLOBAL, range, bad_key, 1, all, access),
        (GLOBAL, range, TARGET, 1, no_right, access),
        (GLOBAL, mr, key(u64::MAX), u32::MAX, all, taken),
        (GLOBAL, mr, bad_key, 1, all, access),
        (GLOBAL, mr, TARGET, 1, no_right, access),
        // The device has no persistent memory, whatever a key says.
        (PERSISTENT, range, TARGET, 1, all, access),
        (PERSISTENT, mr, TARGET, 1, all, access),
        (GLOBAL | PERSISTENT, range, TARGET, 1, all, access),
        // Numbers that mean nothing.
        (0, range, TARGET, 1, all, invalid),
        (GLOBAL | 4, range, TARGET, 1, all, invalid),
        (GLOBAL, 2, TARGET, 1, all, invalid),
    ];
    for (number, row) in table.into_iter().enumerate() {
        let (placement, level, remote, dma_len, key_access, expected) = row;
        let mut pair = Pair::rc();
        pair.peer.queues.key_access = key_access;
        let feth = Feth {
            placement: FlushPlacement::from_bits_retain(placement),
            level,
        };
        let opcode = Opcode::new(Service::Rc, Kind::Flush).unwrap();
        let packet = Packet {
            bth: Bth::new(opcode, 5, Psn::new(FIRST)),
            headers: Headers::Flush(feth, Reth { remote, dma_len }),
            payload: &[],
        };
        let mut bytes = vec![0; packet.len()];
        packet.emit(&mut bytes).unwrap();
        assert_eq!(pair.give(&Sent(bytes)), expected, "row {number}");
        let responses = pair.responses();
        let kind = match expected {
            Request::Taken => Kind::ReadResponseOnly,
            _ => Kind::Acknowledge,
        };
        assert_eq!(responses.iter().map(Sent::kind).collect::<Vec<_>>(), [kind]);
    }
}
