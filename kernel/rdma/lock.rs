// SPDX-License-Identifier: GPL-2.0

//! A spinlock for any context, and bottom halves kept off.
//!
//! In the kernel tree this would be part of `rust/kernel/sync/lock/spinlock.rs`.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use super::bindings;
use kernel::{
    prelude::*,
    sync::lock::{spinlock::SpinLockBackend, Backend, Lock},
    types::NotThreadSafe,
};

/// No bottom half runs on this CPU, nor another thread, as long as this exists. The thread must not
/// sleep in the meantime.
pub(super) struct BottomHalvesOff(NotThreadSafe);

impl BottomHalvesOff {
    pub(super) fn new() -> Self {
        // SAFETY: Enabled again when this is dropped, by the same thread.
        unsafe { bindings::rdma_helper_local_bh_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for BottomHalvesOff {
    fn drop(&mut self) {
        // SAFETY: Disabled in `new`.
        unsafe { bindings::rdma_helper_local_bh_enable() };
    }
}

/// No other thread and no bottom half runs on this CPU as long as this exists, whatever the kernel's model of
/// preemption. The thread must not sleep in the meantime, nor take a spinlock.
pub(super) struct NotPreempted {
    // Dropped in this order, the reverse of that in which they are made: where spinlocks sleep, to have
    // bottom halves off does.
    _preemption: Option<PreemptionOff>,
    _bottom_halves: BottomHalvesOff,
}

impl NotPreempted {
    pub(super) fn new() -> Self {
        let bottom_halves = BottomHalvesOff::new();
        Self {
            // Elsewhere bottom halves are off only where preemption is.
            _preemption: cfg!(CONFIG_PREEMPT_RT).then(PreemptionOff::new),
            _bottom_halves: bottom_halves,
        }
    }
}

/// No other thread runs on this CPU as long as this exists.
struct PreemptionOff(NotThreadSafe);

impl PreemptionOff {
    fn new() -> Self {
        // SAFETY: Enabled again when this is dropped, by the same thread.
        unsafe { bindings::rdma_helper_preempt_disable() };
        Self(NotThreadSafe)
    }
}

impl Drop for PreemptionOff {
    fn drop(&mut self) {
        // SAFETY: Disabled in `new`.
        unsafe { bindings::rdma_helper_preempt_enable() };
    }
}

/// A spinlock that may be taken in any context: interrupts are off while it is held. For what the
/// kernel's users of a device reach, since they may post and poll from anywhere.
///
/// Guards have to be dropped in the reverse order: each restores the state of interrupts that it found.
/// `Lock::new(value, name, static_lock_class!())` makes one.
pub type SpinLockIrqSave<T> = Lock<T, IrqSave>;

/// The backend of [`SpinLockIrqSave`].
pub struct IrqSave;

// SAFETY: `spinlock_t` ensures mutual exclusion. `relock` is the default, which calls `lock`.
unsafe impl Backend for IrqSave {
    type State = <SpinLockBackend as Backend>::State;
    type GuardState = c_ulong;

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const c_char,
        key: *mut kernel::bindings::lock_class_key,
    ) {
        // SAFETY: By the function's requirements, which are the same.
        unsafe { SpinLockBackend::init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
        // SAFETY: By the function's requirements it is an initialised `spinlock_t`.
        unsafe { bindings::rdma_helper_spin_lock_irqsave(ptr.cast()) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
        let mut flags = 0;
        // SAFETY: As above.
        unsafe { bindings::rdma_helper_spin_trylock_irqsave(ptr.cast(), &mut flags) }
            .then_some(flags)
    }

    unsafe fn unlock(ptr: *mut Self::State, flags: &c_ulong) {
        // SAFETY: The caller owns the lock, and has the flags of when it was taken.
        unsafe { bindings::rdma_helper_spin_unlock_irqrestore(ptr.cast(), *flags) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By the function's requirements, which are the same.
        unsafe { SpinLockBackend::assert_is_held(ptr) }
    }
}
