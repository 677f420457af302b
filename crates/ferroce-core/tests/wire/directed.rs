// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of the protocol one by one, between two QPs whose packets go by hand.

use std::collections::VecDeque;

use ferroce_core::local::Extra;
use ferroce_core::qp::QpAttr;
use ferroce_core::requester::{Response, Transmit};
use ferroce_core::responder::Request;
use ferroce_core::ring::{BindMw, Operation, Payload, Remote, SendRequest, Sge};
use ferroce_core::verbs::{
    AccessFlags, AckTimeout, EventType, FlushPlacement, FlushSelectivity, ImmData, Mtu, QpType,
    RnrTimer, SendFlags, SendOpcode, WcOpcode, WcStatus,
};
use ferroce_core::wire::{Aeth, Bth, Headers, Kind, Nak, Opcode, Packet, Psn, Service, Syndrome};

use crate::front::{Front, LKEY, RKEY, WINDOW};
use crate::memory::{Memory, BASE};
use crate::network::Time;
use crate::plan::bytes_of;

const MTU: u32 = 256;
const SIZE: usize = 128 * 1024;
/// Just before the PSNs begin anew.
const FIRST: u32 = 0x00ff_fffe;

fn attr() -> QpAttr {
    QpAttr {
        path_mtu: Mtu::B256,
        sq_psn: FIRST,
        rq_psn: FIRST,
        dest_qp_num: 5,
        qp_access_flags: AccessFlags::REMOTE,
        max_rd_atomic: 4,
        max_dest_rd_atomic: 4,
        timeout: AckTimeout::try_from(10).unwrap(),
        retry_cnt: 3,
        rnr_retry: 2,
        min_rnr_timer: RnrTimer::try_from(14).unwrap(),
        ..QpAttr::new()
    }
}

/// A packet, with bytes of its own.
#[derive(Clone, Debug)]
struct Sent(Vec<u8>);

impl Sent {
    fn packet(&self) -> Packet<'_> {
        Packet::parse(&self.0).unwrap()
    }

    fn kind(&self) -> Kind {
        self.packet().bth.opcode.kind()
    }

    fn psn(&self) -> Psn {
        self.packet().bth.psn
    }
}

/// A requester and a responder.
struct Pair {
    own: Front,
    peer: Front,
    now: Time,
}

impl Pair {
    fn new(qp_type: QpType, change: impl Fn(&mut QpAttr)) -> Self {
        let mut attr = attr();
        change(&mut attr);
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at * 31 / 8) as u8).collect();
        let front = || Front::new(qp_type, &attr, Memory::new(bytes.clone(), 0));
        Self {
            own: front(),
            peer: front(),
            now: 1_000_000,
        }
    }

    fn rc() -> Self {
        Self::new(QpType::Rc, |_| {})
    }

    fn post_with(&mut self, operation: Operation, sges: &[Sge], flags: SendFlags) {
        let request = SendRequest {
            wr_id: self.own.posted.into(),
            flags: flags | SendFlags::SIGNALED,
            operation,
            destination: None,
        };
        self.own.post(&request, Payload::Sges(sges));
    }

    fn post(&mut self, operation: Operation, length: u32) {
        let sges = [sge(0, length)];
        let sges: &[Sge] = if operation.opcode().has_no_data() {
            &[]
        } else {
            &sges
        };
        self.post_with(operation, sges, SendFlags::EMPTY);
    }

    fn post_receive(&self, length: u32) {
        let entry = bytes_of(&sge(SIZE as u32 / 2, length));
        let mut receives = self.peer.queues.receives.borrow_mut();
        let number = receives.len() as u64;
        receives.push_back((100 + number, vec![entry]));
    }

    /// All requests that can be sent now.
    fn requests(&mut self) -> VecDeque<Sent> {
        let mut sent = VecDeque::new();
        while let Ok(packet) = self.own.request(self.now) {
            sent.push_back(Sent(packet.to_vec()));
        }
        sent
    }

    /// All responses that can be sent now.
    fn responses(&mut self) -> VecDeque<Sent> {
        let mut sent = VecDeque::new();
        while let Ok(packet) = self.peer.respond() {
            sent.push_back(Sent(packet.to_vec()));
        }
        sent
    }

    fn give(&mut self, request: &Sent) -> Request {
        let packet = request.packet();
        self.peer.responder.on_packet(&packet, &self.peer.queues)
    }

    fn answer(&mut self, response: &Packet<'_>) -> Response {
        let own = &mut self.own;
        own.requester.on_packet(self.now, response, &own.queues)
    }

    /// Delivers everything until nothing is said any more.
    fn settle(&mut self) {
        loop {
            let requests = self.requests();
            for request in &requests {
                self.give(request);
            }
            let responses = self.responses();
            for response in &responses {
                self.answer(&response.packet());
            }
            if requests.is_empty() && responses.is_empty() {
                break;
            }
        }
    }

    /// Has the time pass to the next deadline.
    fn wait(&mut self) -> Option<WcStatus> {
        let due = self.own.requester.next_deadline().expect("a deadline");
        assert_eq!(
            self.own.requester.on_deadline(due - 1, &self.own.queues),
            None
        );
        self.now = due;
        self.own.requester.on_deadline(due, &self.own.queues)
    }

    /// The statuses of the requests that are complete.
    fn completed(&self) -> Vec<WcStatus> {
        let mut completed = self.own.queues.completed.borrow_mut();
        completed
            .drain(..)
            .map(|completed| completed.status)
            .collect()
    }
}

fn sge(at: u32, length: u32) -> Sge {
    Sge {
        addr: BASE + u64::from(at),
        length,
        lkey: LKEY,
    }
}

const TARGET: Remote = Remote {
    addr: BASE + 4096,
    rkey: RKEY,
};

const IMM: ImmData = ImmData([1, 2, 3, 4]);

const FETCH_ADD: Operation = Operation::FetchAdd {
    remote: TARGET,
    add: 1,
};

/// An acknowledgement as a peer may send it.
fn acknowledgement(psn: Psn, syndrome: Syndrome) -> Packet<'static> {
    let opcode = Opcode::new(Service::Rc, Kind::Acknowledge).unwrap();
    Packet {
        bth: Bth::new(opcode, 5, psn),
        headers: Headers::Aeth(Aeth { syndrome, msn: 0 }),
        payload: &[],
    }
}

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
        let failed = pair.wait();
        assert_eq!(failed.is_some(), retry == 3);
    }
    assert_eq!(pair.completed(), [WcStatus::RetryExcErr]);
    assert_eq!(pair.own.requester.next_deadline(), None);
    assert!(pair.requests().is_empty());
    pair.own.requester.flush(&pair.own.queues);
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

impl Pair {
    /// A request that the other side may make.
    fn own_packet(&mut self, kind: Kind, psn: u32) -> Vec<u8> {
        let mut other = Pair::new(QpType::Rc, |attr| attr.sq_psn = psn);
        let operation = match kind {
            Kind::WriteOnly => Operation::RdmaWrite(TARGET),
            Kind::ReadRequest => Operation::RdmaRead(TARGET),
            _ => Operation::Send,
        };
        other.post(operation, 8);
        other.requests().pop_front().unwrap().0
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
    let bind = Operation::BindMw(BindMw {
        addr: BASE,
        length: 1,
        mr_lkey: LKEY,
        mw_rkey: 1,
        new_rkey: 2,
        access: AccessFlags::REMOTE_READ,
    });
    pair.post(Operation::RdmaWrite(TARGET), 1);
    pair.post(bind, 0);
    pair.post(Operation::RdmaWrite(TARGET), 1);
    let first = pair.requests();
    assert_eq!(first.len(), 1);
    assert!(first[0].packet().bth.ack_req);
    pair.answer(&acknowledgement(first[0].psn(), Syndrome::UNLIMITED));
    assert_eq!(pair.own.request(pair.now).err(), Some(Transmit::Local(1)));
    assert_eq!(pair.own.request(pair.now).err(), Some(Transmit::Nothing));
    pair.own.requester.executed(1, Ok(()), &pair.own.queues);
    assert_eq!(pair.completed(), [WcStatus::Success; 2]);
    assert_eq!(pair.requests().len(), 1);

    let mut pair = Pair::rc();
    pair.post(bind, 0);
    pair.post(Operation::Send, 1);
    assert_eq!(pair.own.request(pair.now).err(), Some(Transmit::Local(0)));
    let status = WcStatus::MwBindErr;
    pair.own
        .requester
        .executed(0, Err(status), &pair.own.queues);
    assert_eq!(pair.completed(), [status]);
    assert!(pair.own.requester.has_failed());
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
    assert_eq!(pair.give(&sent[2]), Request::Dropped, "too long");
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
fn reads_and_atomics_that_may_not_be_under_way_fail_at_once() {
    let mut pair = Pair::new(QpType::Rc, |attr| attr.max_rd_atomic = 0);
    pair.post(Operation::RdmaRead(TARGET), 8);
    assert!(pair.requests().is_empty());
    let completed = pair.own.queues.completed.borrow();
    assert_eq!(completed[0].status, WcStatus::LocQpOpErr);
    assert_eq!(completed[0].opcode, SendOpcode::RdmaRead);
}
