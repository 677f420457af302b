// SPDX-License-Identifier: GPL-2.0

//! The driver's own data in calls from user space.
//!
//! A verb that user space calls carries, besides what the verb as such has, a request and a response
//! that the RDMA core hands through between the two halves of the driver: the provider in user space
//! and the driver in the kernel.
//!
//! Both halves may be older or newer than the other, so either structure may be longer or shorter
//! than expected. `struct ib_udata` in [`include/rdma/ib_verbs.h`] has the rules, which
//! [`Udata::request`] and [`Udata::respond`] apply.
//!
//! [`include/rdma/ib_verbs.h`]: srctree/include/rdma/ib_verbs.h

use super::{bindings, ops, Ucontext};
use core::{marker::PhantomData, mem::MaybeUninit, ops::Deref, ptr};
use kernel::{
    alloc::Flags,
    error::to_result,
    prelude::*,
    transmute::{AsBytes, FromBytes},
};

/// Request and response of a call from user space.
///
/// # Invariants
///
/// The pointer is to a valid `ib_udata`, the `driver_udata` of an `uverbs_attr_bundle`, for `'a`, and
/// the current thread is the one that made the call.
pub struct Udata<'a> {
    raw: *mut bindings::ib_udata,
    _p: PhantomData<&'a mut bindings::ib_udata>,
}

impl Udata<'_> {
    /// # Safety
    ///
    /// As the type invariants.
    pub(super) unsafe fn from_raw(raw: *mut bindings::ib_udata) -> Self {
        Self {
            raw,
            _p: PhantomData,
        }
    }

    /// Length of the request in bytes.
    pub fn request_len(&self) -> usize {
        // SAFETY: By the type invariants.
        unsafe { (*self.raw).inlen }
    }

    /// Length in bytes of what user space has room for.
    pub fn response_len(&self) -> usize {
        // SAFETY: By the type invariants.
        unsafe { (*self.raw).outlen }
    }

    /// Copies the request in.
    ///
    /// `EINVAL` if it is shorter than `min_len` bytes, which is the length of the first version of
    /// `R`. What is missing of `R` beyond that is zero. `EOPNOTSUPP` if it is longer than `R` and the
    /// rest is not all zeroes, so that user space asks for something this driver does not know.
    pub fn request<R: FromBytes>(&self, min_len: usize) -> Result<R> {
        let mut request = MaybeUninit::<R>::uninit();
        // SAFETY: By the type invariants. The function writes no more than `size_of::<R>()` bytes.
        to_result(unsafe {
            bindings::_ib_copy_validate_udata_in(
                self.raw,
                request.as_mut_ptr().cast(),
                size_of::<R>(),
                min_len,
            )
        })?;
        // SAFETY: The function succeeded, so it has written all bytes, and any will do for `R`.
        Ok(unsafe { request.assume_init() })
    }

    /// Copies the response out: as much as user space has room for, and zeroes if it has more.
    pub fn respond<R: AsBytes>(&self, response: &R) -> Result {
        // SAFETY: By the type invariants. The function reads no more than `size_of::<R>()` bytes.
        to_result(unsafe {
            bindings::_ib_respond_udata(self.raw, ptr::from_ref(response).cast(), size_of::<R>())
        })
    }

    /// For a verb to which the driver adds nothing: there must be no request, the response is empty.
    pub fn none(&self) -> Result {
        if self.request_len() != 0 {
            // SAFETY: By the type invariants; with a length of zero nothing is written.
            to_result(unsafe {
                bindings::_ib_copy_validate_udata_in(self.raw, ptr::null_mut(), 0, 0)
            })?;
        }
        self.respond(&[0u8; 0])
    }
}

/// A call from user space to an object of a user context, as opposed to one from within the kernel.
///
/// It dereferences to the [`Udata`].
///
/// # Invariants
///
/// The call is to a device of the driver `D`, and its user context is initialised.
pub struct UserCall<'a, D> {
    udata: Udata<'a>,
    _p: PhantomData<fn() -> D>,
}

impl<'a, D: ops::Operations> UserCall<'a, D> {
    /// `None` if the call does not come from user space.
    ///
    /// # Safety
    ///
    /// `raw` must be what `ib_core` passed to a callback of the driver `D`, other than that which
    /// allocates the user context, and be used only during the callback.
    pub(super) unsafe fn from_raw(raw: *mut bindings::ib_udata) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        Some(Self {
            // SAFETY: By the function's requirements, and it is not null.
            udata: unsafe { Udata::from_raw(raw) },
            _p: PhantomData,
        })
    }

    /// As [`Self::from_raw`], for callbacks that get the whole bundle of attributes.
    ///
    /// # Safety
    ///
    /// As [`Self::from_raw`].
    pub(super) unsafe fn from_bundle(raw: *mut bindings::uverbs_attr_bundle) -> Option<Self> {
        if raw.is_null() {
            return None;
        }
        // SAFETY: By the function's requirements, and it is not null.
        unsafe { Self::from_raw(&raw mut (*raw).__bindgen_anon_1.hdr.driver_udata) }
    }

    /// What to allocate with in a call from user space, or from within the kernel: the process is charged,
    /// or nobody.
    pub fn flags(call: Option<&Self>) -> Flags {
        match call {
            Some(_) => GFP_KERNEL_ACCOUNT,
            None => GFP_KERNEL,
        }
    }

    /// The user context that the call is made in.
    pub fn ucontext(&self) -> &'a Ucontext<D::Ucontext> {
        // SAFETY: By the type invariants `udata` is a field of an `uverbs_attr_bundle` whose
        // `context` is a user context of this driver. It exists during the call.
        unsafe { Ucontext::from_raw(bindings::rdma_helper_udata_ucontext(self.udata.raw)) }
    }
}

impl<'a, D> Deref for UserCall<'a, D> {
    type Target = Udata<'a>;

    fn deref(&self) -> &Udata<'a> {
        &self.udata
    }
}
