// SPDX-License-Identifier: GPL-2.0

//! A spinlock for what bottom halves share with threads.
//!
//! In the kernel tree this would be part of `rust/kernel/sync/lock/spinlock.rs`.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use crate::rdma::bindings;
use kernel::{
    prelude::*,
    sync::lock::{spinlock::SpinLockBackend, Backend, Lock},
};

/// A spinlock that may be taken in threads and in bottom halves, where packets come in and timers
/// expire; not in interrupts, or with these off. While it is held no bottom half runs on the CPU.
///
/// `Lock::new(value, name, static_lock_class!())` makes one.
pub type SpinLockBh<T> = Lock<T, Bh>;

/// The backend of [`SpinLockBh`].
pub struct Bh;

// SAFETY: `spinlock_t` ensures mutual exclusion. `relock` is the default, which calls `lock`.
unsafe impl Backend for Bh {
    type State = <SpinLockBackend as Backend>::State;
    type GuardState = ();

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: By the function's requirements, which are the same.
        unsafe { SpinLockBackend::init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) {
        // SAFETY: By the function's requirements it is an initialised `spinlock_t`.
        unsafe { bindings::net_helper_spin_lock_bh(ptr.cast()) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<()> {
        // SAFETY: As above.
        unsafe { bindings::net_helper_spin_trylock_bh(ptr.cast()) }.then_some(())
    }

    unsafe fn unlock(ptr: *mut Self::State, _guard_state: &()) {
        // SAFETY: The caller owns the lock.
        unsafe { bindings::net_helper_spin_unlock_bh(ptr.cast()) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Without lockdep nobody can tell, but the call would be made, each time that it is taken.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: By the function's requirements, which are the same.
            unsafe { SpinLockBackend::assert_is_held(ptr) }
        }
    }
}
