// SPDX-License-Identifier: GPL-2.0

//! Who is charged for memory.
//!
//! What a process has the kernel allocate is charged to its memory control group if it is allocated with
//! `GFP_KERNEL_ACCOUNT` in the process's own thread. Where another thread allocates on its behalf, a
//! [`MemCgroup`] says whom to charge.
//!
//! C headers: [`include/linux/memcontrol.h`](srctree/include/linux/memcontrol.h),
//! [`include/linux/sched/mm.h`](srctree/include/linux/sched/mm.h)

use super::bindings;

/// A memory control group, or none where the kernel has no such groups, or what is allocated is nobody's
/// in particular.
///
/// # Invariants
///
/// The pointer is null, or to a group that this has a reference to.
pub struct MemCgroup(*mut bindings::mem_cgroup);

// SAFETY: A group is not tied to a thread.
unsafe impl Send for MemCgroup {}
// SAFETY: The methods on `&MemCgroup` only read the pointer.
unsafe impl Sync for MemCgroup {}

impl MemCgroup {
    /// That of the current process. A thread of the kernel's own has the root group, which is charged
    /// with nothing.
    pub fn current() -> Self {
        // INVARIANT: The function takes a reference.
        // SAFETY: The current thread's address space, if it has one, exists as long as it runs.
        Self(unsafe { bindings::rdma_helper_get_current_mem_cgroup() })
    }

    /// None: the current thread's is charged, as if there were no [`Self::charge`].
    pub const fn none() -> Self {
        // INVARIANT: It is null.
        Self(core::ptr::null_mut())
    }

    /// Has the group charged for what `op` allocates with `GFP_KERNEL_ACCOUNT`.
    pub fn charge<R>(&self, op: impl FnOnce() -> R) -> R {
        // SAFETY: By the type invariants; the reference is there until the previous group is set again.
        let before = unsafe { bindings::rdma_helper_set_active_mem_cgroup(self.0) };
        let result = op();
        // SAFETY: Who has set that group called this function, and keeps its reference.
        unsafe { bindings::rdma_helper_set_active_mem_cgroup(before) };
        result
    }
}

impl Drop for MemCgroup {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: By the type invariants.
            unsafe { bindings::rdma_helper_mem_cgroup_put(self.0) };
        }
    }
}
