// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attributes of objects to be made or changed, as libibverbs' public header declares them.
//!
//! Structures that this crate only passes on are declared as far as it looks into them, and are used
//! behind pointers alone.

use core::ffi::{c_char, c_int, c_uint, c_void};

use super::layout::layouts;
use super::objects::{IbvCompChannel, IbvCq, IbvPd, IbvSrq, IbvTd};

/// Capacities of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct IbvQpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

/// What a queue pair is to be.
#[repr(C)]
pub struct IbvQpInitAttr {
    pub qp_context: *mut c_void,
    pub send_cq: *mut IbvCq,
    pub recv_cq: *mut IbvCq,
    pub srq: *mut IbvSrq,
    pub cap: IbvQpCap,
    pub qp_type: c_uint,
    pub sq_sig_all: c_int,
}

/// The same, extended. It begins like [`IbvQpInitAttr`], except for the padding.
#[repr(C)]
pub struct IbvQpInitAttrEx {
    pub qp_context: *mut c_void,
    pub send_cq: *mut IbvCq,
    pub recv_cq: *mut IbvCq,
    pub srq: *mut IbvSrq,
    pub cap: IbvQpCap,
    pub qp_type: c_uint,
    pub sq_sig_all: c_int,
    pub comp_mask: u32,
    pub pd: *mut IbvPd,
    pub xrcd: *mut c_void,
    pub create_flags: u32,
    pub max_tso_header: u16,
    pub rwq_ind_tbl: *mut c_void,
    pub rx_hash_conf: [u64; 3],
    pub source_qpn: u32,
    pub send_ops_flags: u64,
}

/// The bits of its `comp_mask` (`enum ibv_qp_init_attr_mask`).
pub mod qp_init_attr_mask {
    pub const PD: u32 = 1 << 0;
    pub const CREATE_FLAGS: u32 = 1 << 2;
    pub const SEND_OPS_FLAGS: u32 = 1 << 6;
}

/// The bits of its `send_ops_flags` (`enum ibv_qp_create_send_ops_flags`).
pub mod send_ops {
    pub const RDMA_WRITE: u64 = 1 << 0;
    pub const RDMA_WRITE_WITH_IMM: u64 = 1 << 1;
    pub const SEND: u64 = 1 << 2;
    pub const SEND_WITH_IMM: u64 = 1 << 3;
    pub const RDMA_READ: u64 = 1 << 4;
    pub const ATOMIC_CMP_AND_SWP: u64 = 1 << 5;
    pub const ATOMIC_FETCH_AND_ADD: u64 = 1 << 6;
    pub const LOCAL_INV: u64 = 1 << 7;
    pub const BIND_MW: u64 = 1 << 8;
    pub const SEND_WITH_INV: u64 = 1 << 9;
    pub const FLUSH: u64 = 1 << 11;
    pub const ATOMIC_WRITE: u64 = 1 << 12;
}

/// An address vector.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub struct IbvAhAttr {
    pub dgid: [u8; 16],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

/// A queue pair's attributes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IbvQpAttr {
    pub qp_state: c_uint,
    pub cur_qp_state: c_uint,
    pub path_mtu: c_uint,
    pub path_mig_state: c_uint,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: c_uint,
    pub cap: IbvQpCap,
    pub ah_attr: IbvAhAttr,
    pub alt_ah_attr: IbvAhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

/// The bit of an attribute mask that stands for `qp_state`.
pub const IBV_QP_STATE: c_int = 1 << 0;

/// Attributes of a shared receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct IbvSrqAttr {
    pub max_wr: u32,
    pub max_sge: u32,
    pub srq_limit: u32,
}

/// Which of them to change (`enum ibv_srq_attr_mask`).
pub mod srq_attr_mask {
    use core::ffi::c_int;

    pub const MAX_WR: c_int = 1 << 0;
}

/// What a shared receive queue is to be.
#[repr(C)]
pub struct IbvSrqInitAttr {
    pub srq_context: *mut c_void,
    pub attr: IbvSrqAttr,
}

/// What a completion queue is to be.
#[repr(C)]
pub struct IbvCqInitAttrEx {
    pub cqe: u32,
    pub cq_context: *mut c_void,
    pub channel: *mut IbvCompChannel,
    pub comp_vector: u32,
    pub wc_flags: u64,
    pub comp_mask: u32,
    pub flags: u32,
    pub parent_domain: *mut IbvPd,
}

/// The bits of its `comp_mask` (`enum ibv_cq_init_attr_mask`).
pub mod cq_init_attr_mask {
    pub const FLAGS: u32 = 1 << 0;
    pub const PD: u32 = 1 << 1;
}

/// The bits of its `flags` (`enum ibv_create_cq_attr_flags`).
pub mod create_cq_attr_flags {
    pub const SINGLE_THREADED: u32 = 1 << 0;
}

/// The bits of its `wc_flags` that the device has something for (`enum ibv_create_cq_wc_flags`).
pub mod create_cq_wc_flags {
    /// Byte length, immediate data, QP number, source QP, SLID, SL, DLID path bits.
    pub const STANDARD: u64 = 0x7f;
    pub const COMPLETION_TIMESTAMP: u64 = 1 << 7;
    pub const COMPLETION_TIMESTAMP_WALLCLOCK: u64 = 1 << 11;
}

/// What a parent domain is to be. Its allocators, behind what is declared, are not for queues that
/// the kernel allocates.
#[repr(C)]
pub struct IbvParentDomainInitAttr {
    pub pd: *mut IbvPd,
    pub td: *mut IbvTd,
    pub comp_mask: u32,
    rest: [*mut c_void; 3],
}

/// The bits of its `comp_mask` (`enum ibv_parent_domain_init_attr_mask`).
pub mod parent_domain_mask {
    pub const ALLOCATORS: u32 = 1 << 0;
    pub const PD_CONTEXT: u32 = 1 << 1;
}

/// What a thread domain is to be: it has no attributes so far.
#[repr(C)]
pub struct IbvTdInitAttr {
    pub comp_mask: u32,
}

/// A device's attributes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IbvDeviceAttr {
    pub fw_ver: [c_char; 64],
    /// In network byte order, as the next one.
    pub node_guid: u64,
    pub sys_image_guid: u64,
    pub max_mr_size: u64,
    pub page_size_cap: u64,
    pub vendor_id: u32,
    pub vendor_part_id: u32,
    pub hw_ver: u32,
    pub max_qp: c_int,
    pub max_qp_wr: c_int,
    pub device_cap_flags: c_uint,
    pub max_sge: c_int,
    pub max_sge_rd: c_int,
    pub max_cq: c_int,
    pub max_cqe: c_int,
    pub max_mr: c_int,
    pub max_pd: c_int,
    pub max_qp_rd_atom: c_int,
    pub max_ee_rd_atom: c_int,
    pub max_res_rd_atom: c_int,
    pub max_qp_init_rd_atom: c_int,
    pub max_ee_init_rd_atom: c_int,
    pub atomic_cap: c_uint,
    pub max_ee: c_int,
    pub max_rdd: c_int,
    pub max_mw: c_int,
    pub max_raw_ipv6_qp: c_int,
    pub max_raw_ethy_qp: c_int,
    pub max_mcast_grp: c_int,
    pub max_mcast_qp_attach: c_int,
    pub max_total_mcast_qp_attach: c_int,
    pub max_ah: c_int,
    pub max_fmr: c_int,
    pub max_map_per_fmr: c_int,
    pub max_srq: c_int,
    pub max_srq_wr: c_int,
    pub max_srq_sge: c_int,
    pub max_pkeys: u16,
    pub local_ca_ack_delay: u8,
    pub phys_port_cnt: u8,
}

/// The same, extended. What is not named this device has nothing to say about.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct IbvDeviceAttrEx {
    pub orig_attr: IbvDeviceAttr,
    pub comp_mask: u32,
    pub general_odp_caps: u64,
    pub rc_odp_caps: u32,
    pub uc_odp_caps: u32,
    pub ud_odp_caps: u32,
    pub completion_timestamp_mask: u64,
    pub hca_core_clock: u64,
    pub device_cap_flags_ex: u64,
    others: [u64; 11],
    pub max_dm_size: u64,
    pci_atomic_caps: u64,
    pub xrc_odp_caps: u32,
    pub phys_port_cnt_ex: u32,
}

/// A port's attributes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct IbvPortAttr {
    pub state: c_uint,
    pub max_mtu: c_uint,
    pub active_mtu: c_uint,
    pub gid_tbl_len: c_int,
    pub port_cap_flags: u32,
    pub max_msg_sz: u32,
    pub bad_pkey_cntr: u32,
    pub qkey_viol_cntr: u32,
    pub pkey_tbl_len: u16,
    pub lid: u16,
    pub sm_lid: u16,
    pub lmc: u8,
    pub max_vl_num: u8,
    pub sm_sl: u8,
    pub subnet_timeout: u8,
    pub init_type_reply: u8,
    pub active_width: u8,
    pub active_speed: u8,
    pub phys_state: u8,
    pub link_layer: u8,
    pub flags: u8,
    pub port_cap_flags2: u16,
}

/// Values of the running device.
#[repr(C)]
pub struct IbvValuesEx {
    pub comp_mask: u32,
    pub raw_clock: libc::timespec,
}

/// The bit of its `comp_mask` that stands for `raw_clock`.
pub const IBV_VALUES_MASK_RAW_CLOCK: u32 = 1 << 0;

layouts! {
    IbvQpCap is "struct ibv_qp_cap": 20 { max_inline_data: 16 }
    IbvAhAttr is "struct ibv_ah_attr": 32 { dlid: 24, sl: 26, is_global: 29, port_num: 30 }
    IbvQpAttr is "struct ibv_qp_attr": 144 {
        path_mtu: 8, qkey: 16, dest_qp_num: 28, qp_access_flags: 32, cap: 36, ah_attr: 56,
        alt_ah_attr: 88, pkey_index: 120, en_sqd_async_notify: 124, min_rnr_timer: 128, timeout: 130,
        rnr_retry: 132, alt_timeout: 134, rate_limit: 136,
    }
    IbvDeviceAttr is "struct ibv_device_attr": 232 {
        node_guid: 64, max_mr_size: 80, vendor_id: 96, max_qp: 108, device_cap_flags: 116,
        atomic_cap: 164, max_srq_sge: 220, max_pkeys: 224, phys_port_cnt: 227,
    }
    IbvDeviceAttrEx is "struct ibv_device_attr_ex": 400 {
        comp_mask: 232, completion_timestamp_mask: 264, hca_core_clock: 272, device_cap_flags_ex: 280,
        phys_port_cnt_ex: 396,
    }
    IbvQpInitAttr is "struct ibv_qp_init_attr": 64 { cap: 32, qp_type: 52, sq_sig_all: 56 }
    IbvQpInitAttrEx is "struct ibv_qp_init_attr_ex": 136 {
        cap: 32, qp_type: 52, sq_sig_all: 56, comp_mask: 60, pd: 64, create_flags: 80,
        max_tso_header: 84, rwq_ind_tbl: 88, rx_hash_conf: 96, source_qpn: 120, send_ops_flags: 128,
    }
    IbvSrqAttr is "struct ibv_srq_attr": 12 { srq_limit: 8 }
    IbvSrqInitAttr is "struct ibv_srq_init_attr": 24 { attr: 8 }
    IbvCqInitAttrEx is "struct ibv_cq_init_attr_ex": 56 {
        cq_context: 8, channel: 16, comp_vector: 24, wc_flags: 32, comp_mask: 40, flags: 44,
        parent_domain: 48,
    }
    IbvParentDomainInitAttr is "struct ibv_parent_domain_init_attr": 48 { td: 8, comp_mask: 16 }
    IbvTdInitAttr is "struct ibv_td_init_attr": 4 {}
    IbvValuesEx is "struct ibv_values_ex": 24 { raw_clock: 8 }
}
