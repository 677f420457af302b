// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who uses objects of a process: counts of threads, which the process waits for.
//!
//! There are two counts for each process, and a thread enters by one of them: by which, is the phase. Who waits
//! changes the phase, so that threads that enter meanwhile do not keep it.

use core::sync::atomic::{AtomicU32, Ordering};

/// The two counts of the threads of a process.
pub type Counts = [AtomicU32; 2];

/// Counts a thread. Returns by which count.
pub fn enter(phase: &AtomicU32, counts: &Counts) -> usize {
    let phase = phase.load(Ordering::Relaxed) as usize & 1;
    // Of this and the first look of `wait`, both read-modify-writes, one comes first. Either that look sees the
    // count, or (acquire) what is found from here on is what it was changed to before.
    counts[phase].fetch_add(1, Ordering::AcqRel);
    phase
}

/// Counts a thread no more, which entered by this count.
pub fn leave(counts: &Counts, phase: usize) {
    // Release: what was done is before what the waiter does.
    counts[phase].fetch_sub(1, Ordering::Release);
}

/// Waits until every thread has left of those that may have found objects as they were before. Two such waits must
/// not overlap. `has_ended` is called while a process's count is not zero, with the place of the process and how
/// often it was looked at; it waits a little, and says whether the process has ended.
pub fn wait(phase: &AtomicU32, all: &[Counts], mut has_ended: impl FnMut(usize, u32) -> bool) {
    let now = phase.load(Ordering::Relaxed) as usize & 1;
    // Those of the other phase are few: since the last wait they enter by this one.
    for waited in [1 - now, now] {
        phase.store(1 - waited as u32, Ordering::SeqCst);
        for (place, counts) in all.iter().enumerate() {
            let mut looks = 0_u32;
            // See `enter`. Acquire: pairs with the release of a thread that has left.
            let mut count = counts[waited].fetch_or(0, Ordering::AcqRel);
            while count != 0 {
                looks = looks.saturating_add(1);
                if has_ended(place, looks) {
                    counts[waited].store(0, Ordering::Relaxed);
                }
                count = counts[waited].load(Ordering::Acquire);
            }
        }
    }
}
