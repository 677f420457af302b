// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs' functions, found when it loads this provider.
//!
//! They are looked up by name in the libibverbs that is already there, instead of being linked: the
//! build needs no library, the unit tests can put others in their place, and of two releases with one
//! private ABI the same file serves both.

use core::ffi::{c_int, c_uint, c_void, CStr};
use std::sync::OnceLock;

use super::attributes::{IbvDeviceAttr, IbvQpAttr, IbvQpInitAttr, IbvSrqAttr, IbvSrqInitAttr};
use super::device_memory::VerbsDm;
use super::objects::{IbvAh, IbvContext, IbvCq, IbvDevice, IbvMw, IbvPd, IbvQp, IbvSrq};
use super::private::VerbsMr;
use super::requests::{IbvRecvWr, IbvSendWr};
use super::{Sge, Specific, VerbsContext};
use crate::user;

/// A table of functions, and how to fill it. A function is looked up by its own name, or by the one
/// behind a `=`.
macro_rules! library {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident {
        $(
            fn $function:ident($($(#[$since:meta])* $argument:ident: $type:ty),* $(,)?)
            $(-> $result:ty)? $(= $symbol:expr)?;
        )*
    }) => {
        $(#[$meta])*
        $visibility struct $name {
            $(
                pub $function:
                    unsafe extern "C" fn($($(#[$since])* $argument: $type),*) $(-> $result)?,
            )*
        }

        impl $name {
            /// Asks `find` for the address of each function. `Err` is the name of the first that it
            /// does not know.
            ///
            /// # Safety
            /// An address that `find` returns is that of a function of the name it is asked for, with
            /// the arguments and the result declared here.
            pub unsafe fn find(
                find: &dyn Fn(&core::ffi::CStr) -> *mut core::ffi::c_void,
            ) -> Result<Self, &'static core::ffi::CStr> {
                Ok(Self {
                    $($function: {
                        const NAME: &core::ffi::CStr =
                            $crate::abi::library::library!(@name $function $($symbol)?);
                        let address = find(NAME);
                        if address.is_null() {
                            return Err(NAME);
                        }
                        // SAFETY: By this function's contract it is a function of this type.
                        unsafe { core::mem::transmute::<
                            *mut core::ffi::c_void,
                            unsafe extern "C" fn($($(#[$since])* $type),*) $(-> $result)?,
                        >(address) }
                    },)*
                })
            }
        }
    };
    (@name $function:ident) => {
        // The macro adds the NUL, and a function's name has none in it.
        match core::ffi::CStr::from_bytes_with_nul(
            concat!(stringify!($function), "\0").as_bytes(),
        ) {
            Ok(name) => name,
            Err(_) => panic!(),
        }
    };
    (@name $function:ident $symbol:expr) => {
        $symbol
    };
}

pub(super) use library;

library! {
    /// The functions that are the same in every private ABI known here.
    pub struct Common {
        fn _verbs_init_and_alloc_context(
            device: *mut IbvDevice,
            cmd_fd: c_int,
            alloc_size: usize,
            context_offset: *mut VerbsContext,
            driver_id: u32,
        ) -> *mut c_void;
        fn verbs_uninit_context(context: *mut VerbsContext);
        fn ibv_cmd_query_context(context: *mut IbvContext, driver: *mut c_void) -> c_int;
        fn ibv_cmd_query_device_any(
            context: *mut IbvContext,
            input: *const c_void,
            attr: *mut IbvDeviceAttr,
            attr_size: usize,
            resp: *mut c_void,
            resp_size: *mut usize,
        ) -> c_int;
        fn ibv_cmd_query_port(
            context: *mut IbvContext,
            port_num: u8,
            attr: *mut c_void,
            cmd: *mut c_void,
            cmd_size: usize,
        ) -> c_int;
        fn ibv_cmd_alloc_pd(
            context: *mut IbvContext,
            pd: *mut IbvPd,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_dealloc_pd(pd: *mut IbvPd) -> c_int;
        fn ibv_cmd_reg_mr(
            pd: *mut IbvPd,
            addr: *mut c_void,
            length: usize,
            hca_va: u64,
            access: c_int,
            mr: *mut VerbsMr,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_rereg_mr(
            mr: *mut VerbsMr,
            flags: u32,
            addr: *mut c_void,
            length: usize,
            hca_va: u64,
            access: c_int,
            pd: *mut IbvPd,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_dereg_mr(mr: *mut VerbsMr) -> c_int;
        fn ibv_cmd_query_mr(pd: *mut IbvPd, mr: *mut VerbsMr, handle: u32) -> c_int;
        fn ibv_cmd_advise_mr(
            pd: *mut IbvPd,
            advice: c_uint,
            flags: u32,
            sg_list: *mut Sge,
            num_sge: u32,
        ) -> c_int;
        // `driver` came in rdma-core 54, with the private ABI unchanged. An older function does not
        // look at an argument too many: the caller takes it back, in every C calling convention of
        // 64-bit Linux.
        fn ibv_cmd_reg_dmabuf_mr(
            pd: *mut IbvPd,
            offset: u64,
            length: usize,
            iova: u64,
            fd: c_int,
            access: c_int,
            mr: *mut VerbsMr,
            driver: *mut c_void,
        ) -> c_int;
        fn ibv_cmd_free_dm(dm: *mut VerbsDm) -> c_int;
        fn ibv_cmd_reg_dm_mr(
            pd: *mut IbvPd,
            dm: *mut VerbsDm,
            offset: u64,
            length: usize,
            access: c_uint,
            mr: *mut VerbsMr,
            link: *mut c_void,
        ) -> c_int;
        fn ibv_cmd_alloc_mw(
            pd: *mut IbvPd,
            r#type: c_uint,
            mw: *mut IbvMw,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_dealloc_mw(mw: *mut IbvMw) -> c_int;
        fn ibv_cmd_resize_cq(
            cq: *mut IbvCq,
            cqe: c_int,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_req_notify_cq(cq: *mut IbvCq, solicited_only: c_int) -> c_int;
        fn ibv_cmd_destroy_cq(cq: *mut IbvCq) -> c_int;
        fn ibv_cmd_create_srq(
            pd: *mut IbvPd,
            srq: *mut IbvSrq,
            attr: *mut IbvSrqInitAttr,
            cmd: *mut c_void,
            cmd_size: usize,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_modify_srq(
            srq: *mut IbvSrq,
            attr: *mut IbvSrqAttr,
            attr_mask: c_int,
            cmd: *mut c_void,
            cmd_size: usize,
        ) -> c_int;
        fn ibv_cmd_query_srq(
            srq: *mut IbvSrq,
            attr: *mut IbvSrqAttr,
            cmd: *mut c_void,
            cmd_size: usize,
        ) -> c_int;
        fn ibv_cmd_destroy_srq(srq: *mut IbvSrq) -> c_int;
        fn ibv_cmd_query_qp(
            qp: *mut IbvQp,
            attr: *mut IbvQpAttr,
            attr_mask: c_int,
            init_attr: *mut IbvQpInitAttr,
            cmd: *mut c_void,
            cmd_size: usize,
        ) -> c_int;
        fn ibv_cmd_modify_qp(
            qp: *mut IbvQp,
            attr: *mut IbvQpAttr,
            attr_mask: c_int,
            cmd: *mut c_void,
            cmd_size: usize,
        ) -> c_int;
        fn ibv_cmd_destroy_qp(qp: *mut IbvQp) -> c_int;
        fn ibv_cmd_post_send(
            qp: *mut IbvQp,
            wr: *mut IbvSendWr,
            bad_wr: *mut *mut IbvSendWr,
        ) -> c_int;
        fn ibv_cmd_post_recv(
            qp: *mut IbvQp,
            wr: *mut IbvRecvWr,
            bad_wr: *mut *mut IbvRecvWr,
        ) -> c_int;
        fn ibv_cmd_post_srq_recv(
            srq: *mut IbvSrq,
            wr: *mut IbvRecvWr,
            bad_wr: *mut *mut IbvRecvWr,
        ) -> c_int;
        fn ibv_cmd_create_ah(
            pd: *mut IbvPd,
            ah: *mut IbvAh,
            attr: *mut c_void,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_destroy_ah(ah: *mut IbvAh) -> c_int;
        fn ibv_cmd_attach_mcast(qp: *mut IbvQp, gid: *const [u8; 16], lid: u16) -> c_int;
        fn ibv_cmd_detach_mcast(qp: *mut IbvQp, gid: *const [u8; 16], lid: u16) -> c_int;
    }
}

/// All functions.
pub struct Library {
    /// Those that are the same in every private ABI.
    pub common: Common,
    /// Those that are not.
    pub specific: Specific,
}

static LIBRARY: OnceLock<Library> = OnceLock::new();

/// Why libibverbs cannot be used.
#[derive(Debug)]
pub enum LibraryError {
    /// There is none in the process.
    NotLoaded,
    /// It lacks a function: it has another private ABI.
    Missing(&'static CStr),
}

impl core::fmt::Display for LibraryError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotLoaded => f.write_str("the process has no libibverbs.so.1"),
            Self::Missing(name) => {
                write!(f, "its libibverbs.so.1 has no {}", name.to_string_lossy())
            }
        }
    }
}

impl Library {
    /// libibverbs of this process, the first call looks for it.
    pub fn load() -> Result<&'static Self, LibraryError> {
        if let Some(library) = LIBRARY.get() {
            return Ok(library);
        }
        // It is libibverbs that loads this provider: it must be there.
        // SAFETY: The name is a C string. With RTLD_NOLOAD no code of a library is run.
        let handle = unsafe {
            libc::dlopen(
                c"libibverbs.so.1".as_ptr(),
                libc::RTLD_NOW | libc::RTLD_NOLOAD,
            )
        };
        if handle.is_null() {
            return Err(LibraryError::NotLoaded);
        }
        // The handle is never closed: the functions' addresses are good from now on.
        // SAFETY: The handle is open, the name is a C string.
        let find = |name: &CStr| unsafe { libc::dlsym(handle, name.as_ptr()) };
        // SAFETY: A libibverbs that has the function by which providers of this private ABI register,
        // and whose name has the ABI's number in it, has the others as declared.
        let library = unsafe {
            Self {
                specific: Specific::find(&find).map_err(LibraryError::Missing)?,
                common: Common::find(&find).map_err(LibraryError::Missing)?,
            }
        };
        Ok(LIBRARY.get_or_init(|| match user::is_here() {
            true => Self {
                common: user::commands(library.common),
                ..library
            },
            false => library,
        }))
    }

    /// libibverbs of this process.
    ///
    /// Verbs are called only after [`load`](Self::load) has succeeded: by libibverbs, with which the
    /// provider has registered since, or by a test that has put its own there.
    pub fn get() -> &'static Self {
        match LIBRARY.get() {
            Some(library) => library,
            None => std::process::abort(),
        }
    }

    /// Puts other functions in libibverbs' place.
    #[cfg(test)]
    pub fn put(library: impl FnOnce() -> Self) {
        LIBRARY.get_or_init(library);
    }
}
