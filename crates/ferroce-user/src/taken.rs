// SPDX-License-Identifier: MIT OR Apache-2.0
//! A receive in the hands of a peer: if that ends in the middle of a message, the receive completes all the same,
//! once.
//!
//! A receive goes from its queue to a process that delivers a message, and from there to a completion queue, or
//! back. Each of these steps is made with a lock held, and announced in the record that the lock protects. Who
//! inherits the lock finds there what its former holder was at, and in the rings whether the step was made, and
//! finishes it. Who has the receive is noted in the queue pair ([`QpRecord::taken_by`]).
//!
//! This is for connected queue pairs, which have one peer and so one message at a time. A datagram's receive is
//! lost if its sender ends in the middle.

use core::cell::Cell;
use core::sync::atomic::{compiler_fence, AtomicU32, Ordering};

use ferroce_core::local::Receive;
use ferroce_device::receive::Looked;

use crate::lock::{Guard, Owner};
use crate::peer::Peer;
use crate::process::Process;
use crate::qp;
use crate::segment::{taking, CqRecord, QpRecord, Segment, SrqRecord};
use crate::side::with_queue;

/// What is stored before this is stored before what is stored after it, for those who look when this process has
/// ended: it ends between two instructions, and all that it has stored by then is seen.
pub(crate) fn step() {
    compiler_fence(Ordering::SeqCst);
}

/// A receive that is about to be taken.
pub(crate) struct Note<'a> {
    record: &'a QpRecord,
    /// Where it is announced, by which number.
    announced: Option<(&'a AtomicU32, u32)>,
    /// The serial number of this process.
    serial: u32,
    is_announced: Cell<bool>,
}

impl<'a> Note<'a> {
    /// Of a queue pair, at the place for this source; without a place nothing is noted.
    pub(crate) fn new(
        record: &'a QpRecord,
        announced: Option<(&'a AtomicU32, u32)>,
        serial: u32,
    ) -> Self {
        Self {
            record,
            announced,
            serial,
            is_announced: Cell::new(false),
        }
    }

    /// As `accept`, and announces what that takes.
    pub(crate) fn of(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
    ) -> impl FnOnce(&Receive<'_>) -> bool {
        |receive: &Receive<'_>| {
            let is_accepted = accept(receive);
            if is_accepted {
                self.announce(receive.wr_id);
            }
            is_accepted
        }
    }

    fn announce(&self, wr_id: u64) {
        if let Some((place, number)) = self.announced {
            self.record.taken_wr_id.store(wr_id, Ordering::Relaxed);
            step();
            place.store(number, Ordering::Relaxed);
            step();
            self.is_announced.set(true);
        }
    }

    /// It was taken from its queue, or not. What its queue says of itself is stored after this.
    pub(crate) fn taken(&self, looked: Looked) {
        if self.is_announced.get() && matches!(looked, Looked::Taken(_)) {
            step();
            self.record.taken_by.store(self.serial, Ordering::Relaxed);
            step();
        }
    }

    /// The queue has been left as it is now. To be called with its lock held.
    pub(crate) fn end(&self) {
        if let Some((place, _)) = self.announced.filter(|_| self.is_announced.get()) {
            step();
            place.store(taking::NONE, Ordering::Relaxed);
        }
    }
}

/// A receive that this process has taken, on its way to a completion queue.
pub(crate) struct Noted<'a> {
    record: &'a QpRecord,
    /// Of the queue pair.
    number: u32,
}

impl<'a> Noted<'a> {
    /// That of a queue pair, if this process has taken one.
    pub(crate) fn of(record: &'a QpRecord, number: u32, serial: u32) -> Option<Self> {
        let taken_by = record.taken_by.load(Ordering::Relaxed);
        (taken_by == serial).then_some(Self { record, number })
    }

    /// It is about to be completed.
    pub(crate) fn announce(&self, cq: &CqRecord) {
        cq.completing.store(self.number, Ordering::Relaxed);
        step();
    }

    /// It was. What the completion queue says of itself is stored after this.
    pub(crate) fn completed(&self) {
        step();
        self.record.taken_by.store(0, Ordering::Relaxed);
        step();
    }

    /// The completion queue has been left as it is now. To be called with its lock held.
    pub(crate) fn end(&self, cq: &CqRecord) {
        step();
        cq.completing.store(0, Ordering::Relaxed);
    }
}

/// Takes the lock of a queue pair. If its holder has ended, what that was at is finished, and the queue pair is to
/// be put into error by its process.
pub(crate) fn lock<'a>(process: &Process, peer: &'a Peer, record: &'a QpRecord) -> Guard<'a> {
    let guard = record.lock.lock(process);
    if let Some(dead) = guard.dead_holder {
        finish(&peer.segment, record, dead);
    }
    guard
}

#[cold]
fn finish(segment: &Segment, record: &QpRecord, dead: u32) {
    let is_given_back = record.given_back.load(Ordering::Relaxed) != 0;
    match record.taking.load(Ordering::Relaxed) {
        taking::OWN_QUEUE => {
            with_queue(segment, &record.receives, |queue| {
                if queue.recover() {
                    // Before the queue counts it, in case that this process ends here.
                    record.taken_by.store(dead, Ordering::Relaxed);
                    step();
                }
            });
        }
        taking::GIVEN_BACK if !is_given_back => record.taken_by.store(dead, Ordering::Relaxed),
        // There is one at a time.
        _ if is_given_back => record.taken_by.store(0, Ordering::Relaxed),
        _ => {}
    }
    step();
    record.is_broken.store(1, Ordering::Relaxed);
    step();
    record.taking.store(taking::NONE, Ordering::Relaxed);
}

/// As [`lock`], of a shared receive queue that was inherited: `is_taken` says whether a receive was taken that the
/// queue did not count.
#[cold]
pub(crate) fn finish_shared(segment: &Segment, srq: &SrqRecord, dead: u32, is_taken: bool) {
    if let Some(record) = queue_pair(segment, srq.taking.load(Ordering::Relaxed))
        && is_taken
    {
        record.taken_by.store(dead, Ordering::Relaxed);
    }
    step();
}

/// As [`lock`], of a completion queue that was inherited: `is_completed` says whether there was a completion that
/// the queue did not count.
#[cold]
pub(crate) fn finish_completing(
    process: &Process,
    segment: &Segment,
    cq: &CqRecord,
    is_completed: bool,
) {
    if let Some(record) = queue_pair(segment, cq.completing.load(Ordering::Relaxed))
        && is_completed
    {
        let taken_by = record.taken_by.load(Ordering::Relaxed);
        // Unless the queue pair was reset meanwhile, and its next peer has taken a receive.
        if !process.is_alive(taken_by) {
            record.taken_by.store(0, Ordering::Relaxed);
        }
    }
    step();
}

/// The queue pair of a number.
fn queue_pair(segment: &Segment, number: u32) -> Option<&QpRecord> {
    let record = segment.qp(qp::index(number)).filter(|_| number != 0)?;
    (record.number.load(Ordering::Relaxed) == number).then_some(record)
}
