// SPDX-License-Identifier: GPL-2.0

//! Details of objects: what a driver adds to the answers of `rdma resource show -dd`.
//!
//! C header: [`include/rdma/restrack.h`](srctree/include/rdma/restrack.h) (`rdma_nl_put_driver_*()`)

use super::bindings;
use core::marker::PhantomData;
use kernel::{
    bindings::sk_buff,
    error::{from_result, to_result},
    prelude::*,
    str::CStrExt,
};

/// A list of names and values, in an answer that is being written.
///
/// Who asks for one more than there is room for is told `EMSGSIZE`, and hands that on: the object goes
/// into the next message. It must fit there, with a page to itself, so this is for some dozens of
/// values: the list of an object that fits nowhere would never end.
///
/// # Invariants
///
/// `msg` is a message in which a nested attribute `RDMA_NLDEV_ATTR_DRIVER` has been begun, and that
/// nobody else uses for `'a`.
pub struct Details<'a> {
    msg: *mut sk_buff,
    _p: PhantomData<&'a mut sk_buff>,
}

macro_rules! put {
    ($($(#[$meta:meta])* $name:ident: $type:ty = $function:ident;)*) => {
        $($(#[$meta])*
        pub fn $name(&mut self, name: &CStr, value: $type) -> Result<&mut Self> {
            // SAFETY: By the type invariants. The name is copied.
            to_result(unsafe { bindings::$function(self.msg, name.as_char_ptr(), value) })?;
            Ok(self)
        })*
    };
}

impl Details<'_> {
    put! {
        /// Adds a number.
        u32: u32 = rdma_nl_put_driver_u32;
        /// Adds a number that is shown in hexadecimal.
        hex_u32: u32 = rdma_nl_put_driver_u32_hex;
        /// Adds a number.
        u64: u64 = rdma_nl_put_driver_u64;
        /// Adds a number that is shown in hexadecimal.
        hex_u64: u64 = rdma_nl_put_driver_u64_hex;
    }

    /// Adds a word.
    pub fn string(&mut self, name: &CStr, value: &CStr) -> Result<&mut Self> {
        // SAFETY: By the type invariants. Both are copied.
        to_result(unsafe {
            bindings::rdma_nl_put_driver_string(self.msg, name.as_char_ptr(), value.as_char_ptr())
        })?;
        Ok(self)
    }
}

/// Has `write` write the details of an object, for a callback `fill_res_*_entry`.
///
/// # Safety
///
/// `msg` must be a message that nobody else uses, to which attributes may be added.
pub(super) unsafe fn fill(
    msg: *mut sk_buff,
    write: impl FnOnce(&mut Details<'_>) -> Result,
) -> c_int {
    from_result(|| {
        let attr = bindings::rdma_nldev_attr_RDMA_NLDEV_ATTR_DRIVER as c_int;
        // SAFETY: By the function's requirements.
        let nest = unsafe { bindings::rdma_helper_nla_nest_start(msg, attr) };
        if nest.is_null() {
            return Err(EMSGSIZE);
        }
        let written = write(&mut Details {
            msg,
            _p: PhantomData,
        });
        // SAFETY: The attribute that was begun above.
        unsafe {
            match written {
                Ok(()) => bindings::rdma_helper_nla_nest_end(msg, nest),
                Err(_) => bindings::rdma_helper_nla_nest_cancel(msg, nest),
            }
        }
        written.map(|()| 0)
    })
}
