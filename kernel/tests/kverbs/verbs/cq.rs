// SPDX-License-Identifier: GPL-2.0

//! Completion queues.

use super::{atomically, destroyed, wait, Device, Qp, CALLER};
use crate::bindings::*;
use core::{marker::PhantomData, ptr};
use kernel::{error::from_err_ptr, prelude::*};

/// A completion queue that is polled.
pub(crate) struct Cq<'a> {
    pub(super) raw: *mut ib_cq,
    _device: PhantomData<&'a Device>,
}

impl<'a> Cq<'a> {
    pub(crate) fn new(device: &'a Device, entries: u32) -> Result<Self> {
        // SAFETY: Without handlers nothing refers to the context.
        unsafe { Self::with_handlers(device, entries, None, None, ptr::null_mut()) }
    }

    /// # Safety
    ///
    /// The handlers must be functions to be called with `context`, as long as the queue exists.
    pub(crate) unsafe fn with_handlers(
        device: &'a Device,
        entries: u32,
        completion: ib_comp_handler,
        event: Option<unsafe extern "C" fn(*mut ib_event, *mut c_void)>,
        context: *mut c_void,
    ) -> Result<Self> {
        let attr = ib_cq_init_attr {
            cqe: entries,
            ..Default::default()
        };
        // SAFETY: A valid device and valid attributes, and by the function's requirements.
        let raw = from_err_ptr(unsafe {
            __ib_create_cq(device.raw, completion, event, context, &attr, CALLER)
        })?;
        Ok(Self {
            raw,
            _device: PhantomData,
        })
    }

    pub(crate) fn raw(&self) -> *mut ib_cq {
        self.raw
    }

    /// Takes a completion, if there is one.
    pub(crate) fn poll(&self) -> Result<Option<ib_wc>> {
        let mut wc = ib_wc::default();
        // SAFETY: A valid queue, and room for one.
        match atomically(|| unsafe { rdma_helper_ib_poll_cq(self.raw, 1, &mut wc) }) {
            0 => Ok(None),
            1 => Ok(Some(wc)),
            errno => Err(Error::from_errno(errno)),
        }
    }

    /// Waits for a completion.
    pub(crate) fn next(&self) -> Result<ib_wc> {
        wait(|| self.poll().transpose())?
    }

    /// Waits for a completion, and checks what is in any.
    pub(crate) fn expect(&self, qp: &Qp<'_>, id: u64, status: ib_wc_status) -> Result<ib_wc> {
        let wc = self.next()?;
        // SAFETY: All of the union's fields are 64 bits, or are used as such.
        check_eq!(unsafe { wc.__bindgen_anon_1.wr_id }, id);
        check!(
            wc.status == status,
            "request {id} has status {}, not {status}",
            wc.status
        );
        check!(wc.qp == qp.raw, "request {id} is of another queue pair");
        Ok(wc)
    }

    /// As [`Self::expect`], of a success.
    pub(crate) fn success(&self, qp: &Qp<'_>, id: u64, opcode: ib_wc_opcode) -> Result<ib_wc> {
        let wc = self.expect(qp, id, ib_wc_status_IB_WC_SUCCESS)?;
        check_eq!(wc.opcode, opcode);
        Ok(wc)
    }

    /// Asks for an event. Returns whether there are completions already, if `flags` say so.
    pub(crate) fn arm(&self, flags: ib_cq_notify_flags) -> Result<bool> {
        // SAFETY: A valid queue.
        match atomically(|| unsafe { rdma_helper_ib_req_notify_cq(self.raw, flags) }) {
            0 => Ok(false),
            missed if missed > 0 => Ok(true),
            errno => Err(Error::from_errno(errno)),
        }
    }
}

impl Drop for Cq<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever uses it borrows it, and so has gone.
        destroyed(unsafe { ib_destroy_cq_user(self.raw, ptr::null_mut()) });
    }
}

/// Whether a completion has immediate data, or an invalidated key: of `enum ib_wc_flags`.
pub(crate) fn extra(wc: &ib_wc) -> ib_wc_flags {
    let either = ib_wc_flags_IB_WC_WITH_IMM | ib_wc_flags_IB_WC_WITH_INVALIDATE;
    wc.wc_flags as ib_wc_flags & either
}
