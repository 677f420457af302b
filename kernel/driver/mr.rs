// SPDX-License-Identifier: GPL-2.0

//! Memory regions, and the keys that name them.

mod lookup;

use super::{
    device::{Ferroce, Pd},
    mw::Mw,
    quota::{Counted, Kind},
    table::Table,
};
use crate::{
    key::{self, Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    rdma::{
        self, eopnotsupp,
        mr::{self, Rereg, UserMemory},
        umem::{MappedPage, PageList, Umem},
        Details, Device, MrAdvice, MrType, NewMr, UserCall,
    },
    region::{Change, HasWindows, Part, Region, ReregisterError},
    ring::{RegMr, Sge},
    verbs::AccessFlags,
};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
};

pub(crate) use lookup::{check_key, Cache, Lookup, Missing, Place, Range, Uncached};

/// What a key names.
#[derive(Clone)]
pub(crate) enum Named {
    Region(ARef<rdma::Mr<Mr>>),
    Window(ARef<rdma::Mw<Mw>>),
}

/// All keys of a device.
pub(crate) type Keys = Table<Named>;

/// The number of a protection domain. A domain outlives what is in it.
pub(crate) fn pd_id(pd: &rdma::Pd<Pd>) -> PdId {
    PdId::new(core::ptr::from_ref(pd).addr() as u64)
}

/// The driver's data for memory regions.
#[pin_data]
pub(crate) struct Mr {
    number: u32,
    /// Of a region that is registered by work requests: its memory, for pages to be mapped in any
    /// context.
    listed: Option<Arc<Umem>>,
    #[pin]
    state: SpinLockBh<State>,
    /// Counts the changes of the state: see [`Cache`].
    changes: AtomicU32,
    _counted: Counted,
}

/// A region, and the memory behind it.
#[derive(Clone)]
struct State {
    region: Region,
    memory: Arc<Umem>,
}

/// How many pages can be registered by a work request.
pub(crate) const MAX_FAST_REG_PAGES: u32 = 512;

impl Mr {
    /// Its number in the device's table of keys.
    pub(crate) fn number(&self) -> u32 {
        self.number
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

    fn register(mr: &rdma::Mr<Self>, pd: PdId, request: &RegMr) -> Result<(), AccessError> {
        let list = mr.page_list().ok_or(AccessError)?;
        let (start, length) = mr.mapped();
        mr.change(|state| {
            state.region.may_register(pd, request)?;
            // SAFETY: The request is one of the kernel user that has mapped the pages: only a kernel user
            // can post it, and the domain is the region's. `invalidate` closes the list before it is
            // completed, and deregistration waits until nobody has the region.
            let offset = unsafe { list.open(start, length) }.map_err(|_| AccessError)?;
            let offset = offset as u64;
            state.region.register(pd, request, (start, length), offset)
        })
    }

    fn invalidate(&self, pd: PdId, key: u32) -> Result<(), AccessError> {
        let list = self.page_list().ok_or(AccessError)?;
        self.change(|state| state.region.begin_invalidate(pd, key))?;
        // After this its pages are the owner's again, to do with them what it likes.
        list.close();
        self.change(|state| state.region.end_invalidate());
        Ok(())
    }

    /// Counts a window that is bound to a part of the region, if it may be.
    pub(crate) fn bind(&self, pd: PdId, part: &Part) -> Result<(), AccessError> {
        self.state.lock().region.bind(pd, part)
    }

    /// Counts a window out that is not bound to the region any more.
    pub(crate) fn unbind(&self) {
        self.state.lock().region.unbind();
    }
}

/// Ends the access by a key (IBTA 10.6.5), for a queue pair of that protection domain and number. Regions
/// of processes have no such keys. Returns what the key named.
pub(crate) fn invalidate(keys: &Keys, pd: PdId, key: u32, qpn: u32) -> Result<Named, AccessError> {
    let named = keys.get(key::number(key)).ok_or(AccessError)?;
    match &named {
        Named::Window(window) => window.invalidate(key, qpn)?,
        Named::Region(region) => region.invalidate(pd, key)?,
    }
    Ok(named)
}

impl Named {
    /// Waits for those who have found memory by a key that was [invalidated](invalidate). (Of a region, that
    /// has done so.) It sleeps.
    pub(crate) fn wait_for_users(&self) {
        if let Self::Window(window) = self {
            window.wait_for_users();
        }
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
    AccessFlags::required(access.bits()).map_err(|_| EINVAL)
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
    Ok(key::new(reserved.keep(), variant))
}

/// Gives the number of a key up. The key is the last one that the number had.
pub(crate) fn give_up_key(keys: &Keys, key: u32) {
    keys.remove_variant(key::number(key), key::variant(key));
}

/// Gives a region a key of its own.
fn reserve(mr: &mut NewMr<'_, Mr>, pd: &rdma::Pd<Pd>, flags: Flags) -> Result<u32> {
    let key = reserve_key(&pd.device().keys, flags)?;
    mr.set_keys(key, key);
    Ok(key)
}

/// Makes the driver's data of a region.
fn mr(counted: Counted, state: State) -> impl PinInit<Mr, Error> {
    let listed = state.memory.page_list().map(|_| state.memory.clone());
    try_pin_init!(Mr {
        number: key::number(state.region.key()),
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
        let counted = device.quota.add(Kind::Mr)?;
        let umem = get(device, memory, access)?;
        let key = reserve(mr, pd, UserCall::flags(call))?;
        let (start, length) = (memory.virt_addr, memory.length);
        Ok(self::mr(
            counted,
            State {
                region: Region::registered(key, pd_id(pd), flags, start, length),
                memory: umem,
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
        let (before, mut memory) = {
            let state = mr.state.lock();
            (state.region, state.memory.clone())
        };
        let access = change.access.map(access_flags).transpose()?;
        let checked =
            before.check_reregister(access, change.memory.is_some(), memory.is_writable());
        checked.map_err(|error| match error {
            ReregisterError::HasWindows => EBUSY,
            ReregisterError::Unsupported => eopnotsupp(),
        })?;
        if let Some(new) = change.memory {
            let access = access.unwrap_or(before.access());
            let access = rdma::AccessFlags::from_bits(access.bits());
            memory = get(mr.device(), new, access)?;
        }
        let wanted = Change {
            access,
            pd: change.pd.map(pd_id),
            memory: change.memory.map(|new| (new.virt_addr, new.length)),
        };
        // A window may have been bound in the meantime.
        let before = mr.change(|state| -> Result<_> {
            state
                .region
                .reregister(&wanted)
                .map_err(|HasWindows| EBUSY)?;
            Ok(core::mem::replace(&mut state.memory, memory))
        })?;
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
        // SAFETY: `Region::check` lets nobody at it but by a key of the region, in its domain, which is one
        // of the kernel's, as are all of its queue pairs.
        let memory = Arc::new(unsafe { Umem::kernel() }, GFP_KERNEL)?;
        let access = access_flags(access)?;
        let key = reserve(mr, pd, GFP_KERNEL)?;
        Ok(self::mr(
            counted,
            State {
                region: Region::registered(key, pd_id(pd), access, 0, u64::MAX),
                memory,
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
        let key = reserve(mr, pd, GFP_KERNEL)?;
        Ok(self::mr(
            counted,
            State {
                region: Region::free(key, pd_id(pd)),
                memory,
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
        let region = mr.state.lock().region;
        let access = region.access();
        details
            .hex_u32(c"access", access.bits())?
            .string(
                c"memory",
                match access.intersects(AccessFlags::ON_DEMAND) {
                    true => c"on_demand",
                    false => c"pinned",
                },
            )?
            .u32(c"windows", region.windows())?;
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
            let wanted = Access::local(pd_id(pd), 0, sge, false);
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
        // A message that is being copied goes no further: this waits for its reference. Nor may a window be
        // bound from here on, which would have one.
        let key = mr.change(|state| -> Result<_> {
            state.region.deregister().map_err(|HasWindows| EBUSY)?;
            Ok(state.region.key())
        })?;
        give_up_key(&mr.device().keys, key);
        Ok(())
    }
}
