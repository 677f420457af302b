// SPDX-License-Identifier: MIT OR Apache-2.0
//! Long messages, which are moved in parts, and memory that is there later.

use super::*;

/// Three parts and a bit.
const LENGTH: u32 = 3 * PART + 5;

fn sides() -> (Side, Side) {
    let (one, other) = (
        Side::new(2 * LENGTH as usize),
        Side::new(2 * LENGTH as usize),
    );
    let pattern = |i: usize| (i % 251) as u8;
    for (i, byte) in one.memory.borrow_mut().iter_mut().enumerate() {
        *byte = pattern(i);
    }
    other.memory.borrow_mut().fill(0);
    (one, other)
}

/// The operations that move a message to the peer.
const OPERATIONS: [Operation; 4] = [
    Operation::Send,
    Operation::SendImm(IMM),
    Operation::RdmaWrite(REMOTE),
    Operation::RdmaWriteImm(REMOTE, IMM),
];

/// Executes until it is done, and returns what came before that.
fn in_parts(operation: Operation, sges: &[Sge], from: &Side, to: &Side) -> Vec<(Outcome, u32)> {
    let entries = entries(sges);
    let (mut progress, mut outcomes) = (Progress::default(), Vec::new());
    loop {
        let data = Data::Sges(SgeList::of(&entries));
        match execute(
            &request(operation),
            data,
            from,
            DEPTH,
            to,
            true,
            &mut progress,
        ) {
            Outcome::Done(length) => {
                assert_eq!(length, LENGTH);
                return outcomes;
            }
            outcome => outcomes.push((outcome, progress.moved)),
        }
        assert!(outcomes.len() < 10, "{outcomes:?}");
    }
}

#[test]
fn a_long_message_goes_on_where_it_paused() {
    for operation in OPERATIONS {
        let (sender, receiver) = sides();
        receiver.post_receive(1, &[sge(0, PART + 1), sge(u64::from(PART) + 1, LENGTH)]);
        receiver.pauses_at.set(2);
        let sges = [sge(0, 7), sge(7, LENGTH - 7)];
        let paused = in_parts(operation, &sges, &sender, &receiver);
        assert_eq!(paused, [(Outcome::Paused, 2 * PART)], "{operation:?}");
        let length = LENGTH as usize;
        assert_eq!(receiver.bytes(0, length), sender.bytes(0, length));
        assert_eq!(receiver.bytes(length, 1), [0]);
        let completed = usize::from(!matches!(operation, Operation::RdmaWrite(_)));
        assert_eq!(receiver.completed.borrow().len(), completed);
    }
}

#[test]
fn a_long_read_goes_on_where_it_paused() {
    let (peer, reader) = sides();
    peer.pauses_at.set(1);
    let sges = [sge(0, LENGTH)];
    let paused = in_parts(Operation::RdmaRead(REMOTE), &sges, &reader, &peer);
    assert_eq!(paused, [(Outcome::Paused, PART)]);
    let length = LENGTH as usize;
    assert_eq!(reader.bytes(0, length), peer.bytes(0, length));
}

#[test]
fn a_short_message_is_not_paused() {
    let (sender, receiver) = sides();
    receiver.pauses_at.set(1);
    let write = Operation::RdmaWrite(REMOTE);
    let outcome = run(write, &[sge(0, 9), sge(20, PART - 9)], &sender, &receiver);
    assert_eq!(outcome, Outcome::Done(PART));
    assert_eq!(receiver.parts.get(), 0);
}

#[test]
fn memory_of_the_peer_that_is_there_later_is_not_ready() {
    let add = Operation::FetchAdd {
        remote: REMOTE,
        add: 1,
    };
    let others = [
        add,
        Operation::RdmaRead(REMOTE),
        Operation::AtomicWrite(REMOTE),
    ];
    for operation in OPERATIONS.into_iter().chain(others) {
        let (sender, receiver) = sides();
        receiver.post_receive(1, &[sge(0, 8)]);
        receiver.missing.set(Some(Fault::Later));
        let outcome = run(operation, &[sge(0, 8)], &sender, &receiver);
        let expected = Outcome::NotReady(receiver.min_rnr_timer());
        assert_eq!(outcome, expected, "{operation:?}");
        assert_eq!(receiver.failed.get(), None);
        assert!(receiver.completed.borrow().is_empty());
        receiver.missing.set(None);
        let outcome = run(operation, &[sge(0, 8)], &sender, &receiver);
        assert_eq!(outcome, Outcome::Done(8), "{operation:?}");
        assert!(receiver.receives.borrow().len() <= 1);
    }
}

#[test]
fn without_an_answer_memory_that_is_there_later_is_told_apart() {
    let (sender, receiver) = sides();
    receiver.post_receive(1, &[sge(0, 8)]);
    receiver.missing.set(Some(Fault::Later));
    let entries = entries(&[sge(0, 8)]);
    let data = Data::Sges(SgeList::of(&entries));
    let send = request(Operation::Send);
    let outcome = execute(
        &send,
        data,
        &sender,
        DEPTH,
        &receiver,
        false,
        &mut Progress::default(),
    );
    assert_eq!(outcome, Outcome::MemoryLater);
    assert_eq!(
        receiver.receives.borrow().len(),
        1,
        "it is there for the next"
    );
}

#[test]
fn own_memory_that_is_there_later_is_waited_for_and_an_atomic_is_executed_once() {
    let add = Operation::FetchAdd {
        remote: REMOTE,
        add: 1,
    };
    let reads = [add, Operation::RdmaRead(REMOTE)];
    for operation in OPERATIONS.into_iter().chain(reads) {
        let (own, peer) = sides();
        peer.post_receive(1, &[sge(0, 8)]);
        own.missing.set(Some(Fault::Later));
        let entries = entries(&[sge(0, 8)]);
        let data = Data::Sges(SgeList::of(&entries));
        let mut progress = Progress::default();
        let request = request(operation);
        for _ in 0..2 {
            let outcome = execute(&request, data, &own, DEPTH, &peer, true, &mut progress);
            assert_eq!(outcome, Outcome::OwnMemoryLater, "{operation:?}");
        }
        own.missing.set(None);
        let outcome = execute(&request, data, &own, DEPTH, &peer, true, &mut progress);
        assert_eq!(outcome, Outcome::Done(8), "{operation:?}");
        assert_eq!(peer.failed.get(), None);
        if operation == add {
            assert_eq!(peer.bytes(0, 8), 1u64.to_ne_bytes());
        }
    }
}
