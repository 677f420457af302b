// SPDX-License-Identifier: MIT OR Apache-2.0
//! What libibverbs shares with providers alone, as far as it is the same in every private ABI known
//! here. `verbs`, `qp` and `specific` have the rest.

use core::ffi::{c_char, c_int, c_uint, c_void};

use super::attributes::{
    IbvCqInitAttrEx, IbvDeviceAttr, IbvParentDomainInitAttr, IbvQpAttr, IbvQpInitAttr,
    IbvQpInitAttrEx, IbvSrqAttr, IbvSrqInitAttr, IbvTdInitAttr, IbvValuesEx,
};
use super::device_memory::{IbvAllocDmAttr, IbvDm};
use super::layout::layouts;
use super::objects::{
    IbvAh, IbvCompChannel, IbvContext, IbvCq, IbvCqEx, IbvDevice, IbvMr, IbvMw, IbvPd, IbvQp,
    IbvSrq, IbvTd,
};
use super::requests::{IbvMwBind, IbvRecvWr, IbvSendWr, IbvWc};
use super::{Sge, VerbsContext};

/// A row of the table that says which devices are whose.
#[repr(C)]
pub struct VerbsMatchEnt {
    pub driver_data: *mut c_void,
    pub u: VerbsMatch,
    pub vendor: u16,
    pub device: u16,
    pub kind: u8,
}

/// By what a row finds devices: which of the two, the row's kind says.
#[repr(C)]
pub union VerbsMatch {
    pub modalias: *const c_char,
    pub driver_id: u64,
}

/// The kinds of rows.
pub mod match_kind {
    /// The last row.
    pub const SENTINEL: u8 = 0;
    /// `u` is a pattern (`fnmatch`) for what the parent device's `modalias` says in sysfs.
    pub const MODALIAS: u8 = 2;
    /// `u` is the kernel driver's number.
    pub const DRIVER_ID: u8 = 3;
}

/// A device that libibverbs found in the system. Only libibverbs looks into it: its fields have moved
/// within the private ABI 34, in rdma-core 35.
#[repr(C)]
pub struct VerbsSysfsDev {
    opaque: [u8; 0],
}

/// What a provider does for devices.
#[repr(C)]
pub struct VerbsDeviceOps {
    pub name: *const c_char,
    pub match_min_abi_version: u32,
    pub match_max_abi_version: u32,
    pub match_table: *const VerbsMatchEnt,
    pub static_providers: *mut *const VerbsDeviceOps,
    pub match_device: Option<unsafe extern "C" fn(*mut VerbsSysfsDev) -> bool>,
    pub alloc_context:
        Option<unsafe extern "C" fn(*mut IbvDevice, c_int, *mut c_void) -> *mut VerbsContext>,
    pub import_context: Option<unsafe extern "C" fn(*mut IbvDevice, c_int) -> *mut VerbsContext>,
    pub alloc_device: Option<unsafe extern "C" fn(*mut VerbsSysfsDev) -> *mut VerbsDevice>,
    pub uninit_device: Option<unsafe extern "C" fn(*mut VerbsDevice)>,
}

/// A device, and what libibverbs knows of it.
#[repr(C)]
pub struct VerbsDevice {
    pub device: IbvDevice,
    pub ops: *const VerbsDeviceOps,
    pub refcount: c_int,
    pub entry: [*mut c_void; 2],
    pub sysfs: *mut VerbsSysfsDev,
    pub core_support: u64,
}

/// A memory region, and how it was made.
#[repr(C)]
pub struct VerbsMr {
    pub ibv_mr: IbvMr,
    pub mr_type: c_uint,
    pub access: c_int,
}

/// A completion queue: always with room for an extended one.
pub type VerbsCq = IbvCqEx;

/// A shared receive queue, and of what kind it is.
#[repr(C)]
pub struct VerbsSrq {
    pub srq: IbvSrq,
    pub srq_type: c_uint,
    pub xrcd: *mut c_void,
    pub cq: *mut IbvCq,
    pub srq_num: u32,
}

/// A bit of [`VerbsQp`](super::VerbsQp)'s `comp_mask`: it is an extended one.
pub const VERBS_QP_EX: u32 = 1 << 1;

layouts! {
    VerbsMatchEnt is "struct verbs_match_ent": 24 { u: 8, vendor: 16, device: 18, kind: 20 }
    VerbsDeviceOps is "struct verbs_device_ops": 72 {
        match_min_abi_version: 8, match_max_abi_version: 12, match_table: 16, match_device: 32,
        alloc_context: 40, import_context: 48, alloc_device: 56, uninit_device: 64,
    }
    VerbsDevice is "struct verbs_device": 712 {
        ops: 664, refcount: 672, entry: 680, sysfs: 696, core_support: 704,
    }
    VerbsMr is "struct verbs_mr": 56 { mr_type: 48, access: 52 }
    VerbsCq is "struct verbs_cq": 288 {}
    VerbsSrq is "struct verbs_srq": 160 { srq_type: 128, xrcd: 136, cq: 144, srq_num: 152 }
}

/// Declares types of functions.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        $(pub type $name = Option<unsafe extern "C" fn($($argument),*) $(-> $result)?>;)*
    };
}

/// A verb this provider leaves to libibverbs' answer that there is no such thing.
pub type Unused = Option<unsafe extern "C" fn()>;

functions! {
    AdviseMr(*mut IbvPd, c_uint, u32, *mut Sge, u32) -> c_int;
    AllocDm(*mut IbvContext, *mut IbvAllocDmAttr) -> *mut IbvDm;
    AllocMw(*mut IbvPd, c_uint) -> *mut IbvMw;
    AllocParentDomain(*mut IbvContext, *mut IbvParentDomainInitAttr) -> *mut IbvPd;
    AllocPd(*mut IbvContext) -> *mut IbvPd;
    AllocTd(*mut IbvContext, *mut IbvTdInitAttr) -> *mut IbvTd;
    AttachMcast(*mut IbvQp, *const [u8; 16], u16) -> c_int;
    BindMw(*mut IbvQp, *mut IbvMw, *mut IbvMwBind) -> c_int;
    CreateAh(*mut IbvPd, *mut c_void) -> *mut IbvAh;
    CreateCq(*mut IbvContext, c_int, *mut IbvCompChannel, c_int) -> *mut IbvCq;
    CreateCqEx(*mut IbvContext, *mut IbvCqInitAttrEx) -> *mut IbvCqEx;
    CreateQp(*mut IbvPd, *mut IbvQpInitAttr) -> *mut IbvQp;
    CreateQpEx(*mut IbvContext, *mut IbvQpInitAttrEx) -> *mut IbvQp;
    CreateSrq(*mut IbvPd, *mut IbvSrqInitAttr) -> *mut IbvSrq;
    DeallocMw(*mut IbvMw) -> c_int;
    DeallocPd(*mut IbvPd) -> c_int;
    DeallocTd(*mut IbvTd) -> c_int;
    DeregMr(*mut VerbsMr) -> c_int;
    DestroyAh(*mut IbvAh) -> c_int;
    DestroyCq(*mut IbvCq) -> c_int;
    DestroyQp(*mut IbvQp) -> c_int;
    DestroySrq(*mut IbvSrq) -> c_int;
    FreeContext(*mut IbvContext);
    FreeDm(*mut IbvDm) -> c_int;
    ImportMr(*mut IbvPd, u32) -> *mut IbvMr;
    ImportPd(*mut IbvContext, u32) -> *mut IbvPd;
    ModifyQp(*mut IbvQp, *mut IbvQpAttr, c_int) -> c_int;
    ModifySrq(*mut IbvSrq, *mut IbvSrqAttr, c_int) -> c_int;
    PollCq(*mut IbvCq, c_int, *mut IbvWc) -> c_int;
    PostRecv(*mut IbvQp, *mut IbvRecvWr, *mut *mut IbvRecvWr) -> c_int;
    PostSend(*mut IbvQp, *mut IbvSendWr, *mut *mut IbvSendWr) -> c_int;
    PostSrqRecv(*mut IbvSrq, *mut IbvRecvWr, *mut *mut IbvRecvWr) -> c_int;
    QueryDeviceEx(*mut IbvContext, *const c_void, *mut IbvDeviceAttr, usize) -> c_int;
    QueryPort(*mut IbvContext, u8, *mut c_void) -> c_int;
    QueryQp(*mut IbvQp, *mut IbvQpAttr, c_int, *mut IbvQpInitAttr) -> c_int;
    QueryRtValues(*mut IbvContext, *mut IbvValuesEx) -> c_int;
    QuerySrq(*mut IbvSrq, *mut IbvSrqAttr) -> c_int;
    RegDmMr(*mut IbvPd, *mut IbvDm, u64, usize, c_uint) -> *mut IbvMr;
    RegDmabufMr(*mut IbvPd, u64, usize, u64, c_int, c_int) -> *mut IbvMr;
    RegMr(*mut IbvPd, *mut c_void, usize, u64, c_int) -> *mut IbvMr;
    ReqNotifyCq(*mut IbvCq, c_int) -> c_int;
    ReregMr(*mut VerbsMr, c_int, *mut IbvPd, *mut c_void, usize, c_int) -> c_int;
    ResizeCq(*mut IbvCq, c_int) -> c_int;
    UnimportMr(*mut IbvMr);
    UnimportPd(*mut IbvPd);
}
