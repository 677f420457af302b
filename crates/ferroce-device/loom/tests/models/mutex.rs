// SPDX-License-Identifier: MIT OR Apache-2.0
//! A mutex that is tried, never waited for, as the kernel has it.

use std::ops::{Deref, DerefMut};

use loom::cell::{MutPtr, UnsafeCell};
use loom::sync::atomic::{AtomicBool, Ordering};

/// loom's own mutex does not let other threads run between the holder's last access and the release. Here
/// they may, and see the lock taken or released as late as the kernel's `mutex_trylock` and `mutex_unlock`
/// allow (`kernel/locking/mutex.c`): these are an acquire and a release, and one that fails is nothing.
pub struct Mutex<T> {
    is_locked: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: One thread at a time has the value, which loom checks.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Self {
            is_locked: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        if self.is_locked.load(Ordering::Relaxed) {
            return None;
        }
        let locked =
            self.is_locked
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        locked.ok().map(|_| Guard {
            value: self.value.get_mut(),
            _locked: Locked(&self.is_locked),
        })
    }
}

/// Has the value. The fields are dropped in this order.
pub struct Guard<'a, T> {
    value: MutPtr<T>,
    _locked: Locked<'a>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: This thread has the lock.
        unsafe { self.value.deref() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above.
        unsafe { self.value.deref() }
    }
}

struct Locked<'a>(&'a AtomicBool);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
