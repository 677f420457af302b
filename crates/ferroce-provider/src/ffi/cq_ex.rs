// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extended polling: completions one by one, and of each the fields that are asked for.
//!
//! The queue is locked from a `start_poll` that finds a completion to `end_poll`, as in other
//! providers.

use core::ffi::{c_int, c_uint};

use ferroce_core::ring::Cqe;

use super::cq::Cq;
use super::device::clock_nanos;
use crate::abi::{IbvCqEx, IbvPollCqAttr, VerbsCq};
use crate::idle;
use crate::queue::completion;

/// Puts the functions in place.
///
/// All of them, whether the program has said it would ask or not. What the device has nothing for is
/// refused when the queue is created.
pub fn fill_in(cq: &mut VerbsCq) {
    cq.start_poll = Some(start_poll);
    cq.next_poll = Some(next_poll);
    cq.end_poll = Some(end_poll);
    cq.read_opcode = Some(read_opcode);
    cq.read_vendor_err = Some(read_vendor_err);
    cq.read_byte_len = Some(read_byte_len);
    cq.read_imm_data = Some(read_imm_data);
    cq.read_qp_num = Some(read_qp_num);
    cq.read_src_qp = Some(read_src_qp);
    cq.read_wc_flags = Some(read_wc_flags);
    cq.read_slid = Some(read_slid);
    cq.read_sl = Some(read_sl);
    cq.read_dlid_path_bits = Some(read_dlid_path_bits);
    cq.read_completion_ts = Some(read_completion_ts);
    cq.read_completion_wallclock_ns = Some(read_completion_wallclock_ns);
}

/// Puts down what the program reads without a function.
///
/// # Safety
/// By the contract of the verbs.
unsafe fn show(cq: *mut IbvCqEx, cqe: &Cqe) {
    // SAFETY: By this function's contract. The two fields are for the thread that polls.
    unsafe {
        (*cq).wr_id = cqe.wr_id;
        (*cq).status = cqe.status.number().into();
    }
}

unsafe extern "C" fn start_poll(cq: *mut IbvCqEx, attr: *mut IbvPollCqAttr) -> c_int {
    // SAFETY: By the contract of the verbs.
    if !attr.is_null() && unsafe { (*attr).comp_mask } != 0 {
        return libc::EINVAL;
    }
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Cq::from_ptr(cq) }.data();
    let result = data.begin_reading(|queue| queue.start().copied());
    idle::polled(result.is_ok());
    match result {
        Ok(cqe) => {
            // SAFETY: By the contract of the verbs.
            unsafe { show(cq, &cqe) };
            0
        }
        Err(completion::Empty) => libc::ENOENT,
    }
}

unsafe extern "C" fn next_poll(cq: *mut IbvCqEx) -> c_int {
    // SAFETY: By the contract of the verbs it comes after a `start_poll` that succeeded, in the same
    // thread.
    let queue = unsafe { Cq::from_ptr(cq).data().reading() };
    match queue.next() {
        Ok(cqe) => {
            // SAFETY: By the contract of the verbs.
            unsafe { show(cq, cqe) };
            0
        }
        Err(completion::Empty) => libc::ENOENT,
    }
}

unsafe extern "C" fn end_poll(cq: *mut IbvCqEx) {
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Cq::from_ptr(cq) }.data();
    // Programs call it after a `start_poll` that failed, too, which they must not: pyverbs does.
    if !data.is_locked() {
        return;
    }
    // SAFETY: By the contract of the verbs this thread has the lock, since somebody has it.
    unsafe {
        if data.reading().end() {
            data.end_reading();
        }
    }
}

/// A function that reads a field of the current completion.
macro_rules! read {
    ($($name:ident: $type:ty = |$cqe:ident| $value:expr;)*) => {
        $(unsafe extern "C" fn $name(cq: *mut IbvCqEx) -> $type {
            // SAFETY: By the contract of the verbs it comes between a `start_poll` that succeeded and
            // the `end_poll`, in the same thread.
            let $cqe = unsafe { Cq::from_ptr(cq).data().reading() }.current();
            $value
        })*
    };
}

read! {
    read_opcode: c_uint = |cqe| cqe.opcode.number().into();
    read_vendor_err: u32 = |cqe| cqe.vendor_err;
    read_byte_len: u32 = |cqe| cqe.byte_len;
    read_imm_data: u32 = |cqe| u32::from_ne_bytes(cqe.imm_or_rkey);
    read_qp_num: u32 = |cqe| cqe.qp_num;
    read_src_qp: u32 = |cqe| cqe.src_qp;
    read_wc_flags: c_uint = |cqe| completion::flags(cqe);
    // RoCE has no LIDs (IBTA A17).
    read_slid: u32 = |_cqe| 0;
    read_sl: u8 = |cqe| cqe.sl;
    read_dlid_path_bits: u8 = |_cqe| 0;
    read_completion_ts: u64 = |cqe| cqe.timestamp;
    read_completion_wallclock_ns: u64 = |cqe| wallclock(cqe.timestamp);
}

/// When it was on the clock on the wall, in nanoseconds since 1970: as far back from now as by the
/// device's clock.
fn wallclock(timestamp: u64) -> u64 {
    let since = clock_nanos(libc::CLOCK_MONOTONIC).wrapping_sub(timestamp);
    clock_nanos(libc::CLOCK_REALTIME).wrapping_sub(since)
}
