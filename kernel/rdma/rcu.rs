// SPDX-License-Identifier: GPL-2.0

//! References that are found without a lock.
//!
//! In the kernel tree this would be part of `rust/kernel/sync/rcu.rs`.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use super::bindings;
use core::{
    marker::PhantomData,
    mem::offset_of,
    ops::Deref,
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};
use kernel::{
    alloc::{AllocError, Flags},
    prelude::*,
    sync::{atomic::ordering::Relaxed, rcu, Refcount},
    types::Opaque,
};

/// A shared value, as [`Arc`](kernel::sync::Arc) has it, to which a [`RcuSlot`] gives references.
///
/// The value is dropped with the last reference, in whatever context that is. Its memory is freed a grace
/// period of RCU later, so that a thread which has just read the pointer can still look at the count.
///
/// # Invariants
///
/// `inner` is an allocation of [`Kmalloc`](kernel::alloc::allocator::Kmalloc). The `RcuArc` owns one of
/// its count, and the value is initialised as long as the count is not zero.
pub struct RcuArc<T> {
    inner: NonNull<Inner<T>>,
    _value: PhantomData<Inner<T>>,
}

/// Counts of different CPUs are not to share a cache line, which has 64 bytes on most machines.
#[repr(C, align(64))]
struct Inner<T> {
    /// First, as the C helper that frees it requires.
    memory: Opaque<bindings::rdma_rcu_memory>,
    count: Refcount,
    value: T,
}

// SAFETY: As that of `Arc`: to send a reference is to share the value, and the last one drops it.
unsafe impl<T: Send + Sync> Send for RcuArc<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for RcuArc<T> {}

// The value stays where it is.
impl<T> Unpin for RcuArc<T> {}

impl<T> RcuArc<T> {
    /// A value with one reference.
    pub fn new(value: T, flags: Flags) -> Result<Self, AllocError> {
        const { assert!(offset_of!(Inner<T>, memory) == 0) };
        let inner = KBox::new(
            Inner {
                memory: Opaque::uninit(),
                count: Refcount::new(1),
                value,
            },
            flags,
        )?;
        // INVARIANT: A `KBox` is of `Kmalloc`. The count is one, which the reference owns.
        Ok(Self {
            inner: NonNull::from(KBox::leak(inner)),
            _value: PhantomData,
        })
    }

    /// The count, which may be looked at after the value is dropped.
    ///
    /// # Safety
    ///
    /// `inner` must not be freed for `'a`.
    unsafe fn count<'a>(inner: NonNull<Inner<T>>) -> &'a Refcount {
        // SAFETY: By the function's requirements. The value is not touched, which may be about to be dropped.
        unsafe { &(*inner.as_ptr()).count }
    }
}

impl<T> Deref for RcuArc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants the value is initialised, and nobody has it exclusively.
        unsafe { &(*self.inner.as_ptr()).value }
    }
}

impl<T> Clone for RcuArc<T> {
    fn clone(&self) -> Self {
        // SAFETY: By the type invariants the count is not zero as long as `self` exists.
        unsafe { Self::count(self.inner) }.inc();
        // INVARIANT: The new reference owns the increment.
        Self {
            inner: self.inner,
            _value: PhantomData,
        }
    }
}

impl<T> Drop for RcuArc<T> {
    fn drop(&mut self) {
        // SAFETY: As in `clone`. If it is not the last reference, the count is not used after this.
        if !unsafe { Self::count(self.inner) }.dec_and_test() {
            return;
        }
        let inner = self.inner.as_ptr();
        // SAFETY: The count was one, and this reference owned that. From zero nobody increments it
        // (`RcuSlot::get`), so nobody has or gets another reference: the value is ours to drop, once. `memory` is
        // the beginning of an allocation of kmalloc(). Those who may still read the count do it within a
        // critical section of RCU that has begun before the slot gave up the pointer, and so before this.
        unsafe {
            ptr::drop_in_place(&raw mut (*inner).value);
            bindings::rdma_helper_kfree_rcu(inner.cast());
        }
    }
}

/// A place for a reference that threads find without a lock, and others replace meanwhile.
///
/// # Invariants
///
/// The pointer is null, or one of an [`RcuArc`] of which the slot owns a reference.
pub struct RcuSlot<T> {
    inner: AtomicPtr<Inner<T>>,
    _reference: PhantomData<RcuArc<T>>,
}

impl<T> Default for RcuSlot<T> {
    fn default() -> Self {
        // INVARIANT: Null.
        Self {
            inner: AtomicPtr::new(ptr::null_mut()),
            _reference: PhantomData,
        }
    }
}

impl<T> RcuSlot<T> {
    /// With a reference there.
    pub fn new(reference: RcuArc<T>) -> Self {
        let slot = Self::default();
        slot.replace(Some(reference));
        slot
    }

    /// What is there, in any context. `None` if that is just being taken away, too.
    pub fn get(&self) -> Option<RcuArc<T>> {
        let _guard = rcu::read_lock();
        // Acquire: pairs with `replace`, which has made the value.
        let inner = NonNull::new(self.inner.load(Ordering::Acquire))?;
        // SAFETY: The slot owned a reference when the pointer was read, by the type invariants. So the memory
        // is not freed before a grace period that begins after that, and none ends before the guard is
        // dropped.
        let count = unsafe { RcuArc::count(inner) }.as_atomic();
        let mut now = count.load(Relaxed);
        loop {
            // Zero: the last reference is gone. Negative: `Refcount` is saturated, which takes more references
            // than there can be.
            if now <= 0 || now == i32::MAX {
                return None;
            }
            match count.cmpxchg(now, now + 1, Relaxed) {
                // INVARIANT: The count was not zero, so that the value is there, and the reference owns the
                // increment.
                Ok(_) => {
                    return Some(RcuArc {
                        inner,
                        _value: PhantomData,
                    })
                }
                Err(changed) => now = changed,
            }
        }
    }

    /// Puts a reference there, or none. Returns what was there. After this nobody finds that any more.
    pub fn replace(&self, new: Option<RcuArc<T>>) -> Option<RcuArc<T>> {
        let new = new.map_or(ptr::null_mut(), |new| {
            let inner = new.inner.as_ptr();
            // The slot owns it from here on.
            core::mem::forget(new);
            inner
        });
        // INVARIANT: The slot owns the new reference, and gives up the one before.
        // Release: pairs with `get`. Acquire: the value that was there is dropped by this thread, perhaps.
        let before = self.inner.swap(new, Ordering::AcqRel);
        // INVARIANT: The slot's reference is the caller's now.
        NonNull::new(before).map(|inner| RcuArc {
            inner,
            _value: PhantomData,
        })
    }
}

impl<T: Copy> RcuSlot<T> {
    /// A copy of what is there, in any context, without a reference.
    pub fn copy(&self) -> Option<T> {
        let _guard = rcu::read_lock();
        // Acquire: as in `get`.
        let inner = NonNull::new(self.inner.load(Ordering::Acquire))?;
        // SAFETY: As in `get`, the memory is there as long as the guard. A value that is `Copy` has nothing to
        // drop, so nobody writes to it after it was made.
        Some(unsafe { (*inner.as_ptr()).value })
    }
}

impl<T> Drop for RcuSlot<T> {
    fn drop(&mut self) {
        drop(self.replace(None));
    }
}
