// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects of the verbs, as libibverbs' public header declares them.
//!
//! libibverbs and the program read and write them through pointers of their own, so this crate never
//! makes a reference to one that it has handed out.

use core::ffi::{c_char, c_int, c_uint, c_void};

use ferroce_core::ring::Sge;
use libc::{pthread_cond_t, pthread_mutex_t};

use super::layout::layouts;
use super::requests::{IbvDataBuf, IbvMwBindInfo};

/// A device in libibverbs' list.
#[repr(C)]
pub struct IbvDevice {
    pub obsolete: [*mut c_void; 2],
    pub node_type: c_int,
    pub transport_type: c_int,
    pub name: [c_char; 64],
    pub dev_name: [c_char; 64],
    pub dev_path: [c_char; 256],
    pub ibdev_path: [c_char; 256],
}

/// An open device.
#[repr(C)]
pub struct IbvContext {
    pub device: *mut IbvDevice,
    pub ops: [*mut c_void; 32],
    pub cmd_fd: c_int,
    pub async_fd: c_int,
    pub num_comp_vectors: c_int,
    pub mutex: pthread_mutex_t,
    pub abi_compat: *mut c_void,
}

/// A protection domain, or a parent domain.
#[repr(C)]
pub struct IbvPd {
    pub context: *mut IbvContext,
    pub handle: u32,
}

/// A thread domain.
#[repr(C)]
pub struct IbvTd {
    pub context: *mut IbvContext,
}

/// A memory region.
#[repr(C)]
pub struct IbvMr {
    pub context: *mut IbvContext,
    pub pd: *mut IbvPd,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

/// A memory window.
#[repr(C)]
pub struct IbvMw {
    pub context: *mut IbvContext,
    pub pd: *mut IbvPd,
    pub rkey: u32,
    pub handle: u32,
    pub r#type: c_uint,
}

/// An address handle.
#[repr(C)]
pub struct IbvAh {
    pub context: *mut IbvContext,
    pub pd: *mut IbvPd,
    pub handle: u32,
}

/// A completion channel.
#[repr(C)]
pub struct IbvCompChannel {
    pub context: *mut IbvContext,
    pub fd: c_int,
    pub refcnt: c_int,
}

/// A completion queue.
#[repr(C)]
pub struct IbvCq {
    pub context: *mut IbvContext,
    pub channel: *mut IbvCompChannel,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
    pub mutex: pthread_mutex_t,
    pub cond: pthread_cond_t,
    pub comp_events_completed: u32,
    pub async_events_completed: u32,
}

/// Reads a value of a completion queue's current completion.
pub type ReadWc<T> = Option<unsafe extern "C" fn(*mut IbvCqEx) -> T>;

/// An extended completion queue: the program calls its functions, one for each field of a completion.
#[repr(C)]
pub struct IbvCqEx {
    pub cq: IbvCq,
    pub comp_mask: u32,
    pub status: c_uint,
    pub wr_id: u64,
    pub start_poll: Option<unsafe extern "C" fn(*mut IbvCqEx, *mut IbvPollCqAttr) -> c_int>,
    pub next_poll: Option<unsafe extern "C" fn(*mut IbvCqEx) -> c_int>,
    pub end_poll: Option<unsafe extern "C" fn(*mut IbvCqEx)>,
    pub read_opcode: ReadWc<c_uint>,
    pub read_vendor_err: ReadWc<u32>,
    pub read_byte_len: ReadWc<u32>,
    pub read_imm_data: ReadWc<u32>,
    pub read_qp_num: ReadWc<u32>,
    pub read_src_qp: ReadWc<u32>,
    pub read_wc_flags: ReadWc<c_uint>,
    pub read_slid: ReadWc<u32>,
    pub read_sl: ReadWc<u8>,
    pub read_dlid_path_bits: ReadWc<u8>,
    pub read_completion_ts: ReadWc<u64>,
    pub read_cvlan: ReadWc<u16>,
    pub read_flow_tag: ReadWc<u32>,
    pub read_tm_info: Option<unsafe extern "C" fn(*mut IbvCqEx, *mut c_void)>,
    pub read_completion_wallclock_ns: ReadWc<u64>,
}

/// What a poll can be asked besides: nothing so far.
#[repr(C)]
pub struct IbvPollCqAttr {
    pub comp_mask: u32,
}

/// A shared receive queue.
#[repr(C)]
pub struct IbvSrq {
    pub context: *mut IbvContext,
    pub srq_context: *mut c_void,
    pub pd: *mut IbvPd,
    pub handle: u32,
    pub mutex: pthread_mutex_t,
    pub cond: pthread_cond_t,
    pub events_completed: u32,
}

/// A queue pair.
#[repr(C)]
pub struct IbvQp {
    pub context: *mut IbvContext,
    pub qp_context: *mut c_void,
    pub pd: *mut IbvPd,
    pub send_cq: *mut IbvCq,
    pub recv_cq: *mut IbvCq,
    pub srq: *mut IbvSrq,
    pub handle: u32,
    pub qp_num: u32,
    pub state: c_uint,
    pub qp_type: c_uint,
    pub mutex: pthread_mutex_t,
    pub cond: pthread_cond_t,
    pub events_completed: u32,
}

/// `wr_atomic_write`
pub type WrAtomicWrite = unsafe extern "C" fn(*mut IbvQpEx, u32, u64, *const c_void);
/// `wr_flush`
pub type WrFlush = unsafe extern "C" fn(*mut IbvQpEx, u32, u64, usize, u8, u8);

/// An extended queue pair: the program calls its functions, one for each operation and kind of data.
///
/// It has grown at its end, within a private ABI too: `wr_atomic_write` came in rdma-core 44,
/// `wr_flush` in 45. What is declared here is what all of them have; the rest is up to
/// [`VerbsQp`](super::VerbsQp).
#[repr(C)]
pub struct IbvQpEx {
    pub qp_base: IbvQp,
    pub comp_mask: u64,
    pub wr_id: u64,
    pub wr_flags: c_uint,
    pub wr_atomic_cmp_swp: Option<unsafe extern "C" fn(*mut Self, u32, u64, u64, u64)>,
    pub wr_atomic_fetch_add: Option<unsafe extern "C" fn(*mut Self, u32, u64, u64)>,
    pub wr_bind_mw: Option<unsafe extern "C" fn(*mut Self, *mut IbvMw, u32, *const IbvMwBindInfo)>,
    pub wr_local_inv: Option<unsafe extern "C" fn(*mut Self, u32)>,
    pub wr_rdma_read: Option<unsafe extern "C" fn(*mut Self, u32, u64)>,
    pub wr_rdma_write: Option<unsafe extern "C" fn(*mut Self, u32, u64)>,
    pub wr_rdma_write_imm: Option<unsafe extern "C" fn(*mut Self, u32, u64, u32)>,
    pub wr_send: Option<unsafe extern "C" fn(*mut Self)>,
    pub wr_send_imm: Option<unsafe extern "C" fn(*mut Self, u32)>,
    pub wr_send_inv: Option<unsafe extern "C" fn(*mut Self, u32)>,
    pub wr_send_tso: Option<unsafe extern "C" fn(*mut Self, *mut c_void, u16, u16)>,
    pub wr_set_ud_addr: Option<unsafe extern "C" fn(*mut Self, *mut IbvAh, u32, u32)>,
    pub wr_set_xrc_srqn: Option<unsafe extern "C" fn(*mut Self, u32)>,
    pub wr_set_inline_data: Option<unsafe extern "C" fn(*mut Self, *mut c_void, usize)>,
    pub wr_set_inline_data_list: Option<unsafe extern "C" fn(*mut Self, usize, *const IbvDataBuf)>,
    pub wr_set_sge: Option<unsafe extern "C" fn(*mut Self, u32, u64, u32)>,
    pub wr_set_sge_list: Option<unsafe extern "C" fn(*mut Self, usize, *const Sge)>,
    pub wr_start: Option<unsafe extern "C" fn(*mut Self)>,
    pub wr_complete: Option<unsafe extern "C" fn(*mut Self) -> c_int>,
    pub wr_abort: Option<unsafe extern "C" fn(*mut Self)>,
}

layouts! {
    IbvDevice is "struct ibv_device": 664 { node_type: 16, name: 24, ibdev_path: 408 }
    IbvContext is "struct ibv_context": 328 {
        ops: 8, cmd_fd: 264, async_fd: 268, num_comp_vectors: 272, mutex: 280, abi_compat: 320,
    }
    IbvPd is "struct ibv_pd": 16 { handle: 8 }
    IbvTd is "struct ibv_td": 8 {}
    IbvMr is "struct ibv_mr": 48 { addr: 16, length: 24, handle: 32, lkey: 36, rkey: 40 }
    IbvMw is "struct ibv_mw": 32 { rkey: 16, handle: 20 }
    IbvAh is "struct ibv_ah": 24 { handle: 16 }
    IbvCq is "struct ibv_cq": 128 {
        handle: 24, cqe: 28, mutex: 32, comp_events_completed: 120, async_events_completed: 124,
    }
    IbvCqEx is "struct ibv_cq_ex": 288 {
        comp_mask: 128, status: 132, wr_id: 136, start_poll: 144, next_poll: 152, end_poll: 160,
        read_opcode: 168, read_wc_flags: 216, read_completion_ts: 248, read_cvlan: 256,
        read_completion_wallclock_ns: 280,
    }
    IbvPollCqAttr is "struct ibv_poll_cq_attr": 4 {}
    IbvSrq is "struct ibv_srq": 128 { handle: 24, mutex: 32, events_completed: 120 }
    IbvQp is "struct ibv_qp": 160 {
        pd: 16, send_cq: 24, recv_cq: 32, srq: 40, handle: 48, qp_num: 52, state: 56, qp_type: 60,
        mutex: 64, cond: 104, events_completed: 152,
    }
}

// Not in the table: in C the structure goes on.
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
const _: () = {
    assert!(size_of::<IbvQpEx>() == 344);
    assert!(core::mem::offset_of!(IbvQpEx, wr_id) == 168);
    assert!(core::mem::offset_of!(IbvQpEx, wr_flags) == 176);
    assert!(core::mem::offset_of!(IbvQpEx, wr_atomic_cmp_swp) == 184);
    assert!(core::mem::offset_of!(IbvQpEx, wr_set_ud_addr) == 272);
    assert!(core::mem::offset_of!(IbvQpEx, wr_start) == 320);
    assert!(core::mem::offset_of!(IbvQpEx, wr_abort) == 336);
};
