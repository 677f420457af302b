// SPDX-License-Identifier: GPL-2.0

//! Memory regions, and the keys that name them.

mod lookup;

use super::{
    device::{Ferroce, Pd},
    quota::{Counted, Kind},
    table::Table,
    window::Mw,
};
use crate::{
    local::AccessError,
    net::SpinLockBh,
    rdma::{
        self, eopnotsupp,
        mr::{self, Rereg, UserMemory},
        umem::{MappedPage, PageList, Umem},
        Details, Device, MrAdvice, MrType, NewMr, UserCall,
    },
    ring::{RegMr, Sge},
    verbs::AccessFlags,
};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
};

pub(crate) use lookup::{check_key, Anew, Cache, Lookup, Missing, Place, Range, Wanted};

/// The lowest byte of a key is the owner's to change, the rest is the number in the table of keys
/// (IBTA 10.6.3.3, 10.6.6: keys made by the consumer).
pub(crate) const KEY_BITS: u32 = 8;

/// How many keys there can be: as many numbers as are left of 32 bits.
pub(crate) const MAX_KEYS: u32 = 1 << 24;

/// What a key names.
#[derive(Clone)]
pub(crate) enum Named {
    Region(ARef<rdma::Mr<Mr>>),
    Window(ARef<rdma::Mw<Mw>>),
}

/// All keys of a device.
pub(crate) type Keys = Table<Named>;

/// Tells protection domains apart. A domain outlives what is in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PdId(usize);

impl PdId {
    pub(crate) fn of(pd: &rdma::Pd<Pd>) -> Self {
        Self(core::ptr::from_ref(pd).addr())
    }

    /// Not zero.
    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// The driver's data for memory regions.
#[pin_data]
pub(crate) struct Mr {
    number: u32,
    /// How many windows are bound to it, or [`DEREGISTERED`].
    windows: AtomicU32,
    /// Of a region that is registered by work requests: its memory, for pages to be mapped in any
    /// context.
    listed: Option<Arc<Umem>>,
    #[pin]
    state: SpinLockBh<State>,
    /// Counts the changes of the state: see [`Cache`].
    changes: AtomicU32,
    _counted: Counted,
}

/// No more windows can be bound: the largest number, so that there is no next one. There are never
/// that many.
const DEREGISTERED: u32 = u32::MAX;

/// What can change of a region, by registering it anew.
#[derive(Clone)]
struct State {
    phase: Phase,
    key: u32,
    pd: PdId,
    access: AccessFlags,
    /// The address of the first byte in work requests.
    start: u64,
    length: u64,
    memory: Arc<Umem>,
    /// Where in the memory the region begins.
    offset: usize,
}

/// The states of a region that is registered by work requests (IBTA 10.6.4.4); any other is valid
/// always.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Free,
    Valid,
    /// No longer valid, and not free before the last access has ended.
    Closing,
}

impl State {
    /// Whether a key of a protection domain names the region, and it may be used.
    fn is_named(&self, pd: PdId, key: u32) -> bool {
        self.phase == Phase::Valid && self.key == key && self.pd == pd
    }

    /// Where a range of the region begins in the memory.
    fn range(&self, addr: u64, length: u32) -> Result<usize, AccessError> {
        let offset = addr.checked_sub(self.start).ok_or(AccessError)?;
        let end = offset.checked_add(length.into()).ok_or(AccessError)?;
        if end > self.length {
            return Err(AccessError);
        }
        Ok(self.offset + offset as usize)
    }

    /// Whether a key names the region, and allows the access (IBTA 10.6.3.1).
    fn check_key(&self, wanted: &Wanted) -> Result<(), AccessError> {
        let allowed = self.is_named(wanted.pd, wanted.key) && self.access.contains(wanted.access);
        allowed.then_some(()).ok_or(AccessError)
    }

    /// Where a range of the region begins in the memory, if a key allows the access.
    fn check(&self, wanted: &Wanted) -> Result<usize, AccessError> {
        self.check_key(wanted)?;
        self.range(wanted.addr, wanted.length)
    }
}

/// How many pages can be registered by a work request.
pub(crate) const MAX_FAST_REG_PAGES: u32 = 512;

impl Mr {
    /// Its number in the device's table of keys.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Checks that a window may be bound to a part of the region (IBTA 10.6.7.2.1).
    pub(crate) fn check_bind(
        &self,
        pd: PdId,
        part: Sge,
        length: u64,
        access: AccessFlags,
    ) -> Result<(), AccessError> {
        let state = self.state.lock();
        let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
        let may_write =
            !access.intersects(writes) || state.access.contains(AccessFlags::LOCAL_WRITE);
        let offset = part.addr.checked_sub(state.start).ok_or(AccessError)?;
        let end = offset.checked_add(length).ok_or(AccessError)?;
        let allowed = state.is_named(pd, part.lkey)
            && state.access.contains(AccessFlags::MW_BIND)
            && may_write
            && end <= state.length;
        allowed.then_some(()).ok_or(AccessError)
    }

    /// Changes the state.
    fn change<R>(&self, op: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock();
        let result = op(&mut state);
        // Nobody else changes it at the same time. Pairs with the load in `Entry::is_current`.
        let changes = self.changes.load(Ordering::Relaxed).wrapping_add(1);
        self.changes.store(changes, Ordering::Release);
        result
    }

    /// The pages of a region that is registered by work requests.
    fn page_list(&self) -> Option<&PageList> {
        self.listed.as_ref()?.page_list()
    }

    fn register(region: &rdma::Mr<Self>, pd: PdId, request: &RegMr) -> Result<(), AccessError> {
        let list = region.page_list().ok_or(AccessError)?;
        let (start, length) = region.mapped();
        let is_own_key = request.key >> KEY_BITS == region.number;
        region.change(|state| {
            if state.phase != Phase::Free || state.pd != pd || !is_own_key {
                return Err(AccessError);
            }
            // SAFETY: The request is one of the kernel user that has mapped the pages: only a kernel user
            // can post it, and the domain is the region's. `invalidate` closes the list before it is
            // completed, and deregistration waits until nobody has the region.
            state.offset = unsafe { list.open(start, length) }.map_err(|_| AccessError)?;
            state.phase = Phase::Valid;
            state.key = request.key;
            state.access = request.access;
            state.start = start;
            state.length = length;
            Ok(())
        })
    }

    fn invalidate(&self, pd: PdId, key: u32) -> Result<(), AccessError> {
        let list = self.page_list().ok_or(AccessError)?;
        self.change(|state| {
            if !state.is_named(pd, key) {
                return Err(AccessError);
            }
            state.phase = Phase::Closing;
            Ok(())
        })?;
        // After this its pages are the owner's again, to do with them what it likes.
        list.close();
        self.change(|state| state.phase = Phase::Free);
        Ok(())
    }

    /// Counts a window that is bound to the region, unless that is being deregistered.
    pub(crate) fn window_bound(&self) -> Result<(), AccessError> {
        self.windows
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n: u32| {
                n.checked_add(1)
            })
            .map(|_| ())
            .map_err(|_| AccessError)
    }

    /// Counts a window out.
    pub(crate) fn window_gone(&self) {
        self.windows.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends the access by a key (IBTA 10.6.5), for a queue pair of that protection domain and number. Regions
/// of processes have no such keys.
pub(crate) fn invalidate(keys: &Keys, pd: PdId, key: u32, qpn: u32) -> Result<(), AccessError> {
    match keys.get(key >> KEY_BITS).ok_or(AccessError)? {
        Named::Window(window) => window.invalidate(key, qpn),
        Named::Region(region) => region.invalidate(pd, key),
    }
}

/// Registers the memory that has been mapped in a region (IBTA 10.6.4.4, Fast Register).
pub(crate) fn register(keys: &Keys, pd: PdId, request: &RegMr) -> Result<(), AccessError> {
    match keys.get(request.mr).ok_or(AccessError)? {
        Named::Region(region) => Mr::register(&region, pd, request),
        Named::Window(_) => Err(AccessError),
    }
}

/// The access flags of the core's, of those of `ib_core`: both have Linux's numbers.
fn access_flags(access: rdma::AccessFlags) -> Result<AccessFlags> {
    let required = access.bits() & !AccessFlags::OPTIONAL.bits();
    AccessFlags::try_from(required).map_err(|_| EINVAL)
}

fn get(
    device: &Device<Ferroce>,
    memory: UserMemory,
    access: rdma::AccessFlags,
) -> Result<Arc<Umem>> {
    let length = usize::try_from(memory.length)?;
    Ok(Arc::new(
        Umem::get(device, memory.start, length, access)?,
        GFP_KERNEL_ACCOUNT,
    )?)
}

/// Reserves a key: a number in the table, with a low byte that it did not have lately.
pub(crate) fn reserve_key(keys: &Keys, flags: Flags) -> Result<u32> {
    let reserved = keys.reserve(flags)?;
    let variant = reserved.variant();
    Ok(reserved.keep() << KEY_BITS | u32::from(variant))
}

/// Gives the number of a key up. The key is the last one that the number had.
pub(crate) fn give_up_key(keys: &Keys, key: u32) {
    let [variant, ..] = key.to_le_bytes();
    keys.remove_variant(key >> KEY_BITS, variant);
}

/// Gives a region a key of its own.
fn reserve(mr: &mut NewMr<'_, Mr>, pd: &rdma::Pd<Pd>, flags: Flags) -> Result<u32> {
    let key = reserve_key(&pd.device().keys, flags)?;
    mr.set_keys(key, key);
    Ok(key)
}

/// Makes a region of what is to be its state.
fn region(counted: Counted, state: State) -> impl PinInit<Mr, Error> {
    let listed = state.memory.page_list().map(|_| state.memory.clone());
    try_pin_init!(Mr {
        number: state.key >> KEY_BITS,
        windows: AtomicU32::new(0),
        listed,
        state <- SpinLockBh::new(state, c"ferroce::Mr::state", static_lock_class!()),
        changes: AtomicU32::new(0),
        _counted: counted,
    }? Error)
}

#[vtable]
impl mr::Operations for Mr {
    type Device = Ferroce;

    fn reg_user(
        mr: &mut NewMr<'_, Self>,
        pd: &rdma::Pd<Pd>,
        memory: UserMemory,
        access: rdma::AccessFlags,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        if let Some(call) = call {
            call.none()?;
        }
        let device = pd.device();
        let flags = access_flags(access)?;
        if flags.intersects(AccessFlags::ON_DEMAND) && memory.length == u64::MAX {
            // All of a process's memory (implicit on-demand paging) is not offered.
            return Err(EINVAL);
        }
        let start = if flags.contains(AccessFlags::ZERO_BASED) {
            0
        } else {
            memory.virt_addr
        };
        let counted = device.quota.add(Kind::Mr)?;
        let umem = get(device, memory, access)?;
        Ok(region(
            counted,
            State {
                phase: Phase::Valid,
                key: reserve(mr, pd, UserCall::flags(call))?,
                pd: PdId::of(pd),
                access: flags,
                start,
                length: memory.length,
                memory: umem,
                offset: 0,
            },
        ))
    }

    fn created(mr: &rdma::Mr<Self>) -> Result {
        mr.device()
            .keys
            .put(mr.number, Named::Region(ARef::from(mr)));
        Ok(())
    }

    fn rereg_user(
        mr: &rdma::Mr<Self>,
        change: &Rereg<'_, rdma::Pd<Pd>>,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result {
        if let Some(call) = call {
            call.none()?;
        }
        // IBTA 11.2.8.7: not while windows are bound to it.
        if mr.windows.load(Ordering::Relaxed) > 0 {
            return Err(EBUSY);
        }
        let mut state = mr.state.lock().clone();
        if let Some(access) = change.access {
            state.access = access_flags(access)?;
            // Pages that were had for reading cannot be written to, and those that are pinned stay so.
            let writes = AccessFlags::LOCAL_WRITE
                .union(AccessFlags::REMOTE_WRITE)
                .union(AccessFlags::REMOTE_ATOMIC);
            let on_demand = state.access.intersects(AccessFlags::ON_DEMAND);
            if change.memory.is_none()
                && (state.access.intersects(writes) && !state.memory.is_writable()
                    || on_demand != state.memory.is_on_demand())
            {
                return Err(eopnotsupp());
            }
        }
        if let Some(pd) = change.pd {
            state.pd = PdId::of(pd);
        }
        if let Some(memory) = change.memory {
            let access = rdma::AccessFlags::from_bits(state.access.bits());
            state.memory = get(mr.device(), memory, access)?;
            state.start = match state.access.contains(AccessFlags::ZERO_BASED) {
                true => 0,
                false => memory.virt_addr,
            };
            state.length = memory.length;
        }
        let before = mr.change(|current| core::mem::replace(current, state));
        if change.memory.is_some() {
            // That gives pages back, where it may sleep: whatever packet still has them is done after this.
            crate::net::wait_for_bottom_halves();
        }
        drop(before);
        Ok(())
    }

    fn get_dma(
        mr: &mut NewMr<'_, Self>,
        pd: &rdma::Pd<Pd>,
        access: rdma::AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        let counted = pd.device().quota.add(Kind::Mr)?;
        // SAFETY: `State::check` lets nobody at it but by a key of the region, in its domain, which is one
        // of the kernel's, as are all of its queue pairs.
        let memory = Arc::new(unsafe { Umem::kernel() }, GFP_KERNEL)?;
        let access = access_flags(access)?;
        Ok(region(
            counted,
            State {
                phase: Phase::Valid,
                key: reserve(mr, pd, GFP_KERNEL)?,
                pd: PdId::of(pd),
                access,
                start: 0,
                length: u64::MAX,
                memory,
                offset: 0,
            },
        ))
    }

    fn alloc(
        mr: &mut NewMr<'_, Self>,
        pd: &rdma::Pd<Pd>,
        mr_type: MrType,
        max_pages: u32,
    ) -> Result<impl PinInit<Self, Error>> {
        if mr_type != MrType::MemReg {
            return Err(eopnotsupp());
        }
        if max_pages > MAX_FAST_REG_PAGES {
            return Err(EINVAL);
        }
        let counted = pd.device().quota.add(Kind::Mr)?;
        let memory = Arc::new(Umem::listed(max_pages)?, GFP_KERNEL)?;
        Ok(region(
            counted,
            State {
                phase: Phase::Free,
                key: reserve(mr, pd, GFP_KERNEL)?,
                pd: PdId::of(pd),
                access: AccessFlags::EMPTY,
                start: 0,
                length: 0,
                memory,
                offset: 0,
            },
        ))
    }

    fn map_start(mr: &rdma::Mr<Self>, page_size: u32) -> Result {
        mr.page_list().ok_or(EINVAL)?.start(page_size)
    }

    fn map_page(mr: &rdma::Mr<Self>, page: MappedPage) -> Result {
        mr.page_list().ok_or(EINVAL)?.push(page)
    }

    fn details(mr: &rdma::Mr<Self>, details: &mut Details<'_>) -> Result {
        let access = mr.state.lock().access;
        details
            .hex_u32(c"access", access.bits())?
            .string(
                c"memory",
                match access.intersects(AccessFlags::ON_DEMAND) {
                    true => c"on_demand",
                    false => c"pinned",
                },
            )?
            .u32(c"windows", mr.windows.load(Ordering::Relaxed))?;
        Ok(())
    }

    fn advise(pd: &rdma::Pd<Pd>, advice: MrAdvice, sges: &[rdma::Sge]) -> Result {
        let write = advice == MrAdvice::PrefetchWrite;
        for sge in sges {
            // The list can be long, and each entry 4 GiB: a process that is killed does not go on.
            if kernel::current!().signal_pending() {
                return Err(EINTR);
            }
            let sge = Sge {
                addr: sge.addr,
                length: sge.length,
                lkey: sge.lkey,
            };
            let keys = &pd.device().keys;
            // For no queue pair.
            let wanted = Wanted::local(PdId::of(pd), 0, sge, false);
            let range = Range::local(keys, &wanted).map_err(|_| EINVAL)?;
            if write && !range.memory.is_writable() {
                return Err(EPERM);
            }
            let fault = advice != MrAdvice::PrefetchNoFault;
            let length = sge.length as usize;
            range.memory.prefetch(range.offset, length, write, fault)?;
        }
        Ok(())
    }

    fn dereg(mr: &rdma::Mr<Self>) -> Result {
        // IBTA 11.2.8.5: not while windows are bound to it. Nor may one be from here on: this waits
        // until nobody has the region, and a window would.
        let order = Ordering::Relaxed;
        mr.windows
            .compare_exchange(0, DEREGISTERED, order, order)
            .map_err(|_| EBUSY)?;
        let key = mr.state.lock().key;
        give_up_key(&mr.device().keys, key);
        // A message that is being copied goes no further: this waits for its reference.
        mr.change(|state| state.phase = Phase::Closing);
        Ok(())
    }
}
