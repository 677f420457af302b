// SPDX-License-Identifier: MIT OR Apache-2.0
//! Protection domains, memory regions and windows, address handles.

use core::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

use ferroce_core::ring::Sge;
use ferroce_core::uapi;
use ferroce_device::address::Address;
use ferroce_device::key::Access;
use ferroce_device::window::Kind;
use ferroce_user::keys::{self, Memory, Pd};
use ferroce_user::{Errno, Result};

use super::{device_memory, respond, status, Objects, CONTEXTS};
use crate::abi::{IbvAh, IbvAhAttr, IbvContext, IbvMw, IbvPd, VerbsMr};

pub(super) static PDS: Objects<Pd> = Objects::new();
/// The domains of other objects, by the addresses of these.
pub(super) static DOMAINS: Objects<Pd> = Objects::new();

/// The device's domain of one of C's: a parent domain is one for another, and has its handle.
pub(super) fn pd(handle: u32) -> Result<Arc<Pd>> {
    PDS.get(core::ptr::without_provenance_mut::<Pd>(handle as usize))
}

/// # Safety
/// The domain is one of libibverbs'.
pub(super) unsafe fn pd_of(pd: *mut IbvPd) -> Result<Arc<Pd>> {
    // SAFETY: By this function's contract.
    self::pd(unsafe { (*pd).handle })
}

pub unsafe extern "C" fn alloc_pd(
    context: *mut IbvContext,
    pd: *mut IbvPd,
    _cmd: *mut c_void,
    _cmd_size: usize,
    _resp: *mut c_void,
    _resp_size: usize,
) -> c_int {
    status((|| {
        let new = Arc::new(Pd::new(CONTEXTS.get(context)?.process));
        // SAFETY: By the contract of the command.
        unsafe {
            (*pd).context = context;
            (*pd).handle = new.number;
        }
        PDS.put(
            core::ptr::without_provenance_mut::<Pd>(new.number as usize),
            new,
        );
        Ok(())
    })())
}

pub unsafe extern "C" fn dealloc_pd(pd: *mut IbvPd) -> c_int {
    status((|| {
        // SAFETY: By the contract of the command.
        let handle = unsafe { (*pd).handle };
        self::pd(handle)?.uses.check_none()?;
        PDS.take(core::ptr::without_provenance_mut::<Pd>(handle as usize));
        Ok(())
    })())
}

pub unsafe extern "C" fn reg_mr(
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    hca_va: u64,
    access: c_int,
    mr: *mut VerbsMr,
    _cmd: *mut c_void,
    _cmd_size: usize,
    _resp: *mut c_void,
    _resp_size: usize,
) -> c_int {
    status((|| {
        // SAFETY: By the contract of the command.
        let domain = unsafe { pd_of(pd)? };
        let memory = Memory {
            start: addr.expose_provenance() as u64,
            length: length as u64,
            virt_addr: hca_va,
        };
        let key = keys::register(domain.process, domain.id(), &memory, access.cast_unsigned())?;
        // SAFETY: By the contract of the command.
        unsafe { registered(domain, key, access, pd, mr) };
        Ok(())
    })())
}

/// Fills in a region that has been registered.
///
/// # Safety
/// As the contract of the command has it.
pub(super) unsafe fn registered(
    domain: Arc<Pd>,
    key: u32,
    access: c_int,
    pd: *mut IbvPd,
    mr: *mut VerbsMr,
) {
    domain.uses.add();
    DOMAINS.put(mr, domain);
    // SAFETY: By this function's contract.
    unsafe {
        let ibv_mr = &mut (*mr).ibv_mr;
        ibv_mr.context = (*pd).context;
        (ibv_mr.handle, ibv_mr.lkey, ibv_mr.rkey) = (key, key, key);
        // `IBV_MR_TYPE_MR`.
        (*mr).mr_type = 0;
        (*mr).access = access;
    }
}

/// `enum ibv_rereg_mr_flags`.
mod rereg {
    pub const TRANSLATION: u32 = 1 << 0;
    pub const PD: u32 = 1 << 1;
    pub const ACCESS: u32 = 1 << 2;
}

pub unsafe extern "C" fn rereg_mr(
    mr: *mut VerbsMr,
    flags: u32,
    addr: *mut c_void,
    length: usize,
    hca_va: u64,
    access: c_int,
    pd: *mut IbvPd,
    _cmd: *mut c_void,
    _cmd_size: usize,
    _resp: *mut c_void,
    _resp_size: usize,
) -> c_int {
    status((|| {
        if flags == 0 || flags & !(rereg::TRANSLATION | rereg::PD | rereg::ACCESS) != 0 {
            return Err(Errno(libc::EINVAL));
        }
        if device_memory::is_over_some(mr) {
            return Err(Errno(libc::EINVAL));
        }
        // SAFETY: By the contract of the command.
        let key = unsafe { (*mr).ibv_mr.lkey };
        let domain = match flags & rereg::PD {
            0 => None,
            // SAFETY: By the contract of the command.
            _ => Some(unsafe { pd_of(pd)? }),
        };
        let memory = (flags & rereg::TRANSLATION != 0).then(|| Memory {
            start: addr.expose_provenance() as u64,
            length: length as u64,
            virt_addr: hca_va,
        });
        let access = (flags & rereg::ACCESS != 0).then(|| access.cast_unsigned());
        let id = domain.as_ref().map(|domain| domain.id());
        keys::reregister(DOMAINS.get(mr)?.process, key, id, memory.as_ref(), access)?;
        if let Some(domain) = domain {
            DOMAINS.get(mr)?.uses.remove();
            domain.uses.add();
            DOMAINS.put(mr, domain);
            // SAFETY: By the contract of the command.
            unsafe { (*mr).ibv_mr.context = (*pd).context };
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn dereg_mr(mr: *mut VerbsMr) -> c_int {
    status((|| {
        let domain = DOMAINS.get(mr)?;
        // SAFETY: By the contract of the command.
        keys::deregister(domain.process, unsafe { (*mr).ibv_mr.handle })?;
        domain.uses.remove();
        DOMAINS.take(mr);
        device_memory::deregistered(mr);
        Ok(())
    })())
}

pub unsafe extern "C" fn query_mr(_pd: *mut IbvPd, _mr: *mut VerbsMr, _handle: u32) -> c_int {
    // As there is no file that another process could have opened.
    libc::EOPNOTSUPP
}

/// `enum ibv_advise_mr_advice`.
mod advice {
    pub const PREFETCH: u32 = 0;
    pub const PREFETCH_WRITE: u32 = 1;
    pub const PREFETCH_NO_FAULT: u32 = 2;
}

pub unsafe extern "C" fn advise_mr(
    pd: *mut IbvPd,
    advice: c_uint,
    flags: u32,
    sg_list: *mut Sge,
    num_sge: u32,
) -> c_int {
    status((|| {
        // `IBV_ADVISE_MR_FLAG_FLUSH`: to wait until it is done, as is always done here.
        if num_sge == 0 || flags & !1 != 0 {
            return Err(Errno(libc::EINVAL));
        }
        let write = match advice {
            advice::PREFETCH | advice::PREFETCH_NO_FAULT => false,
            advice::PREFETCH_WRITE => true,
            _ => return Err(Errno(libc::EOPNOTSUPP)),
        };
        // SAFETY: By the contract of the command.
        let (domain, sges) = unsafe {
            let sges = core::slice::from_raw_parts(sg_list, num_sge as usize);
            (pd_of(pd)?, sges)
        };
        for sge in sges {
            // For no queue pair.
            let access = Access::local(domain.id(), 0, *sge, false);
            keys::advise(domain.process, &access, write)?;
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn reg_dmabuf_mr(
    _pd: *mut IbvPd,
    _offset: u64,
    _length: usize,
    _iova: u64,
    _fd: c_int,
    _access: c_int,
    _mr: *mut VerbsMr,
    _driver: *mut c_void,
) -> c_int {
    libc::EOPNOTSUPP
}

pub unsafe extern "C" fn alloc_mw(
    pd: *mut IbvPd,
    r#type: c_uint,
    mw: *mut IbvMw,
    _cmd: *mut c_void,
    _cmd_size: usize,
    _resp: *mut c_void,
    _resp_size: usize,
) -> c_int {
    status((|| {
        let kind = match r#type {
            1 => Kind::Type1,
            _ => Kind::Type2,
        };
        // SAFETY: By the contract of the command.
        let domain = unsafe { pd_of(pd)? };
        let key = keys::allocate_window(domain.process, domain.id(), kind)?;
        domain.uses.add();
        DOMAINS.put(mw, domain);
        // SAFETY: By the contract of the command.
        unsafe {
            (*mw).context = (*pd).context;
            (*mw).pd = pd;
            (*mw).rkey = key;
            (*mw).handle = key;
            (*mw).r#type = r#type;
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn dealloc_mw(mw: *mut IbvMw) -> c_int {
    status((|| {
        let domain = DOMAINS.get(mw)?;
        // SAFETY: By the contract of the command.
        keys::deallocate_window(domain.process, unsafe { (*mw).handle })?;
        domain.uses.remove();
        DOMAINS.take(mw);
        Ok(())
    })())
}

pub unsafe extern "C" fn create_ah(
    pd: *mut IbvPd,
    ah: *mut IbvAh,
    attr: *mut c_void,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    status((|| {
        // SAFETY: By the contract of the command.
        let (domain, context, attr) =
            unsafe { (pd_of(pd)?, (*pd).context, &*attr.cast::<IbvAhAttr>()) };
        // On RoCE there is a GRH always.
        if attr.is_global == 0 || attr.port_num != 1 {
            return Err(Errno(libc::EINVAL));
        }
        let sgid = CONTEXTS.get(context)?.gid(attr.sgid_index.into())?;
        let number = domain.process.addresses().add(Address {
            pd: domain.id(),
            dgid: attr.dgid,
            sgid,
            traffic_class: attr.traffic_class,
            flow_label: attr.flow_label & 0xf_ffff,
            hop_limit: attr.hop_limit,
        });
        domain.uses.add();
        DOMAINS.put(ah, domain);
        // SAFETY: By the contract of the command.
        unsafe {
            (*ah).context = context;
            (*ah).handle = number;
            respond(resp, resp_size, 4, uapi::AhResponse { number });
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn destroy_ah(ah: *mut IbvAh) -> c_int {
    status((|| {
        let domain = DOMAINS.get(ah)?;
        // SAFETY: By the contract of the command.
        domain.process.addresses().remove(unsafe { (*ah).handle });
        domain.uses.remove();
        DOMAINS.take(ah);
        Ok(())
    })())
}
