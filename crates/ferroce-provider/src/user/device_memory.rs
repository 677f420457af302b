// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device memory.

use core::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use ferroce_core::verbs::AccessFlags;
use ferroce_user::device_memory::DeviceMemory;
use ferroce_user::keys;
use ferroce_user::{Errno, Result};

use super::memory::{pd_of, registered};
use super::{status, Objects, CONTEXTS};
use crate::abi::device_memory::{IbvAllocDmAttr, VerbsDm};
use crate::abi::{IbvContext, IbvPd, VerbsMr};

pub(super) static MEMORIES: Objects<DeviceMemory> = Objects::new();
/// The memories that regions are over, by the addresses of these.
pub(super) static REGIONS: Objects<DeviceMemory> = Objects::new();

/// Allocates device memory. Returns its handle, and the offset to map it with.
pub fn alloc_dm(
    context: *mut IbvContext,
    dm: *mut VerbsDm,
    attr: &IbvAllocDmAttr,
) -> Result<(u32, u64)> {
    let process = CONTEXTS.get(context)?.process;
    let memory = DeviceMemory::new(process, attr.length, attr.log_align_req)?;
    let allocated = (memory.handle(), memory.offset());
    MEMORIES.put(dm, Arc::new(memory));
    Ok(allocated)
}

pub unsafe extern "C" fn free_dm(dm: *mut VerbsDm) -> c_int {
    status((|| {
        MEMORIES.get(dm)?.regions.check_none()?;
        MEMORIES.take(dm);
        Ok(())
    })())
}

pub unsafe extern "C" fn reg_dm_mr(
    pd: *mut IbvPd,
    dm: *mut VerbsDm,
    offset: u64,
    length: usize,
    access: c_uint,
    mr: *mut VerbsMr,
    _link: *mut c_void,
) -> c_int {
    status((|| {
        if access & AccessFlags::ZERO_BASED.bits() == 0 {
            return Err(Errno(libc::EINVAL));
        }
        let memory = MEMORIES.get(dm)?;
        let part = memory.part(offset, length as u64)?;
        // SAFETY: By the contract of the command.
        let domain = unsafe { pd_of(pd)? };
        let key = keys::register_device_memory(domain.process, domain.id(), &part, access)?;
        // SAFETY: By the contract of the command.
        unsafe {
            registered(domain, key, access.cast_signed(), pd, mr);
            (*mr).ibv_mr.length = length;
            (*mr).ibv_mr.pd = pd;
        }
        memory.regions.add();
        REGIONS.put(mr, memory);
        Ok(())
    })())
}

/// Whether a region is over device memory.
pub(super) fn is_over_some(mr: *mut VerbsMr) -> bool {
    REGIONS.get(mr).is_ok()
}

/// A region is gone, which may have been over device memory.
pub(super) fn deregistered(mr: *mut VerbsMr) {
    if let Ok(memory) = REGIONS.get(mr) {
        memory.regions.remove();
        REGIONS.take(mr);
    }
}
