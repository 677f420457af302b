// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting lists of work requests.

use core::ffi::{c_int, c_uint};
use core::slice;

use ferroce_core::ring::{self, BindMw, Destination, Doorbell, Operation, Payload, Remote};
use ferroce_core::ring::{SendRequest, Sge};
use ferroce_core::verbs::limits::{MAX_INLINE_DATA, MAX_RECV_SGE, MAX_SEND_SGE};
use ferroce_core::verbs::{AccessFlags, ImmData, InvalidValue, QpType, SendFlags, SendOpcode};

use super::domain::ah_number;
use super::qp::Qp;
use crate::abi::{IbvMw, IbvMwBind, IbvMwBindInfo, IbvQp, IbvRecvWr, IbvSendWr};
use crate::lock::QueueLock;
use crate::queue::receive::Receiver;
use crate::queue::send::Sender;
use crate::queue::PostError;

/// The scatter or gather list of a work request.
///
/// # Safety
/// By the contract of the verbs.
pub unsafe fn sges<'a>(list: *const Sge, count: c_int, max: u32) -> Result<&'a [Sge], PostError> {
    match usize::try_from(count) {
        Ok(0) => Ok(&[]),
        // Not even looked at: it would not fit in any queue.
        Ok(count) if count > max as usize => Err(ring::PostError::TooManySges(count).into()),
        Ok(count) if !list.is_null() => {
            // SAFETY: By this function's contract.
            Ok(unsafe { slice::from_raw_parts(list, count) })
        }
        _ => Err(PostError::NoData),
    }
}

/// A piece of the process' memory, to be copied at once. Of one that is too long for any queue, no more
/// than makes it too long: its length is the program's, and need not be one that an object can have.
///
/// # Safety
/// By the contract of the verbs.
pub unsafe fn bytes<'a>(address: *const u8, length: usize) -> &'a [u8] {
    if length == 0 || address.is_null() {
        return &[];
    }
    let length = length.min(MAX_INLINE_DATA as usize + 1);
    // SAFETY: By this function's contract there are as many bytes, or more.
    unsafe { slice::from_raw_parts(address, length) }
}

/// What a memory window is to be bound to.
///
/// # Safety
/// By the contract of the verbs.
pub unsafe fn bind(
    mw: *mut IbvMw,
    new_rkey: u32,
    info: &IbvMwBindInfo,
) -> Result<Operation, PostError> {
    if mw.is_null() {
        return Err(PostError::NoData);
    }
    let mr_lkey = match info.mr.is_null() {
        true => 0,
        // SAFETY: By this function's contract.
        false => unsafe { (*info.mr).lkey },
    };
    Ok(Operation::BindMw(BindMw {
        addr: info.addr,
        length: info.length,
        mr_lkey,
        // SAFETY: By this function's contract.
        mw_rkey: unsafe { (*mw).rkey },
        new_rkey,
        access: AccessFlags::try_from(info.mw_access_flags)?,
    }))
}

/// A work request without its data.
///
/// # Safety
/// By the contract of the verbs.
unsafe fn request(wr: &IbvSendWr, qp_type: QpType) -> Result<SendRequest, PostError> {
    let opcode = SendOpcode::try_from(wr.opcode)?;
    // Before anything is read: what the arguments are depends on it.
    if !opcode.permitted_on(qp_type) {
        return Err(PostError::NotPermitted(opcode, qp_type));
    }
    let imm = ImmData(wr.imm_data.to_ne_bytes());
    // SAFETY: By this function's contract, of the union's fields that of the operation is there.
    let operation = unsafe {
        let rdma = || Remote {
            addr: wr.wr.rdma.remote_addr,
            rkey: wr.wr.rdma.rkey,
        };
        let atomic = || Remote {
            addr: wr.wr.atomic.remote_addr,
            rkey: wr.wr.atomic.rkey,
        };
        match opcode {
            SendOpcode::Send => Operation::Send,
            SendOpcode::SendImm => Operation::SendImm(imm),
            SendOpcode::SendInvalidate => Operation::SendInvalidate { rkey: wr.imm_data },
            SendOpcode::RdmaWrite => Operation::RdmaWrite(rdma()),
            SendOpcode::RdmaWriteImm => Operation::RdmaWriteImm(rdma(), imm),
            SendOpcode::RdmaRead => Operation::RdmaRead(rdma()),
            SendOpcode::AtomicWrite => Operation::AtomicWrite(rdma()),
            SendOpcode::CompareSwap => Operation::CompareSwap {
                remote: atomic(),
                compare: wr.wr.atomic.compare_add,
                swap: wr.wr.atomic.swap,
            },
            SendOpcode::FetchAdd => Operation::FetchAdd {
                remote: atomic(),
                add: wr.wr.atomic.compare_add,
            },
            SendOpcode::LocalInvalidate => Operation::LocalInvalidate { rkey: wr.imm_data },
            SendOpcode::BindMw => bind(wr.bind_mw.mw, wr.bind_mw.rkey, &wr.bind_mw.bind_info)?,
            // A FLUSH comes by the extended verbs alone, the other is the kernel's.
            SendOpcode::Flush | SendOpcode::RegMr => {
                return Err(PostError::Value(InvalidValue {
                    what: "send opcode",
                    value: wr.opcode,
                }));
            }
        }
    };
    let destination = match qp_type.is_datagram() {
        false => None,
        // SAFETY: By this function's contract a datagram has this field of the union.
        true => unsafe {
            let ud = wr.wr.ud;
            Some(destination(
                ah_number(ud.ah).ok_or(PostError::NoAddressHandle)?,
                ud.remote_qpn,
                ud.remote_qkey,
            ))
        },
    };
    Ok(SendRequest {
        wr_id: wr.wr_id,
        // As mlx5 and rdma_rxe, which ignore the rest.
        flags: SendFlags::from_bits_truncate(wr.send_flags),
        operation,
        destination,
    })
}

/// Where a datagram goes.
pub const fn destination(ah: u32, remote_qpn: u32, remote_qkey: u32) -> Destination {
    Destination {
        ah,
        remote_qpn,
        remote_qkey,
        pkey_index: 0,
    }
}

/// Stages a work request.
///
/// # Safety
/// By the contract of the verbs.
unsafe fn push(sender: &mut Sender, wr: &IbvSendWr) -> Result<(), PostError> {
    // SAFETY: By this function's contract.
    let request = unsafe { request(wr, sender.qp_type())? };
    // SAFETY: As above.
    let sges = unsafe { sges(wr.sg_list, wr.num_sge, MAX_SEND_SGE)? };
    let opcode = request.operation.opcode();
    if request.flags.contains(SendFlags::INLINE) && !opcode.has_no_data() {
        // SAFETY: By this function's contract inline data is at addresses of the process.
        let piece = |sge: &Sge| unsafe {
            let address = core::ptr::with_exposed_provenance(sge.addr as usize);
            bytes(address, sge.length as usize)
        };
        match sges {
            // Most have one piece. To make a list for as many as there can be takes longer than all else.
            [sge] => sender.push(&request, Payload::Inline(&[piece(sge)]))?,
            _ => {
                let mut pieces: [&[u8]; MAX_SEND_SGE as usize] = [&[]; MAX_SEND_SGE as usize];
                for (to, sge) in pieces.iter_mut().zip(sges) {
                    *to = piece(sge);
                }
                // As many as there are SGEs, which are no more than that.
                let pieces = pieces.get(..sges.len()).unwrap_or_default();
                sender.push(&request, Payload::Inline(pieces))?;
            }
        }
    } else {
        sender.push(&request, Payload::Sges(sges))?;
    }
    if opcode == SendOpcode::BindMw {
        // As after `ibv_bind_mw`: what the window's key is from now on, if the bind succeeds.
        // SAFETY: By this function's contract; it is not null, since the request was accepted.
        unsafe { (*wr.bind_mw.mw).rkey = wr.bind_mw.rkey };
    }
    Ok(())
}

/// What a verb that posts returns. `first` is the first work request of the list, `bad` the one that
/// was not accepted.
///
/// # Safety
/// `bad_wr` is null or can be written to.
unsafe fn posted<W>(
    first: *mut W,
    bad: Option<(*mut W, PostError)>,
    bad_wr: *mut *mut W,
    rung: c_int,
) -> c_int {
    let (bad, errno) = match (bad, rung) {
        (Some((bad, error)), _) => (bad, error.errno().number()),
        (None, 0) => return 0,
        // The driver is gone: none of them will be executed.
        (None, errno) => (first, errno),
    };
    if !bad_wr.is_null() {
        // SAFETY: By this function's contract.
        unsafe { *bad_wr = bad };
    }
    errno
}

/// Walks a list of work requests to the end, or to the first that is not accepted.
///
/// # Safety
/// By the contract of the verbs. `next` returns the list's next element.
unsafe fn walk<W>(
    mut wr: *mut W,
    next: impl Fn(&W) -> *mut W,
    mut push: impl FnMut(&W) -> Result<(), PostError>,
) -> Option<(*mut W, PostError)> {
    // SAFETY: By this function's contract.
    while let Some(request) = unsafe { wr.as_ref() } {
        if let Err(error) = push(request) {
            return Some((wr, error));
        }
        wr = next(request);
    }
    None
}

pub unsafe extern "C" fn post_send(
    qp: *mut IbvQp,
    wr: *mut IbvSendWr,
    bad_wr: *mut *mut IbvSendWr,
) -> c_int {
    // SAFETY: By the contract of the verbs.
    let (data, first) = unsafe { (Qp::from_ptr(qp).data(), wr.as_ref()) };
    if first.is_some_and(|first| !first.next.is_null()) {
        data.make_room();
    }
    let mut sender = data.send.lock();
    let bad = match data.state.check_send() {
        Err(error) => Some((wr, error)),
        // SAFETY: By the contract of the verbs.
        Ok(()) => unsafe { walk(wr, |wr| wr.next, |wr| push(&mut sender, wr)) },
    };
    let wake = sender.publish();
    drop(sender);
    let rung = data.ring_send(qp, wake);
    // SAFETY: By the contract of the verbs.
    unsafe { posted(wr, bad, bad_wr, rung) }
}

pub unsafe extern "C" fn post_recv(
    qp: *mut IbvQp,
    wr: *mut IbvRecvWr,
    bad_wr: *mut *mut IbvRecvWr,
) -> c_int {
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Qp::from_ptr(qp) }.data();
    let checked = data.state.check_recv();
    match (checked, &data.recv) {
        (Ok(()), Some(queue)) => {
            // SAFETY: By the contract of the verbs.
            unsafe { post_recv_list(queue, wr, bad_wr, || data.ring_recv(qp)) }
        }
        (Ok(()), None) => {
            // SAFETY: By the contract of the verbs.
            unsafe { posted(wr, Some((wr, PostError::NoReceiveQueue)), bad_wr, 0) }
        }
        // SAFETY: By the contract of the verbs.
        (Err(error), _) => unsafe { posted(wr, Some((wr, error)), bad_wr, 0) },
    }
}

/// Posts to a receive queue. `ring` tells the driver.
///
/// # Safety
/// By the contract of the verbs.
pub unsafe fn post_recv_list(
    queue: &QueueLock<impl AsMut<Receiver>>,
    wr: *mut IbvRecvWr,
    bad_wr: *mut *mut IbvRecvWr,
    ring: impl FnOnce() -> c_int,
) -> c_int {
    let mut guard = queue.lock();
    let receiver = guard.as_mut();
    let push = |wr: &IbvRecvWr| {
        // SAFETY: By this function's contract.
        let sges = unsafe { sges(wr.sg_list, wr.num_sge, MAX_RECV_SGE)? };
        receiver.push(wr.wr_id, sges)
    };
    // SAFETY: By this function's contract.
    let bad = unsafe { walk(wr, |wr| wr.next, push) };
    let doorbell = receiver.publish();
    drop(guard);
    let rung = match doorbell {
        Doorbell::Ring => ring(),
        Doorbell::Skip => 0,
    };
    // SAFETY: By this function's contract.
    unsafe { posted(wr, bad, bad_wr, rung) }
}

/// Binds a type 1 window, whose new key is this provider's to choose: the low eight bits count up
/// (IBTA 10.6.6.2.6).
pub unsafe extern "C" fn bind_mw(qp: *mut IbvQp, mw: *mut IbvMw, mw_bind: *mut IbvMwBind) -> c_int {
    // SAFETY: By the contract of the verbs.
    let (mw_bind, rkey) = unsafe { (&*mw_bind, (*mw).rkey) };
    let new_rkey = (rkey & !0xff) | (rkey.wrapping_add(1) & 0xff);
    // SAFETY: By the contract of the verbs.
    let data = unsafe { Qp::from_ptr(qp) }.data();
    let mut sender = data.send.lock();
    let result = (|| {
        data.state.check_send()?;
        let access = mw_bind.bind_info.mw_access_flags;
        if access & AccessFlags::ZERO_BASED.bits() != 0 {
            return Err(PostError::ZeroBased);
        }
        let request = SendRequest {
            wr_id: mw_bind.wr_id,
            flags: SendFlags::from_bits_truncate(mw_bind.send_flags).without(SendFlags::INLINE),
            // SAFETY: By the contract of the verbs.
            operation: unsafe { bind(mw, new_rkey, &mw_bind.bind_info)? },
            destination: None,
        };
        sender.push(&request, Payload::NONE)?;
        Ok(sender.publish())
    })();
    drop(sender);
    let rung = match result {
        Err(error) => return error.errno().number(),
        Ok(wake) => data.ring_send(qp, wake),
    };
    if rung == 0 {
        // SAFETY: By the contract of the verbs. The program has to take it back if the bind fails.
        unsafe { (*mw).rkey = new_rkey };
    }
    rung
}

const _: () = assert!(size_of::<c_uint>() == size_of::<u32>());
