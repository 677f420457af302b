// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two sides of a request: a queue pair as its own requests see it, and as those of its peer do.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use ferroce_core::local::{
    self, AccessError, AtomicChange, CopyFault, Fault, LocalMemory, Receive, Received, Responder,
    Taken,
};
use ferroce_core::ring::{Cqe, Executor, RecvQueue, RecvRequest, Remote, Sge, MAX_RECV_STRIDE};
use ferroce_core::verbs::limits::ATOMIC_LENGTH;
use ferroce_core::verbs::{AccessFlags, EventType, QpState, RnrTimer, WcStatus};
use ferroce_device::attrs::{Attrs, Terms};
use ferroce_device::effects::Effects;
use ferroce_device::key::Access;
use ferroce_device::queue::WorkQueue;
use ferroce_device::receive::{self, GivenBack, Looked, ReceiveQueue, Return};

use crate::batch::Batch;
use crate::beside::Message;
use crate::helper::mark;
use crate::keys::Cache;
use crate::lock::Guard;
use crate::peer::Peer;
use crate::process::Process;
use crate::reach;
use crate::segment::{taking, QpRecord, QueueRecord, Segment};
use crate::taken::{Note, Noted};
use crate::{cq, keys, qp, srq, taken};

/// A queue pair of whichever process.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// This process.
    pub process: &'static Process,
    /// The queue pair's.
    pub peer: &'a Peer,
    /// The queue pair.
    pub record: &'a QpRecord,
    /// Its number.
    pub number: u32,
    /// How it takes messages.
    pub terms: Terms,
    /// As of so many changes of its attributes.
    pub changes: u32,
    /// Regions that were looked up before, by the thread that executes the request.
    pub cache: &'a Cache,
    /// A short message that is for this queue pair, on its way beside its completion.
    pub message: Option<&'a Message>,
    /// The batch of which the request is to be one: it is checked, and nothing else.
    pub batch: Option<&'a Batch>,
}

/// The attributes of a queue pair, with its lock held.
pub fn attrs(record: &QpRecord) -> Attrs {
    Attrs::from_words(&record.attrs.load())
}

/// Changes the attributes of a queue pair of this process.
pub fn change<R>(process: &Process, record: &QpRecord, op: impl FnOnce(&mut Attrs) -> R) -> R {
    let _guard = taken::lock(process, &process.own, record);
    change_locked(record, op)
}

fn change_locked<R>(record: &QpRecord, op: impl FnOnce(&mut Attrs) -> R) -> R {
    let mut attrs = attrs(record);
    let result = op(&mut attrs);
    record.attrs.store(attrs.words());
    // Release: a thread that sees this number, and takes the lock, finds the change.
    record.changes.fetch_add(1, Ordering::Release);
    result
}

impl<'a> Side<'a> {
    /// The queue pair of a number, with its lock held.
    pub fn lock(
        process: &'static Process,
        peer: &'a Peer,
        number: u32,
        cache: &'a Cache,
    ) -> Option<(Guard<'a>, Attrs, Self)> {
        let record = peer.segment.qp(qp::index(number))?;
        let guard = taken::lock(process, peer, record);
        if record.number.load(Ordering::Relaxed) != number {
            return None;
        }
        let attrs = attrs(record);
        let side = Self {
            process,
            peer,
            record,
            number,
            terms: Terms::of(&attrs.attr),
            changes: record.changes.load(Ordering::Relaxed),
            cache,
            message: None,
            batch: None,
        };
        Some((guard, attrs, side))
    }

    fn pd(&self) -> ferroce_device::key::PdId {
        keys::id(self.record.pd.load(Ordering::Relaxed))
    }

    /// Whether the queue pair is this process's.
    fn is_own(&self) -> bool {
        core::ptr::eq(self.peer, &*self.process.own)
    }

    /// Changes the attributes, and has done what that leads to by the queue pair's process: at once if that is this
    /// one, else by its helper.
    fn change(&self, op: impl FnOnce(&mut Attrs) -> Effects) {
        let guard = taken::lock(self.process, self.peer, self.record);
        let effects = change_locked(self.record, op);
        if effects.is_empty() {
            return;
        }
        if self.is_own() {
            drop(guard);
            qp::serve_own(self.process, self.number, effects);
            return;
        }
        // Before the lock is released: if this process ends before that, the queue pair is put into error.
        self.record.work.fetch_or(effects.bits(), Ordering::AcqRel);
        let dirty = &self.peer.segment.header().dirty_qps;
        mark(dirty, qp::index(self.number));
        drop(guard);
        self.peer.segment.wake();
    }

    /// The receive that this process has taken.
    fn noted(&self) -> Option<Noted<'a>> {
        Noted::of(self.record, self.number, self.process.own.serial)
    }

    fn complete_receive(&self, cqe: &Cqe, solicited: bool) {
        let cq = self.record.recv_cq.load(Ordering::Relaxed);
        cq::complete(self.process, self.peer, cq, cqe, solicited, self.noted());
    }

    /// Moves to the error state because of something on the receiving side.
    fn fail_receiving(&self, event: Option<EventType>) {
        let kind = qp::kind(self.record);
        self.change(|attrs| attrs.fail_receive(kind, event));
    }
}

impl receive::Source for Side<'_> {
    fn take_into(&self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked {
        self.take_next(copy, accept)
    }

    fn give_back(&self, entry: &[u8]) {
        self.make_next(entry);
    }

    fn complete_failed(&self, entry: &[u8], status: WcStatus) {
        self.end_receive(RecvRequest::wr_id(entry), status, self.noted());
    }
}

impl<'a> Side<'a> {
    /// Completes a receive that no message took, and moves the queue pair to the error state.
    fn end_receive(&self, wr_id: u64, status: WcStatus, noted: Option<Noted<'_>>) {
        let cq = self.record.recv_cq.load(Ordering::Relaxed);
        let cqe = receive::ended(wr_id, self.number, status);
        cq::complete(self.process, self.peer, cq, &cqe, false, noted);
        self.fail_receiving(None);
    }

    /// Completes a receive of this process's that a process had taken that has ended, if it still has it.
    pub fn end_taken(&self, taken_by: u32) {
        let wr_id = self.record.taken_wr_id.load(Ordering::Relaxed);
        // The helper and a thread that flushes may both be here.
        let taken =
            self.record
                .taken_by
                .compare_exchange(taken_by, 0, Ordering::AcqRel, Ordering::Relaxed);
        if taken.is_ok() {
            self.end_receive(wr_id, WcStatus::WrFlushErr, None);
        }
    }

    /// What is noted of a receive that is about to be taken, in case that this process ends: announced at a place
    /// by a number. What it does to its own receives matters to nobody then.
    fn note(&self, place: &'a AtomicU32, number: u32) -> Note<'a> {
        let is_connected = qp::qp_type(self.record).is_some_and(|kind| !kind.is_datagram());
        let is_noted = is_connected && !self.is_own();
        let announced = is_noted.then_some((place, number));
        Note::new(self.record, announced, self.process.own.serial)
    }

    fn take_next(&self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked {
        let record = self.record;
        let guard = taken::lock(self.process, self.peer, record);
        if record.given_back.load(Ordering::Relaxed) != 0 {
            let note = self.note(&record.taking, taking::GIVEN_BACK);
            let mut entry = [0; MAX_RECV_STRIDE];
            let mut given_back = given_back(record, &mut entry);
            let looked = given_back.take_into(copy, note.of(accept));
            if given_back.is_empty() {
                record.given_back.store(0, Ordering::Relaxed);
            }
            note.taken(looked);
            note.end();
            return looked;
        }
        match record.srq.load(Ordering::Relaxed).checked_sub(1) {
            None => {
                let note = self.note(&record.taking, taking::OWN_QUEUE);
                let looked = with_queue(&self.peer.segment, &record.receives, |queue| {
                    let looked = queue.take_into(copy, note.of(accept));
                    note.taken(looked);
                    looked
                });
                note.end();
                looked.unwrap_or(Looked::Empty)
            }
            Some(number) => {
                drop(guard);
                let Some(srq) = self.peer.segment.srq(number) else {
                    return Looked::Empty;
                };
                let note = self.note(&srq.taking, self.number);
                srq::take(self.process, self.peer, number, copy, accept, &note)
            }
        }
    }

    fn make_next(&self, entry: &[u8]) {
        let returned = {
            let _guard = taken::lock(self.process, self.peer, self.record);
            let attrs = attrs(self.record);
            let mut room = [0; MAX_RECV_STRIDE];
            let mut given_back = given_back(self.record, &mut room);
            let returned = match attrs.is_gone {
                true => Return::Done,
                false => given_back.give_back(entry, attrs.attr.state),
            };
            if !given_back.is_empty() && self.record.given_back.load(Ordering::Relaxed) == 0 {
                store_given_back(self.record, entry);
            }
            if let Some(noted) = self.noted().filter(|_| returned == Return::Done) {
                noted.completed();
            }
            returned
        };
        match returned {
            Return::Done => {}
            Return::Complete(status) => receive::Source::complete_failed(self, entry, status),
        }
    }
}

/// The one receive that was given back, if there is one.
fn given_back<'b>(
    record: &QpRecord,
    room: &'b mut [u8; MAX_RECV_STRIDE],
) -> GivenBack<&'b mut [u8]> {
    let entry = bytes(record.given_back_entry.load());
    let mut given_back = GivenBack::new(&mut room[..], MAX_RECV_STRIDE);
    let length = record.given_back.load(Ordering::Relaxed) as usize;
    if let Some(entry) = entry.get(..length).filter(|entry| !entry.is_empty()) {
        // There is room for one.
        let _ = given_back.give_back(entry, QpState::Rts);
    }
    given_back
}

/// An entry of a receive queue as words.
fn words(entry: &[u8]) -> [u32; MAX_RECV_STRIDE / 4] {
    let mut words = [0; MAX_RECV_STRIDE / 4];
    let (chunks, _) = entry.as_chunks::<4>();
    for (to, chunk) in words.iter_mut().zip(chunks) {
        *to = u32::from_ne_bytes(*chunk);
    }
    words
}

/// The other way round.
fn bytes(words: [u32; MAX_RECV_STRIDE / 4]) -> [u8; MAX_RECV_STRIDE] {
    let mut entry = [0; MAX_RECV_STRIDE];
    let (chunks, _) = entry.as_chunks_mut::<4>();
    for (to, word) in chunks.iter_mut().zip(words) {
        *to = word.to_ne_bytes();
    }
    entry
}

fn store_given_back(record: &QpRecord, entry: &[u8]) {
    record.given_back_entry.store(words(entry));
    taken::step();
    record
        .given_back
        .store(entry.len() as u32, Ordering::Relaxed);
}

/// Room for an entry of a receive queue.
pub struct Entry([u8; MAX_RECV_STRIDE]);

impl Deref for Entry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Entry {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Uses a receive queue, with the lock held that it is under. `None` if its record makes no sense.
pub fn with_queue<R>(
    segment: &Segment,
    record: &QueueRecord,
    op: impl FnOnce(&mut ReceiveQueue<Entry>) -> R,
) -> Option<R> {
    let mut queue = queue(segment, record)?;
    let result = op(&mut queue);
    record.executor.store(queue.words());
    Some(result)
}

/// A receive queue, with the lock held that it is under. Its words are to be stored after that.
pub fn queue(segment: &Segment, record: &QueueRecord) -> Option<ReceiveQueue<Entry>> {
    let geometry = record.ring.geometry::<RecvQueue>()?;
    let offset = record.ring.offset.load(Ordering::Relaxed);
    let base = segment.ring(offset, geometry.len())?;
    let words = record.executor.load();
    // SAFETY: The ring is within the segment, which outlives the executor. It is a ring's alone.
    let ring = unsafe { Executor::resume(base, geometry.len(), geometry, words) }.ok()?;
    let buffer = Entry([0; MAX_RECV_STRIDE]);
    Some(ReceiveQueue::new(WorkQueue { ring, buffer }))
}

/// Takes and completes `count` receives of a queue pair of this process as flushed, if its state is such. Returns
/// whether there may be more.
pub fn flush_receives(side: &Side<'_>, count: u32) -> bool {
    for _ in 0..count {
        let wr_id = {
            let _guard = taken::lock(side.process, side.peer, side.record);
            if !attrs(side.record).flushes_receives() {
                return false;
            }
            if side.record.given_back.load(Ordering::Relaxed) != 0 {
                let mut room = [0; MAX_RECV_STRIDE];
                let wr_id = given_back(side.record, &mut room).flush_one();
                side.record.given_back.store(0, Ordering::Relaxed);
                wr_id
            } else {
                let queue = &side.record.receives;
                with_queue(&side.peer.segment, queue, ReceiveQueue::flush_one).flatten()
            }
        };
        let Some(wr_id) = wr_id else { return false };
        let cqe = receive::ended(wr_id, side.number, WcStatus::WrFlushErr);
        side.complete_receive(&cqe, false);
    }
    true
}

impl<'a> LocalMemory for Side<'a> {
    type Region = Range<'a>;

    fn local(&self, sge: Sge, write: bool) -> Result<Range<'a>, AccessError> {
        let access = Access::local(self.pd(), self.number, sge, write);
        let range = keys::local(self.process, self.peer, self.cache, &access)?;
        // Memory on demand may not be there, which is to be told of now.
        let message = self.message.filter(|_| write && !range.is_on_demand);
        Ok(Range { message, ..range })
    }
}

impl<'a> Responder for Side<'a> {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range<'a>, AccessError> {
        let access = Access::remote(self.pd(), self.number, remote, length, access);
        let range = keys::remote(self.process, self.peer, self.cache, &access)?;
        let batch = self.batch;
        Ok(Range { batch, ..range })
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let remote = Remote { addr: 0, rkey };
        let access = Access::remote(self.pd(), self.number, remote, 0, access);
        keys::check_key(self.process, self.peer, &access)
    }

    fn access(&self) -> AccessFlags {
        self.terms.access
    }

    fn takes_reads(&self) -> bool {
        self.terms.takes_reads
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        self.terms.min_rnr_timer
    }

    fn established(&self) {
        if !self.terms.awaits_peer {
            return;
        }
        self.change(Attrs::established);
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        receive::take(self, &mut [0; MAX_RECV_STRIDE], accept, place)
    }

    fn may_go_on(&self) -> bool {
        self.record.changes.load(Ordering::Acquire) == self.changes
    }

    fn complete(&self, received: &Received) {
        let (cqe, solicited) = receive::completion(received, self.number);
        let message = self.message.filter(|message| !message.is_empty());
        match message.filter(|_| received.status == WcStatus::Success) {
            None => self.complete_receive(&cqe, solicited),
            Some(message) => {
                let cq = self.record.recv_cq.load(Ordering::Relaxed);
                let noted = self.noted();
                cq::complete_with(self.process, self.peer, cq, cqe, solicited, message, noted);
            }
        }
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        keys::invalidate(self.process, self.peer, rkey, self.number)
    }

    fn fail(&self, event: Option<EventType>) {
        // What fails in a batch is executed once more, after those before it.
        if self.batch.is_none() {
            self.fail_receiving(event);
        }
    }
}

/// Memory of a process, from an address on.
#[derive(Clone, Copy)]
pub struct Range<'a> {
    /// This process.
    pub process: &'static Process,
    /// Whose it is.
    pub peer: &'a Peer,
    /// The first byte.
    pub address: u64,
    /// The key of its region.
    pub lkey: u32,
    /// Whether it may be missing.
    pub is_on_demand: bool,
    /// What is written goes there first.
    pub message: Option<&'a Message>,
    /// What is copied is noted there, and copied later.
    pub batch: Option<&'a Batch>,
}

impl Range<'_> {
    fn at(&self, offset: u32) -> u64 {
        self.address.wrapping_add(offset.into())
    }

    /// Reads memory of this process, from which requests are sent.
    fn read_here(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        if self.is_on_demand || !core::ptr::eq(self.peer, &*self.process.own) {
            return local::Region::read(self, at, bytes);
        }
        let from = core::ptr::with_exposed_provenance::<u8>(self.at(at) as usize);
        // SAFETY: The program has registered the memory, which was there then, to be read by the device, and
        // has not given it up. (If it has unmapped it all the same it ends here, as it would at its own next
        // access.)
        unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn is_own(&self, other: &Self) -> bool {
        core::ptr::eq(self.peer, other.peer)
    }
}

/// Whatever it is, it does not come back.
fn gone(_: reach::Fault) -> Fault {
    Fault::Gone
}

impl local::Region for Range<'_> {
    fn check(&self) -> Result<(), Fault> {
        // The key was checked by a thread that is counted, for which deregistering it waits.
        Ok(())
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        if let Some(message) = self.message {
            let added = message.add(self.lkey, self.at(at), length as usize, |bytes| {
                from.read_here(from_at, bytes)
            });
            if let Some(read) = added {
                return read.map_err(CopyFault::Source);
            }
        }
        let (to, source) = (self.at(at), from.at(from_at));
        if let Some(batch) = self.batch {
            batch.add(source, to, length);
            return Ok(());
        }
        if let Some(batch) = from.batch {
            batch.add(to, source, length);
            return Ok(());
        }
        let length = length as usize;
        let is_target_here = core::ptr::eq(self.peer, &*self.process.own);
        // One of the two is here: requests are executed by the process that has posted them.
        let (result, here_is_target) = if is_target_here && !self.is_own(from) {
            // SAFETY: The region was registered to be written to by the device.
            (
                unsafe { from.peer.reach.copy_from(source, to, length) },
                true,
            )
        } else {
            (self.peer.reach.copy_to(to, source, length), false)
        };
        result.map_err(|fault| match (fault, here_is_target) {
            (reach::Fault::Here, true) | (reach::Fault::There, false) => {
                CopyFault::Target(Fault::Gone)
            }
            _ => CopyFault::Source(Fault::Gone),
        })
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        if let Some(message) = self.message {
            let added = message.add(self.lkey, self.at(at), bytes.len(), |to| {
                to.copy_from_slice(bytes)
            });
            if added.is_some() {
                return Ok(());
            }
        }
        if let Some(batch) = self.batch {
            batch.add_inline(bytes, self.at(at));
            return Ok(());
        }
        self.peer.reach.write(self.at(at), bytes).map_err(gone)
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        self.peer.reach.read(self.at(at), bytes).map_err(gone)
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        let _guard = self.peer.segment.header().atomics_lock.lock(self.process);
        let mut bytes = [0; ATOMIC_LENGTH as usize];
        self.read(0, &mut bytes)?;
        let before = u64::from_ne_bytes(bytes);
        let after = match change {
            AtomicChange::Add(n) => before.wrapping_add(n),
            AtomicChange::CompareSwap { compare, .. } if before != compare => return Ok(before),
            AtomicChange::CompareSwap { swap, .. } => swap,
            AtomicChange::Store(bytes) => u64::from_ne_bytes(bytes),
        };
        self.write(0, &after.to_ne_bytes())?;
        Ok(before)
    }
}
