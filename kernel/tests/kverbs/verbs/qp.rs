// SPDX-License-Identifier: GPL-2.0

//! Queue pairs.

use super::{atomically, destroyed, receive_wr, Cq, Op, Pd, Srq, CALLER};
use crate::bindings::*;
use core::ptr;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
};

/// A queue pair.
pub(crate) struct Qp<'a> {
    pub(super) raw: *mut ib_qp,
    pd: &'a Pd<'a>,
}

/// What there is to say of a queue pair to be made.
pub(crate) struct QpParts<'a> {
    pub(crate) send_cq: *mut ib_cq,
    pub(crate) recv_cq: *mut ib_cq,
    pub(crate) srq: Option<&'a Srq<'a>>,
}

/// How many work requests a queue pair of the tests holds at least, and elements each has.
pub(crate) const DEPTH: u32 = 16;
pub(crate) const MAX_SGE: u32 = 4;
pub(crate) const MAX_INLINE: u32 = 200;

impl<'a> Qp<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, qp_type: ib_qp_type, parts: QpParts<'_>) -> Result<Self> {
        let mut attr = ib_qp_init_attr {
            send_cq: parts.send_cq,
            recv_cq: parts.recv_cq,
            srq: parts.srq.map_or(ptr::null_mut(), |srq| srq.raw),
            sq_sig_type: ib_sig_type_IB_SIGNAL_REQ_WR,
            qp_type,
            ..Default::default()
        };
        attr.cap.max_send_wr = DEPTH;
        attr.cap.max_recv_wr = DEPTH;
        attr.cap.max_send_sge = MAX_SGE;
        attr.cap.max_recv_sge = MAX_SGE;
        attr.cap.max_inline_data = MAX_INLINE;
        // SAFETY: Valid attributes of objects that exist.
        let raw = from_err_ptr(unsafe { ib_create_qp_kernel(pd.raw, &mut attr, CALLER) })?;
        Ok(Self { raw, pd })
    }

    pub(crate) fn raw(&self) -> *mut ib_qp {
        self.raw
    }

    pub(crate) fn number(&self) -> u32 {
        // SAFETY: A valid queue pair.
        unsafe { (*self.raw).qp_num }
    }

    fn modify(&self, mut attr: ib_qp_attr, mask: u32) -> Result {
        // SAFETY: A valid queue pair and valid attributes.
        to_result(unsafe { ib_modify_qp(self.raw, &mut attr, mask as c_int) })
    }

    fn initialise(&self, attr: ib_qp_attr, mask: u32) -> Result {
        let attr = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_INIT,
            port_num: 1,
            ..attr
        };
        let common = ib_qp_attr_mask_IB_QP_STATE
            | ib_qp_attr_mask_IB_QP_PKEY_INDEX
            | ib_qp_attr_mask_IB_QP_PORT;
        self.modify(attr, common | mask)
    }

    /// Brings a reliable connection to the state in which it receives, and then sends.
    pub(crate) fn connect(&self, peer: u32) -> Result {
        let remote = ib_access_flags_IB_ACCESS_REMOTE_WRITE
            | ib_access_flags_IB_ACCESS_REMOTE_READ
            | ib_access_flags_IB_ACCESS_REMOTE_ATOMIC;
        let init = ib_qp_attr {
            qp_access_flags: (ib_access_flags_IB_ACCESS_LOCAL_WRITE | remote) as c_int,
            ..Default::default()
        };
        self.initialise(init, ib_qp_attr_mask_IB_QP_ACCESS_FLAGS)?;
        let receive = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTR,
            path_mtu: ib_mtu_IB_MTU_1024,
            ah_attr: self.pd.device.address(),
            dest_qp_num: peer,
            max_dest_rd_atomic: 4,
            min_rnr_timer: 1,
            ..Default::default()
        };
        self.modify(
            receive,
            ib_qp_attr_mask_IB_QP_STATE
                | ib_qp_attr_mask_IB_QP_AV
                | ib_qp_attr_mask_IB_QP_PATH_MTU
                | ib_qp_attr_mask_IB_QP_DEST_QPN
                | ib_qp_attr_mask_IB_QP_RQ_PSN
                | ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC
                | ib_qp_attr_mask_IB_QP_MIN_RNR_TIMER,
        )?;
        let send = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTS,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            max_rd_atomic: 4,
            ..Default::default()
        };
        self.modify(
            send,
            ib_qp_attr_mask_IB_QP_STATE
                | ib_qp_attr_mask_IB_QP_TIMEOUT
                | ib_qp_attr_mask_IB_QP_RETRY_CNT
                | ib_qp_attr_mask_IB_QP_RNR_RETRY
                | ib_qp_attr_mask_IB_QP_SQ_PSN
                | ib_qp_attr_mask_IB_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// Brings a datagram queue pair to the state in which it sends and receives.
    pub(crate) fn open(&self, qkey: u32) -> Result {
        let init = ib_qp_attr {
            qkey,
            ..Default::default()
        };
        self.initialise(init, ib_qp_attr_mask_IB_QP_QKEY)?;
        self.to(ib_qp_state_IB_QPS_RTR)?;
        let send = ib_qp_attr {
            qp_state: ib_qp_state_IB_QPS_RTS,
            ..Default::default()
        };
        self.modify(
            send,
            ib_qp_attr_mask_IB_QP_STATE | ib_qp_attr_mask_IB_QP_SQ_PSN,
        )
    }

    pub(crate) fn to(&self, state: ib_qp_state) -> Result {
        let attr = ib_qp_attr {
            qp_state: state,
            ..Default::default()
        };
        self.modify(attr, ib_qp_attr_mask_IB_QP_STATE)
    }

    /// Posts a signaled request.
    pub(crate) fn send(&self, id: u64, op: Op<'_>, sges: &[ib_sge]) -> Result {
        self.send_with(id, op, sges, ib_send_flags_IB_SEND_SIGNALED)
    }

    pub(crate) fn send_with(
        &self,
        id: u64,
        op: Op<'_>,
        sges: &[ib_sge],
        flags: ib_send_flags,
    ) -> Result {
        let wr = op.wr(id, sges, flags);
        let mut bad = ptr::null();
        // SAFETY: A valid queue pair and a valid request.
        let result = to_result(atomically(|| unsafe {
            rdma_helper_ib_post_send(self.raw, &wr.plain, &mut bad)
        }));
        if result.is_err() {
            // SAFETY: A field of the union that is always valid, being the first of all others.
            let posted = unsafe { &wr.plain };
            check!(ptr::eq(bad, posted), "the bad request is another");
        }
        result
    }

    /// Posts several requests at once, as [`Self::send`]. If it fails, says which is the bad one.
    pub(crate) fn send_list(&self, ids: core::ops::Range<u64>, sges: &[ib_sge]) -> (Result, u64) {
        let mut wrs = KVec::new();
        for id in ids {
            let wr = Op::Send.wr(id, sges, ib_send_flags_IB_SEND_SIGNALED);
            if let Err(error) = wrs.push(wr, GFP_KERNEL) {
                return (Err(error.into()), id);
            }
        }
        let mut next: *const ib_send_wr = ptr::null();
        for wr in wrs.iter_mut().rev() {
            wr.plain.next = next.cast_mut();
            // SAFETY: See `send_with`.
            next = unsafe { &wr.plain };
        }
        let mut bad: *const ib_send_wr = ptr::null();
        // SAFETY: A valid queue pair and a list of valid requests.
        let result = to_result(atomically(|| unsafe {
            rdma_helper_ib_post_send(self.raw, next, &mut bad)
        }));
        // SAFETY: If there is one, it is one of the list.
        let bad = unsafe { bad.as_ref().map_or(0, |wr| wr.__bindgen_anon_1.wr_id) };
        (result, bad)
    }

    pub(crate) fn receive(&self, id: u64, sges: &[ib_sge]) -> Result {
        let wr = receive_wr(id, sges);
        // SAFETY: A valid queue pair and a valid request.
        to_result(atomically(|| unsafe {
            rdma_helper_ib_post_recv(self.raw, &wr, &mut ptr::null())
        }))
    }
}

impl Drop for Qp<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        destroyed(unsafe { ib_destroy_qp_user(self.raw, ptr::null_mut()) });
    }
}

/// Two reliable connections to each other, with a completion queue each.
pub(crate) struct Pair<'a> {
    pub(crate) a: Qp<'a>,
    pub(crate) b: Qp<'a>,
    pub(crate) a_cq: &'a Cq<'a>,
    pub(crate) b_cq: &'a Cq<'a>,
}

impl<'a> Pair<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, a_cq: &'a Cq<'a>, b_cq: &'a Cq<'a>) -> Result<Self> {
        let make = |cq: &Cq<'_>| {
            let parts = QpParts {
                send_cq: cq.raw,
                recv_cq: cq.raw,
                srq: None,
            };
            Qp::new(pd, ib_qp_type_IB_QPT_RC, parts)
        };
        let (a, b) = (make(a_cq)?, make(b_cq)?);
        a.connect(b.number())?;
        b.connect(a.number())?;
        Ok(Self { a, b, a_cq, b_cq })
    }
}
