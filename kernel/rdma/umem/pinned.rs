// SPDX-License-Identifier: GPL-2.0

//! Pages that are pinned.

use super::{bindings, ops, AccessFlags, Device};
use core::ptr::{self, NonNull};
use kernel::{
    bindings::{page, PAGE_SIZE},
    error::from_err_ptr,
    prelude::*,
};

/// Pinned pages of a process.
///
/// # Invariants
///
/// `umem` is an `ib_umem` that this owns, and `pages` are its pages, in order.
pub(super) struct Pinned {
    umem: NonNull<bindings::ib_umem>,
    pages: KVVec<NonNull<page>>,
}

// SAFETY: The memory may be released by any thread: `ib_umem` has the address space it is accounted to.
unsafe impl Send for Pinned {}
// SAFETY: The methods on `&Pinned` only read what does not change.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Pins what [`Umem::get`](super::Umem::get) is asked for.
    pub(super) fn get<T: ops::Operations>(
        device: &Device<T>,
        start: u64,
        length: usize,
        access: AccessFlags,
    ) -> Result<Self> {
        // SAFETY: A valid device. Without attributes, address and length are taken. The function
        // checks them.
        let umem = from_err_ptr(unsafe {
            bindings::ib_umem_get_attr_or_va(
                device.as_raw(),
                ptr::null(),
                0,
                start,
                length,
                access.bits() as c_int,
            )
        })?;
        // INVARIANT: The list of pages is not complete yet; nobody reads it before it is.
        let mut this = Self {
            umem: NonNull::new(umem).ok_or(EINVAL)?,
            pages: KVVec::new(),
        };
        let bytes = start as usize % PAGE_SIZE + length;
        this.pages
            .reserve(bytes.div_ceil(PAGE_SIZE), GFP_KERNEL_ACCOUNT)?;

        let mut iter = pin_init::zeroed();
        // SAFETY: A valid `ib_umem`, whose list has `orig_nents` entries.
        unsafe {
            let table = &raw const (*umem).sgt_append.sgt;
            kernel::bindings::__sg_page_iter_start(&mut iter, (*table).sgl, (*table).orig_nents, 0);
        }
        // SAFETY: The iterator was started above.
        while unsafe { kernel::bindings::__sg_page_iter_next(&mut iter) } {
            // SAFETY: The iterator is at an entry.
            let page = unsafe { bindings::rdma_helper_sg_page_iter_page(&mut iter) };
            this.pages
                .push(NonNull::new(page).ok_or(EFAULT)?, GFP_KERNEL_ACCOUNT)?;
        }
        if this.pages.len() * PAGE_SIZE < bytes {
            return Err(EFAULT);
        }
        Ok(this)
    }

    /// Whether they are pinned for writing.
    pub(super) fn is_writable(&self) -> bool {
        // SAFETY: A valid `ib_umem`, whose flags do not change.
        unsafe { self.umem.as_ref() }.writable() != 0
    }

    pub(super) fn page(&self, index: usize) -> Option<NonNull<page>> {
        self.pages.get(index).copied()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::ib_umem_release(self.umem.as_ptr()) };
    }
}
