// SPDX-License-Identifier: GPL-2.0

//! Pages that are had on demand.
//!
//! Nothing is pinned. A page is looked up, or faulted in as if the process had touched it, when it is
//! needed (`ib_umem_odp_map_dma_and_lock()`), and remembered until the process, or the kernel in need
//! of memory, takes it away: then a notifier is called, and waits while the page is in use.
//!
//! A bottom half reaches the pages that are known. It cannot wait for others, and is told so.

use super::{
    super::{in_bottom_half, lock::BottomHalvesOff},
    bindings, ops, Access, AccessFlags, Device,
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};
use kernel::{
    bindings::{page, PAGE_SIZE},
    error::{from_err_ptr, to_result},
    new_mutex, new_spinlock,
    prelude::*,
    sync::{
        lock::{spinlock::SpinLockBackend, Guard},
        Mutex, SpinLock,
    },
};

const VALID: c_ulong = bindings::hmm_pfn_flags_HMM_PFN_VALID as c_ulong;
const WRITE: c_ulong = bindings::hmm_pfn_flags_HMM_PFN_WRITE as c_ulong;

/// Memory of a process whose pages are had on demand.
///
/// # Invariants
///
/// `umem` is an `ib_umem_odp` that this owns, of pages of `PAGE_SIZE`.
pub(super) struct OnDemand {
    umem: NonNull<bindings::ib_umem_odp>,
    known: Pin<KBox<Known>>,
    _room: Room,
}

/// What is known of the pages.
///
/// `ib_umem_odp` has a list as well, but `hmm_range_fault()` writes that with no lock held, and what it
/// writes may be obsolete already, which is noticed only afterwards. So from there, what is good is
/// copied to here.
#[pin_data]
struct Known {
    /// Held by the one thread that has the list in `ib_umem_odp` filled in.
    #[pin]
    fault: Mutex<()>,
    /// For each page what `hmm_range_fault()` says of it, or zero. One that may be written to is marked
    /// dirty: who makes it clean again has the notifier called before.
    ///
    /// Reading it takes the `umem_mutex` of `ib_umem_odp` or `lock`; writing to it takes both.
    pages: UnsafeCell<KVVec<c_ulong>>,
    /// What bottom halves take.
    #[pin]
    lock: SpinLock<()>,
}

/// How many pages are forgotten while bottom halves are off.
const FORGOTTEN_AT_ONCE: usize = 1 << 12;

impl Known {
    /// Forgets pages, for the process to take them away. When this returns, nobody uses them.
    ///
    /// # Safety
    ///
    /// The caller holds the `umem_mutex`.
    unsafe fn forget(&self, first: usize, end: usize) {
        // SAFETY: The mutex is held, by the function's requirements.
        let count = unsafe { &*self.pages.get() }.len();
        let end = end.min(count);
        for at in (first..end).step_by(FORGOTTEN_AT_ONCE) {
            let _off = BottomHalvesOff::new();
            let _locked = self.lock.lock();
            // SAFETY: Both are held.
            let pages = unsafe { &mut *self.pages.get() };
            let part = at..end.min(at + FORGOTTEN_AT_ONCE);
            pages.get_mut(part).unwrap_or_default().fill(0);
        }
    }
}

/// Pages that are locked: an invalidation waits.
///
/// # Invariants
///
/// The `umem_mutex` of the memory is held by this, or the lock of what is known, as `lock` says.
pub(super) struct Locked<'a> {
    memory: &'a OnDemand,
    access: Access,
    lock: Lock<'a>,
}

enum Lock<'a> {
    Mutex,
    BottomHalf(#[allow(dead_code)] Guard<'a, (), SpinLockBackend>),
}

// SAFETY: The functions of `ib_umem_odp` may be called by any thread.
unsafe impl Send for OnDemand {}
// SAFETY: The methods on `&OnDemand` use `pages` with the locks held that it says, and of `umem` call
// functions that any number of threads may call.
unsafe impl Sync for OnDemand {}

static NOTIFIER: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
    invalidate: Some(invalidate),
    ..pin_init::zeroed()
};

/// # Safety
///
/// Only for the kernel to call, with the notifier of an `ib_umem_odp` of [`OnDemand::get`].
unsafe extern "C" fn invalidate(
    notifier: *mut bindings::mmu_interval_notifier,
    range: *const bindings::mmu_notifier_range,
    sequence: c_ulong,
) -> bool {
    // SAFETY: The notifier is that of an `ib_umem_odp`, by the function's requirements.
    let umem = unsafe { kernel::container_of!(notifier, bindings::ib_umem_odp, notifier) };
    // SAFETY: It exists as long as its notifier is registered. Where waiting is forbidden, the caller
    // is told so and does without. `private` is null or as `get` sets it.
    unsafe {
        if (*range).flags & bindings::MMU_NOTIFIER_RANGE_BLOCKABLE == 0 {
            return false;
        }
        kernel::bindings::mutex_lock(&raw mut (*umem).umem_mutex);
        bindings::rdma_helper_mmu_interval_set_seq(notifier, sequence);
        if let Some(known) = (*umem).private.cast::<Known>().as_ref() {
            let start = (*umem).notifier.interval_tree.start;
            let first = (*range).start.saturating_sub(start) as usize / PAGE_SIZE;
            let end = ((*range).end.saturating_sub(start) as usize).div_ceil(PAGE_SIZE);
            known.forget(first, end);
        }
        kernel::bindings::mutex_unlock(&raw mut (*umem).umem_mutex);
    }
    true
}

/// Room for the two lists of a region, of so many pages of memory. `ib_umem_odp`'s is charged to nobody.
struct Room(usize);

/// How many pages all of that are.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Room {
    /// Fails if all lists together would take more than half of the memory that there would be without them: the
    /// pages of a region need not be there, and some other process may be killed for what this one asks for.
    fn take(pages: usize) -> Result<Self> {
        let lists = (2 * size_of::<u64>() * pages).div_ceil(PAGE_SIZE);
        // SAFETY: It has no preconditions.
        let available = unsafe { bindings::si_mem_available() };
        let available = usize::try_from(available).unwrap_or(0);
        // What is refused is not counted, not even for a moment: others would be refused for it.
        let taken = TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            let sum = taken.checked_add(lists)?;
            (sum <= available.saturating_add(taken) / 2).then_some(sum)
        });
        taken.map(|_| Self(lists)).map_err(|_| ENOMEM)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl OnDemand {
    /// Gets what [`Umem::get`](super::Umem::get) is asked for. Nothing is faulted in.
    pub(super) fn get<T: ops::Operations>(
        device: &Device<T>,
        start: u64,
        length: usize,
        access: AccessFlags,
    ) -> Result<Self> {
        let bytes = length
            .checked_add(start as usize % PAGE_SIZE)
            .ok_or(EINVAL)?;
        let pages = bytes.div_ceil(PAGE_SIZE);
        let room = Room::take(pages)?;
        // Before `ib_umem_odp` makes its list, which is as long and charged to nobody: a process that
        // would exceed its limit by this one does not get there, and no more is allocated than twice what
        // is charged.
        let known = Self::remember(pages)?;
        // How large the pages are is nothing that the access depends on.
        let access = access.bits() & !AccessFlags::HUGETLB.bits();
        // SAFETY: A valid device, and operations that live as long as the module. The function checks
        // the address and the length.
        let umem = from_err_ptr(unsafe {
            bindings::ib_umem_odp_get(
                device.as_raw(),
                start as c_ulong,
                length,
                access as c_int,
                &NOTIFIER,
            )
        })?;
        let umem = NonNull::new(umem).ok_or(EINVAL)?;
        // INVARIANT: Made above.
        let this = Self {
            umem,
            known,
            _room: room,
        };
        let known: *const Known = &*this.known;
        {
            let _locked = this.lock_as_known(Access::Read);
            // SAFETY: The notifier reads it with the mutex held. It is released before `known` goes.
            unsafe { (*umem.as_ptr()).private = known.cast_mut().cast() };
        }
        Ok(this)
    }

    fn remember(count: usize) -> Result<Pin<KBox<Known>>> {
        let mut pages = KVVec::new();
        pages.resize(count, 0, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        KBox::pin_init(
            pin_init!(Known {
                fault <- new_mutex!((), "rdma::OnDemand::fault"),
                pages: UnsafeCell::new(pages),
                lock <- new_spinlock!((), "rdma::OnDemand::lock"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether the process may be made to look as if it had written to it.
    pub(super) fn is_writable(&self) -> bool {
        // SAFETY: A valid `ib_umem_odp`, whose flags do not change.
        unsafe { &self.umem.as_ref().umem }.writable() != 0
    }

    /// Has the pages of `len` bytes stay where they are. `at` is counted from the beginning of the first
    /// page on. `EAGAIN` if they are not known.
    ///
    /// Not while others are locked, and not with a lock held that [`invalidate`] may need.
    pub(super) fn lock(&self, at: usize, len: usize, access: Access) -> Result<Locked<'_>> {
        let locked = if in_bottom_half() {
            // INVARIANT: Locked here.
            Locked {
                memory: self,
                access,
                lock: Lock::BottomHalf(self.known.lock.lock()),
            }
        } else {
            self.lock_as_known(access)
        };
        locked.has(at, len).then_some(locked).ok_or(EAGAIN)
    }

    /// Has the pages of `len` bytes be there, and known. `EFAULT` if the process has no such memory. Not in
    /// a bottom half, nor with a lock held that [`invalidate`] may need: it may take any time.
    pub(super) fn fault_in(&self, at: usize, len: usize, access: Access) -> Result {
        if self.lock(at, len, access).is_ok() {
            return Ok(());
        }
        let locked = self.learn(at, len, access, true)?;
        locked.has(at, len).then_some(()).ok_or(EFAULT)
    }

    /// Learns of pages which of them the process has in memory.
    pub(super) fn look(&self, at: usize, len: usize) -> Result {
        self.learn(at, len, Access::Read, false).map(drop)
    }

    /// Looks pages up, with `fault` such that they are there, and remembers what was found.
    fn learn(&self, at: usize, len: usize, access: Access, fault: bool) -> Result<Locked<'_>> {
        let umem = self.umem.as_ptr();
        let _fault = self.known.fault.lock();
        // SAFETY: A valid `ib_umem_odp`, whose first address does not change.
        let start = unsafe { (*umem).notifier.interval_tree.start } + at;
        let mask = match access {
            Access::Read => 0,
            Access::Write => WRITE,
        };
        // SAFETY: As above; the function checks the range. No lock is held but `fault`, which nobody
        // takes who is waited for here.
        to_result(unsafe {
            bindings::ib_umem_odp_map_dma_and_lock(
                umem,
                start as u64,
                len as u64,
                mask as u64,
                fault,
            )
        })?;
        // INVARIANT: The function has locked the mutex.
        let locked = Locked {
            memory: self,
            access,
            lock: Lock::Mutex,
        };
        let range = at / PAGE_SIZE..(at + len).div_ceil(PAGE_SIZE);
        // SAFETY: The list has an entry for each page, and nobody writes it but with `fault` held. The
        // mutex is held, so what is valid there cannot go.
        let found = |i: usize| unsafe { (*umem).map.pfn_list.add(i).read() };
        if access == Access::Write {
            for found in range.clone().map(found) {
                if found & VALID != 0 && found & WRITE != 0 {
                    // SAFETY: As above.
                    unsafe {
                        bindings::set_page_dirty(bindings::rdma_helper_hmm_pfn_to_page(found))
                    };
                }
            }
        }
        let _off = BottomHalvesOff::new();
        let _locked = self.known.lock.lock();
        // SAFETY: Both locks are held.
        let pages = unsafe { &mut *self.known.pages.get() };
        for i in range {
            let Some(page) = pages.get_mut(i) else { break };
            *page = match (found(i), access) {
                (found, _) if found & VALID == 0 => 0,
                (found, Access::Write) => found,
                // Only those that are marked dirty may be written to.
                (found, Access::Read) => found & !WRITE | *page & WRITE,
            };
        }
        Ok(locked)
    }

    fn lock_as_known(&self, access: Access) -> Locked<'_> {
        // SAFETY: A valid mutex.
        unsafe { kernel::bindings::mutex_lock(&raw mut (*self.umem.as_ptr()).umem_mutex) };
        // INVARIANT: Locked above.
        Locked {
            memory: self,
            access,
            lock: Lock::Mutex,
        }
    }
}

impl Locked<'_> {
    fn known(&self, index: usize) -> c_ulong {
        // SAFETY: By the type invariants one of the locks is held.
        let pages = unsafe { &*self.memory.known.pages.get() };
        pages.get(index).copied().unwrap_or(0)
    }

    /// Whether all pages of `len` bytes are there.
    fn has(&self, at: usize, len: usize) -> bool {
        let needed = match self.access {
            Access::Read => VALID,
            Access::Write => VALID | WRITE,
        };
        let mut pages = at / PAGE_SIZE..(at + len).div_ceil(PAGE_SIZE);
        pages.all(|i| self.known(i) & needed == needed)
    }

    /// A page, if it is there.
    pub(super) fn page(&self, index: usize) -> Option<NonNull<page>> {
        let known = self.known(index);
        if known & VALID == 0 {
            return None;
        }
        // SAFETY: It is valid, and cannot go while the lock is held.
        NonNull::new(unsafe { bindings::rdma_helper_hmm_pfn_to_page(known) })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Lock::Mutex = self.lock {
            let umem = self.memory.umem.as_ptr();
            // SAFETY: By the type invariants it is held.
            unsafe { kernel::bindings::mutex_unlock(&raw mut (*umem).umem_mutex) };
        }
    }
}

impl Drop for OnDemand {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. It waits for the notifier, so nobody uses `known` any more
        // when that is dropped.
        unsafe { bindings::ib_umem_odp_release(self.umem.as_ptr()) };
    }
}
