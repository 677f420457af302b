// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs.

use core::ffi::c_int;
use core::ptr;

use ferroce_core::ring::{Poster, QpLayout, SendQueue, WqDescriptor, WqGeometry};
use ferroce_core::uapi;
use ferroce_core::verbs::{QpState, QpType, SendOpcode};

use super::cq::Cq;
use super::domain::threads_of;
use super::doorbell::Bell;
use super::object::Object;
use super::srq::{receive_geometry, receiver};
use super::{object, qp_ex, status, Failure};
use crate::abi::library::Library;
use crate::abi::{
    doorbell, qp_init_attr_mask, send_ops, CreateQpExResponse, IbvContext, IbvCq, IbvPd, IbvQp,
    IbvQpAttr, IbvQpInitAttr, IbvQpInitAttrEx, ModifyQpRequest, QueryQpRequest, VerbsQp,
    IBV_QP_STATE,
};
use crate::lock::{queue_lock, QueueLock};
use crate::mapping::Mapping;
use crate::queue::receive::Receiver;
use crate::queue::send::{Sender, Wake};
use crate::queue::state::State;
use crate::user;

/// What a queue pair is to this provider.
pub struct QpData {
    pub state: State,
    // The queues are dropped before the memory they are in.
    pub send: QueueLock<Sender>,
    /// `None` if receives come from a shared receive queue.
    pub recv: Option<QueueLock<Receiver>>,
    pub send_bell: Bell,
    pub recv_bell: Bell,
    _rings: Mapping,
}

pub type Qp = Object<VerbsQp, QpData>;

impl QpData {
    /// Tells the driver to look at the send queue.
    pub fn ring_send(&self, qp: *mut IbvQp, wake: Wake) -> c_int {
        match (wake, &self.send_bell) {
            (Wake::Not, _) => return 0,
            (Wake::Soon, Bell::Here(qp, _)) => {
                qp.posted();
                return 0;
            }
            _ => {}
        }
        self.send_bell.ring(|| {
            let mut none = ptr::null_mut();
            // SAFETY: By the contract of the verbs that led here; the list is empty.
            unsafe { (Library::get().common.ibv_cmd_post_send)(qp, ptr::null_mut(), &raw mut none) }
        })
    }

    /// Several requests are about to be posted: has those executed that were left, for which there may be no
    /// room beside them.
    pub fn make_room(&self) {
        if let Bell::Here(qp, _) = &self.send_bell {
            qp.flush();
        }
    }

    /// Tells the driver to look at the receive queue.
    pub fn ring_recv(&self, qp: *mut IbvQp) -> c_int {
        self.recv_bell.ring(|| {
            let mut none = ptr::null_mut();
            // SAFETY: By the contract of the verbs that led here; the list is empty.
            unsafe { (Library::get().common.ibv_cmd_post_recv)(qp, ptr::null_mut(), &raw mut none) }
        })
    }
}

/// A queue pair's number, and the completion queues that know it by that.
///
/// # Safety
/// By the contract of the verbs.
unsafe fn completion_queues(qp: *mut IbvQp) -> (u32, [*mut IbvCq; 2]) {
    // SAFETY: By this function's contract. libibverbs writes these fields once.
    unsafe { ((*qp).qp_num, [(*qp).send_cq, (*qp).recv_cq]) }
}

/// Drops what is left of a queue pair in its completion queues.
///
/// # Safety
/// The queues are those of a queue pair, by the contract of the verbs: they are there as long as that
/// is, and longer.
unsafe fn forget_completions((qp_num, queues): (u32, [*mut IbvCq; 2])) {
    for cq in queues.into_iter().filter(|cq| !cq.is_null()) {
        // SAFETY: By this function's contract.
        let data = unsafe { Cq::from_ptr(cq) }.data();
        data.with(|queue| queue.forget(qp_num));
    }
}

/// The operations that extended verbs can ask for, by their bits.
const SEND_OPS: [(u64, SendOpcode); 12] = [
    (send_ops::RDMA_WRITE, SendOpcode::RdmaWrite),
    (send_ops::RDMA_WRITE_WITH_IMM, SendOpcode::RdmaWriteImm),
    (send_ops::SEND, SendOpcode::Send),
    (send_ops::SEND_WITH_IMM, SendOpcode::SendImm),
    (send_ops::RDMA_READ, SendOpcode::RdmaRead),
    (send_ops::ATOMIC_CMP_AND_SWP, SendOpcode::CompareSwap),
    (send_ops::ATOMIC_FETCH_AND_ADD, SendOpcode::FetchAdd),
    (send_ops::LOCAL_INV, SendOpcode::LocalInvalidate),
    (send_ops::BIND_MW, SendOpcode::BindMw),
    (send_ops::SEND_WITH_INV, SendOpcode::SendInvalidate),
    (send_ops::FLUSH, SendOpcode::Flush),
    (send_ops::ATOMIC_WRITE, SendOpcode::AtomicWrite),
];

/// The bits of the operations that a queue pair of this type has.
fn permitted_send_ops(qp_type: QpType) -> u64 {
    SEND_OPS
        .iter()
        .filter(|(_, opcode)| opcode.permitted_on(qp_type))
        .fold(0, |bits, (bit, _)| bits | bit)
}

/// What extended verbs the program asks for, if any.
fn check(attr: &IbvQpInitAttrEx) -> Result<(QpType, Option<u64>), Failure> {
    let qp_type = match QpType::try_from(attr.qp_type) {
        Ok(QpType::Gsi) | Err(_) => return Err(Failure::NOT_SUPPORTED),
        Ok(qp_type) => qp_type,
    };
    let known =
        qp_init_attr_mask::PD | qp_init_attr_mask::CREATE_FLAGS | qp_init_attr_mask::SEND_OPS_FLAGS;
    if attr.comp_mask & !known != 0
        || (attr.comp_mask & qp_init_attr_mask::CREATE_FLAGS != 0 && attr.create_flags != 0)
    {
        return Err(Failure::NOT_SUPPORTED);
    }
    if attr.comp_mask & qp_init_attr_mask::SEND_OPS_FLAGS == 0 {
        return Ok((qp_type, None));
    }
    if attr.send_ops_flags & !permitted_send_ops(qp_type) != 0 {
        return Err(Failure::NOT_SUPPORTED);
    }
    Ok((qp_type, Some(attr.send_ops_flags)))
}

/// Maps the rings that the driver has offered.
fn map(
    fd: c_int,
    qp_type: QpType,
    response: &uapi::QpResponse,
) -> Result<(Sender, Option<Receiver>, Mapping), Failure> {
    let send: WqGeometry<SendQueue> =
        WqGeometry::from_descriptor(response.send).map_err(|_| Failure::PROTOCOL)?;
    let recv = match response.recv == WqDescriptor::default() {
        true => None,
        false => Some(receive_geometry(response.recv)?),
    };
    let layout = QpLayout::new(send, recv);
    let rings = Mapping::new(fd, &response.rings)?;
    let receiver = match (recv, layout.recv_offset()) {
        (Some(geometry), Some(offset)) => Some(receiver(&rings, offset, geometry)?),
        _ => None,
    };
    // SAFETY: The ring is mapped, as long as the mapping that is kept beside the poster; nobody in this
    // process has it but the poster: the receive queue lies behind it. The kernel has zeroed it.
    let poster = unsafe { Poster::new(rings.base(), rings.len(), send) };
    let sender = Sender::new(
        qp_type,
        poster.map_err(|_| Failure::PROTOCOL)?,
        user::is_here(),
    );
    Ok((sender, receiver, rings))
}

/// # Safety
/// By the contract of the verbs.
unsafe fn create(
    context: *mut IbvContext,
    attr: &mut IbvQpInitAttrEx,
) -> Result<*mut VerbsQp, Failure> {
    let (qp_type, extended) = check(attr)?;
    let library = Library::get();
    let qp = Qp::make();
    let mut response = CreateQpExResponse::new();
    let (pointer, len) = (response.as_mut_ptr(), response.len());
    // SAFETY: By this function's contract; the response is as long as it is said to be.
    Failure::check(unsafe {
        library
            .specific
            .create_qp_ex2(context, qp.verbs(), attr, pointer, len)
    })?;
    // SAFETY: By this function's contract, and the command has succeeded.
    let (fd, handle, threads) = unsafe {
        (
            (*context).cmd_fd,
            (*qp.verbs()).qp_ex.qp_base.handle,
            threads_of(attr.pd),
        )
    };
    let [send_bell, recv_bell] = match user::is_here() {
        true => user::bells(qp.verbs().cast()),
        false => {
            [doorbell::POST_SEND, doorbell::POST_RECV].map(|command| Bell::new(fd, handle, command))
        }
    };
    match map(fd, qp_type, &response.driver) {
        Ok((sender, receiver, rings)) => {
            if let Some(ops) = extended {
                // SAFETY: The queue pair is nobody else's yet.
                qp_ex::fill_in(unsafe { &mut *qp.verbs() }, ops);
            }
            Ok(qp.finish(QpData {
                state: State::new(),
                send: queue_lock(threads, sender),
                recv: receiver.map(|receiver| queue_lock(threads, receiver)),
                send_bell,
                recv_bell,
                _rings: rings,
            }))
        }
        Err(failure) => {
            // SAFETY: The command has made it, and nobody has used it.
            unsafe { (library.common.ibv_cmd_destroy_qp)(qp.verbs().cast()) };
            Err(failure)
        }
    }
}

pub unsafe extern "C" fn create_qp_ex(
    context: *mut IbvContext,
    attr: *mut IbvQpInitAttrEx,
) -> *mut IbvQp {
    // SAFETY: By the contract of the verbs.
    object(unsafe { create(context, &mut *attr) }.map(<*mut VerbsQp>::cast))
}

pub unsafe extern "C" fn create_qp(pd: *mut IbvPd, attr: *mut IbvQpInitAttr) -> *mut IbvQp {
    // SAFETY: By the contract of the verbs.
    let (attr, context) = unsafe { (&mut *attr, (*pd).context) };
    let mut attr_ex = IbvQpInitAttrEx {
        qp_context: attr.qp_context,
        send_cq: attr.send_cq,
        recv_cq: attr.recv_cq,
        srq: attr.srq,
        cap: attr.cap,
        qp_type: attr.qp_type,
        sq_sig_all: attr.sq_sig_all,
        comp_mask: qp_init_attr_mask::PD,
        pd,
        xrcd: ptr::null_mut(),
        create_flags: 0,
        max_tso_header: 0,
        rwq_ind_tbl: ptr::null_mut(),
        rx_hash_conf: [0; 3],
        source_qpn: 0,
        send_ops_flags: 0,
    };
    // SAFETY: By the contract of the verbs.
    object(unsafe { create(context, &mut attr_ex) }.map(|qp| {
        attr.cap = attr_ex.cap;
        qp.cast()
    }))
}

pub unsafe extern "C" fn modify_qp(
    qp: *mut IbvQp,
    attr: *mut IbvQpAttr,
    attr_mask: c_int,
) -> c_int {
    let mut request = ModifyQpRequest::new();
    let (pointer, len) = (request.as_mut_ptr(), request.len());
    // SAFETY: By the contract of the verbs.
    let result =
        unsafe { (Library::get().common.ibv_cmd_modify_qp)(qp, attr, attr_mask, pointer, len) };
    if result == 0 && attr_mask & IBV_QP_STATE != 0 {
        // SAFETY: By the contract of the verbs.
        unsafe {
            let state = &Qp::from_ptr(qp).data().state;
            state.set((*attr).qp_state);
            if state.get() == QpState::Reset {
                forget_completions(completion_queues(qp));
            }
        }
    }
    status(Failure::check(result))
}

pub unsafe extern "C" fn query_qp(
    qp: *mut IbvQp,
    attr: *mut IbvQpAttr,
    attr_mask: c_int,
    init_attr: *mut IbvQpInitAttr,
) -> c_int {
    let mut request = QueryQpRequest::new();
    let (pointer, len) = (request.as_mut_ptr(), request.len());
    // SAFETY: By the contract of the verbs.
    let result = unsafe {
        (Library::get().common.ibv_cmd_query_qp)(qp, attr, attr_mask, init_attr, pointer, len)
    };
    if result == 0 && attr_mask & IBV_QP_STATE != 0 {
        // SAFETY: By the contract of the verbs.
        unsafe { Qp::from_ptr(qp).data().state.set((*attr).qp_state) };
    }
    status(Failure::check(result))
}

pub unsafe extern "C" fn destroy_qp(qp: *mut IbvQp) -> c_int {
    status((|| {
        // SAFETY: By the contract of the verbs; nobody uses the queue pair any more.
        unsafe {
            let queues = completion_queues(qp);
            Failure::check((Library::get().common.ibv_cmd_destroy_qp)(qp))?;
            forget_completions(queues);
            Qp::drop(qp);
        }
        Ok(())
    })())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_the_extended_operations_it_has_as_work_requests() {
        let ud = send_ops::SEND | send_ops::SEND_WITH_IMM;
        assert_eq!(permitted_send_ops(QpType::Ud), ud);
        let uc = ud
            | send_ops::RDMA_WRITE
            | send_ops::RDMA_WRITE_WITH_IMM
            | send_ops::LOCAL_INV
            | send_ops::BIND_MW;
        assert_eq!(permitted_send_ops(QpType::Uc), uc);
        // All but IBV_QP_EX_WITH_TSO.
        assert_eq!(permitted_send_ops(QpType::Rc), 0x1bff);
    }
}
