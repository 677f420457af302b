// SPDX-License-Identifier: MIT OR Apache-2.0
//! Private ABI 34: rdma-core 36 to 56, of which Debian 12 has 44 and Debian 13 has 56.
//!
//! The number stands for less than one would think. What it did not keep from changing:
//!
//! - rdma-core 35 and 36 added functions to the middle of the table of verbs, 35 a field to the
//!   middle of `verbs_sysfs_dev`. From 36 to 56 the table is the same; the other structure is not
//!   looked into here.
//! - rdma-core 44 and 45 added a function each to `ibv_qp_ex`, which moved the `comp_mask` that
//!   [`VerbsQp`] has behind it. See there.
//! - rdma-core 54 gave `ibv_cmd_reg_dmabuf_mr` another argument. See
//!   [`Common`](super::library::Common).
//!
//! rdma-core's own providers come out of one source tree with libibverbs and are never mixed, so
//! nobody there notices. Checked against the headers of 39, 44 and 56, and loaded by libibverbs 39, 44
//! and 56.

use core::ffi::{c_int, c_void};

use super::attributes::{IbvCqInitAttrEx, IbvQpInitAttrEx};
use super::layout::layouts;
use super::library::library;
use super::objects::{IbvContext, IbvQpEx, WrAtomicWrite, WrFlush};
use super::private::*;

/// An open device, and the extended verbs of it.
#[repr(C)]
pub struct VerbsContext {
    /// Verbs, which libibverbs fills in.
    pub ops: [*mut c_void; 39],
    pub sz: usize,
    pub context: IbvContext,
}

/// A function of `ibv_qp_ex` in one release of libibverbs, and in another the `comp_mask` behind the
/// last function.
#[derive(Clone, Copy)]
#[repr(C)]
pub union Slot<F: Copy> {
    function: Option<F>,
    comp_mask: u32,
}

impl<F: Copy> Slot<F> {
    fn fill(function: Option<F>) -> Self {
        match function {
            Some(_) => Self { function },
            None => Self {
                comp_mask: VERBS_QP_EX,
            },
        }
    }
}

/// A queue pair, and whether it is an extended one.
///
/// libibverbs looks for that in a `comp_mask` behind what it thinks is the whole of `ibv_qp_ex`: up to
/// rdma-core 43 in the place of `wr_atomic_write`, in 44 in that of `wr_flush`, and only since then
/// where it is declared here. So an extended queue pair has the bit in all three of them, save where
/// the function itself is: a program that asks for that function has a libibverbs that knows it.
#[repr(C)]
pub struct VerbsQp {
    pub qp_ex: IbvQpEx,
    wr_atomic_write: Slot<WrAtomicWrite>,
    wr_flush: Slot<WrFlush>,
    comp_mask: u32,
    xrcd: *mut c_void,
}

impl VerbsQp {
    /// Makes it an extended one, after it has been created.
    pub fn set_extended(&mut self, atomic_write: Option<WrAtomicWrite>, flush: Option<WrFlush>) {
        self.wr_atomic_write = Slot::fill(atomic_write);
        self.wr_flush = Slot::fill(flush);
        self.comp_mask = VERBS_QP_EX;
    }
}

/// The table of verbs.
#[derive(Default)]
#[repr(C)]
pub struct ContextOps {
    pub advise_mr: AdviseMr,
    pub alloc_dm: Unused,
    pub alloc_mw: AllocMw,
    pub alloc_null_mr: Unused,
    pub alloc_parent_domain: AllocParentDomain,
    pub alloc_pd: AllocPd,
    pub alloc_td: AllocTd,
    pub async_event: Unused,
    pub attach_counters_point_flow: Unused,
    pub attach_mcast: AttachMcast,
    pub bind_mw: BindMw,
    pub close_xrcd: Unused,
    pub cq_event: Unused,
    pub create_ah: CreateAh,
    pub create_counters: Unused,
    pub create_cq: CreateCq,
    pub create_cq_ex: CreateCqEx,
    pub create_flow: Unused,
    pub create_flow_action_esp: Unused,
    pub create_qp: CreateQp,
    pub create_qp_ex: CreateQpEx,
    pub create_rwq_ind_table: Unused,
    pub create_srq: CreateSrq,
    pub create_srq_ex: Unused,
    pub create_wq: Unused,
    pub dealloc_mw: DeallocMw,
    pub dealloc_pd: DeallocPd,
    pub dealloc_td: DeallocTd,
    pub dereg_mr: DeregMr,
    pub destroy_ah: DestroyAh,
    pub destroy_counters: Unused,
    pub destroy_cq: DestroyCq,
    pub destroy_flow: Unused,
    pub destroy_flow_action: Unused,
    pub destroy_qp: DestroyQp,
    pub destroy_rwq_ind_table: Unused,
    pub destroy_srq: DestroySrq,
    pub destroy_wq: Unused,
    pub detach_mcast: AttachMcast,
    pub free_context: FreeContext,
    pub free_dm: Unused,
    pub get_srq_num: Unused,
    pub import_dm: Unused,
    pub import_mr: ImportMr,
    pub import_pd: ImportPd,
    pub modify_cq: Unused,
    pub modify_flow_action_esp: Unused,
    pub modify_qp: ModifyQp,
    pub modify_qp_rate_limit: Unused,
    pub modify_srq: ModifySrq,
    pub modify_wq: Unused,
    pub open_qp: Unused,
    pub open_xrcd: Unused,
    pub poll_cq: PollCq,
    pub post_recv: PostRecv,
    pub post_send: PostSend,
    pub post_srq_ops: Unused,
    pub post_srq_recv: PostSrqRecv,
    pub query_device_ex: QueryDeviceEx,
    pub query_ece: Unused,
    pub query_port: QueryPort,
    pub query_qp: QueryQp,
    pub query_qp_data_in_order: Unused,
    pub query_rt_values: QueryRtValues,
    pub query_srq: QuerySrq,
    pub read_counters: Unused,
    pub reg_dm_mr: Unused,
    pub reg_dmabuf_mr: RegDmabufMr,
    pub reg_mr: RegMr,
    pub req_notify_cq: ReqNotifyCq,
    pub rereg_mr: ReregMr,
    pub resize_cq: ResizeCq,
    pub set_ece: Unused,
    pub unimport_dm: Unused,
    pub unimport_mr: UnimportMr,
    pub unimport_pd: UnimportPd,
}

library! {
    /// The functions that are of this private ABI only.
    pub struct Specific {
        fn verbs_register_driver_34(ops: *const VerbsDeviceOps);
        fn ibv_cmd_get_context(
            context: *mut VerbsContext,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_create_cq_ex(
            context: *mut IbvContext,
            attr: *const IbvCqInitAttrEx,
            cq: *mut VerbsCq,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
            cmd_flags: u32,
        ) -> c_int;
        fn ibv_cmd_create_qp_ex2(
            context: *mut IbvContext,
            qp: *mut VerbsQp,
            attr: *mut IbvQpInitAttrEx,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
    }
}

impl Specific {
    /// Makes the provider known to libibverbs.
    ///
    /// # Safety
    /// `ops` is valid for ever.
    pub unsafe fn register_driver(&self, ops: *const VerbsDeviceOps) {
        // SAFETY: By this function's contract.
        unsafe { (self.verbs_register_driver_34)(ops) }
    }

    /// # Safety
    /// As `ibv_cmd_get_context` in C.
    pub unsafe fn get_context(
        &self,
        context: *mut VerbsContext,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        // SAFETY: By this function's contract; the command has nothing of the provider's.
        unsafe { (self.ibv_cmd_get_context)(context, core::ptr::null_mut(), 0, resp, resp_size) }
    }

    /// # Safety
    /// As `ibv_cmd_create_cq_ex` in C.
    pub unsafe fn create_cq_ex(
        &self,
        context: *mut IbvContext,
        attr: *const IbvCqInitAttrEx,
        cq: *mut VerbsCq,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        let cmd = core::ptr::null_mut();
        // SAFETY: As above.
        unsafe { (self.ibv_cmd_create_cq_ex)(context, attr, cq, cmd, 0, resp, resp_size, 0) }
    }

    /// # Safety
    /// As `ibv_cmd_create_qp_ex2` in C.
    pub unsafe fn create_qp_ex2(
        &self,
        context: *mut IbvContext,
        qp: *mut VerbsQp,
        attr: *mut IbvQpInitAttrEx,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        let cmd = core::ptr::null_mut();
        // SAFETY: As above.
        unsafe { (self.ibv_cmd_create_qp_ex2)(context, qp, attr, cmd, 0, resp, resp_size) }
    }

    /// The verbs of this private ABI only.
    pub fn ops(&self, ops: ContextOps) -> ContextOps {
        ops
    }
}

layouts! {
    VerbsContext is "struct verbs_context": 648 { sz: 312, context: 320 }
    ContextOps is "struct verbs_context_ops": 608 {
        advise_mr: 0, alloc_mw: 16, alloc_parent_domain: 32, alloc_pd: 40, alloc_td: 48,
        attach_mcast: 72, bind_mw: 80, create_ah: 104, create_cq: 120, create_cq_ex:
        128, create_qp: 152, create_qp_ex: 160, create_srq: 176, dealloc_mw: 200,
        dealloc_pd: 208, dealloc_td: 216, dereg_mr: 224, destroy_ah: 232, destroy_cq:
        248, destroy_qp: 272, destroy_srq: 288, detach_mcast: 304, free_context: 312,
        import_mr: 344, import_pd: 352, modify_qp: 376, modify_srq: 392, poll_cq: 424,
        post_recv: 432, post_send: 440, post_srq_recv: 456, query_device_ex: 464,
        query_port: 480, query_qp: 488, query_rt_values: 504, query_srq: 512,
        reg_dmabuf_mr: 536, reg_mr: 544, req_notify_cq: 552, rereg_mr: 560, resize_cq:
        568, unimport_mr: 592, unimport_pd: 600,
    }
}

/// Where `comp_mask` of `verbs_qp` is, by the release of rdma-core.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
const _: () = {
    use core::mem::offset_of;
    // 36 to 43
    assert!(offset_of!(VerbsQp, wr_atomic_write) == 344);
    // 44
    assert!(offset_of!(VerbsQp, wr_flush) == 352);
    // 45 to 56
    assert!(offset_of!(VerbsQp, comp_mask) == 360);
    assert!(offset_of!(VerbsQp, xrcd) == 368);
    assert!(size_of::<VerbsQp>() == 376);
};
