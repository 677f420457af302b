// SPDX-License-Identifier: GPL-2.0

//! Memory for a device to reach at any time: of processes, and of the kernel for its own users.
//!
//! C headers: [`include/rdma/ib_umem.h`](srctree/include/rdma/ib_umem.h),
//! [`include/rdma/ib_umem_odp.h`](srctree/include/rdma/ib_umem_odp.h)

mod kernel;
mod on_demand;
mod pinned;

pub use self::kernel::{MappedPage, PageList};
use self::{
    kernel::{Kernel, Piece},
    on_demand::OnDemand,
    pinned::Pinned,
};
use super::{bindings, mmap::SharedPages, ops, verbs::AccessFlags, Device};
use ::kernel::{
    bindings::PAGE_SIZE,
    prelude::*,
    sync::{aref::ARef, Arc},
};

/// Memory of a process, of the kernel, or of a device.
///
/// Of a process: either its pages are pinned: they stay those that the process had at the time, whatever it does to
/// its address space later, and can be reached in any context. Or they are had on demand: always those
/// that the process has. Nobody waits for these but [`Self::prefetch`], which can take any time: a file
/// system in user space may never deliver them. To all else `EAGAIN` tells of pages that are not there,
/// and `EFAULT` of pages that the process does not have. To get the memory and to drop it may sleep.
///
/// Of the kernel: all of it, or what a [`PageList`] has, for users in the kernel that say themselves how
/// long it is there.
///
/// Of a device: pages that processes can map.
///
/// Any thread may read and write it. The process can write the memory at the same time, and so can
/// others: what is read may be a mix of old and new.
pub struct Umem {
    pages: Pages,
    /// What precedes the memory in its pages.
    offset: usize,
    length: usize,
    writable: bool,
    // The pages of a process have a pointer to the device, so that must stay in memory.
    _device: Option<ARef<::kernel::device::Device>>,
}

enum Pages {
    Pinned(Pinned),
    OnDemand(OnDemand),
    Kernel(Kernel),
    Shared(Arc<SharedPages>),
}

/// Pages that stay where they are as long as this exists.
enum Held<'a> {
    Pinned(&'a Pinned),
    OnDemand(on_demand::Locked<'a>),
    Kernel(&'a Kernel),
}

/// What is done to memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// How many bytes that are had on demand are held at a time: meanwhile the process cannot change its
/// address space there.
const HELD_AT_ONCE: usize = 1 << 16;

/// How many bytes are faulted in at a time: then a killed process goes no further.
const FAULTED_AT_ONCE: usize = 1 << 20;

/// Which of two memories an error is of.
#[derive(Clone, Copy, Debug)]
pub enum CopyError {
    /// Of that which is copied from.
    Source(Error),
    /// Of that which is copied to.
    Target(Error),
}

impl From<CopyError> for Error {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::Source(error) | CopyError::Target(error) => error,
        }
    }
}

/// How much goes through the kernel's stack at a time, from one memory had on demand to another.
const BUFFER: usize = 512;

impl Umem {
    /// Gets `length` bytes from `start` on of the current process: on demand, if `access` says so, or
    /// pinned. With any of the flags that has somebody write to the memory, it must be writable to the
    /// process.
    pub fn get<T: ops::Operations>(
        device: &Device<T>,
        start: u64,
        length: usize,
        access: AccessFlags,
    ) -> Result<Self> {
        let (pages, writable) = if access.contains(AccessFlags::ON_DEMAND) {
            let pages = OnDemand::get(device, start, length, access)?;
            let writable = pages.is_writable();
            (Pages::OnDemand(pages), writable)
        } else {
            let pages = Pinned::get(device, start, length, access)?;
            let writable = pages.is_writable();
            (Pages::Pinned(pages), writable)
        };
        Ok(Self {
            pages,
            offset: start as usize % PAGE_SIZE,
            length,
            writable,
            _device: Some(device.as_device().into()),
        })
    }

    /// All memory of the kernel that is in its linear mapping. Offsets are addresses there.
    ///
    /// # Safety
    ///
    /// Only that may be reached by it which a kernel user has asked for, by a work request that names the
    /// region of [`mr::Operations::get_dma`](super::mr::Operations::get_dma) that this is for, and as
    /// long as the request has not been completed; or which a peer has asked for that knows the key of
    /// such a region, where the user gave it the right to. That this is memory is then the user's
    /// responsibility.
    pub unsafe fn kernel() -> Self {
        Self::of_kernel(Kernel::All)
    }

    /// Memory of the kernel that is [listed](Self::page_list) later, up to `max_pages` pages.
    pub fn listed(max_pages: u32) -> Result<Self> {
        let list = PageList::new(usize::try_from(max_pages)?)?;
        Ok(Self::of_kernel(Kernel::Listed(list)))
    }

    fn of_kernel(memory: Kernel) -> Self {
        Self {
            pages: Pages::Kernel(memory),
            offset: 0,
            length: usize::MAX,
            writable: true,
            _device: None,
        }
    }

    /// Memory that processes can map: `length` bytes at `offset` in the pages. `EINVAL` if that is not
    /// within them.
    pub fn shared(pages: Arc<SharedPages>, offset: usize, length: usize) -> Result<Self> {
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        if end > pages.len() {
            return Err(EINVAL);
        }
        Ok(Self {
            pages: Pages::Shared(pages),
            offset,
            length,
            writable: true,
            _device: None,
        })
    }

    /// The list of its pages, of [`Self::listed`] memory.
    pub fn page_list(&self) -> Option<&PageList> {
        match &self.pages {
            Pages::Kernel(Kernel::Listed(list)) => Some(list),
            _ => None,
        }
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

    /// Whether its pages are had on demand.
    pub fn is_on_demand(&self) -> bool {
        matches!(self.pages, Pages::OnDemand(_))
    }

    /// Has pages that are had on demand be there already when they are used: `len` bytes at `offset`,
    /// for writing too if `write`. Without `fault`, only those that the process has in memory now. `EINTR`
    /// if the thread that calls it has been killed.
    pub fn prefetch(&self, offset: usize, len: usize, write: bool, fault: bool) -> Result {
        self.check_range(offset, len)?;
        if write {
            self.check_writable()?;
        }
        let Pages::OnDemand(pages) = &self.pages else {
            return Ok(());
        };
        let access = if write { Access::Write } else { Access::Read };
        let mut at = self.offset + offset;
        let end = at + len;
        while at < end {
            let part = FAULTED_AT_ONCE.min(end - at);
            if fault {
                pages.fault_in(at, part, access)?;
            } else {
                pages.look(at, part)?;
            }
            at += part;
            if super::is_killed() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// Copies out of the memory, from `offset` bytes after its beginning on.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        // SAFETY: `to` is valid for its length.
        unsafe { self.read_raw(offset, to.as_mut_ptr(), to.len()) }
    }

    /// Copies into the memory, from `offset` bytes after its beginning on. `EACCES` if it may not be
    /// written to.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result {
        // SAFETY: `from` is valid for its length.
        unsafe { self.write_raw(offset, from.as_ptr(), from.len()) }
    }

    /// # Safety
    ///
    /// `to` must be valid for `len` bytes.
    unsafe fn read_raw(&self, offset: usize, to: *mut u8, len: usize) -> Result {
        let mut done = 0;
        self.for_each_piece(Access::Read, offset, len, |from, len| {
            // SAFETY: `from` has `len` bytes, and the lengths of the pieces add up to that of `to`.
            unsafe { copy(to.add(done), from, len) };
            done += len;
            Ok(())
        })
    }

    /// # Safety
    ///
    /// `from` must be valid for `len` bytes.
    unsafe fn write_raw(&self, offset: usize, from: *const u8, len: usize) -> Result {
        self.check_writable()?;
        let mut done = 0;
        self.for_each_piece(Access::Write, offset, len, |to, len| {
            // SAFETY: `to` has `len` bytes, and the lengths of the pieces add up to that of `from`.
            unsafe { copy(to, from.add(done), len) };
            done += len;
            Ok(())
        })
    }

    /// Copies `len` bytes from here to another memory. `EACCES` if that may not be written to.
    ///
    /// If both are the same, in part, the result is one that the copies of single bytes, in any order,
    /// could have.
    pub fn copy_to(
        &self,
        offset: usize,
        to: &Umem,
        to_offset: usize,
        len: usize,
    ) -> Result<(), CopyError> {
        // All of it, before anything is copied.
        to.check_writable().map_err(CopyError::Target)?;
        self.check_range(offset, len).map_err(CopyError::Source)?;
        to.check_range(to_offset, len).map_err(CopyError::Target)?;
        let mut done = 0;
        let mut failed = Ok(());
        let result = match (&self.pages, &to.pages) {
            // Pages of both are not held at the same time, nor one's while the other's are looked for: a
            // notifier may want the former back for the latter to be had.
            (Pages::OnDemand(_), Pages::OnDemand(_)) => {
                let mut buffer = [0; BUFFER];
                while done < len {
                    let part = &mut buffer[..BUFFER.min(len - done)];
                    self.read(offset + done, part).map_err(CopyError::Source)?;
                    to.write(to_offset + done, part)
                        .map_err(CopyError::Target)?;
                    done += part.len();
                }
                return Ok(());
            }
            // What is had on demand is held outside, so that it is asked for seldom.
            (_, Pages::OnDemand(_)) => to
                .for_each_piece(Access::Write, to_offset, len, |to, len| {
                    // SAFETY: `to` has `len` bytes.
                    let read = unsafe { self.read_raw(offset + done, to, len) };
                    done += len;
                    read.inspect_err(|e| failed = Err(CopyError::Source(*e)))
                })
                .map_err(CopyError::Target),
            _ => self
                .for_each_piece(Access::Read, offset, len, |from, len| {
                    // SAFETY: `from` has `len` bytes.
                    let written = unsafe { to.write_raw(to_offset + done, from, len) };
                    done += len;
                    written.inspect_err(|e| failed = Err(CopyError::Target(*e)))
                })
                .map_err(CopyError::Source),
        };
        failed.and(result)
    }

    /// Has `op` do something to the 64-bit word at `offset` that is atomic with respect to anything
    /// else, in processes as well. `EINVAL` if it is not aligned, `EACCES` if it may not be written to.
    pub fn with_atomic_u64<R>(
        &self,
        offset: usize,
        op: impl FnOnce(&core::sync::atomic::AtomicU64) -> R,
    ) -> Result<R> {
        self.check_writable()?;
        self.check_range(offset, 8)?;
        let mut result = Err(EINVAL);
        if (self.offset + offset) % 8 != 0 {
            return result;
        }
        let mut op = Some(op);
        self.for_each_piece(Access::Write, offset, 8, |at, len| {
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

    /// Calls `op` for each piece of `len` bytes at `offset` that is mapped as a whole, a part of a page say, with
    /// its address and length. `EINVAL` if that is not within the memory.
    fn for_each_piece(
        &self,
        access: Access,
        offset: usize,
        len: usize,
        mut op: impl FnMut(*mut u8, usize) -> Result,
    ) -> Result {
        self.check_range(offset, len)?;
        let mut at = self.offset + offset;
        let end = at + len;
        while at < end {
            let (held, part) = match &self.pages {
                Pages::Pinned(pages) => (Held::Pinned(pages), end - at),
                Pages::Kernel(memory) => (Held::Kernel(memory), end - at),
                // SAFETY: They are mapped one after the other, and the memory is within them.
                Pages::Shared(pages) => return op(unsafe { pages.as_ptr().add(at) }, end - at),
                Pages::OnDemand(pages) => {
                    let part = HELD_AT_ONCE.min(end - at);
                    (Held::OnDemand(pages.lock(at, part, access)?), part)
                }
            };
            held.for_each_piece(at, part, &mut op)?;
            at += part;
        }
        Ok(())
    }
}

impl Held<'_> {
    /// What there is from `at` on, up to the end of a page at most.
    fn piece(&self, at: usize) -> Option<Piece<'_>> {
        let (index, in_page) = (at / PAGE_SIZE, at % PAGE_SIZE);
        match self {
            Self::Pinned(pages) => Some(Piece::of(pages.page(index)?, in_page)),
            Self::OnDemand(pages) => Some(Piece::of(pages.page(index)?, in_page)),
            Self::Kernel(memory) => memory.piece(at),
        }
    }

    /// As [`Umem::for_each_piece`], `at` counted from the beginning of the first page on.
    fn for_each_piece(
        &self,
        mut at: usize,
        len: usize,
        op: &mut impl FnMut(*mut u8, usize) -> Result,
    ) -> Result {
        let end = at + len;
        while at < end {
            let piece = self.piece(at).ok_or(EFAULT)?;
            let len = piece.len.min(end - at);
            // SAFETY: A valid page, which is held. It is unmapped below, in the reverse order if this
            // is nested.
            let mapped = unsafe { ::kernel::bindings::kmap_local_page(piece.page.as_ptr()) };
            // SAFETY: A page has that many bytes.
            let result = op(unsafe { mapped.cast::<u8>().add(piece.in_page) }, len);
            // SAFETY: Mapped above.
            unsafe { ::kernel::bindings::kunmap_local(mapped) };
            result?;
            at += len;
        }
        Ok(())
    }
}

/// Copies memory that others may write to at the same time, as `copy_from_user()` does and everybody
/// in the kernel: by the C function, so that the compiler takes nothing for granted of what it reads.
///
/// By `memcpy()`, since the string instructions of `memmove()` take three times as long where a processor
/// is emulated. But not in User-Mode Linux, which is on a processor that has them, and does not have its
/// `memcpy()` choose.
///
/// # Safety
///
/// Both must be valid for `len` bytes. They may overlap; then it is as [`Umem::copy_to`] says.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: By the function's requirements. The kernel's function is written in assembly, where an
    // overlap is no undefined behaviour, but bytes that are copied before or after they are replaced.
    unsafe {
        if cfg!(CONFIG_UML) {
            ::kernel::bindings::memmove(to.cast(), from.cast(), len);
        } else {
            ::kernel::bindings::memcpy(to.cast(), from.cast(), len);
        }
    }
}
