// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions: what their keys give access to.

use crate::key::{self, Access, PdId};
use crate::local::AccessError;
use crate::ring::RegMr;
use crate::verbs::AccessFlags;

/// A region. The memory behind it is the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    phase: Phase,
    key: u32,
    pd: PdId,
    access: AccessFlags,
    /// The address of the first byte in work requests.
    start: u64,
    /// In bytes.
    length: u64,
    /// Where in the memory behind it the region begins, in bytes.
    offset: u64,
    /// How many windows are bound to it.
    windows: u32,
}

/// The states of a region. One that is registered by work requests has the first three (IBTA 10.6.4.4),
/// any other is valid until it is deregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Free,
    Valid,
    /// No longer valid, and not free before the last access has ended.
    Closing,
    Deregistered,
}

/// Windows are bound to the region (IBTA 11.2.8.5, 11.2.8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HasWindows;

/// What changes when a region is re-registered (`ibv_rereg_mr`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// Its rights.
    pub access: Option<AccessFlags>,
    /// Its protection domain.
    pub pd: Option<PdId>,
    /// Its memory, from the beginning: the address of the first byte in work requests, and the length in
    /// bytes.
    pub memory: Option<(u64, u64)>,
}

/// What a region lets a window have (IBTA 10.6.7.2.1).
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The region's local key.
    pub lkey: u32,
    /// The first byte, an address in the region.
    pub addr: u64,
    /// In bytes.
    pub length: u64,
    /// The window's rights.
    pub access: AccessFlags,
}

impl Region {
    /// A region that is valid, whose memory begins where it does.
    pub const fn registered(
        key: u32,
        pd: PdId,
        access: AccessFlags,
        virt_addr: u64,
        length: u64,
    ) -> Self {
        Self {
            phase: Phase::Valid,
            key,
            pd,
            access,
            start: Self::start_of(access, virt_addr),
            length,
            offset: 0,
            windows: 0,
        }
    }

    /// A region without memory, for work requests to register some.
    pub const fn free(key: u32, pd: PdId) -> Self {
        Self {
            phase: Phase::Free,
            ..Self::registered(key, pd, AccessFlags::EMPTY, 0, 0)
        }
    }

    const fn start_of(access: AccessFlags, virt_addr: u64) -> u64 {
        match access.contains(AccessFlags::ZERO_BASED) {
            true => 0,
            false => virt_addr,
        }
    }

    /// Its key.
    pub const fn key(&self) -> u32 {
        self.key
    }

    /// Its rights.
    pub const fn access(&self) -> AccessFlags {
        self.access
    }

    /// How many windows are bound to it.
    pub const fn windows(&self) -> u32 {
        self.windows
    }

    /// Whether a key of a protection domain names the region, and it may be used.
    pub fn is_named(&self, pd: PdId, key: u32) -> bool {
        self.phase == Phase::Valid && self.key == key && self.pd == pd
    }

    /// Whether its key allows an access, wherever in the region (IBTA 10.6.3.1, 10.6.3.2).
    pub fn check_key(&self, access: &Access) -> Result<(), AccessError> {
        let is_allowed =
            self.is_named(access.pd, access.key) && self.access.contains(access.rights);
        is_allowed.then_some(()).ok_or(AccessError)
    }

    /// Checks an access. Returns where it begins in the memory behind the region, in bytes.
    pub fn check(&self, access: &Access) -> Result<u64, AccessError> {
        self.check_key(access)?;
        self.offset_of(access.addr, access.length)
    }

    /// Where a range of the region begins in the memory behind it, in bytes. (Of a window, whose key has
    /// been checked in place of the region's.)
    pub fn offset_of(&self, addr: u64, length: u32) -> Result<u64, AccessError> {
        if self.phase != Phase::Valid {
            return Err(AccessError);
        }
        let offset = key::offset(addr, length.into(), self.start, self.length)?;
        // Within memory that is there, so that it cannot overflow; but the sum is the host's.
        self.offset.checked_add(offset).ok_or(AccessError)
    }

    /// Counts a window that is bound to a part of the region, if it may be.
    pub fn bind(&mut self, pd: PdId, part: &Part) -> Result<(), AccessError> {
        let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
        let may_write =
            !part.access.intersects(writes) || self.access.contains(AccessFlags::LOCAL_WRITE);
        let is_allowed =
            self.is_named(pd, part.lkey) && self.access.contains(AccessFlags::MW_BIND) && may_write;
        if !is_allowed {
            return Err(AccessError);
        }
        key::offset(part.addr, part.length, self.start, self.length)?;
        self.windows = self.windows.checked_add(1).ok_or(AccessError)?;
        Ok(())
    }

    /// Counts a window out that is not bound to the region any more.
    pub fn unbind(&mut self) {
        self.windows = self.windows.saturating_sub(1);
    }

    /// Whether memory can be registered in the region by a work request now (IBTA 10.6.4.4, Fast
    /// Register).
    pub fn may_register(&self, pd: PdId, request: &RegMr) -> Result<(), AccessError> {
        let is_own_key = key::number(request.key) == key::number(self.key);
        let is_allowed = self.phase == Phase::Free && self.pd == pd && is_own_key;
        is_allowed.then_some(()).ok_or(AccessError)
    }

    /// Registers memory in the region by a work request, if it may be: `length` bytes, of which the first
    /// is `start` in work requests, and lies `offset` bytes into the memory behind it.
    pub fn register(
        &mut self,
        pd: PdId,
        request: &RegMr,
        (start, length): (u64, u64),
        offset: u64,
    ) -> Result<(), AccessError> {
        self.may_register(pd, request)?;
        *self = Self {
            phase: Phase::Valid,
            key: request.key,
            access: request.access,
            start,
            length,
            offset,
            ..*self
        };
        Ok(())
    }

    /// Ends the access by its key, as a work request or a peer asks (IBTA 10.6.5). The host then waits for
    /// accesses that go on, and calls [`end_invalidate`](Self::end_invalidate).
    ///
    /// Not while windows are bound to it, as rdma_rxe has it too (`rxe_invalidate_mr`): they would give
    /// access to what is registered in the region next.
    pub fn begin_invalidate(&mut self, pd: PdId, key: u32) -> Result<(), AccessError> {
        if !self.is_named(pd, key) || self.windows > 0 {
            return Err(AccessError);
        }
        self.phase = Phase::Closing;
        Ok(())
    }

    /// No access goes on: memory may be registered in the region again.
    pub fn end_invalidate(&mut self) {
        if self.phase == Phase::Closing {
            self.phase = Phase::Free;
        }
    }

    /// Checks that the region can be registered anew (`ibv_rereg_mr(3)`), before there is memory for that.
    /// `is_writable` says whether the memory that it has could be written to.
    pub fn check_reregister(
        &self,
        access: Option<AccessFlags>,
        has_new_memory: bool,
        is_writable: bool,
    ) -> Result<(), ReregisterError> {
        if self.windows > 0 {
            return Err(ReregisterError::HasWindows);
        }
        let Some(access) = access.filter(|_| !has_new_memory) else {
            return Ok(());
        };
        // Memory that was had for reading cannot be written to, and what is pinned stays so.
        let is_on_demand = |access: AccessFlags| access.intersects(AccessFlags::ON_DEMAND);
        if access.intersects(AccessFlags::WRITES) && !is_writable
            || is_on_demand(access) != is_on_demand(self.access)
        {
            return Err(ReregisterError::Unsupported);
        }
        Ok(())
    }

    /// Re-registers the region.
    pub fn reregister(&mut self, change: &Change) -> Result<(), HasWindows> {
        if self.windows > 0 {
            return Err(HasWindows);
        }
        self.access = change.access.unwrap_or(self.access);
        self.pd = change.pd.unwrap_or(self.pd);
        if let Some((virt_addr, length)) = change.memory {
            self.start = Self::start_of(self.access, virt_addr);
            self.length = length;
            self.offset = 0;
        }
        Ok(())
    }

    /// Deregisters the region: no access is allowed any more, and no window can be bound.
    pub fn deregister(&mut self) -> Result<(), HasWindows> {
        if self.windows > 0 {
            return Err(HasWindows);
        }
        self.phase = Phase::Deregistered;
        Ok(())
    }
}

/// Why a region cannot be registered anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReregisterError {
    /// Windows are bound to it.
    HasWindows,
    /// Only with new memory it could have such rights.
    Unsupported,
}

/// How many [words](Region::words) a region has.
pub const WORDS: usize = 12;

impl Region {
    /// As plain numbers, for other processes to look at.
    pub fn words(&self) -> [u32; WORDS] {
        let [pd, start, length, offset] =
            [self.pd.number(), self.start, self.length, self.offset].map(halves);
        [
            self.phase as u32,
            self.key,
            self.access.bits(),
            self.windows,
            pd[0],
            pd[1],
            start[0],
            start[1],
            length[0],
            length[1],
            offset[0],
            offset[1],
        ]
    }

    /// From [words](Self::words) that may be anything: a number that means nothing is taken for the one
    /// that allows least.
    pub fn from_words(words: &[u32; WORDS]) -> Self {
        let [phase, key, access, windows, pd0, pd1, start0, start1, length0, length1, offset0, offset1] =
            *words;
        let phases = [Phase::Free, Phase::Valid, Phase::Closing];
        let phase = phases.into_iter().find(|known| *known as u32 == phase);
        Self {
            phase: phase.unwrap_or(Phase::Deregistered),
            key,
            pd: PdId::new(whole([pd0, pd1])),
            access: AccessFlags::from_bits_truncate(access),
            start: whole([start0, start1]),
            length: whole([length0, length1]),
            offset: whole([offset0, offset1]),
            windows,
        }
    }
}

/// The two halves of a number.
pub(crate) const fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// The number of two [halves].
pub(crate) const fn whole([low, high]: [u32; 2]) -> u64 {
    low as u64 | (high as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Remote, Sge};

    const PD: PdId = PdId::new(7);
    const KEY: u32 = key::new(5, 3);
    const RIGHTS: AccessFlags = AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::MW_BIND);

    fn region() -> Region {
        Region::registered(KEY, PD, RIGHTS, 0x1000, 0x100)
    }

    fn local(addr: u64, length: u32, write: bool) -> Access {
        let sge = Sge {
            addr,
            length,
            lkey: KEY,
        };
        Access::local(PD, 1, sge, write)
    }

    fn remote(rights: AccessFlags) -> Access {
        let remote = Remote {
            addr: 0x1010,
            rkey: KEY,
        };
        Access::remote(PD, 1, remote, 8, rights)
    }

    #[test]
    fn its_words_are_the_region() {
        for phase in [
            Phase::Free,
            Phase::Valid,
            Phase::Closing,
            Phase::Deregistered,
        ] {
            let region = Region {
                phase,
                offset: u64::MAX,
                windows: 3,
                ..region()
            };
            assert_eq!(Region::from_words(&region.words()), region);
        }
        let mut words = region().words();
        words[0] = 7;
        let wrong = Region::from_words(&words);
        assert_eq!(wrong.check(&local(0x1000, 1, false)), Err(AccessError));
    }

    #[test]
    fn pages_that_are_kept_are_what_they_were() {
        let region = region();
        let (writes, on_demand) = (AccessFlags::LOCAL_WRITE, AccessFlags::ON_DEMAND);
        let unsupported = Err(ReregisterError::Unsupported);
        for access in [writes, on_demand] {
            let checked = region.check_reregister(Some(access), false, false);
            assert_eq!(checked, unsupported, "{access:?}");
            assert_eq!(region.check_reregister(Some(access), true, false), Ok(()));
        }
        assert_eq!(region.check_reregister(Some(writes), false, true), Ok(()));
        assert_eq!(region.check_reregister(None, false, false), Ok(()));
        let mut bound = region;
        bound.windows = 1;
        let busy = Err(ReregisterError::HasWindows);
        assert_eq!(bound.check_reregister(None, false, false), busy);
    }

    #[test]
    fn a_key_gives_access_to_its_range_for_its_rights() {
        let region = region();
        assert_eq!(region.check(&local(0x1000, 0x100, true)), Ok(0));
        assert_eq!(region.check(&local(0x10ff, 1, false)), Ok(0xff));
        assert_eq!(region.check(&remote(AccessFlags::REMOTE_READ)), Ok(0x10));
        for wrong in [
            local(0xfff, 1, false),
            local(0x1100, 1, false),
            local(0x1000, 0x101, false),
            local(u64::MAX, u32::MAX, false),
            remote(AccessFlags::REMOTE_WRITE),
            Access {
                key: key::new(5, 4),
                ..local(0x1000, 1, false)
            },
            Access {
                pd: PdId::new(8),
                ..local(0x1000, 1, false)
            },
        ] {
            assert_eq!(region.check(&wrong), Err(AccessError), "{wrong:?}");
        }
    }

    #[test]
    fn of_a_zero_based_region_addresses_are_offsets() {
        let access = RIGHTS.union(AccessFlags::ZERO_BASED);
        let region = Region::registered(KEY, PD, access, 0x1000, 0x100);
        assert_eq!(region.check(&local(0, 0x100, true)), Ok(0));
        assert_eq!(region.check(&local(0x1000, 1, true)), Err(AccessError));
    }

    #[test]
    fn a_region_of_all_memory_has_a_last_byte() {
        let region = Region::registered(KEY, PD, RIGHTS, 0, u64::MAX);
        assert!(region.check(&local(u64::MAX - 1, 1, true)).is_ok());
        assert!(region.check(&local(u64::MAX, 1, true)).is_err());
    }

    #[test]
    fn work_requests_register_and_invalidate() {
        let mut region = Region::free(KEY, PD);
        assert!(region.check(&local(0, 0, false)).is_err());
        let request = RegMr {
            mr: 5,
            key: key::new(5, 9),
            access: AccessFlags::REMOTE_READ,
        };
        let other = RegMr {
            key: key::new(6, 9),
            ..request
        };
        assert_eq!(region.may_register(PD, &other), Err(AccessError));
        assert!(region.may_register(PdId::new(8), &request).is_err());
        region
            .register(PD, &request, (0x5000, 0x10), 0x234)
            .unwrap();
        let access = Access {
            key: request.key,
            ..local(0x5008, 8, false)
        };
        assert_eq!(region.check(&access), Ok(0x23c));
        // Not twice, and not by another key.
        assert!(region.register(PD, &request, (0, 1), 0).is_err());
        assert!(region.begin_invalidate(PD, KEY).is_err());
        region.begin_invalidate(PD, request.key).unwrap();
        assert!(region.check(&access).is_err());
        // While an access goes on nothing else is registered.
        assert!(region.may_register(PD, &request).is_err());
        region.end_invalidate();
        assert!(region.may_register(PD, &request).is_ok());
    }

    #[test]
    fn a_region_with_windows_stays_as_it_is() {
        let mut region = region();
        let part = Part {
            lkey: KEY,
            addr: 0x1080,
            length: 0x80,
            access: AccessFlags::REMOTE_WRITE,
        };
        region.bind(PD, &part).unwrap();
        let change = Change {
            memory: Some((0x2000, 0x10)),
            ..Change::default()
        };
        assert_eq!(region.reregister(&change), Err(HasWindows));
        assert_eq!(region.deregister(), Err(HasWindows));
        assert_eq!(region.begin_invalidate(PD, KEY), Err(AccessError));
        region.unbind();
        region.reregister(&change).unwrap();
        assert_eq!(region.check(&local(0x2000, 0x10, true)), Ok(0));
        assert!(region.check(&local(0x1000, 1, true)).is_err());
        region.deregister().unwrap();
        assert!(region.check(&local(0x2000, 0x10, true)).is_err());
        assert!(region
            .bind(
                PD,
                &Part {
                    addr: 0x2000,
                    length: 1,
                    ..part
                }
            )
            .is_err());
        region.end_invalidate();
        assert!(region.check(&local(0x2000, 0x10, true)).is_err());
    }

    #[test]
    fn a_window_has_no_more_rights_than_its_region() {
        let part = Part {
            lkey: KEY,
            addr: 0x1000,
            length: 0x100,
            access: AccessFlags::REMOTE_READ,
        };
        let write = Part {
            access: AccessFlags::REMOTE_ATOMIC,
            ..part
        };
        let read_only = AccessFlags::MW_BIND.union(AccessFlags::REMOTE_READ);
        let cases = [
            (RIGHTS, part, true),
            (RIGHTS, write, true),
            (read_only, part, true),
            (read_only, write, false),
            (AccessFlags::LOCAL_WRITE, part, false),
            (
                RIGHTS,
                Part {
                    length: 0x101,
                    ..part
                },
                false,
            ),
            (
                RIGHTS,
                Part {
                    addr: u64::MAX,
                    ..part
                },
                false,
            ),
            (
                RIGHTS,
                Part {
                    lkey: KEY + 1,
                    ..part
                },
                false,
            ),
        ];
        for (access, part, allowed) in cases {
            let mut region = Region::registered(KEY, PD, access, 0x1000, 0x100);
            assert_eq!(region.bind(PD, &part).is_ok(), allowed, "{part:?}");
            assert_eq!(region.windows(), u32::from(allowed));
        }
    }
}
