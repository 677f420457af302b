// SPDX-License-Identifier: GPL-2.0

//! Work queues of a driver's own.
//!
//! In the kernel tree this would be part of `rust/kernel/workqueue.rs`.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use core::{ops::Deref, ptr::NonNull};
use kernel::{
    bindings,
    prelude::*,
    sync::Arc,
    workqueue::{HasWork, Queue, Work, WorkItem},
};

/// A work queue whose threads have an ordinary priority and run on any CPU (`WQ_UNBOUND`).
///
/// # Invariants
///
/// `raw` is a work queue that this owns.
pub struct WorkQueue {
    raw: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A work queue may be destroyed by any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: The methods of `Queue` may be called by any thread.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Makes a work queue that executes up to `max_active` works at the same time, or the kernel's
    /// default if that is 0.
    pub fn new(name: &'static CStr, max_active: c_int) -> Result<Self> {
        Self::with_flags(name, 0, max_active)
    }

    /// Makes one that goes on when memory is short (`WQ_MEM_RECLAIM`), by a thread of its own: for works
    /// that a storage driver may wait for to get some. Fails in a process that is being killed, where no
    /// thread can be made.
    pub fn with_rescuer(name: &'static CStr, max_active: c_int) -> Result<Self> {
        Self::with_flags(name, bindings::wq_flags_WQ_MEM_RECLAIM, max_active)
    }

    fn with_flags(name: &'static CStr, flags: c_uint, max_active: c_int) -> Result<Self> {
        // SAFETY: Valid strings; the format takes the name.
        let raw = unsafe {
            bindings::alloc_workqueue_noprof(
                c"%s".as_char_ptr(),
                bindings::wq_flags_WQ_UNBOUND | flags,
                max_active,
                name.as_char_ptr(),
            )
        };
        // INVARIANT: As allocated.
        Ok(Self {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
        })
    }
}

impl Deref for WorkQueue {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        // SAFETY: By the type invariants it is valid as long as this.
        unsafe { Queue::from_raw(self.raw.as_ptr()) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It waits for the works that are queued.
        unsafe { bindings::destroy_workqueue(self.raw.as_ptr()) };
    }
}

/// Takes the work of a shared value off its queue, with the reference that the queue had, and waits for it if it
/// is being executed.
pub fn cancel<T, const ID: u64>(this: &Arc<T>)
where
    T: WorkItem<ID, Pointer = Arc<T>> + HasWork<T, ID>,
{
    let raw = Arc::as_ptr(this);
    // SAFETY: The value is valid, and with it the work, which is initialised and stays where it is. If it was
    // queued, the queue owned a reference, which `run` would have taken over.
    unsafe {
        let work = Work::raw_get(T::raw_get_work(raw.cast_mut()));
        if bindings::cancel_work_sync(work) {
            drop(Arc::from_raw(raw));
        }
    }
}
