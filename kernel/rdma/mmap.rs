// SPDX-License-Identifier: GPL-2.0

//! Memory of the driver's that processes map: rings, doorbells.
//!
//! The driver makes [`SharedPages`] and, for a process that is to map them, a [`UserMapping`]. It
//! tells the process the [offset](UserMapping::offset) and the length, and the process calls `mmap()`
//! with these, on the file by which it has opened the device.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)
//! (`rdma_user_mmap_entry_insert()`)

use super::{bar::BarPart, bindings, ucontext, Ucontext};
use core::{ptr::NonNull, sync::atomic::AtomicU32};
use kernel::{
    alloc::Flags,
    bindings::{vm_area_struct, PAGE_SHIFT, PAGE_SIZE},
    error::{from_result, to_result},
    page::Page,
    prelude::*,
    sync::{aref::ARef, Arc},
    types::Opaque,
};

/// Whole pages that the kernel and processes can both write at any time. Zero to begin with.
///
/// # Invariants
///
/// `start` is where the pages, `len` bytes, are mapped one after the other in the kernel: those of the kernel's
/// by `vmap()`, with `VM_USERMAP`.
pub struct SharedPages {
    start: NonNull<AtomicU32>,
    len: usize,
    source: Source,
}

/// Where pages are from.
enum Source {
    /// The kernel's. They are given up after they have been unmapped.
    Kernel(#[allow(dead_code)] KVVec<Page>),
    /// On board of the device.
    Bar(BarPart),
}

// SAFETY: The memory may be freed by any thread.
unsafe impl Send for SharedPages {}
// SAFETY: It is only reached by atomic accesses.
unsafe impl Sync for SharedPages {}

impl SharedPages {
    /// Allocates at least `len` bytes, with `flags`: `GFP_KERNEL_ACCOUNT` has the current process charged
    /// for them (`vmalloc_user()` would charge nobody).
    pub fn new(len: usize, flags: Flags) -> Result<Self> {
        let len = len.checked_next_multiple_of(PAGE_SIZE).ok_or(EOVERFLOW)?;
        if len == 0 {
            return Err(EINVAL);
        }
        let count = len / PAGE_SIZE;
        let mut pages = KVVec::with_capacity(count, flags)?;
        let mut raw = KVVec::with_capacity(count, flags)?;
        for _ in 0..count {
            let page = Page::alloc_page(flags | __GFP_ZERO)?;
            raw.push_within_capacity(page.as_ptr())?;
            pages.push_within_capacity(page)?;
        }
        // SAFETY: There are so many pages in the list. They are unmapped in `drop`, before they are freed.
        let start =
            unsafe { bindings::rdma_helper_vmap_user(raw.as_mut_ptr(), u32::try_from(count)?) };
        // INVARIANT: As mapped.
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(ENOMEM)?,
            len,
            source: Source::Kernel(pages),
        })
    }

    /// Pages on board of the device.
    pub fn on_board(part: BarPart) -> Result<Self> {
        // INVARIANT: A part stays mapped as long as it exists.
        Ok(Self {
            start: NonNull::new(part.as_ptr().cast()).ok_or(ENOMEM)?,
            len: part.len(),
            source: Source::Bar(part),
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never; there is at least a page.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The memory, as words that can be read and written while others do the same.
    ///
    /// Nothing in it can be trusted: a process may write anything at any time, also between two reads
    /// of the same word.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: By the type invariants. Atomics may be shared, and any bytes are valid ones. The
        // accesses of processes are, to this kernel, those of other CPUs.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr(), self.len / 4) }
    }

    /// The address of the memory, for who must have it. It stays the same.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }
}

impl Drop for SharedPages {
    fn drop(&mut self) {
        if let Source::Kernel(_) = self.source {
            // SAFETY: By the type invariants. Pages that a process has mapped stay until it unmaps them,
            // since it has references to each of them.
            unsafe { bindings::vunmap(self.as_ptr().cast()) };
        }
    }
}

/// Lets a process map [`SharedPages`].
///
/// When it is dropped the process can no longer map them. What it has mapped stays mapped; of pages on board of
/// the device, until that is unregistered.
///
/// It holds a reference to the user context. Where it is part of that context's own data, it has to be
/// dropped in [`ucontext::Operations::dealloc`].
///
/// # Invariants
///
/// `entry` is a valid entry of the user context.
pub struct UserMapping<T: ucontext::Operations> {
    entry: NonNull<Entry>,
    _ucontext: ARef<Ucontext<T>>,
}

/// What the RDMA core has for each: its own structure first, then ours.
#[repr(C)]
struct Entry {
    core: Opaque<bindings::rdma_user_mmap_entry>,
    pages: Arc<SharedPages>,
}

// SAFETY: An entry may be removed by any thread.
unsafe impl<T: ucontext::Operations> Send for UserMapping<T> {}
// SAFETY: The methods only read what stays the same.
unsafe impl<T: ucontext::Operations> Sync for UserMapping<T> {}

impl<T: ucontext::Operations> UserMapping<T> {
    /// Lets the process of a user context map the pages.
    pub fn new(ucontext: &Ucontext<T>, pages: Arc<SharedPages>) -> Result<Self> {
        let len = pages.len();
        let entry = KBox::new(
            Entry {
                core: Opaque::zeroed(),
                pages,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: A valid context, and a structure for the function to initialise, which stays where
        // it is until `free`.
        to_result(unsafe {
            bindings::rdma_user_mmap_entry_insert(ucontext.as_raw(), entry.core.get(), len)
        })?;
        Ok(Self {
            // SAFETY: Not null. It is freed in `free`.
            // INVARIANT: Inserted above.
            entry: unsafe { NonNull::new_unchecked(KBox::into_raw(entry)) },
            _ucontext: ARef::from(ucontext),
        })
    }

    /// The offset that the process is to call `mmap()` with.
    pub fn offset(&self) -> u64 {
        // SAFETY: By the type invariants; the field does not change.
        let start = unsafe { (*self.entry.as_ref().core.get()).start_pgoff };
        (start as u64) << PAGE_SHIFT
    }

    /// The pages.
    pub fn pages(&self) -> &SharedPages {
        // SAFETY: By the type invariants; the field does not change.
        &unsafe { self.entry.as_ref() }.pages
    }
}

impl<T: ucontext::Operations> Drop for UserMapping<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and the context still exists, since there is a reference to
        // it. This, or an mmap() that is under way, calls `free`.
        unsafe { bindings::rdma_user_mmap_entry_remove(self.entry.as_ref().core.get()) };
    }
}

/// `mmap` of `struct ib_device_ops`.
///
/// # Safety
///
/// Only for `ib_core` to call, for a device of a driver that has its entries from here.
pub(super) unsafe extern "C" fn mmap(
    ucontext: *mut bindings::ib_ucontext,
    vma: *mut vm_area_struct,
) -> c_int {
    from_result(|| {
        // SAFETY: `ib_core` passes a valid context and a mapping in the making. The function checks
        // offset and length.
        let raw = unsafe { bindings::rdma_user_mmap_entry_get(ucontext, vma) };
        if raw.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: It is one of `UserMapping::new`, since there are no others. The reference from above
        // keeps it until it is given up. The kernel's pages are mapped with `VM_USERMAP`, as is required. Those
        // on board are there as long as the entry, to which the mapping gets a reference of its own.
        unsafe {
            let pages = &(*raw.cast::<Entry>()).pages;
            let result = match &pages.source {
                Source::Kernel(_) => bindings::remap_vmalloc_range(vma, pages.as_ptr().cast(), 0),
                Source::Bar(part) => bindings::rdma_user_mmap_io(
                    ucontext,
                    vma,
                    part.page_frame(),
                    part.len(),
                    (*vma).vm_page_prot,
                    raw,
                ),
            };
            bindings::rdma_user_mmap_entry_put(raw);
            to_result(result)?;
        }
        Ok(0)
    })
}

/// `mmap_free` of `struct ib_device_ops`.
///
/// # Safety
///
/// Only for `ib_core` to call, when the last reference to an entry of [`UserMapping::new`] is gone.
pub(super) unsafe extern "C" fn free(entry: *mut bindings::rdma_user_mmap_entry) {
    // SAFETY: By the function's requirements the entry is ours, and nobody uses it any more.
    drop(unsafe { KBox::<Entry>::from_raw(entry.cast()) });
}
