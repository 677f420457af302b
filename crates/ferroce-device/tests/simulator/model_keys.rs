// SPDX-License-Identifier: MIT OR Apache-2.0
//! Regions and windows, and what their keys allow.

use std::collections::BTreeMap;

use ferroce_core::ring::{BindMw, Remote};
use ferroce_core::verbs::AccessFlags;

use super::Model;
use crate::host::Process;

#[derive(Clone, Copy)]
struct Region {
    process: Process,
    addr: u64,
    length: u64,
    access: AccessFlags,
}

impl Region {
    fn has(&self, addr: u64, length: u64) -> bool {
        addr >= self.addr && addr - self.addr + length <= self.length
    }
}

struct Window {
    process: Process,
    belongs_to_qp: bool,
    key: u32,
    /// The region's key, the part, and who bound it.
    bound: Option<(u32, Region, usize)>,
}

#[derive(Default)]
pub struct Keys {
    regions: BTreeMap<u32, Region>,
    /// By number.
    windows: BTreeMap<u32, Window>,
}

impl Model {
    pub fn register(&mut self, of: Process, key: u32, addr: u64, length: u64, access: AccessFlags) {
        let region = Region {
            process: of,
            addr,
            length,
            access,
        };
        self.keys[of.host].regions.insert(key, region);
    }

    pub fn deregister(&mut self, host: usize, key: u32) -> bool {
        let keys = &mut self.keys[host];
        let is_bound = |window: &Window| window.bound.is_some_and(|(region, ..)| region == key);
        !keys.windows.values().any(is_bound) && keys.regions.remove(&key).is_some()
    }

    pub fn allocate_window(&mut self, of: Process, key: u32, belongs_to_qp: bool) {
        let window = Window {
            process: of,
            belongs_to_qp,
            key,
            bound: None,
        };
        self.keys[of.host].windows.insert(key >> 8, window);
    }

    pub fn deallocate_window(&mut self, host: usize, number: u32) {
        self.keys[host].windows.remove(&number);
    }

    pub fn key_of_window(&self, host: usize, number: u32) -> u32 {
        self.keys[host].windows[&number].key
    }

    pub(super) fn local(&self, of: Process, key: u32, addr: u64, length: u32, write: bool) -> bool {
        self.keys[of.host].regions.get(&key).is_some_and(|region| {
            region.process == of
                && region.has(addr, length.into())
                && (!write || region.access.contains(AccessFlags::LOCAL_WRITE))
        })
    }

    /// Whether a request to that queue pair may have access to memory.
    pub(super) fn remote(
        &self,
        qp: usize,
        remote: Remote,
        length: u32,
        right: AccessFlags,
    ) -> bool {
        let Remote { addr, rkey } = remote;
        let process = self.qps[qp].process;
        let keys = &self.keys[process.host];
        if let Some(region) = keys.regions.get(&rkey) {
            return region.process == process
                && region.has(addr, length.into())
                && region.access.contains(right);
        }
        let Some(window) = keys.windows.get(&(rkey >> 8)) else {
            return false;
        };
        let Some((_, part, binder)) = window.bound else {
            return false;
        };
        window.process == process
            && window.key == rkey
            && part.has(addr, length.into())
            && part.access.contains(right)
            && (!window.belongs_to_qp || binder == qp)
    }

    pub(super) fn bind(&mut self, binder: usize, bind: &BindMw) -> bool {
        let process = self.qps[binder].process;
        let keys = &mut self.keys[process.host];
        let Some(region) = keys.regions.get(&bind.mr_lkey).copied() else {
            return false;
        };
        let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
        let Some(window) = keys.windows.get_mut(&(bind.mw_rkey >> 8)) else {
            return false;
        };
        let is_allowed = window.process == process
            && region.process == process
            && window.key == bind.mw_rkey
            && (!window.belongs_to_qp || window.bound.is_none())
            && region.access.contains(AccessFlags::MW_BIND)
            && region.has(bind.addr, bind.length)
            && (!bind.access.intersects(writes)
                || region.access.contains(AccessFlags::LOCAL_WRITE));
        if is_allowed {
            let part = Region {
                process,
                addr: bind.addr,
                length: bind.length,
                access: bind.access,
            };
            window.bound = Some((bind.mr_lkey, part, binder));
            window.key = window.key & !0xff | bind.new_rkey & 0xff;
        }
        is_allowed
    }

    /// Ends the access by a window's key, for the queue pair that has bound it.
    pub(super) fn invalidate(&mut self, owner: usize, rkey: u32) -> bool {
        let host = self.qps[owner].process.host;
        let Some(window) = self.keys[host].windows.get_mut(&(rkey >> 8)) else {
            return false;
        };
        let is_owner = window.bound.is_some_and(|(.., binder)| binder == owner);
        let is_allowed = window.belongs_to_qp && window.key == rkey && is_owner;
        if is_allowed {
            window.bound = None;
        }
        is_allowed
    }
}
