// SPDX-License-Identifier: MIT OR Apache-2.0
//! Protection, parent and thread domains, and address handles.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::object::Object;
use super::{object, status, Failure};
use crate::abi::library::Library;
use crate::abi::{
    parent_domain_mask, AllocPdRequest, AllocPdResponse, CreateAhResponse, IbvAh, IbvContext,
    IbvParentDomainInitAttr, IbvPd, IbvTd, IbvTdInitAttr,
};
use crate::lock::Threads;

/// What a protection domain is to this provider.
pub enum Domain {
    /// One of the kernel's. It counts the parent domains made of it.
    Protection { parents: AtomicUsize },
    /// A parent domain: a protection domain under another pointer, and how its queues are used.
    Parent {
        protection: *mut IbvPd,
        thread: *mut IbvTd,
    },
}

type Pd = Object<IbvPd, Domain>;

/// A thread domain counts the parent domains that have it.
type Td = Object<IbvTd, AtomicUsize>;

/// How the queues of a protection domain, or of none, are used.
///
/// # Safety
/// It is null or as the verbs' contract has it.
pub unsafe fn threads_of(pd: *mut IbvPd) -> Threads {
    if pd.is_null() {
        return Threads::Many;
    }
    // SAFETY: By this function's contract.
    match unsafe { Pd::from_ptr(pd) }.data() {
        Domain::Parent { thread, .. } if !thread.is_null() => Threads::One,
        _ => Threads::Many,
    }
}

/// A protection domain that nothing is made of yet.
fn protection() -> Domain {
    Domain::Protection {
        parents: AtomicUsize::new(0),
    }
}

pub unsafe extern "C" fn alloc_pd(context: *mut IbvContext) -> *mut IbvPd {
    let pd = Pd::make();
    let (mut request, mut response) = (AllocPdRequest::new(), AllocPdResponse::new());
    // SAFETY: By the contract of the verbs; the buffers are as long as they are said to be.
    let result = unsafe {
        (Library::get().common.ibv_cmd_alloc_pd)(
            context,
            pd.verbs(),
            request.as_mut_ptr(),
            request.len(),
            response.as_mut_ptr(),
            response.len(),
        )
    };
    object(Failure::check(result).map(|()| pd.finish(protection())))
}

pub unsafe extern "C" fn dealloc_pd(pd: *mut IbvPd) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        match unsafe { Pd::from_ptr(pd) }.data() {
            Domain::Protection { parents } => {
                if parents.load(Ordering::Relaxed) != 0 {
                    return Err(Failure::BUSY);
                }
                // SAFETY: By the contract of the verbs.
                Failure::check(unsafe { (Library::get().common.ibv_cmd_dealloc_pd)(pd) })?;
            }
            Domain::Parent { protection, thread } => {
                // SAFETY: Neither can have been destroyed: it counts this parent domain.
                unsafe {
                    count(*protection, *thread, |count| {
                        count.fetch_sub(1, Ordering::Relaxed)
                    })
                };
            }
        }
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Pd::drop(pd) };
        Ok(())
    })())
}

/// Counts a parent domain where it has to be counted.
///
/// # Safety
/// Both are as the verbs' contract has it; the thread domain can be null.
unsafe fn count(
    protection: *mut IbvPd,
    thread: *mut IbvTd,
    change: impl Fn(&AtomicUsize) -> usize,
) {
    // SAFETY: By this function's contract.
    if let Domain::Protection { parents } = unsafe { Pd::from_ptr(protection) }.data() {
        change(parents);
    }
    if !thread.is_null() {
        // SAFETY: By this function's contract.
        change(unsafe { Td::from_ptr(thread) }.data());
    }
}

pub unsafe extern "C" fn alloc_parent_domain(
    _context: *mut IbvContext,
    attr: *mut IbvParentDomainInitAttr,
) -> *mut IbvPd {
    // SAFETY: By the contract of the verbs.
    let attr = unsafe { &*attr };
    // The allocators are for memory that a provider allocates for queues: here the kernel does.
    let known = parent_domain_mask::ALLOCATORS | parent_domain_mask::PD_CONTEXT;
    if attr.comp_mask & !known != 0 {
        // What a newer libibverbs has: memory that a confidential guest shares with its host, for one.
        return object(Err(Failure::NOT_SUPPORTED));
    }
    if attr.pd.is_null() {
        return object(Err(Failure::INVALID));
    }
    // SAFETY: By the contract of the verbs.
    let protection = match unsafe { Pd::from_ptr(attr.pd) }.data() {
        Domain::Protection { .. } => attr.pd,
        // A parent domain of a parent domain is one of what that is made of.
        Domain::Parent { protection, .. } => *protection,
    };
    let pd = Pd::make();
    // SAFETY: By the contract of the verbs; the new one is nobody else's yet.
    unsafe {
        (*pd.verbs()).context = (*protection).context;
        (*pd.verbs()).handle = (*protection).handle;
        count(protection, attr.td, |count| {
            count.fetch_add(1, Ordering::Relaxed)
        });
    }
    pd.finish(Domain::Parent {
        protection,
        thread: attr.td,
    })
}

pub unsafe extern "C" fn alloc_td(
    context: *mut IbvContext,
    attr: *mut IbvTdInitAttr,
) -> *mut IbvTd {
    // SAFETY: By the contract of the verbs.
    if unsafe { (*attr).comp_mask } != 0 {
        return object(Err(Failure::NOT_SUPPORTED));
    }
    let td = Td::make();
    // SAFETY: The new one is nobody else's yet.
    unsafe { (*td.verbs()).context = context };
    td.finish(AtomicUsize::new(0))
}

pub unsafe extern "C" fn dealloc_td(td: *mut IbvTd) -> c_int {
    // SAFETY: By the contract of the verbs.
    if unsafe { Td::from_ptr(td) }.data().load(Ordering::Relaxed) != 0 {
        return status(Err(Failure::BUSY));
    }
    // SAFETY: By the contract of the verbs nobody uses it any more.
    unsafe { Td::drop(td) };
    0
}

/// A protection domain that was made by another user of the same device file.
pub unsafe extern "C" fn import_pd(context: *mut IbvContext, handle: u32) -> *mut IbvPd {
    let pd = Pd::make();
    // SAFETY: The new one is nobody else's yet.
    unsafe {
        (*pd.verbs()).context = context;
        (*pd.verbs()).handle = handle;
    }
    pd.finish(protection())
}

pub unsafe extern "C" fn unimport_pd(pd: *mut IbvPd) {
    // SAFETY: By the contract of the verbs nobody uses it any more.
    unsafe { Pd::drop(pd) };
}

/// An address handle, and the number that work requests name it by.
type Ah = Object<IbvAh, u32>;

/// The number of an address handle; `None` for a null pointer.
///
/// # Safety
/// It is null or as the verbs' contract has it.
pub unsafe fn ah_number(ah: *mut IbvAh) -> Option<u32> {
    if ah.is_null() {
        return None;
    }
    // SAFETY: By this function's contract.
    Some(*unsafe { Ah::from_ptr(ah) }.data())
}

pub unsafe extern "C" fn create_ah(pd: *mut IbvPd, attr: *mut c_void) -> *mut IbvAh {
    let ah = Ah::make();
    let mut response = CreateAhResponse::new();
    let (pointer, len) = (response.as_mut_ptr(), response.len());
    // SAFETY: By the contract of the verbs; the response is as long as it is said to be.
    let result =
        unsafe { (Library::get().common.ibv_cmd_create_ah)(pd, ah.verbs(), attr, pointer, len) };
    object(Failure::check(result).map(|()| ah.finish(response.driver.number)))
}

pub unsafe extern "C" fn destroy_ah(ah: *mut IbvAh) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_destroy_ah)(ah) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Ah::drop(ah) };
        Ok(())
    })())
}
