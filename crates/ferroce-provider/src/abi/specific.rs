// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs' functions that are not the same in every private ABI.
//!
//! An argument has the feature of the private ABI it came with.

use core::ffi::{c_int, c_void, CStr};
use core::mem::offset_of;
use core::ptr;

use super::attributes::{IbvCqInitAttrEx, IbvQpInitAttrEx};
#[cfg(all(feature = "abi59", not(feature = "abi64")))]
use super::before_62;
use super::library::library;
use super::objects::IbvContext;
use super::private::*;
use super::qp::VerbsQp;
#[cfg(feature = "abi59")]
use super::verbs::QueryPortSpeed;
use super::verbs::{ContextOps, VerbsContext};
use crate::user;

/// The function by which a provider makes itself known. Its name has the private ABI's number.
const REGISTER: &CStr = if cfg!(feature = "abi65") {
    c"verbs_register_driver_65"
} else if cfg!(feature = "abi64") {
    c"verbs_register_driver_64"
} else if cfg!(feature = "abi59") {
    c"verbs_register_driver_59"
} else if cfg!(feature = "abi57") {
    c"verbs_register_driver_57"
} else {
    c"verbs_register_driver_34"
};

/// A function that came with rdma-core 36.
#[cfg(not(feature = "abi57"))]
const SINCE_36: &CStr = c"ibv_query_qp_data_in_order";

library! {
    struct Functions {
        fn register_driver(ops: *const VerbsDeviceOps) = REGISTER;
        // What the table is depends on the release in ABI 59.
        fn verbs_set_ops(context: *mut VerbsContext, ops: *const c_void);
        fn ibv_cmd_get_context(
            context: *mut VerbsContext,
            cmd: *mut c_void,
            cmd_size: usize,
            #[cfg(feature = "abi57")]
            fd_arr: *mut c_void,
            resp: *mut c_void,
            resp_size: usize,
        ) -> c_int;
        fn ibv_cmd_create_cq_ex(
            context: *mut IbvContext,
            attr: *const IbvCqInitAttrEx,
            #[cfg(feature = "abi59")]
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
            #[cfg(feature = "abi64")]
            driver: *mut c_void,
        ) -> c_int;
    }
}

/// The functions.
pub struct Specific {
    functions: Functions,
    /// `ibv_cmd_query_port_speed`, which came with rdma-core 62.
    #[cfg(feature = "abi59")]
    query_port_speed: QueryPortSpeed,
}

impl Specific {
    /// Asks `find` for the address of each function. `Err` is the name of the first that it does not
    /// know.
    ///
    /// # Safety
    /// An address that `find` returns is that of a function of the name it is asked for, with the
    /// arguments and the result that it has in C.
    pub unsafe fn find(find: &dyn Fn(&CStr) -> *mut c_void) -> Result<Self, &'static CStr> {
        // rdma-core 34 and 35 have the number 34 too, but a shorter table of verbs.
        #[cfg(not(feature = "abi57"))]
        if find(SINCE_36).is_null() {
            return Err(SINCE_36);
        }
        // SAFETY: By this function's contract. A null pointer is `None`.
        unsafe {
            Ok(Self {
                functions: Functions::find(find)?,
                #[cfg(feature = "abi59")]
                query_port_speed: core::mem::transmute::<*mut c_void, QueryPortSpeed>(find(
                    c"ibv_cmd_query_port_speed",
                )),
            })
        }
    }

    /// Makes the provider known to libibverbs.
    ///
    /// # Safety
    /// `ops` is valid for ever.
    pub unsafe fn register_driver(&self, ops: *const VerbsDeviceOps) {
        // SAFETY: By this function's contract.
        unsafe { (self.functions.register_driver)(ops) }
    }

    /// Whether this libibverbs is of a release before rdma-core 62.
    #[cfg(all(feature = "abi59", not(feature = "abi64")))]
    fn is_before_62(&self) -> bool {
        self.query_port_speed.is_none()
    }

    /// Where in its `verbs_context` this libibverbs has the `ibv_context`, in bytes.
    pub fn context_offset(&self) -> usize {
        #[cfg(all(feature = "abi59", not(feature = "abi64")))]
        if self.is_before_62() {
            return before_62::CONTEXT_OFFSET;
        }
        offset_of!(VerbsContext, context)
    }

    /// Gives a context its verbs.
    ///
    /// # Safety
    /// As `verbs_set_ops` in C.
    pub unsafe fn set_ops(&self, context: *mut VerbsContext, ops: &ContextOps) {
        let set_ops = self.functions.verbs_set_ops;
        #[cfg(all(feature = "abi59", not(feature = "abi64")))]
        if self.is_before_62() {
            let table = before_62::Table::new(ops);
            // SAFETY: By this function's contract; it is the table that such a libibverbs reads, and
            // the functions are copied out of it.
            return unsafe { set_ops(context, (&raw const table).cast()) };
        }
        // SAFETY: By this function's contract; the functions are copied out of the table.
        unsafe { set_ops(context, ptr::from_ref(ops).cast()) }
    }

    /// # Safety
    /// As `ibv_cmd_get_context` in C.
    pub unsafe fn get_context(
        &self,
        context: *mut VerbsContext,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        if user::is_here() {
            // SAFETY: By this function's contract.
            return unsafe { user::get_context(context, resp, resp_size) };
        }
        let get_context = self.functions.ibv_cmd_get_context;
        let cmd = ptr::null_mut();
        // SAFETY: By this function's contract; the command has nothing of the provider's.
        #[cfg(not(feature = "abi57"))]
        return unsafe { get_context(context, cmd, 0, resp, resp_size) };
        // SAFETY: As above; no files are handed to the kernel.
        #[cfg(feature = "abi57")]
        return unsafe { get_context(context, cmd, 0, ptr::null_mut(), resp, resp_size) };
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
        if user::is_here() {
            // SAFETY: By this function's contract.
            return unsafe { user::create_cq_ex(context, attr, cq, resp, resp_size) };
        }
        let create = self.functions.ibv_cmd_create_cq_ex;
        let cmd = ptr::null_mut();
        // SAFETY: By this function's contract.
        #[cfg(not(feature = "abi59"))]
        return unsafe { create(context, attr, cq, cmd, 0, resp, resp_size, 0) };
        // SAFETY: As above; the kernel allocates the queue.
        #[cfg(feature = "abi59")]
        return unsafe {
            create(
                context,
                attr,
                ptr::null_mut(),
                cq,
                cmd,
                0,
                resp,
                resp_size,
                0,
            )
        };
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
        if user::is_here() {
            // SAFETY: By this function's contract.
            return unsafe { user::create_qp_ex2(context, qp, attr, resp, resp_size) };
        }
        let create = self.functions.ibv_cmd_create_qp_ex2;
        let cmd = ptr::null_mut();
        // SAFETY: By this function's contract.
        #[cfg(not(feature = "abi64"))]
        return unsafe { create(context, qp, attr, cmd, 0, resp, resp_size) };
        // SAFETY: As above; no attributes are added to the command.
        #[cfg(feature = "abi64")]
        return unsafe { create(context, qp, attr, cmd, 0, resp, resp_size, ptr::null_mut()) };
    }

    /// Adds the verbs that not every release has.
    pub fn ops(&self, ops: ContextOps) -> ContextOps {
        #[cfg(feature = "abi59")]
        let ops = ContextOps {
            query_port_speed: match user::is_here() {
                true => self.query_port_speed.and(Some(user::query_port_speed)),
                false => self.query_port_speed,
            },
            ..ops
        };
        ops
    }
}
