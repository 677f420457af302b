// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices: opening them, and what they are asked.

use core::ffi::{c_char, c_int, c_void, CStr};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ferroce_core::verbs::{limits, Mtu};
use ferroce_core::{ring, uapi};
use ferroce_user::device::{guid, Context};
use ferroce_user::events::Events;
use ferroce_user::{segment, socket, Errno, Result};

use super::{respond, status, CONTEXTS};
use crate::abi::library::Library;
use crate::abi::{IbvContext, IbvDeviceAttr, IbvDeviceAttrEx, IbvPortAttr, VerbsContext};

/// Opens the device of a context.
///
/// # Safety
/// As `ibv_cmd_get_context` in C.
pub unsafe fn get_context(
    context: *mut VerbsContext,
    resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    // SAFETY: By this function's contract.
    status(unsafe { open(context, resp, resp_size) })
}

unsafe fn open(context: *mut VerbsContext, resp: *mut c_void, resp_size: usize) -> Result<()> {
    let offset = Library::get().specific.context_offset();
    // SAFETY: By the caller's contract it is the last field of the structure.
    let context = unsafe { context.byte_add(offset).cast::<IbvContext>() };
    // SAFETY: libibverbs has filled in the device, whose path is a C string.
    let path = unsafe { CStr::from_ptr((&raw const (*(*context).device).ibdev_path).cast()) };
    let (read, write) = socket::pair()?;
    let events = Events::new(read.as_raw_fd(), write);
    let opened = Context::open(Path::new(OsStr::from_bytes(path.to_bytes())), events)?;
    CONTEXTS.put(context, opened);
    // SAFETY: The context is new. libibverbs closes its descriptors.
    unsafe {
        (*context).async_fd = read.into_raw_fd();
        (*context).num_comp_vectors = 1;
        let driver = uapi::UcontextResponse {
            features: 0,
            ring_abi: ring::ABI_VERSION,
            reserved: 0,
        };
        respond(resp, resp_size, 8, driver);
    }
    Ok(())
}

/// A context goes.
pub fn close(context: *mut IbvContext) {
    CONTEXTS.take(context);
}

pub unsafe extern "C" fn query_context(_context: *mut IbvContext, _driver: *mut c_void) -> c_int {
    // A device file that another process has opened is none here.
    libc::EOPNOTSUPP
}

pub unsafe extern "C" fn query_device_any(
    context: *mut IbvContext,
    _input: *const c_void,
    attr: *mut IbvDeviceAttr,
    attr_size: usize,
    resp: *mut c_void,
    resp_size: *mut usize,
) -> c_int {
    // SAFETY: By the contract of the command.
    unsafe {
        let device = (*context).device;
        let folder = CStr::from_ptr((&raw const (*device).ibdev_path).cast::<c_char>());
        let folder = Path::new(OsStr::from_bytes(folder.to_bytes()));
        // The device and the system that it is in are one.
        let answer = attributes(guid(folder).to_be());
        let length = attr_size.min(size_of_val(&answer));
        core::ptr::write_bytes(attr.cast::<u8>(), 0, attr_size);
        core::ptr::copy_nonoverlapping((&raw const answer).cast::<u8>(), attr.cast(), length);
        // The first number is the version.
        respond(resp, *resp_size, 0, version());
    }
    0
}

/// The release as a number: 16 bits for each of its three parts.
fn version() -> u64 {
    let parts = env!("CARGO_PKG_VERSION").split('.');
    parts.fold(0, |number, part| {
        number << 16 | part.parse::<u64>().unwrap_or(0)
    })
}

/// "FER" in ASCII, where a vendor would have its OUI, as the kernel's driver has it.
const VENDOR_ID: u32 = u32::from_be_bytes(*b"\0FER");

/// `enum ibv_device_cap_flags`.
mod caps {
    pub const MEM_WINDOW: u32 = 1 << 17;
    pub const MEM_WINDOW_TYPE_2B: u32 = 1 << 24;
    pub const SRQ_RESIZE: u32 = 1 << 13;
    pub const FLUSH_GLOBAL: u64 = 1 << 38;
    pub const ATOMIC_WRITE: u64 = 1 << 40;
}

/// `IBV_ATOMIC_HCA`: atomic among the card's own operations, not with the program's instructions.
const ATOMIC_HCA: u32 = 1;

fn attributes(guid: u64) -> IbvDeviceAttrEx {
    let flags = caps::MEM_WINDOW | caps::MEM_WINDOW_TYPE_2B | caps::SRQ_RESIZE;
    let reads = c_int::from(limits::MAX_RD_ATOMIC);
    let qps = segment::QPS as c_int - 1;
    // SAFETY: All of it is numbers.
    let mut attr: IbvDeviceAttrEx = unsafe { core::mem::zeroed() };
    attr.orig_attr = IbvDeviceAttr {
        node_guid: guid,
        sys_image_guid: guid,
        max_mr_size: u64::MAX,
        page_size_cap: 0xffff_f000,
        vendor_id: VENDOR_ID,
        vendor_part_id: 1,
        hw_ver: 1,
        max_qp: qps,
        max_qp_wr: limits::MAX_QP_WR as c_int,
        device_cap_flags: flags,
        max_sge: limits::MAX_SEND_SGE as c_int,
        max_sge_rd: limits::MAX_SEND_SGE as c_int,
        max_cq: segment::CQS as c_int - 1,
        max_cqe: limits::MAX_CQE as c_int,
        max_mr: segment::KEYS as c_int - 1,
        max_pd: 1 << 16,
        max_qp_rd_atom: reads,
        max_res_rd_atom: reads * qps,
        max_qp_init_rd_atom: reads,
        atomic_cap: ATOMIC_HCA,
        max_mw: segment::KEYS as c_int - 1,
        max_mcast_grp: segment::MEMBERS as c_int,
        max_mcast_qp_attach: segment::MEMBERS as c_int,
        max_total_mcast_qp_attach: segment::MEMBERS as c_int,
        max_ah: 1 << 16,
        max_srq: segment::SRQS as c_int - 1,
        max_srq_wr: limits::MAX_QP_WR as c_int,
        max_srq_sge: limits::MAX_RECV_SGE as c_int,
        max_pkeys: limits::PKEY_TABLE_LEN,
        local_ca_ack_delay: 15,
        phys_port_cnt: limits::PORT_COUNT as u8,
        ..attr.orig_attr
    };
    // `enum ibv_odp_transport_cap_bits`: send, receive, write, read, atomic, SRQ receive; flush, atomic
    // write.
    let (datagram, connected, reliable) = (0x23, 0x27, 0xff);
    attr.general_odp_caps = 1;
    attr.rc_odp_caps = reliable;
    attr.uc_odp_caps = connected;
    attr.ud_odp_caps = datagram;
    attr.max_dm_size = limits::MAX_DM_SIZE;
    attr.completion_timestamp_mask = u64::MAX;
    attr.hca_core_clock = 1_000_000;
    attr.device_cap_flags_ex = u64::from(flags) | caps::FLUSH_GLOBAL | caps::ATOMIC_WRITE;
    attr.phys_port_cnt_ex = limits::PORT_COUNT;
    attr
}

pub unsafe extern "C" fn query_port(
    context: *mut IbvContext,
    port_num: u8,
    attr: *mut c_void,
    _cmd: *mut c_void,
    _cmd_size: usize,
) -> c_int {
    if u32::from(port_num) != limits::PORT_COUNT {
        return libc::EINVAL;
    }
    let gids = match CONTEXTS.get(context) {
        Ok(context) => context.gid_count(),
        Err(Errno(errno)) => return errno,
    };
    let mtu = u32::from(Mtu::B4096);
    let port = IbvPortAttr {
        // `IBV_PORT_ACTIVE`.
        state: 4,
        max_mtu: mtu,
        active_mtu: mtu,
        gid_tbl_len: c_int::try_from(gids).unwrap_or(c_int::MAX),
        // `IBV_PORT_CM_SUP`, `IBV_PORT_IP_BASED_GIDS`.
        port_cap_flags: 1 << 16 | 1 << 26,
        max_msg_sz: limits::MAX_MESSAGE_LENGTH,
        pkey_tbl_len: limits::PKEY_TABLE_LEN,
        // 4X, EDR: 100 Gbit/s.
        active_width: 2,
        active_speed: 32,
        // Link up.
        phys_state: 5,
        // `IBV_LINK_LAYER_ETHERNET`.
        link_layer: 2,
        ..IbvPortAttr::default()
    };
    // SAFETY: By the contract of the command; in each release the structure begins with this one.
    unsafe { attr.cast::<IbvPortAttr>().write(port) };
    0
}

#[cfg(feature = "abi59")]
pub unsafe extern "C" fn query_port_speed(
    _context: *mut IbvContext,
    port_num: u32,
    port_speed: *mut u64,
) -> c_int {
    if port_num != limits::PORT_COUNT {
        return libc::EINVAL;
    }
    // In units of 100 Mbit/s: that of `query_port`.
    // SAFETY: By the contract of the verb.
    unsafe { port_speed.write(1000) };
    0
}
