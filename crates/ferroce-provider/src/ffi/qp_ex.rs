// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting by the extended verbs: one call for each part of a work request.
//!
//! The send queue is locked from `wr_start` to `wr_complete` or `wr_abort`, as in other providers.

use core::ffi::{c_int, c_void};

use ferroce_core::ring::{Operation, Remote, Sge};
use ferroce_core::verbs::limits::ATOMIC_LENGTH;
use ferroce_core::verbs::{FlushPlacement, FlushSelectivity, ImmData, InvalidValue};

use super::domain::ah_number;
use super::qp::Qp;
use super::send;
use crate::abi::{
    send_ops, IbvAh, IbvDataBuf, IbvMw, IbvMwBindInfo, IbvQpEx, VerbsQp, WrAtomicWrite, WrFlush,
};
use crate::queue::send::Sender;
use crate::queue::PostError;

/// Makes a queue pair an extended one, for these operations.
pub fn fill_in(qp: &mut VerbsQp, ops: u64) {
    let has = |bit: u64| ops & bit != 0;
    let ex = &mut qp.qp_ex;
    if has(send_ops::ATOMIC_CMP_AND_SWP) {
        ex.wr_atomic_cmp_swp = Some(wr_atomic_cmp_swp);
    }
    if has(send_ops::ATOMIC_FETCH_AND_ADD) {
        ex.wr_atomic_fetch_add = Some(wr_atomic_fetch_add);
    }
    if has(send_ops::BIND_MW) {
        ex.wr_bind_mw = Some(wr_bind_mw);
    }
    if has(send_ops::LOCAL_INV) {
        ex.wr_local_inv = Some(wr_local_inv);
    }
    if has(send_ops::RDMA_READ) {
        ex.wr_rdma_read = Some(wr_rdma_read);
    }
    if has(send_ops::RDMA_WRITE) {
        ex.wr_rdma_write = Some(wr_rdma_write);
    }
    if has(send_ops::RDMA_WRITE_WITH_IMM) {
        ex.wr_rdma_write_imm = Some(wr_rdma_write_imm);
    }
    if has(send_ops::SEND) {
        ex.wr_send = Some(wr_send);
    }
    if has(send_ops::SEND_WITH_IMM) {
        ex.wr_send_imm = Some(wr_send_imm);
    }
    if has(send_ops::SEND_WITH_INV) {
        ex.wr_send_inv = Some(wr_send_inv);
    }
    ex.wr_set_ud_addr = Some(wr_set_ud_addr);
    ex.wr_set_inline_data = Some(wr_set_inline_data);
    ex.wr_set_inline_data_list = Some(wr_set_inline_data_list);
    ex.wr_set_sge = Some(wr_set_sge);
    ex.wr_set_sge_list = Some(wr_set_sge_list);
    ex.wr_start = Some(wr_start);
    ex.wr_complete = Some(wr_complete);
    ex.wr_abort = Some(wr_abort);

    let atomic_write: WrAtomicWrite = wr_atomic_write;
    let flush: WrFlush = wr_flush;
    qp.set_extended(
        has(send_ops::ATOMIC_WRITE).then_some(atomic_write),
        has(send_ops::FLUSH).then_some(flush),
    );
}

/// The send queue, between `wr_start` and the end.
///
/// # Safety
/// By the contract of the verbs this thread has called `wr_start` on this queue pair and not yet ended
/// the batch: it has the lock. There is no other reference from here.
unsafe fn batch<'a>(qp: *mut IbvQpEx) -> &'a mut Sender {
    // SAFETY: By this function's contract.
    unsafe { &mut *Qp::from_ptr(qp).data().send.data_ptr() }
}

/// Begins a work request.
///
/// # Safety
/// As [`batch`].
unsafe fn begin<'a>(qp: *mut IbvQpEx, operation: Operation) -> &'a mut Sender {
    // SAFETY: By this function's contract; these two fields are the program's, for this thread.
    let (sender, wr_id, flags) = unsafe { (batch(qp), (*qp).wr_id, (*qp).wr_flags) };
    sender.begin(wr_id, flags, operation);
    sender
}

unsafe extern "C" fn wr_start(qp: *mut IbvQpEx) {
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Qp::from_ptr(qp) }.data();
    data.make_room();
    let mut sender = data.send.lock();
    sender.start();
    core::mem::forget(sender);
}

unsafe extern "C" fn wr_complete(qp: *mut IbvQpEx) -> c_int {
    // SAFETY: By the contract of the verbs.
    let (data, sender) = unsafe { (Qp::from_ptr(qp).data(), batch(qp)) };
    let result = sender.complete(&data.state);
    // SAFETY: By the contract of the verbs this thread has the lock. The reference is not used after.
    unsafe { data.send.force_unlock() };
    match result {
        Ok(wake) => data.ring_send(qp.cast(), wake),
        Err(error) => error.errno().number(),
    }
}

unsafe extern "C" fn wr_abort(qp: *mut IbvQpEx) {
    // SAFETY: By the contract of the verbs; the lock is given back when the reference is not used any
    // more.
    unsafe {
        batch(qp).start();
        Qp::from_ptr(qp).data().send.force_unlock();
    }
}

/// A function that begins a work request.
macro_rules! operation {
    ($($name:ident($($argument:ident: $type:ty),*) = $operation:expr;)*) => {
        $(unsafe extern "C" fn $name(qp: *mut IbvQpEx $(, $argument: $type)*) {
            // SAFETY: By the contract of the verbs.
            unsafe { begin(qp, $operation) };
        })*
    };
}

/// A place in the peer's memory.
const fn remote(rkey: u32, addr: u64) -> Remote {
    Remote { addr, rkey }
}

/// Immediate data, as it comes: in network byte order.
const fn imm(imm_data: u32) -> ImmData {
    ImmData(imm_data.to_ne_bytes())
}

operation! {
    wr_atomic_cmp_swp(rkey: u32, addr: u64, compare: u64, swap: u64) = Operation::CompareSwap {
        remote: remote(rkey, addr),
        compare,
        swap,
    };
    wr_atomic_fetch_add(rkey: u32, addr: u64, add: u64) = Operation::FetchAdd {
        remote: remote(rkey, addr),
        add,
    };
    wr_local_inv(rkey: u32) = Operation::LocalInvalidate { rkey };
    wr_rdma_read(rkey: u32, addr: u64) = Operation::RdmaRead(remote(rkey, addr));
    wr_rdma_write(rkey: u32, addr: u64) = Operation::RdmaWrite(remote(rkey, addr));
    wr_rdma_write_imm(rkey: u32, addr: u64, imm_data: u32) =
        Operation::RdmaWriteImm(remote(rkey, addr), imm(imm_data));
    wr_send() = Operation::Send;
    wr_send_imm(imm_data: u32) = Operation::SendImm(imm(imm_data));
    wr_send_inv(rkey: u32) = Operation::SendInvalidate { rkey };
}

unsafe extern "C" fn wr_bind_mw(
    qp: *mut IbvQpEx,
    mw: *mut IbvMw,
    rkey: u32,
    info: *const IbvMwBindInfo,
) {
    // SAFETY: By the contract of the verbs.
    unsafe {
        match send::bind(mw, rkey, &*info) {
            Ok(operation) => {
                begin(qp, operation);
                // See `post_send`. If the batch is given up the program has to take it back.
                (*mw).rkey = rkey;
            }
            Err(error) => batch(qp).reject(error),
        }
    }
}

unsafe extern "C" fn wr_atomic_write(qp: *mut IbvQpEx, rkey: u32, addr: u64, value: *const c_void) {
    // SAFETY: By the contract of the verbs; the value is as long as atomics are.
    unsafe {
        let value = send::bytes(value.cast(), ATOMIC_LENGTH as usize);
        begin(qp, Operation::AtomicWrite(remote(rkey, addr))).set_inline([value]);
    }
}

unsafe extern "C" fn wr_flush(
    qp: *mut IbvQpEx,
    rkey: u32,
    addr: u64,
    length: usize,
    placement: u8,
    selectivity: u8,
) {
    let operation = (|| {
        Ok::<_, InvalidValue>(Operation::Flush {
            remote: remote(rkey, addr),
            length: u32::try_from(length).map_err(|_| InvalidValue {
                what: "length of a FLUSH",
                value: u32::MAX,
            })?,
            selectivity: FlushSelectivity::try_from(u32::from(selectivity))?,
            placement: FlushPlacement::try_from(u32::from(placement))?,
        })
    })();
    // SAFETY: By the contract of the verbs.
    unsafe {
        match operation {
            Ok(operation) => {
                begin(qp, operation);
            }
            Err(error) => batch(qp).reject(error.into()),
        }
    }
}

unsafe extern "C" fn wr_set_ud_addr(
    qp: *mut IbvQpEx,
    ah: *mut IbvAh,
    remote_qpn: u32,
    remote_qkey: u32,
) {
    // SAFETY: By the contract of the verbs.
    let (sender, ah) = unsafe { (batch(qp), ah_number(ah)) };
    match ah {
        Some(ah) => sender.set_destination(send::destination(ah, remote_qpn, remote_qkey)),
        None => sender.reject(PostError::NoAddressHandle),
    }
}

unsafe extern "C" fn wr_set_sge(qp: *mut IbvQpEx, lkey: u32, addr: u64, length: u32) {
    // SAFETY: By the contract of the verbs.
    unsafe { batch(qp) }.set_sges(&[Sge { addr, length, lkey }]);
}

unsafe extern "C" fn wr_set_sge_list(qp: *mut IbvQpEx, num_sge: usize, list: *const Sge) {
    // SAFETY: By the contract of the verbs.
    let sender = unsafe { batch(qp) };
    // What does not fit in a C int does not fit in any queue.
    let count = c_int::try_from(num_sge).unwrap_or(c_int::MAX);
    // SAFETY: By the contract of the verbs.
    match unsafe { send::sges(list, count, ferroce_core::verbs::limits::MAX_SEND_SGE) } {
        Ok(sges) => sender.set_sges(sges),
        Err(error) => sender.reject(error),
    }
}

unsafe extern "C" fn wr_set_inline_data(qp: *mut IbvQpEx, addr: *mut c_void, length: usize) {
    // SAFETY: By the contract of the verbs.
    unsafe { batch(qp).set_inline([send::bytes(addr.cast(), length)]) };
}

unsafe extern "C" fn wr_set_inline_data_list(
    qp: *mut IbvQpEx,
    num_buf: usize,
    list: *const IbvDataBuf,
) {
    // SAFETY: By the contract of the verbs.
    let pieces = (0..num_buf).map(|index| unsafe {
        let piece = *list.add(index);
        send::bytes(piece.addr.cast_const().cast(), piece.length)
    });
    // SAFETY: By the contract of the verbs.
    unsafe { batch(qp) }.set_inline(pieces);
}
