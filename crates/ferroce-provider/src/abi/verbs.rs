// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of verbs, and an open device: both grow from one private ABI to the next.
//!
//! A field is declared once, and has the feature of the private ABI it came with. In ABI 59 both are
//! declared as rdma-core 62 and 63 have them; `before_62` has the rest.

#[cfg(feature = "abi59")]
use core::ffi::c_int;
use core::ffi::c_void;

use super::layout::layouts;
use super::objects::IbvContext;
use super::private::*;

/// Verbs that have a place in [`VerbsContext`].
const EXTENDED_VERBS: usize = 39
    // alloc_dmah, dealloc_dmah, dm_export_dmabuf_fd, reg_mr_ex
    + if cfg!(feature = "abi59") { 4 } else { 0 }
    // alloc_buf, free_buf
    + if cfg!(feature = "abi64") { 2 } else { 0 };

/// An open device, and the extended verbs of it.
#[repr(C)]
pub struct VerbsContext {
    /// Verbs, which libibverbs fills in.
    pub ops: [*mut c_void; EXTENDED_VERBS],
    pub sz: usize,
    pub context: IbvContext,
}

/// `query_port_speed`
#[cfg(feature = "abi59")]
pub type QueryPortSpeed = Option<unsafe extern "C" fn(*mut IbvContext, u32, *mut u64) -> c_int>;

/// The table of verbs.
#[derive(Default)]
#[repr(C)]
pub struct ContextOps {
    pub advise_mr: AdviseMr,
    #[cfg(feature = "abi64")]
    pub alloc_buf: Unused,
    pub alloc_dm: AllocDm,
    #[cfg(feature = "abi59")]
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
    #[cfg(feature = "abi65")]
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
    #[cfg(feature = "abi59")]
    pub dealloc_dmah: Unused,
    pub dealloc_mw: DeallocMw,
    pub dealloc_pd: DeallocPd,
    pub dealloc_td: DeallocTd,
    pub dereg_mr: DeregMr,
    pub destroy_ah: DestroyAh,
    #[cfg(feature = "abi65")]
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
    #[cfg(feature = "abi59")]
    pub dm_export_dmabuf_fd: Unused,
    #[cfg(feature = "abi64")]
    pub free_buf: Unused,
    pub free_context: FreeContext,
    pub free_dm: FreeDm,
    pub get_srq_num: Unused,
    pub import_dm: Unused,
    pub import_mr: ImportMr,
    pub import_pd: ImportPd,
    #[cfg(feature = "abi65")]
    pub inc_comp_cntr: Unused,
    #[cfg(feature = "abi65")]
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
    #[cfg(feature = "abi65")]
    pub qp_attach_comp_cntr: Unused,
    #[cfg(feature = "abi65")]
    pub query_comp_cntr_caps: Unused,
    pub query_device_ex: QueryDeviceEx,
    pub query_ece: Unused,
    pub query_port: QueryPort,
    #[cfg(feature = "abi59")]
    pub query_port_speed: QueryPortSpeed,
    pub query_qp: QueryQp,
    pub query_qp_data_in_order: Unused,
    pub query_rt_values: QueryRtValues,
    pub query_srq: QuerySrq,
    #[cfg(feature = "abi65")]
    pub read_comp_cntr: Unused,
    pub read_counters: Unused,
    #[cfg(feature = "abi65")]
    pub read_err_comp_cntr: Unused,
    pub reg_dm_mr: RegDmMr,
    pub reg_dmabuf_mr: RegDmabufMr,
    pub reg_mr: RegMr,
    #[cfg(feature = "abi59")]
    pub reg_mr_ex: Unused,
    pub req_notify_cq: ReqNotifyCq,
    pub rereg_mr: ReregMr,
    pub resize_cq: ResizeCq,
    #[cfg(feature = "abi65")]
    pub set_comp_cntr: Unused,
    pub set_ece: Unused,
    #[cfg(feature = "abi65")]
    pub set_err_comp_cntr: Unused,
    pub unimport_dm: Unused,
    pub unimport_mr: UnimportMr,
    pub unimport_pd: UnimportPd,
}

// ABI 34 (rdma-core 36 to 56) and 57.
#[cfg(not(feature = "abi59"))]
layouts! {
    VerbsContext is "struct verbs_context": 648 { sz: 312, context: 320 }
    ContextOps is "struct verbs_context_ops": 608 {
        advise_mr: 0, alloc_dm: 8, alloc_mw: 16, alloc_parent_domain: 32, alloc_pd: 40, alloc_td: 48,
        attach_mcast: 72, bind_mw: 80, create_ah: 104, create_cq: 120, create_cq_ex: 128,
        create_qp: 152, create_qp_ex: 160, create_srq: 176, dealloc_mw: 200, dealloc_pd: 208,
        dealloc_td: 216, dereg_mr: 224, destroy_ah: 232, destroy_cq: 248, destroy_qp: 272,
        destroy_srq: 288, detach_mcast: 304, free_context: 312, free_dm: 320, import_mr: 344, import_pd: 352,
        modify_qp: 376, modify_srq: 392, poll_cq: 424, post_recv: 432, post_send: 440,
        post_srq_recv: 456, query_device_ex: 464, query_port: 480, query_qp: 488,
        query_rt_values: 504, query_srq: 512, reg_dm_mr: 528, reg_dmabuf_mr: 536, reg_mr: 544, req_notify_cq: 552,
        rereg_mr: 560, resize_cq: 568, unimport_mr: 592, unimport_pd: 600,
    }
}

// ABI 59, rdma-core 62 and 63.
#[cfg(all(feature = "abi59", not(feature = "abi64")))]
layouts! {
    VerbsContext is "struct verbs_context": 680 { sz: 344, context: 352 }
    ContextOps is "struct verbs_context_ops": 648 {
        advise_mr: 0, alloc_dm: 8, alloc_mw: 24, alloc_parent_domain: 40, alloc_pd: 48, alloc_td: 56,
        attach_mcast: 80, bind_mw: 88, create_ah: 112, create_cq: 128, create_cq_ex: 136,
        create_qp: 160, create_qp_ex: 168, create_srq: 184, dealloc_mw: 216, dealloc_pd: 224,
        dealloc_td: 232, dereg_mr: 240, destroy_ah: 248, destroy_cq: 264, destroy_qp: 288,
        destroy_srq: 304, detach_mcast: 320, free_context: 336, free_dm: 344, import_mr: 368, import_pd: 376,
        modify_qp: 400, modify_srq: 416, poll_cq: 448, post_recv: 456, post_send: 464,
        post_srq_recv: 480, query_device_ex: 488, query_port: 504, query_port_speed: 512,
        query_qp: 520, query_rt_values: 536, query_srq: 544, reg_dm_mr: 560, reg_dmabuf_mr: 568, reg_mr: 576,
        req_notify_cq: 592, rereg_mr: 600, resize_cq: 608, unimport_mr: 632, unimport_pd: 640,
    }
}

// ABI 64.
#[cfg(all(feature = "abi64", not(feature = "abi65")))]
layouts! {
    VerbsContext is "struct verbs_context": 696 { sz: 360, context: 368 }
    ContextOps is "struct verbs_context_ops": 664 {
        advise_mr: 0, alloc_dm: 16, alloc_mw: 32, alloc_parent_domain: 48, alloc_pd: 56, alloc_td: 64,
        attach_mcast: 88, bind_mw: 96, create_ah: 120, create_cq: 136, create_cq_ex: 144,
        create_qp: 168, create_qp_ex: 176, create_srq: 192, dealloc_mw: 224, dealloc_pd: 232,
        dealloc_td: 240, dereg_mr: 248, destroy_ah: 256, destroy_cq: 272, destroy_qp: 296,
        destroy_srq: 312, detach_mcast: 328, free_context: 352, free_dm: 360, import_mr: 384, import_pd: 392,
        modify_qp: 416, modify_srq: 432, poll_cq: 464, post_recv: 472, post_send: 480,
        post_srq_recv: 496, query_device_ex: 504, query_port: 520, query_port_speed: 528,
        query_qp: 536, query_rt_values: 552, query_srq: 560, reg_dm_mr: 576, reg_dmabuf_mr: 584, reg_mr: 592,
        req_notify_cq: 608, rereg_mr: 616, resize_cq: 624, unimport_mr: 648, unimport_pd: 656,
    }
}

// ABI 65.
#[cfg(feature = "abi65")]
layouts! {
    VerbsContext is "struct verbs_context": 696 { sz: 360, context: 368 }
    ContextOps is "struct verbs_context_ops": 744 {
        advise_mr: 0, alloc_dm: 16, alloc_mw: 32, alloc_parent_domain: 48, alloc_pd: 56, alloc_td: 64,
        attach_mcast: 88, bind_mw: 96, create_ah: 120, create_cq: 144, create_cq_ex: 152,
        create_qp: 176, create_qp_ex: 184, create_srq: 200, dealloc_mw: 232, dealloc_pd: 240,
        dealloc_td: 248, dereg_mr: 256, destroy_ah: 264, destroy_cq: 288, destroy_qp: 312,
        destroy_srq: 328, detach_mcast: 344, free_context: 368, free_dm: 376, import_mr: 400, import_pd: 408,
        modify_qp: 448, modify_srq: 464, poll_cq: 496, post_recv: 504, post_send: 512,
        post_srq_recv: 528, query_device_ex: 552, query_port: 568, query_port_speed: 576,
        query_qp: 584, query_rt_values: 600, query_srq: 608, reg_dm_mr: 640, reg_dmabuf_mr: 648, reg_mr: 656,
        req_notify_cq: 672, rereg_mr: 680, resize_cq: 688, unimport_mr: 728, unimport_pd: 736,
    }
}
