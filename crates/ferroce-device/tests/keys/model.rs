// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keys are to give access to, said once more, in the simplest way that comes to mind.

use std::collections::BTreeMap;

use ferroce_core::ring::{BindMw, RegMr};
use ferroce_core::verbs::AccessFlags;
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::numbers::Reserved;
use ferroce_device::region::Change;

use crate::device::{COUNT, REUSE_AFTER, STEP};

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Free,
    Valid,
    Closing,
}

struct Region {
    phase: Phase,
    key: u32,
    pd: PdId,
    access: AccessFlags,
    start: u64,
    length: u64,
    offset: u64,
    /// Tells what is registered now from what was before.
    registration: u64,
}

struct Binding {
    /// The number of the region's key.
    region: u32,
    registration: u64,
    addr: u64,
    length: u64,
    access: AccessFlags,
    qpn: u32,
}

struct Window {
    belongs_to_qp: bool,
    pd: PdId,
    key: u32,
    bound: Option<Binding>,
}

#[derive(Default)]
pub struct Model {
    regions: BTreeMap<u32, Region>,
    windows: BTreeMap<u32, Window>,
    /// The last variant of each number that is not in use, and how many were reserved by then.
    given_up: BTreeMap<u32, (u8, u32)>,
    reserved: u32,
    registrations: u64,
}

/// Whether a range is within another one.
fn is_within(addr: u64, length: u64, start: u64, size: u64) -> bool {
    let end = |addr: u64, length: u64| u128::from(addr) + u128::from(length);
    addr >= start && end(addr, length) <= end(start, size)
}

/// The first address in work requests.
fn start(access: AccessFlags, virt_addr: u64) -> u64 {
    match access.contains(AccessFlags::ZERO_BASED) {
        true => 0,
        false => virt_addr,
    }
}

impl Model {
    /// Takes note of a number that the device reserved. Returns its key.
    pub fn reserve(&mut self, reserved: Option<Reserved>) -> Result<Option<u32>, String> {
        let in_use = self.regions.len() + self.windows.len();
        let Some(Reserved { number, variant }) = reserved else {
            return match in_use == COUNT as usize {
                true => Ok(None),
                false => Err(format!("{in_use} numbers are in use, and no other is left")),
            };
        };
        if self.regions.contains_key(&number) || self.windows.contains_key(&number) {
            return Err(format!("{number} is in use, and reserved once more"));
        }
        if number == 0 || number > COUNT {
            return Err(format!("{number} is none of the numbers"));
        }
        let all_used = in_use + self.given_up.len() == COUNT as usize;
        let expected = match self.given_up.remove(&number) {
            Some((_, since)) if !all_used && self.reserved - since < REUSE_AFTER => {
                return Err(format!("{number} is used again too early"));
            }
            last => last.map(|(variant, _)| variant.wrapping_add(STEP)),
        };
        if variant != expected {
            return Err(format!(
                "{number} has variant {variant:?}, not {expected:?}"
            ));
        }
        self.reserved += 1;
        Ok(Some(key::new(number, variant.unwrap_or(0))))
    }

    pub fn register(&mut self, key: u32, pd: PdId, access: AccessFlags, addr: u64, length: u64) {
        self.allocate_region(key, pd);
        let region = self.regions.get_mut(&key::number(key)).unwrap();
        region.phase = Phase::Valid;
        region.access = access;
        region.start = start(access, addr);
        region.length = length;
    }

    pub fn allocate_region(&mut self, key: u32, pd: PdId) {
        self.registrations += 1;
        let region = Region {
            phase: Phase::Free,
            key,
            pd,
            access: AccessFlags::EMPTY,
            start: 0,
            length: 0,
            offset: 0,
            registration: self.registrations,
        };
        self.regions.insert(key::number(key), region);
    }

    pub fn allocate_window(&mut self, key: u32, pd: PdId, belongs_to_qp: bool) {
        let window = Window {
            belongs_to_qp,
            pd,
            key,
            bound: None,
        };
        self.windows.insert(key::number(key), window);
    }

    pub fn register_memory(
        &mut self,
        pd: PdId,
        request: &RegMr,
        (start, length): (u64, u64),
        offset: u64,
    ) -> bool {
        let Some(region) = self.regions.get_mut(&request.mr) else {
            return false;
        };
        let is_allowed =
            region.phase == Phase::Free && region.pd == pd && request.mr == request.key >> 8;
        if is_allowed {
            self.registrations += 1;
            *region = Region {
                phase: Phase::Valid,
                key: request.key,
                pd,
                access: request.access,
                start,
                length,
                offset,
                registration: self.registrations,
            };
        }
        is_allowed
    }

    /// The region that is named by a key, if it may be used.
    fn named(&self, pd: PdId, key: u32) -> Option<&Region> {
        let region = self.regions.get(&key::number(key))?;
        (region.phase == Phase::Valid && region.key == key && region.pd == pd).then_some(region)
    }

    pub fn begin_invalidate(&mut self, pd: PdId, key: u32) -> bool {
        let is_allowed = self.named(pd, key).is_some() && self.windows(key) == Some(0);
        if is_allowed {
            self.regions.get_mut(&key::number(key)).unwrap().phase = Phase::Closing;
        }
        is_allowed
    }

    pub fn end_invalidate(&mut self, key: u32) {
        let region = self.regions.get_mut(&key::number(key));
        if let Some(region) = region.filter(|region| region.phase == Phase::Closing) {
            region.phase = Phase::Free;
        }
    }

    /// How many windows are bound to a region.
    pub fn windows(&self, key: u32) -> Option<u32> {
        let number = key::number(key);
        self.regions.contains_key(&number).then(|| {
            let bound = self.windows.values().filter_map(|w| w.bound.as_ref());
            bound.filter(|bound| bound.region == number).count() as u32
        })
    }

    pub fn reregister(&mut self, key: u32, change: &Change) -> bool {
        let has_no_windows = self.windows(key) == Some(0);
        if has_no_windows {
            let region = self.regions.get_mut(&key::number(key)).unwrap();
            region.pd = change.pd.unwrap_or(region.pd);
            region.access = change.access.unwrap_or(region.access);
            if let Some((addr, length)) = change.memory {
                region.start = start(region.access, addr);
                region.length = length;
                region.offset = 0;
            }
        }
        has_no_windows
    }

    pub fn destroy(&mut self, key: u32) -> bool {
        let number = key::number(key);
        let key = match (self.windows.get(&number), self.regions.get(&number)) {
            (Some(window), _) => window.key,
            (_, Some(region)) if self.windows(key) == Some(0) => region.key,
            _ => return false,
        };
        self.windows.remove(&number);
        self.regions.remove(&number);
        self.given_up
            .insert(number, (key::variant(key), self.reserved));
        true
    }

    pub fn bind(&mut self, pd: PdId, qpn: u32, request: &BindMw) -> bool {
        let number = key::number(request.mw_rkey);
        let Some(window) = self.windows.get(&number) else {
            return false;
        };
        let is_zero_based = request.access.contains(AccessFlags::ZERO_BASED);
        let may_be = match window.belongs_to_qp {
            true => window.bound.is_none() && request.length > 0,
            false => request.length == 0 || !is_zero_based,
        };
        if window.pd != pd || window.key != request.mw_rkey || !may_be {
            return false;
        }
        let bound = if request.length == 0 {
            None
        } else {
            let Some(region) = self.named(pd, request.mr_lkey) else {
                return false;
            };
            let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
            let is_allowed = region.access.contains(AccessFlags::MW_BIND)
                && is_within(request.addr, request.length, region.start, region.length)
                && (!request.access.intersects(writes)
                    || region.access.contains(AccessFlags::LOCAL_WRITE));
            if !is_allowed {
                return false;
            }
            Some(Binding {
                region: key::number(request.mr_lkey),
                registration: region.registration,
                addr: request.addr,
                length: request.length,
                access: request.access,
                qpn,
            })
        };
        let window = self.windows.get_mut(&number).unwrap();
        window.bound = bound;
        window.key = key::new(number, key::variant(request.new_rkey));
        true
    }

    pub fn invalidate_window(&mut self, key: u32, qpn: u32) -> bool {
        let Some(window) = self.windows.get_mut(&key::number(key)) else {
            return false;
        };
        let is_owner = window.bound.as_ref().is_some_and(|b| b.qpn == qpn);
        let is_allowed = window.belongs_to_qp && window.key == key && is_owner;
        if is_allowed {
            window.bound = None;
        }
        is_allowed
    }

    fn binding(&self, access: &Access) -> Option<&Binding> {
        let window = self.windows.get(&key::number(access.key))?;
        let bound = window.bound.as_ref()?;
        let is_allowed = window.key == access.key
            && window.pd == access.pd
            && (!window.belongs_to_qp || bound.qpn == access.qpn)
            && bound.access.contains(access.rights);
        is_allowed.then_some(bound)
    }

    pub fn check_key(&self, access: &Access) -> bool {
        let region = self.named(access.pd, access.key);
        region.is_some_and(|region| region.access.contains(access.rights))
            || self.binding(access).is_some()
    }

    /// Where an access begins in the memory behind the region, if it is allowed.
    pub fn check(&self, access: &Access) -> Option<u64> {
        let length = u64::from(access.length);
        let (region, addr) = match self.binding(access) {
            Some(bound) => {
                let start = start(bound.access, bound.addr);
                if !is_within(access.addr, length, start, bound.length) {
                    return None;
                }
                let region = self.regions.get(&bound.region)?;
                // What was registered in the meantime is nothing of the window's.
                if region.registration != bound.registration || region.phase != Phase::Valid {
                    return None;
                }
                (region, access.addr - start + bound.addr)
            }
            None => {
                let region = self.named(access.pd, access.key)?;
                if !region.access.contains(access.rights) {
                    return None;
                }
                (region, access.addr)
            }
        };
        let is_in_region = is_within(addr, length, region.start, region.length);
        is_in_region.then(|| region.offset.checked_add(addr - region.start))?
    }
}
