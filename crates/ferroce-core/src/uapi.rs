// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver adds to the answers of the verbs, for the provider.
//!
//! The RDMA core hands these structures through behind its own (`struct ib_udata`). A newer driver
//! may append fields: an older provider has no room for them and does not miss them, and to a newer
//! provider what an older driver does not fill in is zero. Anything else needs a new [`UVERBS_ABI`].
//! Modify SRQ is the only command that carries something from the provider to the driver.
//!
//! All numbers are in the machine's own byte order, all padding is spelled out.

use core::mem::size_of;

use crate::ring::WqDescriptor;

/// `ib_device_ops.uverbs_abi_ver`: libibverbs gives a device only to a provider that knows it.
pub const UVERBS_ABI: u32 = 1;

/// `ib_device_ops.driver_id`, "FERR" in ASCII: what libibverbs finds the provider by (RDMA netlink,
/// `RDMA_NLDEV_ATTR_UVERBS_DRIVER_ID`). The kernel's `enum rdma_driver_id` has no number for ferroce;
/// it counts up from zero.
pub const DRIVER_ID: u32 = u32::from_be_bytes(*b"FERR");

/// What a device that is in user space has for a modalias, of which libibverbs finds the provider by where
/// there is no [`DRIVER_ID`], in sysfs. No bus of the kernel's has this name.
pub const USER_MODALIAS: &core::ffi::CStr = c"ferroce:user";

/// Part of a device file that the process maps to share a ring with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Mapping {
    /// What to pass to `mmap` as offset, in bytes.
    pub offset: u64,
    /// How much to map, in bytes: whole pages.
    pub length: u64,
}

/// Get Context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct UcontextResponse {
    /// What the driver can do that not every driver could: none yet.
    pub features: u64,
    /// [`ring::ABI_VERSION`](crate::ring::ABI_VERSION) of the driver: the provider works with no
    /// other.
    pub ring_abi: u32,
    /// Zero.
    pub reserved: u32,
}

/// Create CQ, Resize CQ: the new ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CqResponse {
    /// The ring.
    pub ring: Mapping,
    /// Its entries, a power of two.
    pub entries: u32,
    /// Zero.
    pub reserved: u32,
}

/// Create QP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct QpResponse {
    /// Both rings; [`ring::QpLayout`](crate::ring::QpLayout) says where in it they are.
    pub rings: Mapping,
    /// The send queue.
    pub send: WqDescriptor,
    /// The receive queue; all zero if receives come from a shared receive queue.
    pub recv: WqDescriptor,
}

/// Modify SRQ with a new size, from the provider to the driver.
///
/// The command has no answer that a driver could add to. It is made twice, with the same attributes, so
/// that nothing has changed if the new ring cannot be mapped:
///
/// 1. With an address the driver makes a ring of the new size, and describes it there.
/// 2. Without an address (or without this structure, as an older provider) the driver moves the posted
///    requests to that ring, and takes receives from it from then on. If there is no such ring, the size
///    stays as it is (`EOPNOTSUPP`).
///
/// The provider posts nothing between the two. Posted requests keep their positions, see
/// [`ring::Executor::move_to`](crate::ring::Executor::move_to).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ModifySrqRequest {
    /// Address of an [`SrqResponse`] in the process, or zero.
    pub response: u64,
}

/// Create SRQ, Modify SRQ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct SrqResponse {
    /// The ring.
    pub ring: Mapping,
    /// The receive queue in it.
    pub recv: WqDescriptor,
}

/// Allocate DM: the attribute in which the driver tells the offset to map the memory with, a `u64`. The first
/// number that is a driver's own (`UVERBS_ID_NS_SHIFT`).
pub const ATTR_ALLOC_DM_OFFSET: u16 = 1 << 12;

/// Create AH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct AhResponse {
    /// What a work request names the address handle by
    /// ([`ring::Destination`](crate::ring::Destination)).
    pub number: u32,
}

const _: () = {
    // No padding, so that no byte of the kernel's stack gets out.
    assert!(size_of::<Mapping>() == 16);
    assert!(size_of::<UcontextResponse>() == 16);
    assert!(size_of::<CqResponse>() == 24);
    assert!(size_of::<QpResponse>() == 32);
    assert!(size_of::<SrqResponse>() == 24);
    assert!(size_of::<ModifySrqRequest>() == 8);
    assert!(size_of::<AhResponse>() == 4);
    assert!(size_of::<WqDescriptor>() == 8);
};
