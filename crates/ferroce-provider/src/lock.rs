// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock of a queue.

use core::hint;
use core::sync::atomic::{AtomicBool, Ordering};

use parking_lot::lock_api::{self, GuardNoSend};

/// What the program has promised of the threads that use a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Nothing: any thread, at any time.
    Many,
    /// One at a time (`IBV_CREATE_CQ_ATTR_SINGLE_THREADED`, a thread domain): a lock that costs next
    /// to nothing will do.
    One,
}

/// A spin lock, as other providers have, or, as [`Threads::One`], a flag.
///
/// It is released by a store: the exchange that a mutex needs, to wake who sleeps, would be a good part of
/// what a short message costs. The flag is no lock between threads. It is there because one thread can come twice: a verb between
/// `wr_start` and `wr_complete` of the same queue waits for ever, with the mutex as with the flag,
/// instead of using what it must not.
pub struct RawQueueLock {
    threads: Threads,
    taken: AtomicBool,
}

impl RawQueueLock {
    const fn new(threads: Threads) -> Self {
        Self {
            threads,
            taken: AtomicBool::new(false),
        }
    }
}

/// How often to look before other threads run.
const SPINS: u32 = 100;

// SAFETY: As `Threads::Many` only one thread finds the lock free and takes it, until it releases it. As `Threads::One` there are no two threads at a time, by
// the program's promise, which is part of the contract of the verbs; one thread that has the flag does
// not get it again.
unsafe impl lock_api::RawMutex for RawQueueLock {
    // The lock is needed to name the initial value, which nobody uses.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self::new(Threads::Many);

    type GuardMarker = GuardNoSend;

    fn lock(&self) {
        let mut looks = 0_u32;
        while !self.try_lock() {
            looks = looks.wrapping_add(1);
            match looks % SPINS {
                // The holder does not run, or has more to do than to post or poll.
                0 => std::thread::yield_now(),
                _ => hint::spin_loop(),
            }
        }
    }

    fn try_lock(&self) -> bool {
        let taken = self.taken.load(Ordering::Relaxed);
        match self.threads {
            // Acquire: pairs with `unlock`.
            Threads::Many => !taken && !self.taken.swap(true, Ordering::Acquire),
            Threads::One => {
                self.taken.store(true, Ordering::Relaxed);
                !taken
            }
        }
    }

    unsafe fn unlock(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// A queue under its lock.
pub type QueueLock<T> = lock_api::Mutex<RawQueueLock, T>;

/// A queue under a lock.
pub fn queue_lock<T>(threads: Threads, queue: T) -> QueueLock<T> {
    QueueLock::from_raw(RawQueueLock::new(threads), queue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_taken_once_at_a_time() {
        for threads in [Threads::Many, Threads::One] {
            let queue = queue_lock(threads, 1);
            let guard = queue.lock();
            assert!(queue.try_lock().is_none(), "{threads:?}");
            drop(guard);
            assert_eq!(*queue.lock(), 1, "{threads:?}");
        }
    }

    #[test]
    fn threads_exclude_each_other() {
        let count = queue_lock(Threads::Many, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        *count.lock() += 1;
                    }
                });
            }
        });
        assert_eq!(*count.lock(), 4000);
    }
}
