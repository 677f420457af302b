// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work queues over real rings, with a poster at the other end.

mod rings;

use ferroce_core::local::Outcome;
use ferroce_core::qp::QpAttr;
use ferroce_core::ring::{
    Data, Doorbell, Operation, Origin, Payload, Poster, RecvQueue, RecvRequest, RingError,
    SendQueue, SendRequest, Sge, WqGeometry, MAX_RECV_STRIDE,
};
use ferroce_core::verbs::{
    AckTimeout, QpState, QpType, RnrTimer, SendFlags, WcOpcode, WcStatus, RNR_RETRY_INFINITE,
};
use ferroce_device::counter::PortCounter;
use ferroce_device::queue::WorkQueue;
use ferroce_device::receive::{GivenBack, Looked, ReceiveQueue, Return};
use ferroce_device::send::{self, Attempt, Execution, Next, Tries};
use rings::Memory;

const QPN: u32 = 17;

struct Sender {
    poster: Poster<SendQueue>,
    queue: WorkQueue<SendQueue, Box<[u8]>>,
    execution: Execution,
    now: u64,
    memory: Memory,
}

impl Sender {
    fn new() -> Self {
        let size = WqGeometry::<SendQueue>::new(4, 1, 0).unwrap();
        let memory = Memory::new(size.len());
        Self {
            poster: memory.poster(size),
            queue: memory.queue(size),
            execution: Execution::default(),
            now: 0,
            memory,
        }
    }

    /// Returns whether the doorbell is to be rung.
    fn post(&mut self, wr_id: u64, flags: SendFlags) -> bool {
        let request = SendRequest {
            wr_id,
            flags,
            operation: Operation::Send,
            destination: None,
        };
        self.poster.push(&request, Payload::NONE).unwrap();
        self.poster.publish() == Doorbell::Ring
    }

    fn next(&mut self, state: QpState) -> Next {
        let now = self.now;
        let next = self.execution.next(&mut self.queue, state, true, || now);
        next.unwrap()
    }

    fn completion(&self) -> send::Completion {
        let (completion, request) =
            self.execution
                .request(&self.queue, QpType::Rc, Origin::User, false);
        let (request, data) = request.unwrap();
        assert_eq!(request.operation, Operation::Send);
        assert!(matches!(data, Data::Sges(sges) if sges.is_empty()));
        completion
    }
}

#[test]
fn a_request_is_executed_completed_and_its_slot_free_again() {
    let mut sender = Sender::new();
    assert_eq!(sender.next(QpState::Rts), Next::Idle);
    // Who has gone to sleep is rung for, and who is awake is not.
    assert!(sender.post(1, SendFlags::SIGNALED));
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    let completion = sender.completion();
    // It stays the next until it is done.
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    sender.execution.finish(&mut sender.queue);
    let cqe = completion.done(QPN, 100).unwrap();
    assert_eq!((cqe.wr_id, cqe.qp_num, cqe.byte_len), (1, QPN, 100));
    assert_eq!(
        (cqe.opcode, cqe.status),
        (WcOpcode::Send, WcStatus::Success)
    );
    for wr_id in 2..6 {
        sender.post(wr_id, SendFlags::EMPTY);
    }
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    // It is not signaled, but a failure is told always.
    assert_eq!(sender.completion().done(QPN, 0), None);
    let cqe = sender.completion().failed(QPN, WcStatus::RemAccessErr);
    assert_eq!((cqe.wr_id, cqe.status), (2, WcStatus::RemAccessErr));
}

#[test]
fn the_state_decides_what_is_executed() {
    let mut sender = Sender::new();
    sender.post(1, SendFlags::EMPTY);
    sender.post(2, SendFlags::EMPTY);
    for state in [QpState::Reset, QpState::Init, QpState::Rtr] {
        assert_eq!(sender.next(state), Next::Held);
    }
    // What was begun is finished, and nothing else is begun.
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    assert_eq!(sender.next(QpState::Sqd), Next::Execute);
    sender.execution.finish(&mut sender.queue);
    assert_eq!(sender.next(QpState::Sqd), Next::Drained);
    assert_eq!(sender.next(QpState::Sqe), Next::Flush(2));
    let cqe = send::flushed(2, QPN);
    assert_eq!((cqe.wr_id, cqe.status), (2, WcStatus::WrFlushErr));
    assert_eq!(sender.next(QpState::Err), Next::Idle);
}

#[test]
fn a_request_that_waits_is_flushed_all_the_same() {
    let mut sender = Sender::new();
    sender.post(1, SendFlags::EMPTY);
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    sender.execution.wait_until(1000);
    sender.now = 999;
    assert_eq!(sender.next(QpState::Rts), Next::Later);
    assert!(sender.execution.is_waiting());
    sender.now = 1000;
    assert_eq!(sender.next(QpState::Rts), Next::Execute);
    sender.execution.wait_until(2000);
    assert_eq!(sender.next(QpState::Err), Next::Flush(1));
    assert!(!sender.execution.is_waiting());
}

#[test]
fn an_index_that_makes_no_sense_is_an_error() {
    let mut sender = Sender::new();
    sender.memory.write(0, u64::MAX);
    let next = sender
        .execution
        .next(&mut sender.queue, QpState::Rts, true, || 0);
    assert!(matches!(next, Err(RingError::Producer { .. })), "{next:?}");
}

fn attr() -> QpAttr {
    QpAttr {
        timeout: AckTimeout::from_low_bits(1),
        retry_cnt: 2,
        rnr_retry: 3,
        ..QpAttr::new()
    }
}

#[test]
fn a_peer_that_is_not_ready_is_tried_as_often_as_rnr_retry_says() {
    let attr = attr();
    let timer = RnrTimer::from_low_bits(1);
    let mut tries = Tries::default();
    let mut now = 0;
    for _ in 0..3 {
        let (attempt, counted) = tries.outcome(Outcome::NotReady(timer), &attr, 8, || now);
        let Attempt::Wait(nanos) = attempt else {
            panic!("{attempt:?}");
        };
        assert!(nanos >= timer.nanos());
        assert_eq!(counted, [PortCounter::RcvdRnr]);
        now += 1_000_000_000;
    }
    let (attempt, counted) = tries.outcome(Outcome::NotReady(timer), &attr, 8, || now);
    assert_eq!(attempt, Attempt::Failed(WcStatus::RnrRetryExcErr));
    assert_eq!(
        counted,
        [PortCounter::RcvdRnr, PortCounter::RnrRetryExceeded]
    );

    let for_ever = QpAttr {
        rnr_retry: RNR_RETRY_INFINITE,
        ..attr
    };
    for _ in 0..1000 {
        let (attempt, _) = tries.outcome(Outcome::NotReady(timer), &for_ever, 8, || now);
        assert!(matches!(attempt, Attempt::Wait(_)));
    }
}

#[test]
fn a_peer_that_is_not_there_is_tried_as_often_as_retry_cnt_says() {
    let attr = attr();
    let mut tries = Tries::default();
    for _ in 0..2 {
        let (attempt, counted) = tries.no_peer(QpType::Rc, &attr, 8);
        assert_eq!(attempt, Attempt::Wait(8192));
        assert_eq!(counted, [PortCounter::AckTimeout]);
    }
    let (attempt, counted) = tries.no_peer(QpType::Rc, &attr, 8);
    assert_eq!(attempt, Attempt::Failed(WcStatus::RetryExcErr));
    assert_eq!(counted, [PortCounter::RetryExceeded]);
    let patient = QpAttr {
        timeout: AckTimeout::from_low_bits(0),
        ..attr
    };
    let (attempt, _) = tries.no_peer(QpType::Rc, &patient, 8);
    assert_eq!(attempt, Attempt::Stuck);
    // Nobody tells the sender of an unreliable connection.
    let (attempt, counted) = tries.no_peer(QpType::Uc, &attr, 8);
    assert_eq!(attempt, Attempt::Done(8));
    assert_eq!(counted, [PortCounter::Undelivered]);
}

#[test]
fn memory_of_an_unreliable_peer_is_waited_for_a_while() {
    let mut tries = Tries::default();
    let mut waits = 0;
    let (attempt, counted) = loop {
        match tries.outcome(Outcome::MemoryLater, &attr(), 8, || 0) {
            (Attempt::Wait(_), []) => waits += 1,
            other => break other,
        }
    };
    assert_eq!(waits, 100);
    assert_eq!(attempt, Attempt::Done(8));
    assert_eq!(counted, [PortCounter::Undelivered]);
}

struct Receiver {
    poster: Poster<RecvQueue>,
    queue: ReceiveQueue<Box<[u8]>>,
    _memory: Memory,
}

impl Receiver {
    fn new(entries: u32) -> Self {
        let size = WqGeometry::<RecvQueue>::new(entries, 1).unwrap();
        let memory = Memory::new(size.len());
        Self {
            poster: memory.poster(size),
            queue: ReceiveQueue::new(memory.queue(size)),
            _memory: memory,
        }
    }

    fn post(&mut self, wr_id: u64, length: u32) -> bool {
        let sge = Sge {
            addr: 0,
            length,
            lkey: 0,
        };
        self.poster.push(&RecvRequest { wr_id }, &[sge]).unwrap();
        self.poster.publish() == Doorbell::Ring
    }
}

fn take(queue: &mut ReceiveQueue<Box<[u8]>>, least: u64) -> Result<(u64, Vec<u8>), Looked> {
    let mut copy = [0; MAX_RECV_STRIDE];
    match queue.take_into(&mut copy, |receive| receive.capacity() >= least) {
        Looked::Taken(length) => {
            let entry = copy[..length].to_vec();
            Ok((RecvRequest::wr_id(&entry), entry))
        }
        other => Err(other),
    }
}

#[test]
fn a_receive_that_does_not_fit_is_there_for_the_next_message() {
    let mut receiver = Receiver::new(4);
    assert_eq!(take(&mut receiver.queue, 0).unwrap_err(), Looked::Empty);
    receiver.post(1, 10);
    receiver.post(2, 100);
    assert_eq!(take(&mut receiver.queue, 11).unwrap_err(), Looked::Refused);
    assert_eq!(receiver.queue.available(), 2);
    assert_eq!(take(&mut receiver.queue, 10).unwrap().0, 1);
    assert_eq!(take(&mut receiver.queue, 11).unwrap().0, 2);
    assert_eq!(receiver.queue.available(), 0);
}

#[test]
fn receives_are_flushed_in_order_and_the_next_one_rings() {
    let mut receiver = Receiver::new(4);
    receiver.post(1, 10);
    receiver.post(2, 10);
    // One was looked at before.
    assert_eq!(take(&mut receiver.queue, 11).unwrap_err(), Looked::Refused);
    assert_eq!(receiver.queue.flush_one(), Some(1));
    assert_eq!(receiver.queue.flush_one(), Some(2));
    assert_eq!(receiver.queue.flush_one(), None);
    assert!(receiver.post(3, 10));
    assert_eq!(receiver.queue.flush_one(), Some(3));
}

#[test]
fn a_queue_of_another_size_has_what_was_posted_and_looked_at() {
    let mut receiver = Receiver::new(4);
    for wr_id in 0..3 {
        receiver.post(wr_id, 10);
    }
    assert_eq!(take(&mut receiver.queue, 11).unwrap_err(), Looked::Refused);
    let mut smaller = Receiver::new(2);
    assert!(receiver.queue.move_to(&mut smaller.queue).is_err());
    let mut larger = Receiver::new(8);
    receiver.queue.move_to(&mut larger.queue).unwrap();
    for wr_id in 0..3 {
        assert_eq!(take(&mut larger.queue, 0).unwrap().0, wr_id);
    }
}

#[test]
fn what_is_given_back_comes_before_all_others() {
    let mut receiver = Receiver::new(4);
    for wr_id in 0..4 {
        receiver.post(wr_id, 10);
    }
    let stride = receiver.queue.size().stride();
    let room = vec![0; GivenBack::<Box<[u8]>>::size(QpType::Ud, stride)];
    let mut back = GivenBack::new(room.into_boxed_slice(), stride);
    for round in 0..40 {
        let (wr_id, entry) = take(&mut receiver.queue, 0).unwrap();
        assert_eq!(back.give_back(&entry, QpState::Rts), Return::Done);
        assert!(!back.is_empty());
        let mut copy = [0; MAX_RECV_STRIDE];
        assert_eq!(back.take_into(&mut copy, |_| false), Looked::Refused);
        let taken = back.take_into(&mut copy, |_| true);
        assert_eq!(taken, Looked::Taken(entry.len()), "{round}");
        assert_eq!(RecvRequest::wr_id(&copy), wr_id);
        receiver.post(wr_id, 10);
    }
}

#[test]
fn what_becomes_of_a_receive_given_back_is_the_states_matter() {
    let mut receiver = Receiver::new(4);
    receiver.post(1, 10);
    let (_, entry) = take(&mut receiver.queue, 0).unwrap();
    let stride = receiver.queue.size().stride();
    let mut back = GivenBack::new(vec![0; stride].into_boxed_slice(), stride);
    assert_eq!(back.give_back(&entry, QpState::Reset), Return::Done);
    assert!(back.is_empty());
    let flushed = Return::Complete(WcStatus::WrFlushErr);
    assert_eq!(back.give_back(&entry, QpState::Err), flushed);
    assert_eq!(back.give_back(&entry, QpState::Rtr), Return::Done);
    // There is room for one.
    let failed = Return::Complete(WcStatus::LocProtErr);
    assert_eq!(back.give_back(&entry, QpState::Rtr), failed);
    assert_eq!(back.flush_one(), Some(1));
    assert_eq!(back.flush_one(), None);
}
