// SPDX-License-Identifier: GPL-2.0

//! Protection domains.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    object::{New, Object, Shared},
    ops,
    udata::UserCall,
    Device,
};
use core::marker::PhantomData;
use kernel::{error::from_result, prelude::*};

/// A protection domain with the driver's data `T`.
///
/// `ib_core` keeps it as long as there are objects in it.
pub type Pd<T> = Object<bindings::ib_pd, T>;

/// A protection domain in the making.
pub type NewPd<'a, T> = New<'a, bindings::ib_pd, T>;

/// What a driver does for protection domains. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Pd = Self>;

    /// Allocates a protection domain; `call` is `None` for one of the kernel's own.
    fn alloc(
        pd: &NewPd<'_, Self>,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called before the domain goes; all that was in it has gone already.
    fn dealloc(_pd: &Pd<Self>) {}
}

// SAFETY: See `Callbacks::dealloc`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_pd {}

has_device!(ib_pd);
has_owner!(ib_pd);

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_pd` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn alloc(
        pd: *mut bindings::ib_pd,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_pd`, with room for the data behind it, and the
            // call's udata, if any.
            unsafe {
                let new = NewPd::<T>::from_raw(pd);
                let call = UserCall::from_raw(udata);
                let data = T::alloc(&new, call.as_ref())?;
                Pd::init(pd, data)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dealloc_pd` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn dealloc(
        pd: *mut bindings::ib_pd,
        _udata: *mut bindings::ib_udata,
    ) -> c_int {
        // SAFETY: `ib_core` passes a domain that `alloc` has initialised, and destroys it once, when
        // no object in it and no call that uses it is left.
        unsafe {
            T::dealloc(Pd::from_raw(pd));
            Pd::<T>::destroy(pd);
        }
        0
    }
}
