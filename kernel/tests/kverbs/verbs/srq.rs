// SPDX-License-Identifier: GPL-2.0

//! Shared receive queues.

use super::{atomically, destroyed, receive_wr, Pd};
use crate::bindings::*;
use core::{marker::PhantomData, ptr};
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
};

/// A shared receive queue.
pub(crate) struct Srq<'a> {
    pub(super) raw: *mut ib_srq,
    _pd: PhantomData<&'a Pd<'a>>,
}

impl<'a> Srq<'a> {
    /// # Safety
    ///
    /// The handler must be a function to be called with `context`, as long as the queue exists.
    pub(crate) unsafe fn new(
        pd: &'a Pd<'a>,
        max_wr: u32,
        event: Option<unsafe extern "C" fn(*mut ib_event, *mut c_void)>,
        context: *mut c_void,
    ) -> Result<Self> {
        let mut attr = ib_srq_init_attr {
            event_handler: event,
            srq_context: context,
            ..Default::default()
        };
        attr.attr.max_wr = max_wr;
        attr.attr.max_sge = 2;
        // SAFETY: Valid attributes, and by the function's requirements.
        let raw = from_err_ptr(unsafe {
            ib_create_srq_user(pd.raw, &mut attr, ptr::null_mut(), ptr::null_mut())
        })?;
        Ok(Self {
            raw,
            _pd: PhantomData,
        })
    }

    pub(crate) fn set_limit(&self, limit: u32) -> Result {
        let mut attr = ib_srq_attr {
            srq_limit: limit,
            ..Default::default()
        };
        // SAFETY: A valid queue and valid attributes.
        to_result(unsafe { ib_modify_srq(self.raw, &mut attr, ib_srq_attr_mask_IB_SRQ_LIMIT) })
    }

    pub(crate) fn resize(&self, max_wr: u32) -> Result {
        let mut attr = ib_srq_attr {
            max_wr,
            ..Default::default()
        };
        // SAFETY: A valid queue and valid attributes.
        to_result(unsafe { ib_modify_srq(self.raw, &mut attr, ib_srq_attr_mask_IB_SRQ_MAX_WR) })
    }

    pub(crate) fn receive(&self, id: u64, sges: &[ib_sge]) -> Result {
        let wr = receive_wr(id, sges);
        // SAFETY: A valid queue and a valid request.
        to_result(atomically(|| unsafe {
            rdma_helper_ib_post_srq_recv(self.raw, &wr, &mut ptr::null())
        }))
    }
}

impl Drop for Srq<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever uses it borrows it, and so has gone.
        destroyed(unsafe { ib_destroy_srq_user(self.raw, ptr::null_mut()) });
    }
}
