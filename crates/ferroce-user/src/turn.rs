// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock of a send queue, which is a request to its holder too: to look at the queue once more.
//!
//! [`run`] is what [`Kick`](ferroce_device::kick::Kick) with a mutex is, by two accesses of one word instead of
//! six: they are most of what a short message costs.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use parking_lot::lock_api::{GuardNoSend, Mutex, RawMutex};

/// A value with such a lock.
pub type Turn<T> = Mutex<RawTurn, T>;

/// Nobody has the lock.
const FREE: u8 = 0;
/// A thread has it.
const TAKEN: u8 = 1;
/// As above, and is to look once more.
const REQUESTED: u8 = 2;

/// How often to look before others run. The holder executes requests, for which it waits for nobody.
const SPINS: u32 = 200;

/// The lock.
pub struct RawTurn {
    state: AtomicU8,
    /// A holder has released the lock, and had been requested to look.
    again: AtomicBool,
}

impl RawTurn {
    fn is_again(&self) -> bool {
        // Acquire: pairs with `unlock`, of another thread perhaps.
        self.again.load(Ordering::Relaxed) && self.again.swap(false, Ordering::Acquire)
    }
}

// SAFETY: Only one thread finds `FREE` and replaces it. What it has done before `unlock` is seen by the next
// one, by the release there and the acquire here.
unsafe impl RawMutex for RawTurn {
    #[allow(clippy::declare_interior_mutable_const)] // It is how the trait has it.
    const INIT: Self = Self {
        state: AtomicU8::new(FREE),
        again: AtomicBool::new(false),
    };

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let mut spins = 0;
        while self
            .state
            .compare_exchange_weak(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            spins += 1;
            match spins % SPINS {
                0 => std::thread::yield_now(),
                _ => spin_loop(),
            }
        }
    }

    /// If it fails, the holder is requested to look.
    fn try_lock(&self) -> bool {
        let found = self
            .state
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        // Release: pairs with `unlock`, by which the holder sees what it is to look at. If the lock has become
        // free it is this thread that looks, once too often.
        found.is_ok() || self.state.swap(REQUESTED, Ordering::AcqRel) == FREE
    }

    unsafe fn unlock(&self) {
        // Acquire: pairs with the request.
        if self.state.swap(FREE, Ordering::AcqRel) == REQUESTED {
            self.again.store(true, Ordering::Release);
        }
    }
}

/// Has `look` called, by this thread or by the one that has the lock.
pub fn run<T>(turn: &Turn<T>, mut look: impl FnMut(&mut T)) {
    while let Some(mut value) = turn.try_lock() {
        look(&mut value);
        drop(value);
        if !was_requested(turn) {
            return;
        }
    }
}

/// Whether a thread that had the lock, and has released it, was requested to look: then the caller looks in its
/// place. To be called after the lock was released.
pub fn was_requested<T>(turn: &Turn<T>) -> bool {
    // SAFETY: The lock itself is neither taken nor released.
    unsafe { turn.raw() }.is_again()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn whatever_was_posted_is_seen_when_all_have_returned() {
        const EACH: u64 = 20_000;
        let (posted, seen) = (AtomicU64::new(0), Turn::new(0));
        let look = |seen: &mut u64| {
            let now = posted.load(Ordering::Relaxed);
            assert!(now >= *seen);
            *seen = now;
        };
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (posted, seen, look) = (&posted, &seen, &look);
                scope.spawn(move || {
                    for _ in 0..EACH {
                        posted.fetch_add(1, Ordering::Relaxed);
                        match number {
                            // One that waits for the lock, as a Modify QP does.
                            0 => {
                                let guard = seen.lock();
                                drop(guard);
                                if was_requested(seen) {
                                    run(seen, look);
                                }
                                run(seen, look);
                            }
                            _ => run(seen, look),
                        }
                    }
                });
            }
        });
        assert_eq!(*seen.lock(), 4 * EACH);
    }
}
