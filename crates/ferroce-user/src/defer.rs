// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a request that was posted is executed: at once, or with those that are posted next.
//!
//! A program that posts one WRITE after the other, and looks at no completion queue meanwhile, gains if many
//! of them share one system call. So after some posts in a row the next ones stay in the send queue, until
//! - the program looks at one of the queue pair's completion queues, or asks for an event there;
//! - as many are there as are executed together, or as the queue has room for;
//! - something is posted that is no short WRITE or READ, or the queue pair is modified or destroyed;
//! - the process gives up a region or window, forks or exits;
//! - [`LONGEST`] has passed: then the helper executes them.
//!
//! A program that waits in another way than by its completion queues, for what the peer writes for example, has
//! the last of these happen. Each time, more posts in a row are executed at once; each time that it polls,
//! fewer.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use crate::clock;
use crate::helper::Due;
use crate::qp::Qp;

/// How long a request stays in the send queue at most, if the helper has a processor.
const LONGEST: Duration = Duration::from_micros(100);

/// How many requests are executed together.
const MOST: u32 = 64;

/// How many posts in a row are executed at once, at first.
const AT_ONCE: u32 = 8;
/// As above, at most.
const MOST_AT_ONCE: u32 = 1 << 20;

/// The requests of a queue pair that were posted and left.
///
/// All but `count`, `since` and `is_timed` is guesses: threads that post at the same time may disturb them.
pub struct Deferral {
    /// How many there are.
    count: AtomicU32,
    /// Since when, as [`clock`] has it.
    since: AtomicU64,
    /// The helper is to look.
    is_timed: AtomicBool,
    /// How often the program had looked at the completion queues when it posted last.
    looks: AtomicU32,
    /// How many posts there were since then.
    in_a_row: AtomicU32,
    /// How many of those are executed at once.
    at_once: AtomicU32,
}

impl Deferral {
    /// Of a new queue pair.
    pub const fn new() -> Self {
        Self {
            count: AtomicU32::new(0),
            since: AtomicU64::new(0),
            is_timed: AtomicBool::new(false),
            looks: AtomicU32::new(0),
            in_a_row: AtomicU32::new(0),
            at_once: AtomicU32::new(AT_ONCE),
        }
    }

    /// Whether it is time to leave requests, as the program has looked so often at completion queues.
    fn is_in_a_row(&self, looks: u32) -> bool {
        let count = match self.looks.swap(looks, Ordering::Relaxed) == looks {
            true => self.in_a_row.load(Ordering::Relaxed).saturating_add(1),
            false => 1,
        };
        self.in_a_row.store(count, Ordering::Relaxed);
        count > self.at_once.load(Ordering::Relaxed)
    }

    /// None is left any more: who calls this executes the send queue next. `queues` counts those of the process
    /// with requests that were left.
    pub fn end(&self, queues: &AtomicU32) {
        // Acquire: what was posted before it was counted is found in the queue.
        if self.count.load(Ordering::Relaxed) != 0 && self.count.swap(0, Ordering::AcqRel) != 0 {
            queues.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn expect_polls(&self, polls: bool) {
        let at_once = self.at_once.load(Ordering::Relaxed);
        let next = match polls {
            true => (at_once / 2).max(1),
            false => at_once.saturating_mul(2).min(MOST_AT_ONCE),
        };
        self.at_once.store(next, Ordering::Relaxed);
    }
}

impl Qp {
    /// A WRITE or READ of no more than [`LONGEST_LEFT`](crate::qp::LONGEST_LEFT) bytes was posted, by itself.
    /// Executes it, or leaves it to be executed soon.
    pub fn posted(&self) {
        let deferral = &self.deferral;
        let looks = self.send_cq.looks().wrapping_add(self.recv_cq.looks());
        if !deferral.is_in_a_row(looks) || !self.context.process.is_current() {
            return self.kick();
        }
        // Release: pairs with `Deferral::end`.
        let count = deferral.count.fetch_add(1, Ordering::AcqRel) + 1;
        if count == 1 {
            self.context
                .process
                .deferring
                .fetch_add(1, Ordering::Relaxed);
        }
        if count >= MOST.min(self.send_entries()) {
            return self.kick();
        }
        if count > 1 {
            return;
        }
        // A thread that finds it by one of these, and ends it, sees that it was counted.
        let now = clock();
        deferral.since.store(now, Ordering::Relaxed);
        for cq in [&self.send_cq, &self.recv_cq] {
            if let Some(other) = cq.defer(self.number).filter(|other| *other != self.number) {
                self.context.process.flush(other);
            }
        }
        if !deferral.is_timed.swap(true, Ordering::AcqRel) {
            self.time_deferral(now);
        }
    }

    fn time_deferral(&self, since: u64) {
        let time = since.saturating_add(LONGEST.as_nanos() as u64);
        self.context.process.at(time, self.number, Due::Deferred);
    }

    /// Executes what was left.
    pub fn flush(&self) {
        if self.deferral.count.load(Ordering::Relaxed) != 0 {
            self.kick();
        }
    }

    /// As [`flush`](Self::flush), as the program looks for completions.
    pub(crate) fn flush_polled(&self) {
        if self.deferral.count.load(Ordering::Relaxed) != 0 {
            self.deferral.expect_polls(true);
            self.kick();
        }
    }

    /// As [`flush`](Self::flush), by the helper: if it is time.
    pub(crate) fn flush_late(&self) {
        let deferral = &self.deferral;
        deferral.is_timed.swap(false, Ordering::AcqRel);
        if deferral.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let since = deferral.since.load(Ordering::Relaxed);
        if clock().saturating_sub(since) >= LONGEST.as_nanos() as u64 {
            deferral.expect_polls(false);
            self.kick();
        } else if !deferral.is_timed.swap(true, Ordering::AcqRel) {
            // Of those that it was to look for, all are executed; these are others.
            self.time_deferral(since);
        }
    }
}
