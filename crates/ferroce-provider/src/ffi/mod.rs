// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs, as libibverbs calls them.
//!
//! # Safety
//! All functions that C calls have the same contract, that of the verbs (`verbs.h`, and the manual
//! pages it names): an object passed in has been made by this provider and is not destroyed before the
//! call returns; a structure passed in is as declared in [`crate::abi`], valid for reads, and for
//! writes if the verb gives something back there; a list ends; nobody changes what is passed in during
//! the call. "By the contract of the verbs" refers to this.

use core::ffi::c_int;
use core::ptr;
use std::io;

use ferroce_core::verbs::Errno;

use crate::abi::library::Library;
use crate::abi::ContextOps;

mod cq;
mod cq_ex;
mod device;
mod device_memory;
mod domain;
pub mod doorbell;
mod memory;
mod object;
mod qp;
mod qp_ex;
mod send;
mod srq;
mod tiny;

#[cfg(test)]
pub mod tests;

/// The verbs this provider has.
fn context_ops(library: &Library) -> ContextOps {
    let common = &library.common;
    library.specific.ops(ContextOps {
        // Verbs that are the kernel's alone.
        advise_mr: Some(common.ibv_cmd_advise_mr),
        attach_mcast: Some(common.ibv_cmd_attach_mcast),
        detach_mcast: Some(common.ibv_cmd_detach_mcast),

        free_context: Some(device::free_context),
        query_device_ex: Some(device::query_device_ex),
        query_port: Some(device::query_port),
        query_rt_values: Some(device::query_rt_values),

        alloc_pd: Some(domain::alloc_pd),
        dealloc_pd: Some(domain::dealloc_pd),
        alloc_parent_domain: Some(domain::alloc_parent_domain),
        alloc_td: Some(domain::alloc_td),
        dealloc_td: Some(domain::dealloc_td),
        import_pd: Some(domain::import_pd),
        unimport_pd: Some(domain::unimport_pd),

        reg_mr: Some(memory::reg_mr),
        reg_dmabuf_mr: Some(memory::reg_dmabuf_mr),
        rereg_mr: Some(memory::rereg_mr),
        dereg_mr: Some(memory::dereg_mr),
        import_mr: Some(memory::import_mr),
        unimport_mr: Some(memory::unimport_mr),
        alloc_dm: Some(device_memory::alloc_dm),
        free_dm: Some(device_memory::free_dm),
        reg_dm_mr: Some(device_memory::reg_dm_mr),
        alloc_mw: Some(memory::alloc_mw),
        dealloc_mw: Some(memory::dealloc_mw),

        create_ah: Some(domain::create_ah),
        destroy_ah: Some(domain::destroy_ah),

        create_cq: Some(cq::create_cq),
        create_cq_ex: Some(cq::create_cq_ex),
        resize_cq: Some(cq::resize_cq),
        destroy_cq: Some(cq::destroy_cq),
        poll_cq: Some(cq::poll_cq),
        req_notify_cq: Some(cq::req_notify_cq),

        create_srq: Some(srq::create_srq),
        modify_srq: Some(srq::modify_srq),
        query_srq: Some(srq::query_srq),
        destroy_srq: Some(srq::destroy_srq),
        post_srq_recv: Some(srq::post_srq_recv),

        create_qp: Some(qp::create_qp),
        create_qp_ex: Some(qp::create_qp_ex),
        modify_qp: Some(qp::modify_qp),
        query_qp: Some(qp::query_qp),
        destroy_qp: Some(qp::destroy_qp),
        post_send: Some(send::post_send),
        post_recv: Some(send::post_recv),
        bind_mw: Some(send::bind_mw),

        ..ContextOps::default()
    })
}

/// Why a verb fails, as an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure(c_int);

impl Failure {
    const NOT_SUPPORTED: Self = Self(libc::EOPNOTSUPP);
    const INVALID: Self = Self(libc::EINVAL);
    const BUSY: Self = Self(libc::EBUSY);
    const FAULT: Self = Self(libc::EFAULT);
    /// The driver's answer makes no sense.
    const PROTOCOL: Self = Self(libc::EPROTO);

    /// From what a command of libibverbs returns.
    const fn check(result: c_int) -> Result<(), Self> {
        match result {
            0 => Ok(()),
            errno => Err(Self(errno)),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self(errno.number())
    }
}

/// The result of a verb that returns zero or an errno.
fn status(result: Result<(), Failure>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(Failure(errno)) => {
            set_errno(errno);
            errno
        }
    }
}

/// The result of a verb that returns an object, or null and sets errno.
fn object<T>(result: Result<*mut T, Failure>) -> *mut T {
    match result {
        Ok(object) => object,
        Err(Failure(errno)) => {
            set_errno(errno);
            ptr::null_mut()
        }
    }
}

fn set_errno(errno: c_int) {
    // SAFETY: The function returns the address of this thread's errno.
    unsafe { *libc::__errno_location() = errno };
}
