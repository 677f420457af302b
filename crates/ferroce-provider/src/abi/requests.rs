// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work requests and completions, as libibverbs' public header declares them.

use core::ffi::{c_int, c_uint, c_void};

use ferroce_core::ring::Sge;

use super::layout::layouts;
use super::objects::{IbvAh, IbvMr, IbvMw};

/// A piece of inline data.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvDataBuf {
    pub addr: *mut c_void,
    pub length: usize,
}

/// What a memory window is bound to.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvMwBindInfo {
    /// Null to unbind, with a length of zero.
    pub mr: *mut IbvMr,
    pub addr: u64,
    pub length: u64,
    pub mw_access_flags: c_uint,
}

/// A bind of a type 1 memory window.
#[repr(C)]
pub struct IbvMwBind {
    pub wr_id: u64,
    pub send_flags: c_uint,
    pub bind_info: IbvMwBindInfo,
}

/// A place in the peer's memory.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvRdmaArguments {
    pub remote_addr: u64,
    pub rkey: u32,
}

/// Arguments of an atomic.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvAtomicArguments {
    pub remote_addr: u64,
    pub compare_add: u64,
    pub swap: u64,
    pub rkey: u32,
}

/// Where a datagram goes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvUdArguments {
    pub ah: *mut IbvAh,
    pub remote_qpn: u32,
    pub remote_qkey: u32,
}

/// Arguments by operation and type of queue pair.
#[derive(Clone, Copy)]
#[repr(C)]
pub union IbvWrArguments {
    pub rdma: IbvRdmaArguments,
    pub atomic: IbvAtomicArguments,
    pub ud: IbvUdArguments,
}

/// Arguments of a memory window's bind.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct IbvBindMwArguments {
    pub mw: *mut IbvMw,
    pub rkey: u32,
    pub bind_info: IbvMwBindInfo,
}

/// A send work request, and the list it is in.
#[repr(C)]
pub struct IbvSendWr {
    pub wr_id: u64,
    pub next: *mut IbvSendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: c_uint,
    pub send_flags: c_uint,
    /// Immediate data in network byte order, or the key to invalidate.
    pub imm_data: u32,
    pub wr: IbvWrArguments,
    /// XRC only.
    pub qp_type: u32,
    pub bind_mw: IbvBindMwArguments,
}

/// A receive work request, and the list it is in.
#[repr(C)]
pub struct IbvRecvWr {
    pub wr_id: u64,
    pub next: *mut IbvRecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

/// A completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct IbvWc {
    pub wr_id: u64,
    pub status: c_uint,
    pub opcode: c_uint,
    pub vendor_err: u32,
    pub byte_len: u32,
    /// Immediate data in network byte order, or the invalidated key.
    pub imm_data: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub wc_flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

/// The bits of a completion's `wc_flags` (`enum ibv_wc_flags`).
pub mod wc_flags {
    pub const GRH: u32 = 1 << 0;
    pub const WITH_IMM: u32 = 1 << 1;
    pub const WITH_INV: u32 = 1 << 3;
}

layouts! {
    Sge is "struct ibv_sge": 16 { length: 8, lkey: 12 }
    IbvDataBuf is "struct ibv_data_buf": 16 { length: 8 }
    IbvMwBindInfo is "struct ibv_mw_bind_info": 32 { addr: 8, length: 16, mw_access_flags: 24 }
    IbvMwBind is "struct ibv_mw_bind": 48 { send_flags: 8, bind_info: 16 }
    IbvSendWr is "struct ibv_send_wr": 128 {
        next: 8, sg_list: 16, num_sge: 24, opcode: 28, send_flags: 32, imm_data: 36, wr: 40,
        qp_type: 72, bind_mw: 80,
    }
    IbvRecvWr is "struct ibv_recv_wr": 32 { next: 8, sg_list: 16, num_sge: 24 }
    IbvWc is "struct ibv_wc": 48 {
        status: 8, opcode: 12, vendor_err: 16, byte_len: 20, imm_data: 24, qp_num: 28, src_qp: 32,
        wc_flags: 36, pkey_index: 40, slid: 42, sl: 44, dlid_path_bits: 45,
    }
}

// These have no name in C.
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(IbvRdmaArguments, rkey) == 8);
    assert!(offset_of!(IbvAtomicArguments, rkey) == 24);
    assert!(offset_of!(IbvUdArguments, remote_qkey) == 12);
    assert!(offset_of!(IbvBindMwArguments, rkey) == 8);
    assert!(offset_of!(IbvBindMwArguments, bind_info) == 16);
};
