// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions, memory windows, and the keys that name them.

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ferroce_core::local::AccessError;
use ferroce_core::ring::BindMw;
use ferroce_core::verbs::AccessFlags;
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::region::{Change, HasWindows, Part, Region, ReregisterError};
use ferroce_device::window::{Bind, Bound, Kind, Window};

use crate::lock::Guard;
use crate::peer::Peer;
use crate::process::Process;
use crate::segment::{kind, KeyRecord};
use crate::side::Range;
use crate::table::{self, Uses};
use crate::taken::step;
use crate::{reach, Errno, Result};

/// A protection domain.
pub struct Pd {
    /// The process that it is of.
    pub process: &'static Process,
    /// Its number, which tells it apart from the others of the process.
    pub number: u32,
    /// The objects in it.
    pub uses: Uses,
}

impl Pd {
    /// A new one.
    pub fn new(process: &'static Process) -> Self {
        /// In a child it goes on where the parent's was: none has the number of another.
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self {
            process,
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            uses: Uses::default(),
        }
    }

    /// As the device names it.
    pub fn id(&self) -> PdId {
        id(self.number)
    }
}

/// The protection domain of a number.
pub const fn id(number: u32) -> PdId {
    PdId::new(number as u64)
}

/// What is at a record, with the lock of the keys held.
enum Named {
    Region(Region),
    Window(Window<u32>),
}

fn named(record: &KeyRecord) -> Option<Named> {
    let words = record.words.load();
    match record.kind.load(Ordering::Relaxed) {
        kind::REGION => Some(Named::Region(Region::from_words(&words))),
        kind::WINDOW => {
            let words = words.first_chunk()?;
            Some(Named::Window(Window::from_words(words)))
        }
        _ => None,
    }
}

impl Named {
    /// As a record has it.
    fn words(&self) -> (u32, [u32; ferroce_device::region::WORDS]) {
        match self {
            Self::Region(region) => (kind::REGION, region.words()),
            Self::Window(window) => {
                let mut words = [0; ferroce_device::region::WORDS];
                let window = window.words(|key| *key);
                words
                    .iter_mut()
                    .zip(window)
                    .for_each(|(to, from)| *to = from);
                (kind::WINDOW, words)
            }
        }
    }
}

/// The keys of a process, which nobody changes meanwhile.
struct Keys<'a> {
    peer: &'a Peer,
    _guard: Guard<'a>,
}

/// Regions of two processes that were looked up lately, to be found without a lock.
///
/// A thread that uses it has entered the processes (`Peer::enter`). Deregistering a region waits for such.
#[derive(Default)]
pub struct Cache {
    entries: [Cell<Option<Entry>>; CACHED],
    /// Which is replaced next.
    next: Cell<usize>,
}

/// A peer's region and one's own, each way.
const CACHED: usize = 4;

#[derive(Clone, Copy)]
struct Entry {
    /// Of this process, as of so many changes of its keys.
    serial: u32,
    changes: u32,
    region: Region,
    /// The address of its memory.
    address: u64,
}

impl Cache {
    /// The region that a key names, and the address of its memory.
    fn get(
        &self,
        process: &Process,
        peer: &Peer,
        access: &Access,
    ) -> core::result::Result<(Region, u64), AccessError> {
        // Acquire: pairs with `Keys::put`.
        let changes = peer.segment.header().keys_changes.load(Ordering::Acquire);
        let entries = self.entries.iter().filter_map(Cell::get);
        let known = entries.filter(|entry| (entry.serial, entry.changes) == (peer.serial, changes));
        let mut named = known.filter(|entry| entry.region.is_named(access.pd, access.key));
        if let Some(entry) = named.next() {
            return Ok((entry.region, entry.address));
        }
        let keys = Keys::lock(process, peer);
        let (record, region) = keys.region(access.key)?;
        let address = record.address.load(Ordering::Relaxed);
        let entry = Entry {
            serial: peer.serial,
            // They do not change while the lock is held.
            changes: peer.segment.header().keys_changes.load(Ordering::Relaxed),
            region,
            address,
        };
        let next = self.next.get();
        self.next.set((next + 1) % CACHED);
        if let Some(place) = self.entries.get(next) {
            place.set(Some(entry));
        }
        Ok((region, address))
    }
}

impl<'a> Keys<'a> {
    fn lock(process: &Process, peer: &'a Peer) -> Self {
        let guard = peer.segment.header().keys_lock.lock(process);
        let is_inherited = guard.dead_holder.is_some();
        let keys = Self {
            peer,
            _guard: guard,
        };
        if is_inherited {
            keys.finish();
        }
        keys
    }

    /// Writes what is due, all of it even if this process, or the one before it that was at it, ends in the middle.
    fn finish(&self) {
        let header = self.peer.segment.header();
        let due = header.key_changes_due.load(Ordering::Relaxed) as usize;
        for change in header.key_changes.iter().take(due) {
            let number = change.number.load(Ordering::Relaxed);
            if let Some(record) = self.peer.segment.key(number) {
                record.words.store(change.words.load());
                let kind = change.kind.load(Ordering::Relaxed);
                record.kind.store(kind, Ordering::Relaxed);
            }
        }
        self.count();
        step();
        header.key_changes_due.store(0, Ordering::Relaxed);
    }

    /// Changes what one or two keys name: all of it, or nothing if this process ends in the middle.
    fn put_all(&self, changes: &[(u32, Named)]) {
        let header = self.peer.segment.header();
        for (to, (key, named)) in header.key_changes.iter().zip(changes) {
            to.number.store(key::number(*key), Ordering::Relaxed);
            let (kind, words) = named.words();
            to.kind.store(kind, Ordering::Relaxed);
            to.words.store(words);
        }
        step();
        let due = &header.key_changes_due;
        due.store(changes.len() as u32, Ordering::Relaxed);
        step();
        self.finish();
    }

    fn record(&self, key: u32) -> core::result::Result<&'a KeyRecord, AccessError> {
        self.peer.segment.key(key::number(key)).ok_or(AccessError)
    }

    fn region(&self, key: u32) -> core::result::Result<(&'a KeyRecord, Region), AccessError> {
        let record = self.record(key)?;
        match named(record) {
            Some(Named::Region(region)) => Ok((record, region)),
            _ => Err(AccessError),
        }
    }

    fn window(&self, key: u32) -> core::result::Result<(&'a KeyRecord, Window<u32>), AccessError> {
        let record = self.record(key)?;
        match named(record) {
            Some(Named::Window(window)) => Ok((record, window)),
            _ => Err(AccessError),
        }
    }

    /// Changes what is at a record.
    fn put(&self, record: &KeyRecord, named: &Named) {
        let (kind, words) = named.words();
        record.words.store(words);
        record.kind.store(kind, Ordering::Relaxed);
        self.count();
    }

    /// Takes away what is at a record.
    fn remove(&self, record: &KeyRecord) {
        record.kind.store(kind::NONE, Ordering::Relaxed);
        self.count();
    }

    /// Counts a change.
    fn count(&self) {
        let changes = &self.peer.segment.header().keys_changes;
        changes.fetch_add(1, Ordering::Release);
    }

    fn unbind(&self, bound: Option<Bound<u32>>) {
        let Some(bound) = bound else { return };
        if let Ok((record, mut region)) = self.region(bound.region) {
            region.unbind();
            self.put(record, &Named::Region(region));
        }
    }
}

/// The range that an access by a local key reaches.
pub(crate) fn local<'a>(
    process: &'static Process,
    peer: &'a Peer,
    cache: &Cache,
    access: &Access,
) -> core::result::Result<Range<'a>, AccessError> {
    let (region, address) = cache.get(process, peer, access)?;
    range(process, peer, &region, address, region.check(access)?)
}

/// The range that an access by a remote key reaches.
pub(crate) fn remote<'a>(
    process: &'static Process,
    peer: &'a Peer,
    cache: &Cache,
    access: &Access,
) -> core::result::Result<Range<'a>, AccessError> {
    if let Ok((region, address)) = cache.get(process, peer, access) {
        return range(process, peer, &region, address, region.check(access)?);
    }
    let keys = Keys::lock(process, peer);
    let (_, window) = keys.window(access.key)?;
    let (lkey, addr) = window.check(access)?;
    let (record, region) = keys.region(*lkey)?;
    let offset = region.offset_of(addr, access.length)?;
    let address = record.address.load(Ordering::Relaxed);
    range(process, peer, &region, address, offset)
}

fn range<'a>(
    process: &'static Process,
    peer: &'a Peer,
    region: &Region,
    start: u64,
    offset: u64,
) -> core::result::Result<Range<'a>, AccessError> {
    let address = start.checked_add(offset).ok_or(AccessError)?;
    Ok(Range {
        process,
        peer,
        address,
        lkey: region.key(),
        is_on_demand: region.access().intersects(AccessFlags::ON_DEMAND),
        message: None,
        batch: None,
    })
}

/// Whether a process has a region of this local key.
pub(crate) fn has_region(process: &Process, peer: &Peer, lkey: u32) -> bool {
    let keys = Keys::lock(process, peer);
    keys.region(lkey)
        .is_ok_and(|(_, region)| region.key() == lkey)
}

/// Checks that a remote key allows an access, wherever in the region or window.
pub(crate) fn check_key(
    process: &Process,
    peer: &Peer,
    access: &Access,
) -> core::result::Result<(), AccessError> {
    let keys = Keys::lock(process, peer);
    match named(keys.record(access.key)?).ok_or(AccessError)? {
        Named::Region(region) => region.check_key(access),
        Named::Window(window) => window.check_key(access),
    }
}

/// Ends the access by a key, for a queue pair (IBTA 10.6.5). Regions of processes have no such keys.
pub(crate) fn invalidate(
    process: &Process,
    peer: &Peer,
    key: u32,
    qpn: u32,
) -> core::result::Result<(), AccessError> {
    let keys = Keys::lock(process, peer);
    let (_, mut window) = keys.window(key)?;
    let bound = window.invalidate(key, qpn)?;
    let window = (key, Named::Window(window));
    let region = bound.and_then(|bound| Some((bound.region, keys.region(bound.region).ok()?.1)));
    // This may be a peer, which may end in the middle.
    match region {
        Some((lkey, mut region)) => {
            region.unbind();
            keys.put_all(&[window, (lkey, Named::Region(region))]);
        }
        None => keys.put_all(&[window]),
    }
    Ok(())
}

/// Binds a window for a queue pair of this process.
pub(crate) fn bind(
    process: &Process,
    pd: PdId,
    qpn: u32,
    request: &BindMw,
) -> core::result::Result<(), AccessError> {
    let keys = Keys::lock(process, &process.own);
    let (record, mut window) = keys.window(request.mw_rkey)?;
    let bound = match window.check_bind(pd, request)? {
        Bind::Nothing => None,
        Bind::To(lkey) => {
            let (record, mut region) = keys.region(lkey)?;
            region.bind(pd, &Part::from(request))?;
            keys.put(record, &Named::Region(region));
            Some(Bound::new(lkey, request, qpn))
        }
    };
    let (result, unbound) = window.bind(request, bound);
    keys.put(record, &Named::Window(window));
    keys.unbind(unbound);
    result
}

/// A region of this process that was found to be there: for those who write to its memory late.
#[derive(Default)]
pub struct Checked(AtomicU64);

impl Checked {
    /// Writes to memory of a region of this process, if that is still there.
    pub(crate) fn write(&self, process: &Process, lkey: u32, address: u64, bytes: &[u8]) {
        let changes = process
            .own
            .segment
            .header()
            .keys_changes
            .load(Ordering::Acquire);
        let as_of = u64::from(lkey) << 32 | u64::from(changes);
        if self.0.load(Ordering::Relaxed) != as_of {
            let keys = Keys::lock(process, &process.own);
            match keys.region(lkey) {
                Ok((_, region)) if region.key() == lkey => self.0.store(as_of, Ordering::Relaxed),
                _ => return,
            }
        }
        let to = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
        // SAFETY: It is memory of the region, as the sender of the bytes has checked. The program has
        // registered it to be written to by the device, and has not given it up.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }
}

/// What a Register Memory Region asks for.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// The address of the first byte in this process.
    pub start: u64,
    /// In bytes.
    pub length: u64,
    /// The address of the first byte in work requests.
    pub virt_addr: u64,
}

/// The flags of Linux, of which the optional ones are not looked at.
fn access_flags(access: u32) -> Result<AccessFlags> {
    AccessFlags::required(access).map_err(|_| Errno(libc::EINVAL))
}

/// Checks the memory of a region, as `ib_umem_get` and `ib_check_mr_access` of Linux do.
fn check_rights(access: AccessFlags) -> Result<()> {
    if !access.is_consistent() {
        return Err(Errno(libc::EINVAL));
    }
    if access.contains(AccessFlags::FLUSH_PERSISTENT) {
        // Of no memory is it known that it survives a loss of power.
        return Err(Errno(libc::EOPNOTSUPP));
    }
    Ok(())
}

fn check_memory(memory: &Memory, access: AccessFlags) -> Result<()> {
    check_rights(access)?;
    let invalid = Errno(libc::EINVAL);
    if memory.length == 0 {
        return Err(invalid);
    }
    if access.intersects(AccessFlags::ON_DEMAND) {
        // All of a process's memory (implicit on-demand paging) is not offered. What is not there is found
        // out when it is used.
        return match memory.length {
            u64::MAX => Err(invalid),
            _ => Ok(()),
        };
    }
    let length = usize::try_from(memory.length).map_err(|_| invalid)?;
    reach::check(memory.start, length, access.intersects(AccessFlags::WRITES))?;
    Ok(())
}

/// Registers memory. Returns its key.
pub fn register(process: &Process, pd: PdId, memory: &Memory, access: u32) -> Result<u32> {
    let access = access_flags(access)?;
    check_memory(memory, access)?;
    add(process, pd, memory, access)
}

/// Registers device memory, which is there. Returns its key.
pub fn register_device_memory(
    process: &Process,
    pd: PdId,
    memory: &Memory,
    access: u32,
) -> Result<u32> {
    let access = access_flags(access)?;
    check_rights(access)?;
    if access.intersects(AccessFlags::ON_DEMAND) {
        return Err(Errno(libc::EINVAL));
    }
    add(process, pd, memory, access)
}

fn add(process: &Process, pd: PdId, memory: &Memory, access: AccessFlags) -> Result<u32> {
    process.check_current()?;
    let (number, variant) = table::reserve(&mut process.keys.lock())?;
    let key = key::new(number, variant);
    let region = Region::registered(key, pd, access, memory.virt_addr, memory.length);
    let keys = Keys::lock(process, &process.own);
    let record = keys
        .record(key)
        .map_err(|AccessError| Errno(libc::ENOMEM))?;
    record.address.store(memory.start, Ordering::Relaxed);
    keys.put(record, &Named::Region(region));
    Ok(key)
}

/// Re-registers a region.
pub fn reregister(
    process: &Process,
    key: u32,
    pd: Option<PdId>,
    memory: Option<&Memory>,
    access: Option<u32>,
) -> Result<()> {
    process.check_current()?;
    process.flush_all();
    let invalid = |AccessError| Errno(libc::EINVAL);
    let busy = |HasWindows| Errno(libc::EBUSY);
    let (_, before) = Keys::lock(process, &process.own)
        .region(key)
        .map_err(invalid)?;
    let access = access.map(access_flags).transpose()?;
    let is_writable = before.access().intersects(AccessFlags::WRITES);
    let checked = before.check_reregister(access, memory.is_some(), is_writable);
    checked.map_err(|error| match error {
        ReregisterError::HasWindows => Errno(libc::EBUSY),
        ReregisterError::Unsupported => Errno(libc::EOPNOTSUPP),
    })?;
    if let Some(memory) = memory {
        check_memory(memory, access.unwrap_or(before.access()))?;
    }
    {
        let keys = Keys::lock(process, &process.own);
        let (record, mut region) = keys.region(key).map_err(invalid)?;
        let change = Change {
            access,
            pd,
            memory: memory.map(|memory| (memory.virt_addr, memory.length)),
        };
        region.reregister(&change).map_err(busy)?;
        if let Some(memory) = memory {
            record.address.store(memory.start, Ordering::Relaxed);
        }
        keys.put(record, &Named::Region(region));
    }
    process.wait_for_users();
    Ok(())
}

/// Deregisters a region: after this nobody reaches its memory by it.
pub fn deregister(process: &Process, key: u32) -> Result<()> {
    if !process.is_current() {
        return Ok(());
    }
    process.flush_all();
    {
        let keys = Keys::lock(process, &process.own);
        let (record, mut region) = keys
            .region(key)
            .map_err(|AccessError| Errno(libc::EINVAL))?;
        region
            .deregister()
            .map_err(|HasWindows| Errno(libc::EBUSY))?;
        keys.remove(record);
    }
    process.wait_for_users();
    process
        .keys
        .lock()
        .give_up(key::number(key), key::variant(key));
    Ok(())
}

/// Allocates a window. Returns its key.
pub fn allocate_window(process: &Process, pd: PdId, kind: Kind) -> Result<u32> {
    process.check_current()?;
    let (number, variant) = table::reserve(&mut process.keys.lock())?;
    let key = key::new(number, variant);
    let keys = Keys::lock(process, &process.own);
    let record = keys
        .record(key)
        .map_err(|AccessError| Errno(libc::ENOMEM))?;
    keys.put(record, &Named::Window(Window::new(kind, pd, key)));
    Ok(key)
}

/// Deallocates a window, by any key that it has had.
pub fn deallocate_window(process: &Process, key: u32) -> Result<()> {
    if !process.is_current() {
        return Ok(());
    }
    process.flush_all();
    let last = {
        let keys = Keys::lock(process, &process.own);
        let (record, mut window) = keys
            .window(key)
            .map_err(|AccessError| Errno(libc::EINVAL))?;
        let bound = window.deallocate();
        keys.remove(record);
        keys.unbind(bound);
        window.key()
    };
    process.wait_for_users();
    process
        .keys
        .lock()
        .give_up(key::number(last), key::variant(last));
    Ok(())
}

/// Has memory of a region be there (`ibv_advise_mr`).
pub fn advise(process: &Process, access: &Access, write: bool) -> Result<()> {
    let (record, region) = Keys::lock(process, &process.own)
        .region(access.key)
        .map_err(|AccessError| Errno(libc::EINVAL))?;
    let offset = region
        .check(access)
        .map_err(|AccessError| Errno(libc::EINVAL))?;
    if write && !region.access().intersects(AccessFlags::WRITES) {
        return Err(Errno(libc::EPERM));
    }
    let start = record.address.load(Ordering::Relaxed).wrapping_add(offset);
    reach::check(start, access.length as usize, write)?;
    Ok(())
}
