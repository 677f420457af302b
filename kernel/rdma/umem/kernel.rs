// SPDX-License-Identifier: GPL-2.0

//! Memory of the kernel, for the kernel's own users.
//!
//! They give addresses in the kernel's linear mapping, as a device without DMA has it
//! (`ib_uses_virt_dma()`).

use super::{super::lock::NotPreempted, bindings};
use core::{
    ptr::NonNull,
    sync::atomic::{fence, AtomicU32, AtomicUsize, Ordering},
};
use kernel::{
    bindings::{page, PAGE_SIZE},
    prelude::*,
};

/// A page that a kernel user has mapped in a memory region, by its address.
///
/// There is no other way to have one than by [`mr::Operations::map_page`](super::super::mr::Operations::map_page),
/// so a driver can list nothing but what it was told.
pub struct MappedPage(usize);

impl MappedPage {
    /// # Safety
    ///
    /// `address` must be what a kernel user has mapped: that the page is memory as long as the
    /// region is registered is then its responsibility.
    pub(in super::super) unsafe fn new(address: u64) -> Result<Self> {
        Ok(Self(usize::try_from(address)?))
    }
}

/// Memory of the kernel.
pub(super) enum Kernel {
    /// All of it: an offset is an address.
    All,
    /// Pages that are listed.
    Listed(PageList),
}

/// A list of pages, one after the other, that can be exchanged for another.
///
/// While the list is open, its pages can be reached. Once it is closed, nobody reaches them any more:
/// not even who has begun to. Each time it is opened, it is at other offsets, where it has never been
/// before, so who has begun before it was closed does not reach the pages that are there later.
pub struct PageList {
    pages: KVVec<AtomicUsize>,
    /// How many of them are in use.
    count: AtomicUsize,
    /// Their length in bytes, as a power of two.
    page_shift: AtomicU32,
    /// The offset at which the list is open; zero if it is closed.
    begin: AtomicUsize,
    /// The offset at which it will be open next.
    next: AtomicUsize,
    /// How many threads are at a page.
    users: AtomicU32,
}

/// A piece of a page.
pub(super) struct Piece<'a> {
    pub(super) page: NonNull<page>,
    pub(super) in_page: usize,
    /// How many bytes there are.
    pub(super) len: usize,
    /// It is there as long as this.
    _use: Option<Use<'a>>,
}

/// Has [`PageList::close`] spin, no longer than a page is copied: in the meantime the thread is not
/// preempted, not even where spinlocks and bottom halves are (`CONFIG_PREEMPT_RT`), and bottom halves are
/// off, since it may be one that spins. Nothing may sleep as long as this exists, nor take a spinlock.
///
/// A lock is no alternative: a copy from one list to another, or within one, would hold two at a time.
struct Use<'a> {
    list: &'a PageList,
    _here: NotPreempted,
}

impl<'a> Use<'a> {
    fn new(list: &'a PageList) -> Self {
        let here = NotPreempted::new();
        list.users.fetch_add(1, Ordering::Relaxed);
        Self { list, _here: here }
    }
}

impl<'a> Piece<'a> {
    /// A piece of a page that stays where it is.
    pub(super) fn of(page: NonNull<page>, in_page: usize) -> Self {
        Self {
            page,
            in_page,
            len: PAGE_SIZE - in_page,
            _use: None,
        }
    }

    fn at(address: usize) -> Option<Self> {
        // SAFETY: The function takes any number. What it finds valid has a page.
        let page = unsafe {
            if !bindings::rdma_helper_virt_addr_valid(address) {
                return None;
            }
            bindings::rdma_helper_virt_to_page(address)
        };
        Some(Self::of(NonNull::new(page)?, address % PAGE_SIZE))
    }
}

impl Kernel {
    /// What there is at an offset.
    pub(super) fn piece(&self, at: usize) -> Option<Piece<'_>> {
        match self {
            Self::All => Piece::at(at),
            Self::Listed(list) => list.piece(at),
        }
    }
}

impl PageList {
    pub(super) fn new(max_pages: usize) -> Result<Self> {
        let mut pages = KVVec::with_capacity(max_pages, GFP_KERNEL)?;
        for _ in 0..max_pages {
            pages.push(AtomicUsize::new(0), GFP_KERNEL)?;
        }
        Ok(Self {
            pages,
            count: AtomicUsize::new(0),
            page_shift: AtomicU32::new(0),
            begin: AtomicUsize::new(0),
            next: AtomicUsize::new(PAGE_SIZE),
            users: AtomicU32::new(0),
        })
    }

    /// Begins a list of pages of `page_size` bytes. Only while it is closed.
    pub fn start(&self, page_size: u32) -> Result {
        if !page_size.is_power_of_two() {
            return Err(EINVAL);
        }
        // Relaxed, and so for what follows: the code that opens the list gets it from this thread.
        self.page_shift
            .store(page_size.trailing_zeros(), Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Adds the next page. `ENOMEM` if there are too many.
    pub fn push(&self, MappedPage(address): MappedPage) -> Result {
        let count = self.count.load(Ordering::Relaxed);
        let page = self.pages.get(count).ok_or(ENOMEM)?;
        page.store(address, Ordering::Relaxed);
        self.count.store(count + 1, Ordering::Relaxed);
        Ok(())
    }

    fn page_shift(&self) -> u32 {
        self.page_shift.load(Ordering::Relaxed)
    }

    /// Opens the list, and returns the offset at which the byte of the address `start` is: an address
    /// in the first page. There are `length` bytes from there on. Only while it is closed.
    ///
    /// # Safety
    ///
    /// The kernel user that has mapped the pages must have asked for them to be registered: then they are
    /// memory until it is told that this has ended. [`Self::close`] must return before it is told.
    pub unsafe fn open(&self, start: u64, length: u64) -> Result<usize> {
        let in_page = start as usize & ((1 << self.page_shift()) - 1);
        let length = usize::try_from(length)?
            .checked_add(in_page)
            .ok_or(EINVAL)?;
        let room = self.count.load(Ordering::Relaxed) << self.page_shift();
        if length > room {
            return Err(EINVAL);
        }
        let room = room.next_multiple_of(PAGE_SIZE);
        let begin = self.next.fetch_add(room, Ordering::Relaxed);
        // Pairs with the load in `piece`, which thereby sees the pages.
        self.begin.store(begin, Ordering::Release);
        Ok(begin + in_page)
    }

    /// Closes the list. When this returns, nobody reaches its pages. It spins while others copy what
    /// they have of a page now, and does not sleep: a peer's packet may ask for it.
    pub fn close(&self) {
        self.begin.store(0, Ordering::Relaxed);
        // Pairs with the fence in `piece`: either that thread finds the list closed, or it is counted
        // here.
        fence(Ordering::SeqCst);
        // Pairs with the decrement in `Use`, so that what was done to the pages comes before.
        while self.users.load(Ordering::Acquire) != 0 {
            core::hint::spin_loop();
        }
    }

    fn piece(&self, at: usize) -> Option<Piece<'_>> {
        // So that those who come after the list was closed keep nobody waiting.
        if self.begin.load(Ordering::Relaxed) == 0 {
            return None;
        }
        // Released by dropping it.
        let in_use = Use::new(self);
        fence(Ordering::SeqCst);
        let begin = self.begin.load(Ordering::Acquire);
        if begin == 0 {
            return None;
        }
        let at = at.checked_sub(begin)?;
        let shift = self.page_shift();
        let index = at >> shift;
        if index >= self.count.load(Ordering::Relaxed) {
            return None;
        }
        let page = self.pages.get(index)?.load(Ordering::Relaxed);
        let in_page = at & ((1 << shift) - 1);
        let mut piece = Piece::at(page.checked_add(in_page)?)?;
        piece.len = piece.len.min((1 << shift) - in_page);
        piece._use = Some(in_use);
        Some(piece)
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        // Release: see `close`. The thread can be preempted after this.
        self.list.users.fetch_sub(1, Ordering::Release);
    }
}
