// SPDX-License-Identifier: GPL-2.0

//! Memory of processes, pinned so that a device can reach it at any time.
//!
//! C header: [`include/rdma/ib_umem.h`](srctree/include/rdma/ib_umem.h)

use super::{bindings, ops, verbs::AccessFlags, Device};
use core::ptr::{self, NonNull};
use kernel::{
    bindings::{page, PAGE_SIZE},
    error::from_err_ptr,
    prelude::*,
    sync::aref::ARef,
};

/// Pinned memory of a process.
///
/// The pages stay those that the process had at the time, whatever it does to its address space
/// later. The memory can be read and written in any context, by any thread; only to pin it and to drop
/// this may sleep. The process can write the memory at the same time, and so can others: what is read
/// may be a mix of old and new.
///
/// # Invariants
///
/// `umem` is an `ib_umem` that this owns. `pages` are its pages, in order, which cover `offset` bytes
/// before the memory and `length` bytes of it. If `writable`, they are pinned for writing.
pub struct Umem {
    umem: NonNull<bindings::ib_umem>,
    pages: KVVec<NonNull<page>>,
    offset: usize,
    length: usize,
    writable: bool,
    // `ib_umem` has a pointer to the device, so that must stay in memory.
    _device: ARef<kernel::device::Device>,
}

// SAFETY: The memory may be released by any thread: `ib_umem` has the address space it is accounted to.
unsafe impl Send for Umem {}
// SAFETY: The methods on `&Umem` may be called at the same time, see the type's description.
unsafe impl Sync for Umem {}

impl Umem {
    /// Pins `length` bytes from `start` on of the current process. With any of the `access` flags that
    /// has somebody write to the memory, it must be writable to the process.
    pub fn get<T: ops::Operations>(
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
            offset: start as usize % PAGE_SIZE,
            length,
            // SAFETY: A valid `ib_umem`.
            writable: unsafe { (*umem).writable() } != 0,
            _device: device.as_device().into(),
        };
        this.pages
            .reserve((this.offset + length).div_ceil(PAGE_SIZE), GFP_KERNEL)?;

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
                .push(NonNull::new(page).ok_or(EFAULT)?, GFP_KERNEL)?;
        }
        if this.pages.len() * PAGE_SIZE < this.offset + length {
            return Err(EFAULT);
        }
        Ok(this)
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether it may be written to.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Copies out of the memory, from `offset` bytes after its beginning on.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        let mut done = 0;
        self.for_each_piece(offset, to.len(), |from, len| {
            // SAFETY: `from` has `len` bytes, and the lengths of the pieces add up to that of `to`.
            unsafe { copy(to.as_mut_ptr().add(done), from, len) };
            done += len;
            Ok(())
        })
    }

    /// Copies into the memory, from `offset` bytes after its beginning on. `EACCES` if it may not be
    /// written to.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result {
        self.check_writable()?;
        let mut done = 0;
        self.for_each_piece(offset, from.len(), |to, len| {
            // SAFETY: `to` has `len` bytes, and the lengths of the pieces add up to that of `from`.
            unsafe { copy(to, from.as_ptr().add(done), len) };
            done += len;
            Ok(())
        })
    }

    /// Copies `len` bytes from here to another memory. `EACCES` if that may not be written to.
    ///
    /// If both are the same, in part, the result is one that the copies of single bytes, in any order,
    /// could have.
    pub fn copy_to(&self, offset: usize, to: &Umem, to_offset: usize, len: usize) -> Result {
        to.check_writable()?;
        // Both, before anything is copied.
        to.check_range(to_offset, len)?;
        let mut done = 0;
        self.for_each_piece(offset, len, |from, len| {
            let mut from_done = 0;
            to.for_each_piece(to_offset + done, len, |to, len| {
                // SAFETY: `to` has `len` bytes, and the lengths of the inner pieces add up to that of
                // `from`.
                unsafe { copy(to, from.add(from_done), len) };
                from_done += len;
                Ok(())
            })?;
            done += len;
            Ok(())
        })
    }

    /// Has `op` do something to the 64-bit word at `offset` that is atomic with respect to anything
    /// else, in processes as well. `EINVAL` if it is not aligned, `EACCES` if it may not be written to.
    pub fn with_atomic_u64<R>(
        &self,
        offset: usize,
        op: impl FnOnce(&core::sync::atomic::AtomicU64) -> R,
    ) -> Result<R> {
        self.check_writable()?;
        let mut result = Err(EINVAL);
        if (self.offset + offset) % 8 != 0 {
            return result;
        }
        let mut op = Some(op);
        self.for_each_piece(offset, 8, |at, len| {
            if let (Some(op), 8) = (op.take(), len) {
                // SAFETY: There are 8 bytes, aligned, and all accesses to them from here on are
                // atomic, as far as this kernel's memory model goes.
                result = Ok(op(unsafe {
                    core::sync::atomic::AtomicU64::from_ptr(at.cast())
                }));
            }
            Ok(())
        })?;
        result
    }

    fn check_writable(&self) -> Result {
        self.writable.then_some(()).ok_or(EACCES)
    }

    fn check_range(&self, offset: usize, len: usize) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        (end <= self.length).then_some(()).ok_or(EINVAL)
    }

    /// Calls `op` for each piece of `len` bytes at `offset` that is within one page, with its address
    /// and length. `EINVAL` if that is not within the memory.
    fn for_each_piece(
        &self,
        offset: usize,
        len: usize,
        mut op: impl FnMut(*mut u8, usize) -> Result,
    ) -> Result {
        self.check_range(offset, len)?;
        let mut at = self.offset + offset;
        let end = at + len;
        while at < end {
            let page = self.pages.get(at / PAGE_SIZE).ok_or(EINVAL)?;
            let in_page = at % PAGE_SIZE;
            let piece = (PAGE_SIZE - in_page).min(end - at);
            // SAFETY: A valid page, by the type invariants. It is unmapped below, in the reverse order
            // if this is nested.
            let mapped = unsafe { kernel::bindings::kmap_local_page(page.as_ptr()) };
            // SAFETY: A page has that many bytes.
            let result = op(unsafe { mapped.cast::<u8>().add(in_page) }, piece);
            // SAFETY: Mapped above.
            unsafe { kernel::bindings::kunmap_local(mapped) };
            result?;
            at += piece;
        }
        Ok(())
    }
}

/// Copies memory that others may write to at the same time, as `copy_from_user()` does and everybody
/// in the kernel: by the C function, so that the compiler takes nothing for granted of what it reads.
///
/// # Safety
///
/// Both must be valid for `len` bytes. They may overlap.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: By the function's requirements.
    unsafe { kernel::bindings::memmove(to.cast(), from.cast(), len) };
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::ib_umem_release(self.umem.as_ptr()) };
    }
}
