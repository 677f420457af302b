// SPDX-License-Identifier: GPL-2.0

//! How the keys of work requests are looked up, and the memory that is found.

use super::{find, find_region, Found, FoundMr, Keys, State};
use crate::{
    key::Access,
    local::{self, AccessError, AtomicChange, CopyFault, Fault},
    mw::{Mw, Through},
    rdma::{
        rcu::RcuArc,
        umem::{CopyError, Umem},
    },
    region::Region,
    verbs::limits::ATOMIC_LENGTH,
};
use core::{cell::OnceCell, sync::atomic::Ordering};
use kernel::prelude::*;

/// A range of a region, for a queue pair.
///
/// Deregistering or re-registering the region gives the memory back, which may sleep. So a range is kept
/// with bottom halves off, or by a thread that may sleep.
pub(crate) struct Range {
    pub(super) memory: RcuArc<Umem>,
    pub(super) offset: usize,
    /// In bytes.
    length: u32,
    /// The number of the queue pair, which is told of what is missing.
    qpn: u32,
    /// As of so many changes of the region.
    changes: u32,
    /// Deregistering the region waits until nobody uses it.
    region: FoundMr,
    /// The window that it was found by.
    through: Option<Through>,
}

/// How the keys of work requests are looked up.
pub(crate) trait Lookup {
    /// What is found.
    type Region: local::Region;

    /// By a local key.
    fn local(&self, keys: &Keys, access: &Access) -> Result<Self::Region, AccessError>;

    /// By a remote key.
    fn remote(&self, keys: &Keys, access: &Access) -> Result<Self::Region, AccessError>;
}

/// Each time in the table of keys.
pub(crate) struct Uncached;

impl Lookup for Uncached {
    type Region = Range;

    fn local(&self, keys: &Keys, access: &Access) -> Result<Range, AccessError> {
        Range::local(keys, access)
    }

    fn remote(&self, keys: &Keys, access: &Access) -> Result<Range, AccessError> {
        match find(keys, access.key)? {
            Found::Window(window) => Mw::remote(window, access),
            Found::Region(region) => Range::new(region, access),
        }
    }
}

/// Checks that a remote key allows an access, wherever in the region or window.
pub(crate) fn check_key(keys: &Keys, access: &Access) -> Result<(), AccessError> {
    match find(keys, access.key)? {
        Found::Window(window) => window.check_key(access),
        Found::Region(region) => region.state()?.region.check_key(access),
    }
}

impl Range {
    fn new(region: FoundMr, access: &Access) -> Result<Self, AccessError> {
        Self::with(region, access, |region| region.check(access))
    }

    /// By a local key.
    pub(crate) fn local(keys: &Keys, access: &Access) -> Result<Self, AccessError> {
        Self::new(find_region(keys, access.key)?, access)
    }

    /// By a window that allows the access, which begins at this address of the region.
    pub(crate) fn of(
        region: FoundMr,
        addr: u64,
        access: &Access,
        through: Through,
    ) -> Result<Self, AccessError> {
        let range = Self::with(region, access, |region| {
            region.offset_of(addr, access.length)
        })?;
        Ok(Self {
            through: Some(through),
            ..range
        })
    }

    fn with(
        region: FoundMr,
        access: &Access,
        check: impl FnOnce(&Region) -> Result<u64, AccessError>,
    ) -> Result<Self, AccessError> {
        let state = region.state()?;
        Ok(Self {
            offset: check(&state.region)? as usize,
            memory: state.memory,
            length: access.length,
            qpn: access.qpn,
            changes: state.changes,
            region,
            through: None,
        })
    }
}

/// Regions that were looked up lately, to be found without a lock and without a reference being taken.
///
/// Deregistering one of them waits until this is dropped, after a batch. All other changes of a region
/// are seen at once, by their count.
pub(crate) struct Cache {
    /// Filled from the front.
    entries: [OnceCell<Entry>; CACHED],
}

/// A peer's region and one's own, each way.
const CACHED: usize = 4;

pub(crate) struct Entry {
    state: State,
    region: FoundMr,
}

impl Entry {
    fn is_current(&self) -> bool {
        self.region.published.changes() == self.state.changes
    }

    fn range(&self, access: &Access) -> Result<CachedRange<'_>, AccessError> {
        let offset = self.state.region.check(access)?;
        Ok(CachedRange::Cached(self, offset as usize))
    }
}

/// A range of a region that a [`Cache`] has, or that it has no room for.
pub(crate) enum CachedRange<'a> {
    Cached(&'a Entry, usize),
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
    fn find(&self, access: &Access) -> Option<Result<CachedRange<'_>, AccessError>> {
        let entry = self
            .entries()
            .find(|entry| entry.state.region.is_named(access.pd, access.key))?;
        entry.is_current().then(|| entry.range(access))
    }

    fn add(&self, region: FoundMr, access: &Access) -> Result<CachedRange<'_>, AccessError> {
        let range = |region| Range::new(region, access).map(CachedRange::Range);
        for slot in &self.entries {
            let Some(entry) = slot.get() else {
                let state = region.state()?;
                // Reaching memory on demand may take any time. Deregistering it is not to wait for that several
                // times.
                if state.memory.is_on_demand() {
                    return range(region);
                }
                return slot.get_or_init(|| Entry { state, region }).range(access);
            };
            if core::ptr::eq(&**entry.region, &**region) {
                // It has changed since.
                break;
            }
        }
        range(region)
    }
}

impl<'a> Lookup for &'a Cache {
    type Region = CachedRange<'a>;

    fn local(&self, keys: &Keys, access: &Access) -> Result<CachedRange<'a>, AccessError> {
        if let Some(found) = self.find(access) {
            return found;
        }
        self.add(find_region(keys, access.key)?, access)
    }

    fn remote(&self, keys: &Keys, access: &Access) -> Result<CachedRange<'a>, AccessError> {
        if let Some(found) = self.find(access) {
            return found;
        }
        match find(keys, access.key)? {
            Found::Window(window) => Mw::remote(window, access).map(CachedRange::Range),
            Found::Region(region) => self.add(region, access),
        }
    }
}

/// Memory on demand that was found missing.
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
            memory: core::ptr::from_ref::<Umem>(&self.range.memory).addr(),
            offset: self.offset(),
            write: self.write,
        }
    }
}

/// Memory, and where a range begins there.
trait Located {
    fn located(&self) -> (&Umem, usize);

    /// Whether the region is still what it was when its key was checked.
    fn is_current(&self) -> bool;

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

    fn is_current(&self) -> bool {
        self.region.published.changes() == self.changes
            && self.through.as_ref().is_none_or(Through::is_current)
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
            let range = Range {
                memory: self.memory.clone(),
                region: self.region.clone(),
                // To have memory be there is not to access it, and can take any time.
                through: None,
                ..*self
            };
            let missing = Missing {
                range,
                at,
                length,
                write,
            };
            qp.connection.missing(&qp, missing)
        })
    }
}

impl Located for CachedRange<'_> {
    fn located(&self) -> (&Umem, usize) {
        match self {
            Self::Cached(entry, offset) => (&entry.state.memory, *offset),
            Self::Range(range) => range.located(),
        }
    }

    fn is_current(&self) -> bool {
        match self {
            Self::Cached(entry, _) => entry.is_current(),
            Self::Range(range) => range.is_current(),
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

impl<T: Located> local::Region for T {
    fn check(&self) -> Result<(), Fault> {
        match self.is_current() {
            true => Ok(()),
            false => Err(Fault::Gone),
        }
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        let (memory, offset) = self.located();
        let (source, source_offset) = from.located();
        let (offset, source_offset) = (offset + at as usize, source_offset + from_at as usize);
        let length = length as usize;
        match source.copy_to(source_offset, memory, offset, length) {
            Ok(()) => Ok(()),
            Err(CopyError::Source(error)) => from
                .accessed(Err(error), from_at, length, false)
                .map_err(CopyFault::Source),
            Err(CopyError::Target(error)) => self
                .accessed(Err(error), at, length, true)
                .map_err(CopyFault::Target),
        }
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.check()?;
        let (memory, offset) = self.located();
        let written = memory.write(offset + at as usize, bytes);
        self.accessed(written, at, bytes.len(), true)
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        self.check()?;
        let (memory, offset) = self.located();
        let read = memory.read(offset + at as usize, bytes);
        self.accessed(read, at, bytes.len(), false)
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        self.check()?;
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
