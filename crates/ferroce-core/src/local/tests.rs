// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests between two sides whose memory is a vector each.

mod cursor;
mod datagrams;
// Hundreds of KiB, byte by byte, and no unsafe code.
#[cfg(not(miri))]
mod parts;
mod rules;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::vec::Vec;

use super::*;
use crate::ring::{Sge, SGE_LEN};
use crate::verbs::limits::{GRH_LENGTH, MAX_SEND_SGE};
use crate::verbs::{EventType, FlushPlacement, FlushSelectivity, ImmData};
use crate::wire::{Deth, Headers, Packet, Psn};

type Bytes = Rc<RefCell<Vec<u8>>>;

#[derive(Debug, Clone)]
struct Range {
    memory: Bytes,
    at: usize,
    length: usize,
    missing: Option<Fault>,
}

impl Range {
    fn check(&self) -> Result<(), Fault> {
        self.missing.map_or(Ok(()), Err)
    }
}

impl Region for Range {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        from.check().map_err(CopyFault::Source)?;
        self.check().map_err(CopyFault::Target)?;
        let (at, from_at, length) = (at as usize, from_at as usize, length as usize);
        assert!(at + length <= self.length && from_at + length <= from.length);
        let bytes = from.memory.borrow()[from.at + from_at..][..length].to_vec();
        self.memory.borrow_mut()[self.at + at..][..length].copy_from_slice(&bytes);
        Ok(())
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.check()?;
        assert!(at as usize + bytes.len() <= self.length);
        self.memory.borrow_mut()[self.at + at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        self.check()?;
        assert!(at as usize + bytes.len() <= self.length);
        bytes.copy_from_slice(&self.memory.borrow()[self.at + at as usize..][..bytes.len()]);
        Ok(())
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        self.check()?;
        let mut word = [0; 8];
        self.read(0, &mut word)?;
        let before = u64::from_ne_bytes(word);
        let after = match change {
            AtomicChange::Add(n) => before.wrapping_add(n).to_ne_bytes(),
            AtomicChange::CompareSwap { compare, swap } if before == compare => swap.to_ne_bytes(),
            AtomicChange::CompareSwap { .. } => word,
            AtomicChange::Store(bytes) => bytes,
        };
        self.write(0, &after)?;
        Ok(before)
    }
}

/// Where each side's memory begins, and its key.
const BASE: u64 = 0x1000;
const LKEY: u32 = 7;
const RKEY: u32 = 9;
/// The requester's `max_rd_atomic`.
const DEPTH: u8 = 1;

/// A QP with its memory.
struct Side {
    memory: Bytes,
    /// The keys are good, the memory behind them is gone.
    missing: Cell<Option<Fault>>,
    writable: bool,
    access: AccessFlags,
    /// What the remote key allows.
    key_access: AccessFlags,
    takes_reads: bool,
    receives: RefCell<VecDeque<(u64, Vec<Entry>)>>,
    completed: RefCell<Vec<Received>>,
    invalidated: RefCell<Vec<u32>>,
    /// Requests that have come.
    requests: Cell<u32>,
    failed: Cell<Option<Option<EventType>>>,
    /// How often it was asked whether to go on, and when it says no.
    parts: Cell<u32>,
    pauses_at: Cell<u32>,
}

impl Side {
    fn new(size: usize) -> Self {
        Self {
            memory: Rc::new(RefCell::new((0..size).map(|i| i as u8).collect())),
            missing: Cell::new(None),
            writable: true,
            access: AccessFlags::REMOTE,
            key_access: AccessFlags::REMOTE,
            takes_reads: true,
            receives: RefCell::default(),
            completed: RefCell::default(),
            invalidated: RefCell::default(),
            requests: Cell::new(0),
            failed: Cell::new(None),
            parts: Cell::new(0),
            pauses_at: Cell::new(0),
        }
    }

    fn range(&self, address: u64, length: u32) -> Result<Range, AccessError> {
        let at = address.checked_sub(BASE).ok_or(AccessError)? as usize;
        let length = length as usize;
        if at
            .checked_add(length)
            .is_none_or(|end| end > self.memory.borrow().len())
        {
            return Err(AccessError);
        }
        Ok(Range {
            memory: self.memory.clone(),
            at,
            length,
            missing: self.missing.get(),
        })
    }

    fn post_receive(&self, wr_id: u64, sges: &[Sge]) {
        self.receives.borrow_mut().push_back((wr_id, entries(sges)));
    }

    fn bytes(&self, at: usize, length: usize) -> Vec<u8> {
        self.memory.borrow()[at..][..length].to_vec()
    }
}

impl LocalMemory for Side {
    type Region = Range;

    fn local(&self, sge: Sge, write: bool) -> Result<Range, AccessError> {
        assert!(sge.length > 0, "an element of no bytes needs no key");
        if sge.lkey != LKEY || (write && !self.writable) {
            return Err(AccessError);
        }
        self.range(sge.addr, sge.length)
    }
}

impl Responder for Side {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        assert!(length > 0, "a range of no bytes needs no key");
        self.remote_key(remote.rkey, access)?;
        self.range(remote.addr, length)
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let allowed = rkey == RKEY && self.key_access.contains(access);
        allowed.then_some(()).ok_or(AccessError)
    }

    fn access(&self) -> AccessFlags {
        self.access
    }

    fn takes_reads(&self) -> bool {
        self.takes_reads
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        RnrTimer::try_from(12).unwrap()
    }

    fn established(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        let mut queue = self.receives.borrow_mut();
        let Some((wr_id, sges)) = queue.front() else {
            return Taken::Empty;
        };
        let receive = Receive {
            wr_id: *wr_id,
            scatter: SgeList::of(sges),
        };
        if !accept(&receive) {
            return Taken::Refused;
        }
        let Some(done) = place(&receive) else {
            return Taken::Refused;
        };
        queue.pop_front();
        Taken::Done(done)
    }

    fn may_go_on(&self) -> bool {
        self.parts.set(self.parts.get() + 1);
        self.parts.get() != self.pauses_at.get()
    }

    fn complete(&self, received: &Received) {
        self.completed.borrow_mut().push(*received);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        if rkey != RKEY {
            return Err(AccessError);
        }
        self.invalidated.borrow_mut().push(rkey);
        Ok(())
    }

    fn fail(&self, event: Option<EventType>) {
        self.failed.set(Some(event));
    }
}

fn sge(at: u64, length: u32) -> Sge {
    Sge {
        addr: BASE + at,
        length,
        lkey: LKEY,
    }
}

type Entry = [u8; SGE_LEN];

fn entries(sges: &[Sge]) -> Vec<Entry> {
    assert!(sges.len() <= MAX_SEND_SGE as usize);
    sges.iter().map(|s| s.to_bytes()).collect()
}

const REMOTE: Remote = Remote {
    addr: BASE,
    rkey: RKEY,
};

fn at(offset: u64) -> Remote {
    Remote {
        addr: BASE + offset,
        rkey: RKEY,
    }
}

const IMM: ImmData = ImmData([1, 2, 3, 4]);

fn request(operation: Operation) -> SendRequest {
    SendRequest {
        wr_id: 0,
        flags: SendFlags::EMPTY,
        operation,
        destination: None,
    }
}

/// Executes over a reliable connection.
fn run(operation: Operation, sges: &[Sge], from: &Side, to: &Side) -> Outcome {
    let entries = entries(sges);
    let data = Data::Sges(SgeList::of(&entries));
    execute(
        &request(operation),
        data,
        from,
        DEPTH,
        to,
        true,
        &mut Progress::default(),
    )
}

/// Pieces at odd places, and not in order.
fn pieces() -> [Sge; 4] {
    [sge(1, 3), sge(40, 0), sge(17, 8), sge(5, 1)]
}

fn gathered() -> Vec<u8> {
    [1..4, 17..25, 5..6].into_iter().flatten().collect()
}

#[test]
fn a_send_is_gathered_and_scattered_byte_for_byte() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    receiver.post_receive(77, &[sge(50, 5), sge(9, 0), sge(3, 6), sge(30, 20)]);
    let entries = entries(&pieces());
    let data = Data::Sges(SgeList::of(&entries));
    let request = SendRequest {
        flags: SendFlags::SOLICITED,
        ..request(Operation::SendImm(IMM))
    };
    let outcome = execute(
        &request,
        data,
        &sender,
        DEPTH,
        &receiver,
        true,
        &mut Progress::default(),
    );
    assert_eq!(outcome, Outcome::Done(12));
    let message = gathered();
    assert_eq!(receiver.bytes(50, 5), message[..5]);
    assert_eq!(receiver.bytes(3, 6), message[5..11]);
    assert_eq!(receiver.bytes(30, 2), [message[11], 31]);
    let expected = Received {
        wr_id: 77,
        status: WcStatus::Success,
        opcode: WcOpcode::Recv,
        byte_len: 12,
        extra: Extra::Immediate(IMM),
        solicited: true,
        source: None,
    };
    assert_eq!(*receiver.completed.borrow(), [expected]);
}

#[test]
fn inline_data_needs_no_key() {
    let (sender, receiver) = (Side::new(0), Side::new(16));
    receiver.post_receive(1, &[sge(2, 2), sge(8, 8)]);
    let request = request(Operation::Send);
    let outcome = execute(
        &request,
        Data::Inline(b"abcde"),
        &sender,
        DEPTH,
        &receiver,
        true,
        &mut Progress::default(),
    );
    assert_eq!(outcome, Outcome::Done(5));
    assert_eq!(receiver.bytes(2, 2), b"ab");
    assert_eq!(receiver.bytes(8, 3), b"cde");
}

#[test]
fn without_a_receive_a_reliable_sender_waits_and_an_unreliable_one_does_not_know() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    let entries = entries(&pieces());
    for operation in [Operation::Send, Operation::SendImm(IMM)] {
        let timer = receiver.min_rnr_timer();
        let data = Data::Sges(SgeList::of(&entries));
        let request = request(operation);
        let outcome = execute(
            &request,
            data,
            &sender,
            DEPTH,
            &receiver,
            true,
            &mut Progress::default(),
        );
        assert_eq!(outcome, Outcome::NotReady(timer));
        let outcome = execute(
            &request,
            data,
            &sender,
            DEPTH,
            &receiver,
            false,
            &mut Progress::default(),
        );
        assert_eq!(outcome, Outcome::Dropped(12));
    }
    let write = Operation::RdmaWriteImm(REMOTE, IMM);
    let outcome = run(write, &pieces(), &sender, &receiver);
    assert_eq!(outcome, Outcome::NotReady(receiver.min_rnr_timer()));
    assert_eq!(receiver.failed.get(), None);
    assert_eq!(receiver.bytes(0, 64), sender.bytes(0, 64), "nothing moved");
}

#[test]
fn memory_that_is_gone_is_the_fault_of_whose_it_is() {
    let read = Operation::RdmaRead(REMOTE);
    let write = Operation::RdmaWrite(REMOTE);
    let add = Operation::FetchAdd {
        remote: REMOTE,
        add: 1,
    };
    for (operation, length) in [(Operation::Send, 8), (read, 8), (write, 8), (add, 8)] {
        let (requester, peer) = (Side::new(64), Side::new(64));
        peer.post_receive(5, &[sge(0, 64)]);
        requester.missing.set(Some(Fault::Gone));
        let outcome = run(operation, &[sge(0, length)], &requester, &peer);
        assert_eq!(outcome, Outcome::Failed(WcStatus::LocProtErr));
        assert_eq!(peer.failed.get(), None, "{operation:?}");
        assert_eq!(peer.receives.borrow().len(), 1, "the peer heard nothing");
        assert_eq!(peer.bytes(0, 64), Side::new(64).bytes(0, 64));

        requester.missing.set(None);
        peer.missing.set(Some(Fault::Gone));
        let outcome = run(operation, &[sge(0, length)], &requester, &peer);
        let (status, event) = match operation {
            Operation::Send => (WcStatus::RemOpErr, None),
            _ => (WcStatus::RemAccessErr, Some(EventType::QpAccessErr)),
        };
        assert_eq!(outcome, Outcome::Failed(status), "{operation:?}");
        assert_eq!(peer.failed.get(), Some(event), "{operation:?}");
    }
}

#[test]
fn a_message_too_long_for_its_receive_fails_both_sides() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    receiver.post_receive(5, &[sge(0, 11)]);
    let outcome = run(Operation::Send, &pieces(), &sender, &receiver);
    assert_eq!(outcome, Outcome::Failed(WcStatus::RemInvReqErr));
    assert_eq!(receiver.completed.borrow()[0].status, WcStatus::LocLenErr);
    // The completion has told it: no event does.
    assert_eq!(receiver.failed.get(), Some(None));
}

#[test]
fn on_an_unreliable_connection_a_receive_that_is_too_short_stays_and_a_bad_one_ends_the_peer_alone()
{
    let (sender, receiver) = (Side::new(64), Side::new(64));
    let entries = entries(&pieces());
    let run = || {
        let data = Data::Sges(SgeList::of(&entries));
        execute(
            &request(Operation::Send),
            data,
            &sender,
            DEPTH,
            &receiver,
            false,
            &mut Progress::default(),
        )
    };
    receiver.post_receive(5, &[sge(0, 11)]);
    assert_eq!(run(), Outcome::Dropped(12));
    assert!(receiver.completed.borrow().is_empty());
    assert_eq!(receiver.failed.get(), None);

    receiver.receives.borrow_mut().clear();
    let bad = Sge {
        lkey: LKEY + 1,
        ..sge(0, 64)
    };
    receiver.post_receive(6, &[bad]);
    assert_eq!(run(), Outcome::Dropped(12));
    assert_eq!(receiver.completed.borrow()[0].status, WcStatus::LocProtErr);
    assert_eq!(receiver.failed.get(), Some(None));
}

#[test]
fn a_receive_with_a_bad_key_is_the_receivers_error_and_an_operational_one_to_the_sender() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    let bad = Sge {
        lkey: LKEY + 1,
        ..sge(0, 64)
    };
    receiver.post_receive(5, &[bad]);
    let outcome = run(Operation::Send, &pieces(), &sender, &receiver);
    assert_eq!(outcome, Outcome::Failed(WcStatus::RemOpErr));
    assert_eq!(receiver.completed.borrow()[0].status, WcStatus::LocProtErr);
    assert_eq!(receiver.failed.get(), Some(None));
}

#[test]
fn a_bad_key_of_the_senders_own_never_reaches_the_peer() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    receiver.post_receive(5, &[sge(0, 64)]);
    let outcome = run(Operation::Send, &[sge(60, 5)], &sender, &receiver);
    assert_eq!(outcome, Outcome::Failed(WcStatus::LocProtErr));
    assert_eq!(receiver.receives.borrow().len(), 1);
    assert_eq!(receiver.failed.get(), None);
}

#[test]
fn a_write_lands_where_it_was_sent_and_consumes_a_receive_only_with_immediate_data() {
    let (sender, receiver) = (Side::new(64), Side::new(64));
    receiver.post_receive(8, &[]);
    let outcome = run(Operation::RdmaWrite(at(33)), &pieces(), &sender, &receiver);
    assert_eq!(outcome, Outcome::Done(12));
    assert_eq!(receiver.bytes(33, 12), gathered());
    assert!(receiver.completed.borrow().is_empty());
    let with_immediate = Operation::RdmaWriteImm(at(33), IMM);
    let outcome = run(with_immediate, &pieces(), &sender, &receiver);
    assert_eq!(outcome, Outcome::Done(12));
    let completed = receiver.completed.borrow();
    assert_eq!(completed[0].opcode, WcOpcode::RecvRdmaWithImm);
    assert_eq!(completed[0].byte_len, 12);
}

#[test]
fn keys_and_rights_of_the_peer_are_kept() {
    type Make = fn(Remote) -> Operation;
    let flush: Make = |remote| Operation::Flush {
        remote,
        length: 8,
        selectivity: FlushSelectivity::Range,
        placement: FlushPlacement::GLOBAL,
    };
    let add: Make = |remote| Operation::FetchAdd { remote, add: 1 };
    let table: [(Make, AccessFlags, &[Sge]); 5] = [
        (
            Operation::RdmaWrite,
            AccessFlags::REMOTE_WRITE,
            &[sge(0, 8)],
        ),
        (Operation::RdmaRead, AccessFlags::REMOTE_READ, &[sge(0, 8)]),
        (add, AccessFlags::REMOTE_ATOMIC, &[sge(0, 8)]),
        (
            Operation::AtomicWrite,
            AccessFlags::REMOTE_WRITE,
            &[sge(0, 8)],
        ),
        (flush, AccessFlags::FLUSH_GLOBAL, &[]),
    ];
    for (make, right, sges) in table {
        let (sender, mut receiver) = (Side::new(64), Side::new(64));
        let operation = make(REMOTE);
        let name = operation.opcode();
        let bad_key = make(Remote {
            rkey: RKEY + 1,
            ..REMOTE
        });
        let outcome = run(operation, sges, &sender, &receiver);
        assert!(matches!(outcome, Outcome::Done(_)), "{name:?}");

        let outcome = run(bad_key, sges, &sender, &receiver);
        assert_eq!(outcome, Outcome::Failed(WcStatus::RemAccessErr), "{name:?}");
        assert_eq!(receiver.failed.take(), Some(Some(EventType::QpAccessErr)));

        receiver.access = right;
        let outcome = run(operation, sges, &sender, &receiver);
        assert!(matches!(outcome, Outcome::Done(_)), "{name:?}");
        receiver.access = AccessFlags::REMOTE.without(right);
        let outcome = run(operation, sges, &sender, &receiver);
        assert_eq!(outcome, Outcome::Failed(WcStatus::RemInvReqErr), "{name:?}");
        assert_eq!(receiver.failed.take(), Some(Some(EventType::QpReqErr)));
    }
}

#[test]
fn a_range_of_no_bytes_needs_no_key() {
    let (sender, receiver) = (Side::new(8), Side::new(8));
    let nowhere = Remote {
        addr: u64::MAX,
        rkey: 0xdead,
    };
    for operation in [Operation::RdmaWrite(nowhere), Operation::RdmaRead(nowhere)] {
        assert_eq!(run(operation, &[], &sender, &receiver), Outcome::Done(0));
    }
}

#[test]
fn a_read_scatters_the_peers_memory_and_needs_the_right_to_write_ones_own() {
    let (mut reader, peer) = (Side::new(64), Side::new(64));
    peer.memory.borrow_mut()[20..32].copy_from_slice(b"twelve bytes");
    let read = Operation::RdmaRead(at(20));
    assert_eq!(run(read, &pieces(), &reader, &peer), Outcome::Done(12));
    assert_eq!(reader.bytes(1, 3), b"twe");
    assert_eq!(reader.bytes(17, 8), b"lve byte");
    assert_eq!(reader.bytes(5, 1), b"s");
    reader.writable = false;
    let outcome = run(read, &pieces(), &reader, &peer);
    assert_eq!(outcome, Outcome::Failed(WcStatus::LocProtErr));
}

#[test]
fn atomics_change_eight_aligned_bytes_and_return_what_was_there() {
    let (sender, peer) = (Side::new(16), Side::new(64));
    peer.memory.borrow_mut()[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
    let result = [sge(0, 8)];
    let add = Operation::FetchAdd {
        remote: at(8),
        add: 3,
    };
    assert_eq!(run(add, &result, &sender, &peer), Outcome::Done(8));
    assert_eq!(sender.bytes(0, 8), u64::MAX.to_ne_bytes());
    assert_eq!(peer.bytes(8, 8), 2u64.to_ne_bytes());

    let swap = |compare| Operation::CompareSwap {
        remote: at(8),
        compare,
        swap: 99,
    };
    assert_eq!(run(swap(3), &result, &sender, &peer), Outcome::Done(8));
    assert_eq!(peer.bytes(8, 8), 2u64.to_ne_bytes(), "3 is not 2");
    assert_eq!(run(swap(2), &result, &sender, &peer), Outcome::Done(8));
    assert_eq!(peer.bytes(8, 8), 99u64.to_ne_bytes());

    let misaligned = Operation::FetchAdd {
        remote: at(9),
        add: 1,
    };
    let outcome = run(misaligned, &result, &sender, &peer);
    assert_eq!(outcome, Outcome::Failed(WcStatus::RemInvReqErr));
}

#[test]
fn a_peer_that_takes_no_reads_finds_reads_and_atomics_invalid() {
    let (sender, mut peer) = (Side::new(16), Side::new(64));
    peer.takes_reads = false;
    let add = Operation::FetchAdd {
        remote: REMOTE,
        add: 1,
    };
    for operation in [Operation::RdmaRead(REMOTE), add] {
        let outcome = run(operation, &[sge(0, 8)], &sender, &peer);
        assert_eq!(outcome, Outcome::Failed(WcStatus::RemInvReqErr));
    }
}

#[test]
fn a_send_with_invalidate_invalidates_and_says_so() {
    let (sender, peer) = (Side::new(16), Side::new(16));
    peer.post_receive(1, &[sge(0, 16)]);
    peer.post_receive(2, &[sge(0, 16)]);
    let invalidate = |rkey| Operation::SendInvalidate { rkey };
    let outcome = run(invalidate(RKEY), &[sge(0, 8)], &sender, &peer);
    assert_eq!(outcome, Outcome::Done(8));
    assert_eq!(*peer.invalidated.borrow(), [RKEY]);
    assert_eq!(peer.completed.borrow()[0].extra, Extra::Invalidated(RKEY));
    let outcome = run(invalidate(RKEY + 1), &[sge(0, 8)], &sender, &peer);
    assert_eq!(outcome, Outcome::Failed(WcStatus::RemAccessErr));
}

#[test]
fn a_message_longer_than_the_transport_carries_is_a_local_length_error() {
    let (sender, peer) = (Side::new(16), Side::new(16));
    let sges = [sge(0, u32::MAX), sge(0, u32::MAX)];
    let outcome = run(Operation::Send, &sges, &sender, &peer);
    assert_eq!(outcome, Outcome::Failed(WcStatus::LocLenErr));
}

const SOURCE: Source = Source {
    qpn: 5,
    grh: [0xaa; GRH_LENGTH as usize],
};

fn datagram<'a>(
    sender: &Side,
    entries: &'a [Entry],
    mtu: u32,
    list: &'a mut RegionList<Range>,
) -> Result<Datagram<'a, Range>, WcStatus> {
    let data = Data::Sges(SgeList::of(entries));
    Datagram::new(&request(Operation::Send), data, sender, mtu, SOURCE, list)
}
