// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device memory: what libibverbs has of it, and the command that allocates some.
//!
//! libibverbs' own command takes what a driver adds in buffers whose layout is no provider's business, so
//! this one goes to the kernel directly: what it looks like there does not change
//! (`rdma/rdma_user_ioctl_cmds.h`, `rdma/ib_user_ioctl_cmds.h`).

use core::ffi::{c_int, c_void};
use std::io;

use ferroce_core::uapi;

use super::layout::layouts;
use super::objects::IbvContext;

/// `memcpy_to_dm`
pub type MemcpyToDm = Option<unsafe extern "C" fn(*mut IbvDm, u64, *const c_void, usize) -> c_int>;
/// `memcpy_from_dm`
pub type MemcpyFromDm = Option<unsafe extern "C" fn(*mut c_void, *mut IbvDm, u64, usize) -> c_int>;

/// Device memory.
#[repr(C)]
pub struct IbvDm {
    pub context: *mut IbvContext,
    pub memcpy_to_dm: MemcpyToDm,
    pub memcpy_from_dm: MemcpyFromDm,
    pub comp_mask: u32,
    pub handle: u32,
}

/// Device memory, as libibverbs' commands take it.
#[repr(C)]
pub struct VerbsDm {
    pub dm: IbvDm,
    pub handle: u32,
}

/// What a program asks for.
#[repr(C)]
pub struct IbvAllocDmAttr {
    pub length: usize,
    pub log_align_req: u32,
    pub comp_mask: u32,
}

layouts! {
    IbvDm is "struct ibv_dm": 32 { memcpy_to_dm: 8, memcpy_from_dm: 16, comp_mask: 24, handle: 28 }
    IbvAllocDmAttr is "struct ibv_alloc_dm_attr": 16 { log_align_req: 8, comp_mask: 12 }
}

/// The bit of [`IbvDm`]'s `comp_mask` that stands for `handle`.
pub const MASK_HANDLE: u32 = 1 << 0;

/// `struct ib_uverbs_ioctl_hdr`, and the attributes behind it.
#[repr(C)]
struct Command<const ATTRS: usize> {
    length: u16,
    object_id: u16,
    method_id: u16,
    num_attrs: u16,
    reserved1: u64,
    driver_id: u32,
    reserved2: u32,
    attrs: [Attr; ATTRS],
}

/// `struct ib_uverbs_attr`
#[repr(C)]
#[derive(Clone, Copy)]
struct Attr {
    attr_id: u16,
    len: u16,
    flags: u16,
    reserved: u16,
    /// The value, if it is no longer than this, or an address.
    data: u64,
}

impl Attr {
    const fn new(attr_id: u16, len: u16, data: u64) -> Self {
        Self {
            attr_id,
            len,
            // `UVERBS_ATTR_F_MANDATORY`: the kernel is not to overlook what it does not know.
            flags: 1,
            reserved: 0,
            data,
        }
    }
}

/// `RDMA_VERBS_IOCTL`: `_IOWR(0x1b, 1, struct ib_uverbs_ioctl_hdr)`, which is 24 bytes.
const RDMA_VERBS_IOCTL: libc::Ioctl = libc::_IOWR::<[u64; 3]>(0x1b, 1);

/// `UVERBS_OBJECT_DM`
const OBJECT_DM: u16 = 14;
/// `UVERBS_METHOD_DM_ALLOC`
const METHOD_ALLOC: u16 = 0;

/// Allocates device memory by a device file. Returns its handle, and the offset to map it with.
pub fn allocate(fd: c_int, attr: &IbvAllocDmAttr) -> io::Result<(u32, u64)> {
    let mut offset = 0u64;
    // `enum uverbs_attrs_dm_alloc`...
    let mut attrs = [
        Attr::new(0, 0, 0),
        Attr::new(1, 8, attr.length as u64),
        Attr::new(2, 4, attr.log_align_req.into()),
        // ...and ferroce's own.
        Attr::new(
            uapi::ATTR_ALLOC_DM_OFFSET,
            8,
            (&raw mut offset).expose_provenance() as u64,
        ),
    ];
    let mut command = Command {
        length: size_of::<Command<4>>() as u16,
        object_id: OBJECT_DM,
        method_id: METHOD_ALLOC,
        num_attrs: attrs.len() as u16,
        reserved1: 0,
        driver_id: uapi::DRIVER_ID,
        reserved2: 0,
        attrs,
    };
    // SAFETY: The command is as long as it says. The kernel writes the handle to it, and eight bytes to
    // the address in it.
    if unsafe { libc::ioctl(fd, RDMA_VERBS_IOCTL, &raw mut command) } != 0 {
        return Err(io::Error::last_os_error());
    }
    attrs = command.attrs;
    let [handle, ..] = attrs;
    // SAFETY: It is there. The kernel has written it behind the compiler's back.
    let offset = unsafe { (&raw const offset).read_volatile() };
    Ok((handle.data as u32, offset))
}

const _: () = {
    assert!(size_of::<Command<0>>() == 24);
    assert!(size_of::<Attr>() == 16);
};
