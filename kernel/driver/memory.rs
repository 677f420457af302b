// SPDX-License-Identifier: GPL-2.0

//! Memory regions, the keys that name them, and what is behind a key.

use super::{
    device::{Ferroce, Pd},
    table::Table,
    window::Mw,
};
use crate::{
    local::{AccessError, AtomicChange, Fault, Region},
    net::SpinLockBh,
    rdma::{
        self, eopnotsupp,
        mr::{self, Rereg, UserMemory},
        umem::{PageList, Umem},
        Details, Device, MrAdvice, MrType, NewMr, UserCall,
    },
    ring::{RegMr, Remote, Sge},
    verbs::{limits::ATOMIC_LENGTH, AccessFlags},
};
use core::{
    cell::OnceCell,
    sync::atomic::{AtomicU32, Ordering},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc},
};

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

    /// The same, if a key names the region, and allows the access (IBTA 10.6.3.1).
    fn check(&self, wanted: &Wanted) -> Result<usize, AccessError> {
        if !self.is_named(wanted.pd, wanted.key) || !self.access.contains(wanted.access) {
            return Err(AccessError);
        }
        self.range(wanted.addr, wanted.length)
    }
}

/// How many pages can be registered by a work request.
pub(crate) const MAX_FAST_REG_PAGES: u32 = 512;

/// A range of a region, for a queue pair.
///
/// The memory is given back, where it may sleep, by whoever deregisters the region or registers it anew.
/// So a range must not be kept where bottom halves are on, but by a thread that may sleep.
#[derive(Clone)]
pub(crate) struct Range {
    memory: Arc<Umem>,
    offset: usize,
    /// In bytes.
    length: u32,
    /// The number of the queue pair, which is told of what is missing.
    qpn: u32,
    /// Whoever deregisters the region waits until nobody uses it.
    region: ARef<rdma::Mr<Mr>>,
}

/// What a work request wants of a region.
#[derive(Clone, Copy)]
struct Wanted {
    pd: PdId,
    /// The number of the queue pair.
    qpn: u32,
    key: u32,
    addr: u64,
    length: u32,
    access: AccessFlags,
}

impl Wanted {
    fn local(pd: PdId, qpn: u32, sge: Sge, write: bool) -> Self {
        Self {
            pd,
            qpn,
            key: sge.lkey,
            addr: sge.addr,
            length: sge.length,
            // To read is allowed always.
            access: if write {
                AccessFlags::LOCAL_WRITE
            } else {
                AccessFlags::EMPTY
            },
        }
    }

    fn remote(pd: PdId, qpn: u32, remote: Remote, length: u32, access: AccessFlags) -> Self {
        Self {
            pd,
            qpn,
            key: remote.rkey,
            addr: remote.addr,
            length,
            access,
        }
    }
}

/// How the keys of work requests are looked up.
pub(crate) trait Lookup {
    /// What is found.
    type Region: Region;

    /// By a local key, for the queue pair of that number.
    fn local(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        sge: Sge,
        write: bool,
    ) -> Result<Self::Region, AccessError>;

    /// By a remote key, for the queue pair of that number.
    fn remote(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Self::Region, AccessError>;
}

/// Each time in the table of keys.
pub(crate) struct Anew;

impl Lookup for Anew {
    type Region = Range;

    fn local(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        sge: Sge,
        write: bool,
    ) -> Result<Range, AccessError> {
        Range::local(keys, pd, qpn, sge, write)
    }

    fn remote(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        match keys.get(remote.rkey >> KEY_BITS) {
            Some(Named::Window(window)) => window.remote(pd, qpn, remote, length, access),
            Some(Named::Region(region)) => {
                Range::new(region, &Wanted::remote(pd, qpn, remote, length, access))
            }
            None => Err(AccessError),
        }
    }
}

impl Range {
    fn new(region: ARef<rdma::Mr<Mr>>, wanted: &Wanted) -> Result<Self, AccessError> {
        let (memory, offset) = {
            let state = region.state.lock();
            let offset = state.check(wanted)?;
            (state.memory.clone(), offset)
        };
        Ok(Self {
            memory,
            offset,
            length: wanted.length,
            qpn: wanted.qpn,
            region,
        })
    }

    /// By a local key, for the queue pair of that number.
    pub(crate) fn local(
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        sge: Sge,
        write: bool,
    ) -> Result<Self, AccessError> {
        match keys.get(sge.lkey >> KEY_BITS) {
            Some(Named::Region(region)) => Self::new(region, &Wanted::local(pd, qpn, sge, write)),
            _ => Err(AccessError),
        }
    }

    /// A range of a region whose window allows the access.
    pub(crate) fn of(
        region: &ARef<rdma::Mr<Mr>>,
        addr: u64,
        length: u32,
        qpn: u32,
    ) -> Result<Self, AccessError> {
        let (memory, offset) = {
            let state = region.state.lock();
            (state.memory.clone(), state.range(addr, length)?)
        };
        Ok(Self {
            memory,
            offset,
            length,
            qpn,
            region: region.clone(),
        })
    }
}

/// Regions that were looked up lately, to be found without a lock and without a reference being taken.
///
/// Whoever deregisters one of them waits until this is dropped: so it is to be, after a batch. What else
/// may happen to a region is seen at once, by the count of its changes.
pub(crate) struct Cache {
    /// Filled from the front.
    entries: [OnceCell<Entry>; CACHED],
}

/// A peer's region and one's own, each way.
const CACHED: usize = 4;

struct Entry {
    /// As of so many changes.
    state: State,
    changes: u32,
    region: ARef<rdma::Mr<Mr>>,
}

impl Entry {
    fn new(region: ARef<rdma::Mr<Mr>>) -> Self {
        let (state, changes) = {
            let state = region.state.lock();
            // Relaxed: it changes with the lock held.
            (state.clone(), region.changes.load(Ordering::Relaxed))
        };
        Self {
            state,
            changes,
            region,
        }
    }

    fn is_current(&self) -> bool {
        // Pairs with the store in `Mr::change`: whoever has seen that call return finds it changed.
        self.region.changes.load(Ordering::Acquire) == self.changes
    }

    fn lend(&self, wanted: &Wanted) -> Result<Lent<'_>, AccessError> {
        let offset = self.state.check(wanted)?;
        Ok(Lent::Cached(&self.state.memory, offset))
    }
}

/// A range of a region that a [`Cache`] has, or that it has no room for.
pub(crate) enum Lent<'a> {
    Cached(&'a Umem, usize),
    Range(Range),
}

impl Cache {
    pub(crate) fn new() -> Self {
        Self {
            entries: [const { OnceCell::new() }; CACHED],
        }
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map_while(OnceCell::get)
    }

    /// In the protection domain of a region, no other has its key: not even of another device, whose
    /// domains are others. The domain is there as long as the region.
    fn find(&self, wanted: &Wanted) -> Option<Result<Lent<'_>, AccessError>> {
        let entry = self
            .entries()
            .find(|entry| entry.state.key == wanted.key && entry.state.pd == wanted.pd)?;
        entry.is_current().then(|| entry.lend(wanted))
    }

    fn add(&self, region: ARef<rdma::Mr<Mr>>, wanted: &Wanted) -> Result<Lent<'_>, AccessError> {
        let range = |region| Range::new(region, wanted).map(Lent::Range);
        let is_here = self
            .entries()
            .any(|entry| core::ptr::eq(&*entry.region, &*region));
        let free = self.entries.iter().find(|entry| entry.get().is_none());
        let Some(free) = free.filter(|_| !is_here) else {
            return range(region);
        };
        let entry = Entry::new(region);
        // To reach memory on demand may take any time, which whoever deregisters it is not to wait for
        // several times.
        if entry.state.memory.is_on_demand() {
            return range(entry.region);
        }
        free.get_or_init(|| entry).lend(wanted)
    }
}

impl<'a> Lookup for &'a Cache {
    type Region = Lent<'a>;

    fn local(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        sge: Sge,
        write: bool,
    ) -> Result<Lent<'a>, AccessError> {
        let wanted = Wanted::local(pd, qpn, sge, write);
        if let Some(found) = self.find(&wanted) {
            return found;
        }
        match keys.get(sge.lkey >> KEY_BITS) {
            Some(Named::Region(region)) => self.add(region, &wanted),
            _ => Err(AccessError),
        }
    }

    fn remote(
        &self,
        keys: &Keys,
        pd: PdId,
        qpn: u32,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Lent<'a>, AccessError> {
        let wanted = Wanted::remote(pd, qpn, remote, length, access);
        if let Some(found) = self.find(&wanted) {
            return found;
        }
        match keys.get(remote.rkey >> KEY_BITS) {
            Some(Named::Window(window)) => window
                .remote(pd, qpn, remote, length, access)
                .map(Lent::Range),
            Some(Named::Region(region)) => self.add(region, &wanted),
            None => Err(AccessError),
        }
    }
}

/// Memory on demand that a bottom half has found missing.
pub(crate) struct Missing {
    range: Range,
    at: u32,
    length: usize,
    write: bool,
}

/// Which memory was missing; that may be gone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    memory: usize,
    offset: usize,
    write: bool,
}

/// How much more is had at once, as it will be needed next, in bytes.
const AHEAD: usize = 1 << 20;

impl Missing {
    fn offset(&self) -> usize {
        self.range.offset + self.at as usize
    }

    /// Has it be there, and more of the range if there is.
    pub(crate) fn fault_in(&self) -> Result {
        let (from, memory) = (self.offset(), &self.range.memory);
        memory.prefetch(from, self.length, self.write, true)?;
        let end = self.range.offset + self.range.length as usize;
        let from = from + self.length;
        let rest = end.saturating_sub(from).min(AHEAD);
        // That may be missing for good. Who comes to it will be told.
        let _ = memory.prefetch(from, rest, self.write, true);
        Ok(())
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            memory: Arc::as_ptr(&self.range.memory).addr(),
            offset: self.offset(),
            write: self.write,
        }
    }
}

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
            state.offset = list.open(start, length).map_err(|_| AccessError)?;
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

/// Memory, and where a range begins there.
trait Located {
    fn located(&self) -> (&Umem, usize);

    /// What becomes of an access to `length` bytes from `at` on.
    fn accessed<T>(
        &self,
        result: Result<T>,
        at: u32,
        length: usize,
        write: bool,
    ) -> Result<T, Fault>;
}

impl Located for Range {
    fn located(&self) -> (&Umem, usize) {
        (&self.memory, self.offset)
    }

    fn accessed<T>(
        &self,
        result: Result<T>,
        at: u32,
        length: usize,
        write: bool,
    ) -> Result<T, Fault> {
        result.map_err(|error| {
            if error != EAGAIN {
                return Fault::Gone;
            }
            let Some(qp) = self.region.device().qps.get(self.qpn) else {
                return Fault::Gone;
            };
            let missing = Missing {
                range: self.clone(),
                at,
                length,
                write,
            };
            qp.connection.missing(&qp, missing)
        })
    }
}

impl Located for Lent<'_> {
    fn located(&self) -> (&Umem, usize) {
        match self {
            Self::Cached(memory, offset) => (memory, *offset),
            Self::Range(range) => range.located(),
        }
    }

    fn accessed<T>(
        &self,
        result: Result<T>,
        at: u32,
        length: usize,
        write: bool,
    ) -> Result<T, Fault> {
        match self {
            // Never on demand.
            Self::Cached(..) => result.map_err(|_| Fault::Gone),
            Self::Range(range) => range.accessed(result, at, length, write),
        }
    }
}

impl<T: Located> Region for T {
    fn fault_in(&self, length: u32, write: bool) -> Result<(), Fault> {
        let (memory, offset) = self.located();
        memory
            .prefetch(offset, length as usize, write, true)
            .map_err(|_| Fault::Gone)
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), Fault> {
        let (memory, offset) = self.located();
        let (source, source_offset) = from.located();
        source
            .copy_to(
                source_offset + from_at as usize,
                memory,
                offset + at as usize,
                length as usize,
            )
            .map_err(|_| Fault::Gone)
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        let (memory, offset) = self.located();
        let written = memory.write(offset + at as usize, bytes);
        self.accessed(written, at, bytes.len(), true)
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let (memory, offset) = self.located();
        let read = memory.read(offset + at as usize, bytes);
        self.accessed(read, at, bytes.len(), false)
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        let (memory, offset) = self.located();
        let before = memory.with_atomic_u64(offset, |word| match change {
            AtomicChange::Add(n) => word.fetch_add(n, Ordering::SeqCst),
            AtomicChange::CompareSwap { compare, swap } => word
                .compare_exchange(compare, swap, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|before| before),
            AtomicChange::Store(bytes) => word.swap(u64::from_ne_bytes(bytes), Ordering::SeqCst),
        });
        self.accessed(before, 0, ATOMIC_LENGTH as usize, true)
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
        GFP_KERNEL,
    )?)
}

/// Gives a region a key of its own.
fn reserve(mr: &mut NewMr<'_, Mr>, pd: &rdma::Pd<Pd>) -> Result<u32> {
    let key = pd.device().keys.reserve(GFP_KERNEL)?.keep() << KEY_BITS;
    mr.set_keys(key, key);
    Ok(key)
}

/// Makes a region of what is to be its state.
fn region(state: State) -> impl PinInit<Mr, Error> {
    let listed = state.memory.page_list().map(|_| state.memory.clone());
    try_pin_init!(Mr {
        number: state.key >> KEY_BITS,
        windows: AtomicU32::new(0),
        listed,
        state <- SpinLockBh::new(state, c"ferroce::Mr::state", static_lock_class!()),
        changes: AtomicU32::new(0),
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
        let umem = get(device, memory, access)?;
        Ok(region(State {
            phase: Phase::Valid,
            key: reserve(mr, pd)?,
            pd: PdId::of(pd),
            access: flags,
            start,
            length: memory.length,
            memory: umem,
            offset: 0,
        }))
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
        let memory = Arc::new(Umem::kernel(), GFP_KERNEL)?;
        let access = access_flags(access)?;
        Ok(region(State {
            phase: Phase::Valid,
            key: reserve(mr, pd)?,
            pd: PdId::of(pd),
            access,
            start: 0,
            length: u64::MAX,
            memory,
            offset: 0,
        }))
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
        let memory = Arc::new(Umem::listed(max_pages)?, GFP_KERNEL)?;
        Ok(region(State {
            phase: Phase::Free,
            key: reserve(mr, pd)?,
            pd: PdId::of(pd),
            access: AccessFlags::EMPTY,
            start: 0,
            length: 0,
            memory,
            offset: 0,
        }))
    }

    fn map_start(mr: &rdma::Mr<Self>, page_size: u32) -> Result {
        mr.page_list().ok_or(EINVAL)?.start(page_size)
    }

    fn map_page(mr: &rdma::Mr<Self>, addr: u64) -> Result {
        mr.page_list().ok_or(EINVAL)?.push(addr)
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
            let range = Range::local(keys, PdId::of(pd), 0, sge, false).map_err(|_| EINVAL)?;
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
        mr.device().keys.remove(mr.number);
        Ok(())
    }
}
