// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use ferroce_core::ring::{CqError, CqGeometry, Cqe, Producer};
use ferroce_core::uapi;
use ferroce_core::verbs::{EventType, WcFlags};
use ferroce_device::completion_queue::CompletionQueue;
use parking_lot::Mutex;

use crate::beside::{Message, Place, Slot};
use crate::device::Context;
use crate::events::Events;
use crate::helper::mark;
use crate::keys::{self, Checked};
use crate::lock::Guard;
use crate::peer::Peer;
use crate::process::Process;
use crate::rings::Rings;
use crate::segment::{CqRecord, Segment};
use crate::table::{self, Uses};
use crate::taken::{self, Noted};
use crate::{clock, Errno, Result};

/// A completion queue of this process.
pub struct Cq {
    context: Arc<Context>,
    /// Its number, and its place in the segment.
    pub number: u32,
    /// The queue pairs that use it.
    pub(crate) uses: Uses,
    /// What the program's events name it by.
    user_handle: u64,
    channel: Option<Arc<Events>>,
    rings: Mutex<Rings>,
    keys: Checked,
    /// How often the program has looked at it.
    looks: AtomicU32,
    /// The number of a queue pair with requests that are executed when the program looks; zero if none has.
    deferred: AtomicU32,
    /// How many events were told.
    told: AtomicU32,
    told_errors: AtomicU32,
}

/// What the helper of the queue's process is to tell.
mod work {
    /// There is a completion.
    pub const COMPLETION: u32 = 1 << 0;
    /// One was lost.
    pub const OVERRUN: u32 = 1 << 1;
}

impl Cq {
    /// Makes a queue of at least so many entries.
    pub fn create(
        context: &Arc<Context>,
        entries: u32,
        timestamps: bool,
        channel: Option<Arc<Events>>,
        user_handle: u64,
    ) -> Result<(Arc<Self>, uapi::CqResponse)> {
        let process = context.process;
        process.check_current()?;
        let geometry = CqGeometry::new(entries).map_err(|error| Errno::from(error.errno()))?;
        let (rings, slots) = rings(process, geometry)?;
        let response = response(&rings, geometry);
        let (number, _) = table::reserve(&mut process.cqs.lock())?;
        let cq = Arc::new(Self {
            context: context.clone(),
            number,
            uses: Uses::default(),
            user_handle,
            channel,
            rings: Mutex::new(rings),
            keys: Checked::default(),
            looks: AtomicU32::new(0),
            deferred: AtomicU32::new(0),
            told: AtomicU32::new(0),
            told_errors: AtomicU32::new(0),
        });
        let record = cq.record()?;
        record.work.store(0, Ordering::Relaxed);
        record
            .timestamps
            .store(timestamps.into(), Ordering::Relaxed);
        record
            .has_channel
            .store(cq.channel.is_some().into(), Ordering::Relaxed);
        record.producer.store([0; Producer::WORDS]);
        record.offset.store(response.ring.offset, Ordering::Relaxed);
        record.slots.store(slots, Ordering::Relaxed);
        record.entries.store(geometry.entries(), Ordering::Release);
        process.cqs.lock().put(number, cq.clone());
        Ok((cq, response))
    }

    fn record(&self) -> Result<&CqRecord> {
        let segment = &self.context.process.own.segment;
        segment.cq(self.number).ok_or(Errno(libc::EINVAL))
    }

    /// Moves to a ring of another size.
    pub fn resize(&self, entries: u32) -> Result<uapi::CqResponse> {
        let process = self.context.process;
        process.check_current()?;
        let geometry = CqGeometry::new(entries).map_err(|error| Errno::from(error.errno()))?;
        let (rings, slots) = rings(process, geometry)?;
        let response = response(&rings, geometry);
        let record = self.record()?;
        let segment = &process.own.segment;
        let (guard, mut queue) = lock(process, &process.own, record).ok_or(Errno(libc::EINVAL))?;
        // What lies beside completions is not moved with them.
        self.place_all(record, &queue);
        let offset = response.ring.offset;
        let new = producer(segment, offset, geometry, [0; Producer::WORDS]);
        let (_, fits) = queue.resize(CompletionQueue {
            producer: new.ok_or(Errno(libc::EINVAL))?,
            timestamps: queue.timestamps,
            memory: (),
        });
        if !fits {
            return Err(Errno(libc::EINVAL));
        }
        record.offset.store(offset, Ordering::Relaxed);
        record.slots.store(slots, Ordering::Relaxed);
        record.entries.store(geometry.entries(), Ordering::Relaxed);
        record.producer.store(queue.producer.words());
        drop(guard);
        // Nobody completes in it any more; the plug-in has the memory mapped until it moves too, and reads
        // nothing there.
        *self.rings.lock() = rings;
        Ok(response)
    }

    /// The program is about to look for completions, or asks for an event. (No two threads call this at the same
    /// time.)
    #[inline]
    pub fn look(&self) {
        let looks = self.looks.load(Ordering::Relaxed);
        self.looks.store(looks.wrapping_add(1), Ordering::Relaxed);
        if self.deferred.load(Ordering::Relaxed) != 0 {
            self.flush();
        }
    }

    #[cold]
    fn flush(&self) {
        let number = self.deferred.swap(0, Ordering::AcqRel);
        let process = self.context.process;
        if !process.is_current() {
            // The parent has left them, and executes them.
            return;
        }
        let qp = process.qps.lock().get(number).cloned();
        if let Some(qp) = qp {
            qp.flush_polled();
        }
    }

    /// How often the program has looked at it.
    pub(crate) fn looks(&self) -> u32 {
        self.looks.load(Ordering::Relaxed)
    }

    /// Notes a queue pair with requests that are to be executed when the program looks. Returns the one that
    /// was noted before.
    pub(crate) fn defer(&self, number: u32) -> Option<u32> {
        let before = self.deferred.swap(number, Ordering::AcqRel);
        (before != 0).then_some(before)
    }

    /// Puts the data in place that lie beside the completion at a position, which is about to be polled.
    pub fn place(&self, position: u32) {
        if let Ok(record) = self.record() {
            self.place_at(record, position);
        }
    }

    /// Puts all data in place, with the lock held.
    fn place_all(&self, record: &CqRecord, queue: &CompletionQueue<()>) {
        let at = queue.producer.positions();
        let waiting = at.producer.wrapping_sub(at.consumer);
        for ahead in 0..waiting.min(queue.producer.geometry().entries()) {
            let position = at.consumer.wrapping_add(ahead);
            if queue
                .producer
                .completion(position)
                .flags
                .contains(WcFlags::WITH_DATA)
            {
                self.place_at(record, position);
            }
        }
    }

    fn place_at(&self, record: &CqRecord, position: u32) {
        let process = self.context.process;
        if let Some(slot) = slot(&process.own.segment, record, position) {
            // What belongs to a region that was given up is written nowhere: its memory may be another's.
            slot.place(process, |lkey, address, bytes| {
                self.keys.write(process, lkey, address, bytes);
            });
        }
    }

    /// The program has asked for an event, and says that there are completions it has not taken.
    pub fn notify_waiting(&self) -> Result<()> {
        let process = self.context.process;
        process.check_current()?;
        let record = self.record()?;
        let (guard, mut queue) = lock(process, &process.own, record).ok_or(Errno(libc::EINVAL))?;
        let notify = queue.notify_waiting();
        record.producer.store(queue.producer.words());
        drop(guard);
        if notify {
            self.tell(work::COMPLETION);
        }
        Ok(())
    }

    /// Destroys the queue, which no queue pair completes to any more. Returns how many events of it the
    /// program has read: of completions, and of errors.
    pub fn destroy(&self) -> Result<(u32, u32)> {
        let process = self.context.process;
        if !process.is_current() {
            return Ok((0, 0));
        }
        self.uses.check_none()?;
        let record = self.record()?;
        record.entries.store(0, Ordering::Relaxed);
        process.wait_for_users();
        let variant = 0;
        process.cqs.lock().give_up(self.number, variant);
        let taken = |events: &Events, event: &[u8]| events.take_back(|other| other == event);
        let channel = self.channel.as_deref();
        let unread = channel.map_or(0, |channel| taken(channel, &self.event()));
        let errors = &self.context.events;
        let unread_errors = taken(
            errors,
            &self.context.event(self.user_handle, EventType::CqErr),
        );
        Ok((
            self.told.load(Ordering::Relaxed).wrapping_sub(unread),
            self.told_errors
                .load(Ordering::Relaxed)
                .wrapping_sub(unread_errors),
        ))
    }

    /// `struct ib_uverbs_comp_event_desc`.
    fn event(&self) -> [u8; 8] {
        self.user_handle.to_ne_bytes()
    }

    fn tell(&self, work: u32) {
        let process = self.context.process;
        if work & work::COMPLETION != 0
            && let Some(channel) = &self.channel
        {
            self.told.fetch_add(1, Ordering::Relaxed);
            process.tell(channel, &self.event());
        }
        if work & work::OVERRUN != 0 {
            self.told_errors.fetch_add(1, Ordering::Relaxed);
            self.context.raise(self.user_handle, EventType::CqErr);
        }
    }
}

/// Memory for a ring, and for the slots beside its completions. Says where these begin.
fn rings(process: &'static Process, geometry: CqGeometry) -> Result<(Rings, u64)> {
    let slots = geometry.len().next_multiple_of(align_of::<Slot>());
    let length = slots + geometry.entries() as usize * size_of::<Slot>();
    let rings = Rings::new(process, length)?;
    let slots = (rings.offset + slots) as u64;
    Ok((rings, slots))
}

/// The slot beside the completion at a position.
fn slot<'a>(segment: &'a Segment, record: &CqRecord, position: u32) -> Option<&'a Slot> {
    let entries = record.entries.load(Ordering::Relaxed);
    let slots = segment.slots(record.slots.load(Ordering::Relaxed), entries)?;
    slots.get((position & entries.wrapping_sub(1)) as usize)
}

fn response(rings: &Rings, geometry: CqGeometry) -> uapi::CqResponse {
    uapi::CqResponse {
        ring: rings.mapping(),
        entries: geometry.entries(),
        reserved: 0,
    }
}

/// The queue of a record, with its lock held.
pub(crate) fn open(segment: &Segment, record: &CqRecord) -> Option<CompletionQueue<()>> {
    let entries = record.entries.load(Ordering::Relaxed);
    let geometry = CqGeometry::new(entries).ok().filter(|_| entries != 0)?;
    let offset = record.offset.load(Ordering::Relaxed);
    Some(CompletionQueue {
        producer: producer(segment, offset, geometry, record.producer.load())?,
        timestamps: record.timestamps.load(Ordering::Relaxed) != 0,
        memory: (),
    })
}

fn producer(
    segment: &Segment,
    offset: u64,
    geometry: CqGeometry,
    words: [u32; Producer::WORDS],
) -> Option<Producer> {
    let base = segment.ring(offset, geometry.len())?;
    // SAFETY: The ring is within the segment, which outlives what is made of this here. It is a ring's alone.
    unsafe { Producer::resume(base, geometry.len(), geometry, words) }.ok()
}

/// Takes the lock of a queue. If its holder has ended, what that was at is finished. `None` if there is no queue.
fn lock<'a>(
    process: &Process,
    peer: &'a Peer,
    record: &'a CqRecord,
) -> Option<(Guard<'a>, CompletionQueue<()>)> {
    let guard = record.lock.lock(process);
    let mut queue = open(&peer.segment, record)?;
    if guard.dead_holder.is_some() {
        let is_completed = queue.producer.recover();
        taken::finish_completing(process, &peer.segment, record, is_completed);
        record.producer.store(queue.producer.words());
        taken::step();
        record.completing.store(0, Ordering::Relaxed);
    }
    Some((guard, queue))
}

/// Delivers a completion to a queue of a process: of a receive that this one has taken, if that is noted.
pub(crate) fn complete(
    process: &Process,
    peer: &Peer,
    number: u32,
    cqe: &Cqe,
    solicited: bool,
    noted: Option<Noted<'_>>,
) {
    with(process, peer, number, noted, |queue, _| {
        queue.push(cqe, solicited, clock)
    });
}

/// As [`complete`], of several requests.
pub(crate) fn complete_all(
    process: &Process,
    peer: &Peer,
    number: u32,
    cqes: impl Iterator<Item = Cqe>,
) {
    let mut cqes = cqes.peekable();
    if cqes.peek().is_some() {
        with(process, peer, number, None, |queue, _| {
            // After one that is lost, all are.
            cqes.try_for_each(|cqe| queue.push(&cqe, false, clock))
        });
    }
}

/// As [`complete`], with a message that is to lie beside the completion.
pub(crate) fn complete_with(
    process: &Process,
    peer: &Peer,
    number: u32,
    mut cqe: Cqe,
    solicited: bool,
    message: &Message,
    noted: Option<Noted<'_>>,
) {
    with(process, peer, number, noted, |queue, record| {
        // Without room that slot is the oldest completion's.
        let position = queue.producer.position();
        let slot = slot(&peer.segment, record, position);
        if let Some(slot) = slot.filter(|_| queue.producer.has_room()) {
            let cq = number;
            message.store(slot, Place { cq, position });
            cqe.flags = cqe.flags.union(WcFlags::WITH_DATA);
        }
        queue.push(&cqe, solicited, clock)
    });
}

/// Puts a message in place that this process has left beside a completion of a peer's, unless it is there.
pub(crate) fn place_for(process: &'static Process, peer: &Peer, place: Place) {
    let record = peer.segment.cq(place.cq);
    let slot = record.and_then(|record| slot(&peer.segment, record, place.position));
    if let Some(slot) = slot {
        slot.place_for(process, |lkey, address, bytes| {
            if keys::has_region(process, peer, lkey) {
                // Memory that is not there any more is nobody's to read.
                let _ = peer.reach.write(address, bytes);
            }
        });
    }
}

/// The position up to which completions of a queue were taken; `None` if there is no queue.
pub(crate) fn taken_up_to(process: &Process, peer: &Peer, number: u32) -> Option<u32> {
    let record = peer.segment.cq(number)?;
    let (_guard, queue) = lock(process, peer, record)?;
    Some(queue.producer.positions().consumer)
}

/// Makes whole what a process that has ended may have left half done.
pub(crate) fn recover(process: &Process, peer: &Peer, number: u32) {
    with(process, peer, number, None, |_, _| Ok(()));
}

fn with(
    process: &Process,
    peer: &Peer,
    number: u32,
    noted: Option<Noted<'_>>,
    op: impl FnOnce(&mut CompletionQueue<()>, &CqRecord) -> core::result::Result<(), CqError>,
) {
    let Some(record) = peer.segment.cq(number) else {
        return;
    };
    let Some((guard, mut queue)) = lock(process, peer, record) else {
        return;
    };
    if let Some(noted) = &noted {
        noted.announce(record);
    }
    let pushed = op(&mut queue, record);
    let mut due = 0;
    // Without a channel nobody waits for an event.
    if record.has_channel.load(Ordering::Relaxed) != 0 && queue.producer.notify() {
        due |= work::COMPLETION;
    }
    if pushed == Err(CqError::Overrun) {
        due |= work::OVERRUN;
    }
    let is_own = core::ptr::eq(peer, &*process.own);
    if due != 0 && !is_own {
        // Before the completion counts: if this process ends after that, the helper finds it all the same.
        record.work.fetch_or(due, Ordering::AcqRel);
        mark(&peer.segment.header().dirty_cqs, number);
    }
    if let Some(noted) = &noted {
        noted.completed();
    }
    record.producer.store(queue.producer.words());
    if let Some(noted) = &noted {
        noted.end(record);
    }
    drop(guard);
    if due == 0 {
        return;
    }
    if !is_own {
        peer.segment.wake();
        return;
    }
    let cq = process.cqs.lock().get(number).cloned();
    if let Some(cq) = cq {
        cq.tell(due);
    }
}

/// Tells what peers have left to tell.
pub(crate) fn serve(process: &Process, number: u32) {
    let Some(record) = process.own.segment.cq(number) else {
        return;
    };
    let due = record.work.swap(0, Ordering::AcqRel);
    let cq = process.cqs.lock().get(number).cloned();
    if let Some(cq) = cq {
        cq.tell(due);
    }
}
