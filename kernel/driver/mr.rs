// SPDX-License-Identifier: GPL-2.0

//! Memory regions, and the keys that name them.

mod lookup;

use super::{
    device::{Ferroce, Pd},
    dm::Dm,
    mw::Mw,
    quota::{Counted, Kind},
    table::Table,
};
use crate::{
    key::{self, Access, PdId},
    local::AccessError,
    net::SpinLockBh,
    published::Published,
    rdma::{
        self, eopnotsupp,
        mr::{self, DmPart, Rereg, UserMemory},
        rcu::{RcuArc, RcuSlot},
        umem::{MappedPage, PageList, Umem},
        Details, Device, MrAdvice, MrType, NewMr, UserCall,
    },
    region::{self, Change, HasWindows, Part, Region, ReregisterError},
    ring::{RegMr, Sge},
    verbs::AccessFlags,
};
use kernel::{
    alloc::Flags,
    prelude::*,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        static_lock_class,
    },
};

pub(crate) use lookup::{check_key, Cache, Lookup, Missing, Place, Range, Uncached};

/// A region that was found by a key.
pub(crate) type FoundMr = RcuArc<ARef<rdma::Mr<Mr>>>;

/// A window that was found by a key.
pub(crate) type FoundMw = RcuArc<ARef<rdma::Mw<Mw>>>;

/// What a key names: one of them at most.
#[derive(Default)]
pub(crate) struct Named {
    pub(crate) region: RcuSlot<ARef<rdma::Mr<Mr>>>,
    pub(crate) window: RcuSlot<ARef<rdma::Mw<Mw>>>,
}

/// All keys of a device.
pub(crate) type Keys = Table<Named>;

/// What was found by a key.
pub(crate) enum Found {
    Region(FoundMr),
    Window(FoundMw),
}

/// Finds what a key names.
fn find(keys: &Keys, key: u32) -> Result<Found, AccessError> {
    let named = keys.entry(key::number(key)).ok_or(AccessError)?;
    let region = named.region.get().map(Found::Region);
    let found = region.or_else(|| named.window.get().map(Found::Window));
    found.ok_or(AccessError)
}

/// Finds the region that a key names.
pub(crate) fn find_region(keys: &Keys, key: u32) -> Result<FoundMr, AccessError> {
    let named = keys.entry(key::number(key)).ok_or(AccessError)?;
    named.region.get().ok_or(AccessError)
}

/// Finds the window that a key names.
pub(crate) fn find_window(keys: &Keys, key: u32) -> Result<FoundMw, AccessError> {
    let named = keys.entry(key::number(key)).ok_or(AccessError)?;
    named.window.get().ok_or(AccessError)
}

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
    listed: Option<RcuArc<Umem>>,
    #[pin]
    region: SpinLockBh<Region>,
    /// The memory behind the region. It changes with the lock held.
    memory: RcuSlot<Umem>,
    /// The region, and the number of its changes and those of its memory, for lookups.
    published: Published<{ region::WORDS }>,
    _counted: Counted,
}

/// A region, and the memory behind it.
struct State {
    region: Region,
    memory: RcuArc<Umem>,
    /// As of so many changes.
    changes: u32,
}

/// How many pages can be registered by a work request.
pub(crate) const MAX_FAST_REG_PAGES: u32 = 512;

impl Mr {
    /// Its number in the device's table of keys.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Changes the region, and its memory.
    fn change<R>(&self, op: impl FnOnce(&mut Region) -> R) -> R {
        let mut region = self.region.lock();
        self.published.change(|| {
            let result = op(&mut region);
            (region.words(), result)
        })
    }

    /// The region and its memory as they are now. Without a lock, unless they are just being changed.
    fn state(&self) -> Result<State, AccessError> {
        let read = |words| (Region::from_words(&words), self.memory.get());
        let ((region, memory), changes) = self.published.read(read).unwrap_or_else(|| {
            let region = self.region.lock();
            ((*region, self.memory.get()), self.published.changes())
        });
        Ok(State {
            region,
            memory: memory.ok_or(AccessError)?,
            changes,
        })
    }

    /// The pages of a region that is registered by work requests.
    fn page_list(&self) -> Option<&PageList> {
        self.listed.as_ref()?.page_list()
    }

    fn register(mr: &rdma::Mr<Self>, pd: PdId, request: &RegMr) -> Result<(), AccessError> {
        let list = mr.page_list().ok_or(AccessError)?;
        let (start, length) = mr.mapped();
        mr.change(|region| {
            region.may_register(pd, request)?;
            // SAFETY: The request is one of the kernel user that has mapped the pages: only a kernel user
            // can post it, and the domain is the region's. `invalidate` closes the list before it is
            // completed, and deregistration waits until nobody has the region.
            let offset = unsafe { list.open(start, length) }.map_err(|_| AccessError)?;
            let offset = offset as u64;
            region.register(pd, request, (start, length), offset)
        })
    }

    fn invalidate(&self, pd: PdId, key: u32) -> Result<(), AccessError> {
        let list = self.page_list().ok_or(AccessError)?;
        self.change(|region| region.begin_invalidate(pd, key))?;
        // After this its pages are the owner's again, to do with them what it likes.
        list.close();
        self.change(Region::end_invalidate);
        Ok(())
    }

    /// Counts a window that is bound to a part of the region, if it may be.
    pub(crate) fn bind(&self, pd: PdId, part: &Part) -> Result<(), AccessError> {
        self.region.lock().bind(pd, part)
    }

    /// Counts a window out that is not bound to the region any more.
    pub(crate) fn unbind(&self) {
        self.region.lock().unbind();
    }
}

/// Ends the access by a key (IBTA 10.6.5), for a queue pair of that protection domain and number. Regions
/// of processes have no such keys. Returns what the key named.
pub(crate) fn invalidate(keys: &Keys, pd: PdId, key: u32, qpn: u32) -> Result<Found, AccessError> {
    let found = find(keys, key)?;
    match &found {
        Found::Window(window) => window.invalidate(key, qpn)?,
        Found::Region(region) => region.invalidate(pd, key)?,
    }
    Ok(found)
}

impl Found {
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
    let named = keys.entry(request.mr).ok_or(AccessError)?;
    let region = named.region.get().ok_or(AccessError)?;
    Mr::register(&region, pd, request)
}

/// The access flags of the core's, of those of `ib_core`: both have Linux's numbers.
fn access_flags(access: rdma::AccessFlags) -> Result<AccessFlags> {
    AccessFlags::required(access.bits()).map_err(|_| EINVAL)
}

fn get(
    device: &Device<Ferroce>,
    memory: UserMemory,
    access: rdma::AccessFlags,
) -> Result<RcuArc<Umem>> {
    let length = usize::try_from(memory.length)?;
    Ok(RcuArc::new(
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

/// Lets an object be found by its key, in the place that is for its kind.
pub(crate) fn publish<T>(
    keys: &Keys,
    key: u32,
    object: ARef<T>,
    place: impl Fn(&Named) -> &RcuSlot<ARef<T>>,
) -> Result
where
    T: AlwaysRefCounted,
{
    let found = RcuArc::new(object, GFP_KERNEL_ACCOUNT).inspect_err(|_| give_up_key(keys, key))?;
    if let Some(named) = keys.entry(key::number(key)) {
        place(named).replace(Some(found));
    }
    Ok(())
}

/// Gives the number of a key up. The key is the last one that the number had.
pub(crate) fn give_up_key(keys: &Keys, key: u32) {
    if let Some(named) = keys.entry(key::number(key)) {
        named.region.replace(None);
        named.window.replace(None);
    }
    keys.give_up(key::number(key), key::variant(key));
}

/// Gives a region a key of its own.
fn reserve(mr: &mut NewMr<'_, Mr>, pd: &rdma::Pd<Pd>, flags: Flags) -> Result<u32> {
    let key = reserve_key(&pd.device().keys, flags)?;
    mr.set_keys(key, key);
    Ok(key)
}

/// Makes the driver's data of a region.
fn mr(counted: Counted, region: Region, memory: RcuArc<Umem>) -> impl PinInit<Mr, Error> {
    let listed = memory.page_list().map(|_| memory.clone());
    try_pin_init!(Mr {
        number: key::number(region.key()),
        listed,
        published: Published::new(region.words()),
        region <- SpinLockBh::new(region, c"ferroce::Mr::region", static_lock_class!()),
        memory: RcuSlot::new(memory),
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
        let region = Region::registered(key, pd_id(pd), flags, start, length);
        Ok(self::mr(counted, region, umem))
    }

    fn created(mr: &rdma::Mr<Self>) -> Result {
        publish(&mr.device().keys, mr.lkey(), ARef::from(mr), |named| {
            &named.region
        })
    }

    fn rereg_user(
        mr: &rdma::Mr<Self>,
        change: &Rereg<'_, rdma::Pd<Pd>>,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result {
        if let Some(call) = call {
            call.none()?;
        }
        let State {
            region: before,
            mut memory,
            ..
        } = mr.state().map_err(|_| EINVAL)?;
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
        let before = mr.change(|region| -> Result<_> {
            region.reregister(&wanted).map_err(|HasWindows| EBUSY)?;
            Ok(mr.memory.replace(Some(memory)))
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
        let memory = RcuArc::new(unsafe { Umem::kernel() }, GFP_KERNEL)?;
        let access = access_flags(access)?;
        let key = reserve(mr, pd, GFP_KERNEL)?;
        let region = Region::registered(key, pd_id(pd), access, 0, u64::MAX);
        Ok(self::mr(counted, region, memory))
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
        let memory = RcuArc::new(Umem::listed(max_pages)?, GFP_KERNEL)?;
        let key = reserve(mr, pd, GFP_KERNEL)?;
        Ok(self::mr(counted, Region::free(key, pd_id(pd)), memory))
    }

    fn reg_dm(
        mr: &mut NewMr<'_, Self>,
        pd: &rdma::Pd<Pd>,
        part: &DmPart<'_, rdma::Dm<Dm>>,
        access: rdma::AccessFlags,
    ) -> Result<impl PinInit<Self, Error>> {
        let access = access_flags(access)?;
        if access.intersects(AccessFlags::ON_DEMAND) {
            return Err(EINVAL);
        }
        let counted = pd.device().quota.add(Kind::Mr)?;
        let memory = part.dm.part(part.offset, part.length)?;
        let memory = RcuArc::new(memory, GFP_KERNEL_ACCOUNT)?;
        let key = reserve(mr, pd, GFP_KERNEL_ACCOUNT)?;
        let region = Region::registered(key, pd_id(pd), access, 0, part.length);
        Ok(self::mr(counted, region, memory))
    }

    fn map_start(mr: &rdma::Mr<Self>, page_size: u32) -> Result {
        mr.page_list().ok_or(EINVAL)?.start(page_size)
    }

    fn map_page(mr: &rdma::Mr<Self>, page: MappedPage) -> Result {
        mr.page_list().ok_or(EINVAL)?.push(page)
    }

    fn details(mr: &rdma::Mr<Self>, details: &mut Details<'_>) -> Result {
        let region = *mr.region.lock();
        let access = region.access();
        details
            .hex_u32(c"access", access.bits())?
            .string(
                c"memory",
                match access.intersects(AccessFlags::ON_DEMAND) {
                    true => c"on_demand",
                    false if mr.is_dm() => c"device",
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
        let key = mr.change(|region| -> Result<_> {
            region.deregister().map_err(|HasWindows| EBUSY)?;
            Ok(region.key())
        })?;
        give_up_key(&mr.device().keys, key);
        Ok(())
    }
}
