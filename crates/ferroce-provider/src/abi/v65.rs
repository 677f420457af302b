// SPDX-License-Identifier: MIT OR Apache-2.0
//! Private ABI 65: rdma-core 65. Checked against its headers, and loaded by its libibverbs.

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
    pub ops: [*mut c_void; 45],
    pub sz: usize,
    pub context: IbvContext,
}

/// A queue pair, and whether it is an extended one.
#[repr(C)]
pub struct VerbsQp {
    pub qp_ex: IbvQpEx,
    wr_atomic_write: Option<WrAtomicWrite>,
    wr_flush: Option<WrFlush>,
    comp_mask: u32,
    xrcd: *mut c_void,
}

impl VerbsQp {
    /// Makes it an extended one, after it has been created.
    pub fn set_extended(&mut self, atomic_write: Option<WrAtomicWrite>, flush: Option<WrFlush>) {
        self.wr_atomic_write = atomic_write;
        self.wr_flush = flush;
        self.comp_mask = VERBS_QP_EX;
    }
}

/// The table of verbs.
#[derive(Default)]
#[repr(C)]
pub struct ContextOps {
    pub advise_mr: AdviseMr,
    pub alloc_buf: Unused,
    pub alloc_dm: Unused,
    pub alloc_dmah: Unused,
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
    pub create_comp_cntr: Unused,
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
    pub dealloc_dmah: Unused,
    pub dealloc_mw: DeallocMw,
    pub dealloc_pd: DeallocPd,
    pub dealloc_td: DeallocTd,
    pub dereg_mr: DeregMr,
    pub destroy_ah: DestroyAh,
    pub destroy_comp_cntr: Unused,
    pub destroy_counters: Unused,
    pub destroy_cq: DestroyCq,
    pub destroy_flow: Unused,
    pub destroy_flow_action: Unused,
    pub destroy_qp: DestroyQp,
    pub destroy_rwq_ind_table: Unused,
    pub destroy_srq: DestroySrq,
    pub destroy_wq: Unused,
    pub detach_mcast: AttachMcast,
    pub dm_export_dmabuf_fd: Unused,
    pub free_buf: Unused,
    pub free_context: FreeContext,
    pub free_dm: Unused,
    pub get_srq_num: Unused,
    pub import_dm: Unused,
    pub import_mr: ImportMr,
    pub import_pd: ImportPd,
    pub inc_comp_cntr: Unused,
    pub inc_err_comp_cntr: Unused,
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
    pub qp_attach_comp_cntr: Unused,
    pub query_comp_cntr_caps: Unused,
    pub query_device_ex: QueryDeviceEx,
    pub query_ece: Unused,
    pub query_port: QueryPort,
    pub query_port_speed: Option<unsafe extern "C" fn(*mut IbvContext, u32, *mut u64) -> c_int>,
    pub query_qp: QueryQp,
    pub query_qp_data_in_order: Unused,
    pub query_rt_values: QueryRtValues,
    pub query_srq: QuerySrq,
    pub read_comp_cntr: Unused,
    pub read_counters: Unused,
    pub read_err_comp_cntr: Unused,
    pub reg_dm_mr: Unused,
    pub reg_dmabuf_mr: RegDmabufMr,
    pub reg_mr: RegMr,
    pub reg_mr_ex: Unused,
    pub req_notify_cq: ReqNotifyCq,
    pub rereg_mr: ReregMr,
    pub resize_cq: ResizeCq,
    pub set_comp_cntr: Unused,
    pub set_ece: Unused,
    pub set_err_comp_cntr: Unused,
    pub unimport_dm: Unused,
    pub unimport_mr: UnimportMr,
    pub unimport_pd: UnimportPd,
}

library! {
    /// The functions that are of this private ABI only.
    pub struct Specific {
        fn verbs_register_driver_65(ops: *const VerbsDeviceOps);
        fn ibv_cmd_query_port_speed(
            context: *mut IbvContext,
            port_num: u32,
            speed: *mut u64,
        ) -> c_int;
        fn ibv_cmd_get_context(
            context: *mut VerbsContext,
            cmd: *mut c_void,
            cmd_size: usize,
            fd_arr: *mut c_void,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_create_cq_ex(
            context: *mut IbvContext,
            attr: *const IbvCqInitAttrEx,
            prov_attr: *mut c_void,
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
            driver: *mut c_void,
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
        unsafe { (self.verbs_register_driver_65)(ops) }
    }

    /// # Safety
    /// As `ibv_cmd_get_context` in C.
    pub unsafe fn get_context(
        &self,
        context: *mut VerbsContext,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        let null = core::ptr::null_mut();
        // SAFETY: By this function's contract; the command has nothing of the provider's.
        unsafe { (self.ibv_cmd_get_context)(context, null, 0, null, resp, resp_size) }
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
        let null = core::ptr::null_mut();
        // SAFETY: As above; the kernel allocates the queue.
        unsafe { (self.ibv_cmd_create_cq_ex)(context, attr, null, cq, null, 0, resp, resp_size, 0) }
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
        let null = core::ptr::null_mut();
        // SAFETY: As above.
        unsafe { (self.ibv_cmd_create_qp_ex2)(context, qp, attr, null, 0, resp, resp_size, null) }
    }

    /// The verbs of this private ABI only.
    pub fn ops(&self, ops: ContextOps) -> ContextOps {
        ContextOps {
            query_port_speed: Some(self.ibv_cmd_query_port_speed),
            ..ops
        }
    }
}

layouts! {
    VerbsContext is "struct verbs_context": 696 { sz: 360, context: 368 }
    VerbsQp is "struct verbs_qp": 376 { comp_mask: 360, xrcd: 368 }
    ContextOps is "struct verbs_context_ops": 744 {
        advise_mr: 0, alloc_mw: 32, alloc_parent_domain: 48, alloc_pd: 56, alloc_td: 64,
        attach_mcast: 88, bind_mw: 96, create_ah: 120, create_cq: 144, create_cq_ex:
        152, create_qp: 176, create_qp_ex: 184, create_srq: 200, dealloc_mw: 232,
        dealloc_pd: 240, dealloc_td: 248, dereg_mr: 256, destroy_ah: 264, destroy_cq:
        288, destroy_qp: 312, destroy_srq: 328, detach_mcast: 344, free_context: 368,
        import_mr: 400, import_pd: 408, modify_qp: 448, modify_srq: 464, poll_cq: 496,
        post_recv: 504, post_send: 512, post_srq_recv: 528, query_device_ex: 552,
        query_port: 568, query_port_speed: 576, query_qp: 584, query_rt_values: 600,
        query_srq: 608, reg_dmabuf_mr: 648, reg_mr: 656, req_notify_cq: 672, rereg_mr:
        680, resize_cq: 688, unimport_mr: 728, unimport_pd: 736,
    }
}
