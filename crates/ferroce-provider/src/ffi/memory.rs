// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory regions and windows. The kernel does it all; what is here is the memory of the objects.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr;

use super::object::Object;
use super::{object, status, Failure};
use crate::abi::library::Library;
use crate::abi::{
    AllocMwRequest, AllocMwResponse, IbvMr, IbvMw, IbvPd, RegMrRequest, RegMrResponse,
    ReregMrRequest, ReregMrResponse, VerbsMr,
};

type Mr = Object<VerbsMr>;
type Mw = Object<IbvMw>;

/// Makes a memory region, and has `command` fill it in.
pub(super) fn new_mr(command: impl FnOnce(*mut VerbsMr) -> c_int) -> *mut IbvMr {
    let mr = Mr::make();
    let result = command(mr.verbs());
    object(Failure::check(result).map(|()| mr.finish(()).cast()))
}

pub unsafe extern "C" fn reg_mr(
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    hca_va: u64,
    access: c_int,
) -> *mut IbvMr {
    let (mut request, mut response) = (RegMrRequest::new(), RegMrResponse::new());
    // SAFETY: By the contract of the verbs; the buffers are as long as they are said to be. The region
    // itself is the kernel's to check.
    new_mr(|mr| unsafe {
        (Library::get().common.ibv_cmd_reg_mr)(
            pd,
            addr,
            length,
            hca_va,
            access,
            mr,
            request.as_mut_ptr(),
            request.len(),
            response.as_mut_ptr(),
            response.len(),
        )
    })
}

pub unsafe extern "C" fn reg_dmabuf_mr(
    pd: *mut IbvPd,
    offset: u64,
    length: usize,
    iova: u64,
    fd: c_int,
    access: c_int,
) -> *mut IbvMr {
    let driver = ptr::null_mut();
    // SAFETY: By the contract of the verbs.
    new_mr(|mr| unsafe {
        (Library::get().common.ibv_cmd_reg_dmabuf_mr)(
            pd, offset, length, iova, fd, access, mr, driver,
        )
    })
}

pub unsafe extern "C" fn rereg_mr(
    mr: *mut VerbsMr,
    flags: c_int,
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    access: c_int,
) -> c_int {
    let (mut request, mut response) = (ReregMrRequest::new(), ReregMrResponse::new());
    // SAFETY: By the contract of the verbs; the buffers are as long as they are said to be.
    status(Failure::check(unsafe {
        (Library::get().common.ibv_cmd_rereg_mr)(
            mr,
            flags.cast_unsigned(),
            addr,
            length,
            addr.addr() as u64,
            access,
            pd,
            request.as_mut_ptr(),
            request.len(),
            response.as_mut_ptr(),
            response.len(),
        )
    }))
}

pub unsafe extern "C" fn dereg_mr(mr: *mut VerbsMr) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_dereg_mr)(mr) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Mr::drop(mr) };
        Ok(())
    })())
}

/// A memory region that was made by another user of the same device file.
pub unsafe extern "C" fn import_mr(pd: *mut IbvPd, handle: u32) -> *mut IbvMr {
    // SAFETY: By the contract of the verbs.
    new_mr(|mr| unsafe { (Library::get().common.ibv_cmd_query_mr)(pd, mr, handle) })
}

pub unsafe extern "C" fn unimport_mr(mr: *mut IbvMr) {
    // SAFETY: By the contract of the verbs nobody uses it any more.
    unsafe { Mr::drop(mr) };
}

pub unsafe extern "C" fn alloc_mw(pd: *mut IbvPd, r#type: c_uint) -> *mut IbvMw {
    // The command has eight bits for it, and the kernel does not look at them.
    if !matches!(r#type, 1 | 2) {
        return object(Err(Failure::INVALID));
    }
    let mw = Mw::make();
    let (mut request, mut response) = (AllocMwRequest::new(), AllocMwResponse::new());
    // SAFETY: By the contract of the verbs; the buffers are as long as they are said to be.
    let result = unsafe {
        (Library::get().common.ibv_cmd_alloc_mw)(
            pd,
            r#type,
            mw.verbs(),
            request.as_mut_ptr(),
            request.len(),
            response.as_mut_ptr(),
            response.len(),
        )
    };
    object(Failure::check(result).map(|()| mw.finish(())))
}

pub unsafe extern "C" fn dealloc_mw(mw: *mut IbvMw) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs.
        Failure::check(unsafe { (Library::get().common.ibv_cmd_dealloc_mw)(mw) })?;
        // SAFETY: By the contract of the verbs nobody uses it any more.
        unsafe { Mw::drop(mw) };
        Ok(())
    })())
}
