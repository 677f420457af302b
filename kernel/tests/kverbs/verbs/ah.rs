// SPDX-License-Identifier: GPL-2.0

//! Address handles.

use super::{atomically, destroyed, Pd};
use crate::bindings::*;
use core::{marker::PhantomData, ptr};
use kernel::{error::from_err_ptr, prelude::*};

/// An address handle, made and destroyed where nothing may sleep.
pub(crate) struct Ah<'a> {
    pub(super) raw: *mut ib_ah,
    _pd: PhantomData<&'a Pd<'a>>,
}

impl<'a> Ah<'a> {
    /// To the device itself.
    pub(crate) fn new(pd: &'a Pd<'a>) -> Result<Self> {
        let mut attr = pd.device.address();
        // SAFETY: A valid domain and a valid address.
        let raw = atomically(|| unsafe { rdma_create_ah(pd.raw, &mut attr, 0) });
        Ok(Self {
            raw: from_err_ptr(raw)?,
            _pd: PhantomData,
        })
    }
}

impl Drop for Ah<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        let result = atomically(|| unsafe { rdma_destroy_ah_user(self.raw, 0, ptr::null_mut()) });
        destroyed(result);
    }
}
