// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::sync::Arc;

use ferroce_core::qp::{AddressVector, AttrMask, QpAttr, RequestedAttr};
use ferroce_core::verbs::{QpState, QpType};
use ferroce_user::qp::{Caps, Init, Qp};
use ferroce_user::{Errno, Result};

use super::cq::CQS;
use super::memory::pd_of;
use super::srq::SRQS;
use super::{respond, status, wait_for_events, Objects, CONTEXTS};
use crate::abi::{
    IbvAhAttr, IbvContext, IbvQp, IbvQpAttr, IbvQpCap, IbvQpInitAttr, IbvQpInitAttrEx, IbvRecvWr,
    IbvSendWr, VerbsQp, IBV_QP_STATE,
};
use crate::ffi::doorbell::Bell;

pub(super) static QPS: Objects<Qp> = Objects::new();

/// How to have the queues of a queue pair looked at: that of requests, and that of receives.
pub fn bells(qp: *mut IbvQp) -> [Bell; 2] {
    match find(qp) {
        Ok(qp) => [
            Bell::Here(qp.clone(), Qp::kick),
            Bell::Here(qp, Qp::kick_receives),
        ],
        Err(_) => [Bell::Nobody, Bell::Nobody],
    }
}

/// The device's queue pair of one of C's.
fn find(qp: *mut IbvQp) -> Result<Arc<Qp>> {
    QPS.get(qp)
}

impl From<IbvQpCap> for Caps {
    fn from(cap: IbvQpCap) -> Self {
        Self {
            max_send_wr: cap.max_send_wr,
            max_recv_wr: cap.max_recv_wr,
            max_send_sge: cap.max_send_sge,
            max_recv_sge: cap.max_recv_sge,
            max_inline_data: cap.max_inline_data,
        }
    }
}

impl From<Caps> for IbvQpCap {
    fn from(caps: Caps) -> Self {
        Self {
            max_send_wr: caps.max_send_wr,
            max_recv_wr: caps.max_recv_wr,
            max_send_sge: caps.max_send_sge,
            max_recv_sge: caps.max_recv_sge,
            max_inline_data: caps.max_inline_data,
        }
    }
}

/// # Safety
/// As `ibv_cmd_create_qp_ex2` in C.
pub unsafe fn create_qp_ex2(
    context: *mut IbvContext,
    qp: *mut VerbsQp,
    attr: *mut IbvQpInitAttrEx,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    status((|| {
        let object = qp.cast::<IbvQp>();
        // SAFETY: By this function's contract.
        let attr = unsafe { &mut *attr };
        let srq = match attr.srq.is_null() {
            true => None,
            false => Some(SRQS.get(attr.srq)?),
        };
        let init = Init {
            qp_type: QpType::try_from(attr.qp_type).map_err(|_| Errno(libc::EOPNOTSUPP))?,
            // SAFETY: By this function's contract.
            pd: unsafe { pd_of(attr.pd)? },
            send_cq: CQS.get(attr.send_cq)?,
            recv_cq: CQS.get(attr.recv_cq)?,
            srq,
            caps: attr.cap.into(),
            signal_all: attr.sq_sig_all != 0,
            user_handle: object.expose_provenance() as u64,
        };
        let (made, response) = Qp::create(&CONTEXTS.get(context)?, init)?;
        attr.cap = made.caps().into();
        // SAFETY: By this function's contract.
        unsafe {
            let ibv_qp = &raw mut (*qp).qp_ex.qp_base;
            (*ibv_qp).context = context;
            (*ibv_qp).qp_context = attr.qp_context;
            (*ibv_qp).pd = attr.pd;
            (*ibv_qp).send_cq = attr.send_cq;
            (*ibv_qp).recv_cq = attr.recv_cq;
            (*ibv_qp).srq = attr.srq;
            (*ibv_qp).handle = made.number;
            (*ibv_qp).qp_num = made.number;
            (*ibv_qp).qp_type = attr.qp_type;
            (*ibv_qp).state = QpState::Reset.into();
            (*ibv_qp).events_completed = 0;
            libc::pthread_mutex_init(&raw mut (*ibv_qp).mutex, ptr::null());
            libc::pthread_cond_init(&raw mut (*ibv_qp).cond, ptr::null());
            respond(resp, resp_size, 40, response);
        }
        QPS.put(object, made);
        Ok(())
    })())
}

/// What a Modify QP asks for. libibverbs has Linux's numbers, as the core has.
fn requested(attr: &IbvQpAttr) -> RequestedAttr {
    RequestedAttr {
        qp_state: attr.qp_state,
        cur_qp_state: attr.cur_qp_state,
        path_mtu: attr.path_mtu,
        qkey: attr.qkey,
        rq_psn: attr.rq_psn,
        sq_psn: attr.sq_psn,
        dest_qp_num: attr.dest_qp_num,
        qp_access_flags: attr.qp_access_flags,
        ah_attr: AddressVector {
            dgid: attr.ah_attr.dgid,
            dmac: [0; 6],
            sgid_index: attr.ah_attr.sgid_index.into(),
            flow_label: attr.ah_attr.flow_label,
            hop_limit: attr.ah_attr.hop_limit,
            traffic_class: attr.ah_attr.traffic_class,
            sl: attr.ah_attr.sl,
            port_num: attr.ah_attr.port_num.into(),
        },
        pkey_index: attr.pkey_index,
        en_sqd_async_notify: attr.en_sqd_async_notify != 0,
        max_rd_atomic: attr.max_rd_atomic,
        max_dest_rd_atomic: attr.max_dest_rd_atomic,
        min_rnr_timer: attr.min_rnr_timer.into(),
        port_num: attr.port_num.into(),
        timeout: attr.timeout.into(),
        retry_cnt: attr.retry_cnt,
        rnr_retry: attr.rnr_retry,
    }
}

pub unsafe extern "C" fn modify_qp(
    qp: *mut IbvQp,
    attr: *mut IbvQpAttr,
    attr_mask: c_int,
    _cmd: *mut c_void,
    _cmd_size: usize,
) -> c_int {
    let result = (|| {
        let device = find(qp)?;
        // SAFETY: By the contract of the command.
        let (attr, context) = unsafe { (&*attr, (*qp).context) };
        let mask = AttrMask::from_bits_retain(attr_mask.cast_unsigned());
        let mut sgid = None;
        if mask.contains(AttrMask::AV) {
            // On RoCE there is a GRH always.
            if attr.ah_attr.is_global == 0 {
                return Err(Errno(libc::EINVAL));
            }
            sgid = Some(CONTEXTS.get(context)?.gid(attr.ah_attr.sgid_index.into())?);
        }
        device.modify(mask, &requested(attr), sgid)?;
        if attr_mask & IBV_QP_STATE != 0 {
            // SAFETY: By the contract of the command.
            unsafe { (*qp).state = attr.qp_state };
        }
        Ok(())
    })();
    status(result)
}

fn answer(attr: &QpAttr, caps: Caps) -> IbvQpAttr {
    let av = &attr.ah_attr;
    IbvQpAttr {
        qp_state: attr.state.into(),
        cur_qp_state: attr.state.into(),
        path_mtu: attr.path_mtu.into(),
        // `IBV_MIG_MIGRATED`.
        path_mig_state: 0,
        qkey: attr.qkey,
        rq_psn: attr.rq_psn,
        sq_psn: attr.sq_psn,
        dest_qp_num: attr.dest_qp_num,
        qp_access_flags: attr.qp_access_flags.bits(),
        cap: caps.into(),
        ah_attr: IbvAhAttr {
            dgid: av.dgid,
            flow_label: av.flow_label,
            sgid_index: av.sgid_index as u8,
            hop_limit: av.hop_limit,
            traffic_class: av.traffic_class,
            sl: av.sl,
            is_global: 1,
            port_num: av.port_num as u8,
            ..IbvAhAttr::default()
        },
        pkey_index: attr.pkey_index,
        sq_draining: attr.sq_draining.into(),
        max_rd_atomic: attr.max_rd_atomic,
        max_dest_rd_atomic: attr.max_dest_rd_atomic,
        min_rnr_timer: attr.min_rnr_timer.code(),
        port_num: attr.port_num as u8,
        timeout: attr.timeout.code(),
        retry_cnt: attr.retry_cnt,
        rnr_retry: attr.rnr_retry,
        ..IbvQpAttr::default()
    }
}

pub unsafe extern "C" fn query_qp(
    qp: *mut IbvQp,
    attr: *mut IbvQpAttr,
    _attr_mask: c_int,
    init_attr: *mut IbvQpInitAttr,
    _cmd: *mut c_void,
    _cmd_size: usize,
) -> c_int {
    status((|| {
        let device = find(qp)?;
        let found = device.query()?;
        // SAFETY: By the contract of the command.
        unsafe {
            attr.write(answer(&found, device.caps()));
            (*qp).state = found.state.into();
            init_attr.write(IbvQpInitAttr {
                qp_context: (*qp).qp_context,
                send_cq: (*qp).send_cq,
                recv_cq: (*qp).recv_cq,
                srq: (*qp).srq,
                cap: device.caps().into(),
                qp_type: (*qp).qp_type,
                sq_sig_all: device.signal_all().into(),
            });
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn destroy_qp(qp: *mut IbvQp) -> c_int {
    status((|| {
        let told = find(qp)?.destroy()?;
        QPS.take(qp);
        if told != 0 {
            // SAFETY: By the contract of the command.
            unsafe {
                let counts = [(&raw const (*qp).events_completed, told)];
                wait_for_events(&raw mut (*qp).mutex, &raw mut (*qp).cond, &counts);
            }
        }
        Ok(())
    })())
}

pub unsafe extern "C" fn post_send(
    qp: *mut IbvQp,
    _wr: *mut IbvSendWr,
    _bad_wr: *mut *mut IbvSendWr,
) -> c_int {
    status(find(qp).map(|qp| qp.kick()))
}

pub unsafe extern "C" fn post_recv(
    qp: *mut IbvQp,
    _wr: *mut IbvRecvWr,
    _bad_wr: *mut *mut IbvRecvWr,
) -> c_int {
    status(find(qp).map(|qp| qp.kick_receives()))
}

pub unsafe extern "C" fn attach_mcast(qp: *mut IbvQp, gid: *const [u8; 16], _lid: u16) -> c_int {
    // SAFETY: By the contract of the command.
    status(find(qp).and_then(|qp| qp.attach(unsafe { &*gid })))
}

pub unsafe extern "C" fn detach_mcast(qp: *mut IbvQp, gid: *const [u8; 16], _lid: u16) -> c_int {
    // SAFETY: By the contract of the command.
    status(find(qp).and_then(|qp| qp.detach(unsafe { &*gid })))
}
