// SPDX-License-Identifier: MIT OR Apache-2.0
//! The helper: a thread of each process that does what is due at a time, and what peers have it do.

use core::cmp::Reverse;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::events::Events;
use crate::process::Process;
use crate::{clock, cq, futex, qp, srq, Errno, Result};

/// What the helper has to do.
#[derive(Default)]
pub struct Helper {
    /// Queue pairs that are to be looked at, by the times.
    timers: Mutex<BinaryHeap<Reverse<(u64, u32, Due)>>>,
    /// Descriptors that had no room for an event.
    full: Mutex<Vec<Weak<Events>>>,
}

/// What is due with a queue pair at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A request is to be tried again.
    Retry,
    /// Requests were left to be executed.
    Deferred,
}

/// How long to wait before a descriptor that had no room is tried again.
const FULL: Duration = Duration::from_millis(1);

/// The helper needs little.
const STACK: usize = 256 << 10;

impl Process {
    /// Has a queue pair looked at, at a time.
    pub(crate) fn at(&self, time: u64, qpn: u32, due: Due) {
        let mut timers = self.helper.timers.lock();
        let is_first = timers
            .peek()
            .is_none_or(|Reverse((first, ..))| time < *first);
        timers.push(Reverse((time, qpn, due)));
        drop(timers);
        if is_first {
            self.own.segment.wake();
        }
    }

    /// Sends an event to a program.
    pub(crate) fn tell(&self, events: &Arc<Events>, event: &[u8]) {
        if events.send(event) {
            self.helper.full.lock().push(Arc::downgrade(events));
            self.own.segment.wake();
        }
    }
}

/// Starts the helper of a process.
pub fn start(process: &'static Process) -> Result<()> {
    // The program's signals are for its own threads.
    let blocked = SignalsBlocked::new();
    let thread = std::thread::Builder::new()
        .name("ferroce".into())
        .stack_size(STACK)
        .spawn(move || run(process));
    drop(blocked);
    thread.map(drop).map_err(Errno::from)
}

/// No signal comes to this thread, and to those that it starts.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        // SAFETY: The sets are there to be written, and filled before they are used.
        unsafe {
            let (mut all, mut before) = (core::mem::zeroed(), core::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: It is what `pthread_sigmask` has said.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, core::ptr::null_mut())
        };
    }
}

fn run(process: &'static Process) {
    // The shortest time that a peer may ask to wait is 10 µs; a thread's sleep may take 50 µs longer.
    // SAFETY: It has no preconditions.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let header = process.own.segment.header();
    let mut deaths = 0;
    loop {
        // Pairs with `Segment::wake`: what was asked for before that is found now.
        let seen = header.wake.load(Ordering::SeqCst);
        let now_dead = header.deaths.load(Ordering::Acquire);
        if core::mem::replace(&mut deaths, now_dead) != now_dead {
            process.forget_dead();
            recover(process);
        }
        for_each_bit(&header.dirty_qps, |index| qp::serve(process, index));
        for_each_bit(&header.dirty_cqs, |index| cq::serve(process, index));
        for_each_bit(&header.dirty_srqs, |index| srq::serve(process, index));
        let mut sleep = ring_timers(process);
        if flush_events(process) {
            sleep = Some(sleep.map_or(FULL, |sleep| sleep.min(FULL)));
        }
        header.sleeps.store(1, Ordering::SeqCst);
        if header.wake.load(Ordering::SeqCst) == seen {
            futex::wait(&header.wake, seen, sleep);
        }
        header.sleeps.store(0, Ordering::SeqCst);
    }
}

/// Has what is due looked at. Returns how long it is until there is more.
fn ring_timers(process: &Process) -> Option<Duration> {
    loop {
        let (qpn, due) = {
            let mut timers = process.helper.timers.lock();
            let Reverse((time, qpn, due)) = *timers.peek()?;
            let now = clock();
            if time > now {
                return Some(Duration::from_nanos(time - now));
            }
            timers.pop();
            (qpn, due)
        };
        let qp = process.qps.lock().get(qpn).cloned();
        match (qp, due) {
            (Some(qp), Due::Retry) => qp.kick(),
            (Some(qp), Due::Deferred) => qp.flush_late(),
            (None, _) => {}
        }
    }
}

/// Tries to send what there was no room for. Returns whether there is more.
fn flush_events(process: &Process) -> bool {
    let full = core::mem::take(&mut *process.helper.full.lock());
    let mut still_full: Vec<_> = full
        .into_iter()
        .filter(|events| events.upgrade().is_some_and(|events| events.flush()))
        .collect();
    let mut full = process.helper.full.lock();
    full.append(&mut still_full);
    !full.is_empty()
}

/// Another process has ended: makes whole what it has left half done. Queue pairs come last: who has their receives
/// is found out at the others.
fn recover(process: &'static Process) {
    let segment = &process.own.segment;
    let srqs: Vec<_> = process.srqs.lock().objects().cloned().collect();
    for srq in &srqs {
        srq::recover(process, &process.own, srq.number);
    }
    for index in 0..crate::segment::CQS as u32 {
        let is_used = segment
            .cq(index)
            .is_some_and(|cq| cq.entries.load(Ordering::Relaxed) != 0);
        if is_used {
            cq::recover(process, &process.own, index);
        }
    }
    let qps: Vec<_> = process.qps.lock().objects().cloned().collect();
    qps.iter().for_each(|qp| qp.recover());
    process.forget_users();
}

/// Takes all bits, and calls `op` with the number of each.
fn for_each_bit(words: &[AtomicU64], mut op: impl FnMut(u32)) {
    for (number, word) in words.iter().enumerate() {
        if word.load(Ordering::Relaxed) == 0 {
            continue;
        }
        // Acquire: pairs with the release that has set them.
        let mut bits = word.swap(0, Ordering::AcqRel);
        while bits != 0 {
            op(number as u32 * 64 + bits.trailing_zeros());
            bits &= bits - 1;
        }
    }
}

/// Has the helper of a process look at an object: sets its bit.
pub fn mark(words: &[AtomicU64], index: u32) {
    if let Some(word) = words.get(index as usize / 64) {
        word.fetch_or(1 << (index % 64), Ordering::AcqRel);
    }
}
