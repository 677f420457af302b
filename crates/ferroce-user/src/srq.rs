// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use ferroce_core::local::Receive;
use ferroce_core::ring::{RecvQueue, WqGeometry};
use ferroce_core::uapi;
use ferroce_core::verbs::EventType;
use ferroce_device::receive::Looked;
use ferroce_device::shared_receive_queue::{Invalid, SharedReceiveQueue};
use parking_lot::Mutex;

use crate::device::Context;
use crate::helper::mark;
use crate::peer::Peer;
use crate::process::Process;
use crate::rings::Rings;
use crate::segment::{QueueRecord, SrqRecord};
use crate::side::{self, with_queue, Entry};
use crate::table::{self, Uses};
use crate::taken::{self, Note};
use crate::{Errno, Result};

/// A shared receive queue of this process.
pub struct Srq {
    context: Arc<Context>,
    /// Its number, and its place in the segment.
    pub number: u32,
    /// The queue pairs that use it.
    pub(crate) uses: Uses,
    /// What the program's events name it by.
    user_handle: u64,
    max_sge: u32,
    rings: Mutex<Rings>,
    /// The ring of a new size that the plug-in was told of, and has not moved to yet.
    offered: Mutex<Option<(Rings, WqGeometry<RecvQueue>)>>,
    told: AtomicU32,
}

/// What a Query SRQ says.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// Entries.
    pub max_wr: u32,
    /// Scatter entries of each.
    pub max_sge: u32,
    /// See [`SrqRecord::limit`].
    pub limit: u32,
}

/// What the helper of the queue's process is to tell.
const LIMIT: u32 = 1 << 0;

impl Srq {
    /// Makes a queue of at least this capacity.
    pub fn create(
        context: &Arc<Context>,
        attributes: &Attributes,
        user_handle: u64,
    ) -> Result<(Arc<Self>, uapi::SrqResponse)> {
        let process = context.process;
        process.check_current()?;
        let geometry = geometry(attributes.max_wr, attributes.max_sge)?;
        let rings = Rings::new(process, geometry.len())?;
        let response = response(&rings, geometry);
        let (number, _) = table::reserve(&mut process.srqs.lock())?;
        let srq = Arc::new(Self {
            context: context.clone(),
            number,
            uses: Uses::default(),
            user_handle,
            max_sge: geometry.max_sge(),
            rings: Mutex::new(rings),
            offered: Mutex::new(None),
            told: AtomicU32::new(0),
        });
        let record = srq.record()?;
        record.work.store(0, Ordering::Relaxed);
        record.limit.store(attributes.limit, Ordering::Relaxed);
        record.queue.ring.set(response.ring.offset, geometry);
        record.queue.executor.store([0; 4]);
        process.srqs.lock().put(number, srq.clone());
        Ok((srq, response))
    }

    fn record(&self) -> Result<&SrqRecord> {
        let segment = &self.context.process.own.segment;
        segment.srq(self.number).ok_or(Errno(libc::EINVAL))
    }

    /// What it is.
    pub fn query(&self) -> Result<Attributes> {
        let record = self.record()?;
        Ok(Attributes {
            max_wr: record.queue.ring.entries.load(Ordering::Relaxed),
            max_sge: self.max_sge,
            limit: record.limit.load(Ordering::Relaxed),
        })
    }

    /// Sets the limit.
    pub fn set_limit(&self, limit: u32) -> Result<()> {
        self.context.process.check_current()?;
        let process = self.context.process;
        let set = with(process, &process.own, self.record()?, |srq| {
            srq.set_limit(limit)
        });
        self.tell_limit(set.ok_or(INVALID)?.map_err(invalid)?);
        Ok(())
    }

    /// Makes a ring of a new size, for the plug-in to have ready: see
    /// [`ModifySrqRequest`](uapi::ModifySrqRequest).
    pub fn offer(&self, max_wr: u32, limit: Option<u32>) -> Result<uapi::SrqResponse> {
        if max_wr == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let geometry = geometry(max_wr, self.max_sge)?;
        let process = self.context.process;
        process.check_current()?;
        let checked = with(process, &process.own, self.record()?, |srq| {
            srq.check_move(geometry, limit)
        });
        checked.ok_or(INVALID)?.map_err(invalid)?;
        let rings = Rings::new(process, geometry.len())?;
        let response = response(&rings, geometry);
        *self.offered.lock() = Some((rings, geometry));
        Ok(response)
    }

    /// Moves to the ring that was offered.
    pub fn move_to_offered(&self, max_wr: u32, limit: Option<u32>) -> Result<()> {
        let offered = self.offered.lock().take();
        let (rings, geometry) = offered.ok_or(Errno(libc::EOPNOTSUPP))?;
        if max_wr > geometry.entries() {
            return Err(INVALID);
        }
        let process = self.context.process;
        process.check_current()?;
        let (segment, record) = (&process.own.segment, self.record()?);
        // Of a segment's memory that nothing is in yet.
        let new = NewQueue::default();
        new.0.ring.set(rings.offset as u64, geometry);
        let moved = with(process, &process.own, record, |srq| {
            let moved = with_queue(segment, &new.0, |new| srq.move_to(new, limit))
                .ok_or(INVALID)?
                .map_err(invalid)?;
            record.queue.ring.set(rings.offset as u64, geometry);
            Ok::<_, Errno>(moved)
        });
        self.tell_limit(moved.ok_or(INVALID)??);
        *self.rings.lock() = rings;
        Ok(())
    }

    fn tell_limit(&self, reached: bool) {
        if reached {
            self.tell(LIMIT);
        }
    }

    fn tell(&self, work: u32) {
        if work & LIMIT != 0 {
            self.told.fetch_add(1, Ordering::Relaxed);
            self.context
                .raise(self.user_handle, EventType::SrqLimitReached);
        }
    }

    /// Destroys the queue, which no queue pair uses any more. Returns how many events of it the program has
    /// read.
    pub fn destroy(&self) -> Result<u32> {
        let process = self.context.process;
        if !process.is_current() {
            return Ok(0);
        }
        self.uses.check_none()?;
        self.record()?.queue.ring.clear();
        process.wait_for_users();
        process.srqs.lock().give_up(self.number, 0);
        let event = self
            .context
            .event(self.user_handle, EventType::SrqLimitReached);
        let unread = self.context.events.take_back(|other| other == event);
        Ok(self.told.load(Ordering::Relaxed).wrapping_sub(unread))
    }
}

/// A record that is not in the segment.
struct NewQueue(QueueRecord);

impl Default for NewQueue {
    fn default() -> Self {
        // SAFETY: All of it is atomic numbers, for which zero will do.
        Self(unsafe { core::mem::zeroed() })
    }
}

fn geometry(max_wr: u32, max_sge: u32) -> Result<WqGeometry<RecvQueue>> {
    WqGeometry::<RecvQueue>::new(max_wr, max_sge).map_err(|error| Errno::from(error.errno()))
}

fn response(rings: &Rings, geometry: WqGeometry<RecvQueue>) -> uapi::SrqResponse {
    uapi::SrqResponse {
        ring: rings.mapping(),
        recv: geometry.descriptor(),
    }
}

const INVALID: Errno = Errno(libc::EINVAL);

fn invalid(_: Invalid) -> Errno {
    INVALID
}

/// Uses a queue, with its lock held. `None` if its record makes no sense.
fn with<R>(
    process: &Process,
    peer: &Peer,
    record: &SrqRecord,
    op: impl FnOnce(&mut SharedReceiveQueue<Entry>) -> R,
) -> Option<R> {
    let guard = record.lock.lock(process);
    let queue = side::queue(&peer.segment, &record.queue)?;
    let limit = record.limit.load(Ordering::Relaxed);
    let mut srq = SharedReceiveQueue::new(queue, limit);
    if let Some(dead) = guard.dead_holder {
        let is_taken = srq.recover();
        taken::finish_shared(&peer.segment, record, dead, is_taken);
        keep(record, &srq);
    }
    let result = op(&mut srq);
    keep(record, &srq);
    Some(result)
}

/// Keeps what a queue has beside its ring. After that nothing is announced any more.
fn keep(record: &SrqRecord, srq: &SharedReceiveQueue<Entry>) {
    record.queue.executor.store(srq.queue().words());
    record.limit.store(srq.limit(), Ordering::Relaxed);
    taken::step();
    record.taking.store(0, Ordering::Relaxed);
}

/// Takes the next receive for a message, and notes that.
pub(crate) fn take(
    process: &Process,
    peer: &Peer,
    number: u32,
    copy: &mut [u8],
    accept: impl FnOnce(&Receive<'_>) -> bool,
    note: &Note<'_>,
) -> Looked {
    let Some(record) = peer.segment.srq(number) else {
        return Looked::Empty;
    };
    let is_own = core::ptr::eq(peer, &*process.own);
    let taken = with(process, peer, record, |srq| {
        let (looked, reached) = srq.take_into(copy, note.of(accept));
        note.taken(looked);
        if reached && !is_own {
            // Before the limit is taken away, in case that this process ends.
            record.work.fetch_or(LIMIT, Ordering::AcqRel);
            mark(&peer.segment.header().dirty_srqs, number);
        }
        (looked, reached)
    });
    let (looked, reached) = taken.unwrap_or((Looked::Empty, false));
    match reached {
        true if is_own => tell(process, number, LIMIT),
        true => peer.segment.wake(),
        false => {}
    }
    looked
}

/// Finishes what a process that has ended was at.
pub(crate) fn recover(process: &Process, peer: &Peer, number: u32) {
    if let Some(record) = peer.segment.srq(number) {
        with(process, peer, record, |_| {});
    }
}

/// Tells what is left to tell.
pub(crate) fn serve(process: &Process, number: u32) {
    let Some(record) = process.own.segment.srq(number) else {
        return;
    };
    tell(process, number, record.work.swap(0, Ordering::AcqRel));
}

fn tell(process: &Process, number: u32, work: u32) {
    let srq = process.srqs.lock().get(number).cloned();
    if let Some(srq) = srq {
        srq.tell(work);
    }
}
