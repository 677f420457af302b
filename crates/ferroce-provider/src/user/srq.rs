// SPDX-License-Identifier: MIT OR Apache-2.0
//! Shared receive queues.

use core::ffi::{c_int, c_void};
use core::ptr;

use ferroce_core::uapi;
use ferroce_user::srq::{Attributes, Srq};
use ferroce_user::Errno;

use super::memory::{pd_of, DOMAINS};
use super::{respond, status, wait_for_events, Objects, CONTEXTS};
use crate::abi::{
    srq_attr_mask, IbvPd, IbvRecvWr, IbvSrq, IbvSrqAttr, IbvSrqInitAttr, ModifySrqRequest,
};

pub(super) static SRQS: Objects<Srq> = Objects::new();

pub unsafe extern "C" fn create_srq(
    pd: *mut IbvPd,
    srq: *mut IbvSrq,
    attr: *mut IbvSrqInitAttr,
    _cmd: *mut c_void,
    _cmd_size: usize,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    status((|| {
        // SAFETY: By the contract of the command.
        let (context, attr) = unsafe { ((*pd).context, &mut *attr) };
        // SAFETY: By the contract of the command.
        let domain = unsafe { pd_of(pd)? };
        let wanted = Attributes {
            max_wr: attr.attr.max_wr,
            max_sge: attr.attr.max_sge,
            limit: attr.attr.srq_limit,
        };
        let handle = srq.expose_provenance() as u64;
        let (queue, response) = Srq::create(&CONTEXTS.get(context)?, &wanted, handle)?;
        let made = queue.query()?;
        attr.attr.max_wr = made.max_wr;
        attr.attr.max_sge = made.max_sge;
        // SAFETY: By the contract of the command. The mutex and the condition variable are libibverbs' to
        // initialise again.
        unsafe {
            (*srq).context = context;
            (*srq).pd = pd;
            (*srq).srq_context = attr.srq_context;
            (*srq).handle = queue.number;
            libc::pthread_mutex_init(&raw mut (*srq).mutex, ptr::null());
            libc::pthread_cond_init(&raw mut (*srq).cond, ptr::null());
            respond(resp, resp_size, 16, response);
        }
        domain.uses.add();
        DOMAINS.put(srq, domain);
        SRQS.put(srq, queue);
        Ok(())
    })())
}

pub unsafe extern "C" fn modify_srq(
    srq: *mut IbvSrq,
    attr: *mut IbvSrqAttr,
    attr_mask: c_int,
    cmd: *mut c_void,
    cmd_size: usize,
) -> c_int {
    const LIMIT: c_int = 1 << 1;
    status((|| {
        let queue = SRQS.get(srq)?;
        // SAFETY: By the contract of the command.
        let attr = unsafe { &*attr };
        let limit = (attr_mask & LIMIT != 0).then_some(attr.srq_limit);
        if attr_mask & srq_attr_mask::MAX_WR == 0 {
            return limit.map_or(Ok(()), |limit| queue.set_limit(limit));
        }
        if cmd_size < size_of::<ModifySrqRequest<uapi::ModifySrqRequest>>() {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        // SAFETY: The provider's request has this behind it.
        let request = unsafe { (*cmd.cast::<ModifySrqRequest<uapi::ModifySrqRequest>>()).driver };
        if request.response == 0 {
            return queue.move_to_offered(attr.max_wr, limit);
        }
        let response = queue.offer(attr.max_wr, limit)?;
        let to = ptr::with_exposed_provenance_mut::<uapi::SrqResponse>(request.response as usize);
        // SAFETY: It is the provider's own structure.
        unsafe { to.write(response) };
        Ok(())
    })())
}

pub unsafe extern "C" fn query_srq(
    srq: *mut IbvSrq,
    attr: *mut IbvSrqAttr,
    _cmd: *mut c_void,
    _cmd_size: usize,
) -> c_int {
    status((|| {
        let found = SRQS.get(srq)?.query()?;
        // SAFETY: By the contract of the command.
        unsafe {
            attr.write(IbvSrqAttr {
                max_wr: found.max_wr,
                max_sge: found.max_sge,
                srq_limit: found.limit,
            });
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn destroy_srq(srq: *mut IbvSrq) -> c_int {
    status((|| {
        let told = SRQS.get(srq)?.destroy()?;
        SRQS.take(srq);
        DOMAINS.get(srq)?.uses.remove();
        DOMAINS.take(srq);
        if told != 0 {
            // SAFETY: By the contract of the command.
            unsafe {
                let counts = [(&raw const (*srq).events_completed, told)];
                wait_for_events(&raw mut (*srq).mutex, &raw mut (*srq).cond, &counts);
            }
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn post_srq_recv(
    _srq: *mut IbvSrq,
    _wr: *mut IbvRecvWr,
    _bad_wr: *mut *mut IbvRecvWr,
) -> c_int {
    // Nobody waits for the doorbell.
    0
}
