// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who waits until nobody uses something.

use core::sync::atomic::{AtomicU64, Ordering};

/// Counts the threads that use something, and those that wait until there is none.
///
/// The host has a lock with a state that says whether it may be used. A user [enters](Self::enter), and
/// looks at the state after that. Who is to wait changes the state first, so that nobody enters for long
/// any more. A waiter sleeps in the host's way: see [`leave`](Self::leave).
///
/// Both counts are in one word, so that a user that leaves and a waiter that comes have an order: either
/// the waiter sees the user gone, or the user sees the waiter.
#[derive(Debug)]
pub struct InUse(AtomicU64);

/// Users are counted in the lower half, waiters in the upper one. Either has room for all threads that there
/// can be (`PID_MAX_LIMIT` in Linux, 2^22): any number of them may wait, as a process likes.
const WAITER: u64 = 1 << 32;
const USERS: u64 = WAITER - 1;

impl InUse {
    /// Nobody uses it.
    #[allow(clippy::new_without_default)] // The kernel's code has no use for it.
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A thread uses it. To be called before the state is looked at.
    pub fn enter(&self) {
        // Relaxed: a thread that looks at the state takes the host's lock after this, or has a fence there. One
        // that changes the state does the same before it waits, and so sees the count if this thread has seen the
        // state of before.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// A thread does not use it any more. If this says so, the host wakes the waiters. It does that with
    /// the lock held under which they look at [`is_used`](Self::is_used), so that none is between its look
    /// and its sleep.
    #[must_use = "somebody may be waiting"]
    pub fn leave(&self) -> bool {
        // Release: pairs with `is_used`, so that what the user has done is before what the waiter does.
        let before = self.0.fetch_sub(1, Ordering::Release);
        before > WAITER && before & USERS == 1
    }

    /// A thread is about to wait. To be called before it looks at [`is_used`](Self::is_used).
    pub fn begin_wait(&self) {
        // Relaxed: one word has one order.
        self.0.fetch_add(WAITER, Ordering::Relaxed);
    }

    /// Whether there are users.
    pub fn is_used(&self) -> bool {
        // Acquire: pairs with `leave`.
        self.0.load(Ordering::Acquire) & USERS > 0
    }

    /// A thread waits no more.
    pub fn end_wait(&self) {
        self.0.fetch_sub(WAITER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_waiters_are_woken_by_the_last_user() {
        for waiters in [1, 255, 256, 257, 1 << 22] {
            let in_use = InUse::new();
            in_use.enter();
            in_use.enter();
            (0..waiters).for_each(|_| in_use.begin_wait());
            assert!(!in_use.leave(), "{waiters}");
            assert!(in_use.is_used());
            assert!(in_use.leave(), "{waiters}");
            assert!(!in_use.is_used());
            (0..waiters).for_each(|_| in_use.end_wait());
            in_use.enter();
            assert!(!in_use.leave(), "nobody waits any more");
        }
    }
}
