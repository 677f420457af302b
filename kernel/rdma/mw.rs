// SPDX-License-Identifier: GPL-2.0

//! Memory windows. Only user space has them.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    object::{New, Object, Shared},
    ops,
    udata::UserCall,
    verbs::MwType,
    Device, Pd,
};
use core::marker::PhantomData;
use kernel::{error::from_result, prelude::*};

/// A memory window with the driver's data `T`.
pub type Mw<T> = Object<bindings::ib_mw, T>;

/// A memory window in the making.
pub type NewMw<'a, T> = New<'a, bindings::ib_mw, T>;

/// What a driver does for memory windows. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Mw = Self>;

    /// Whether there are such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Allocates a memory window. To set: [`NewMw::set_rkey`].
    fn alloc(
        mw: &mut NewMw<'_, Self>,
        mw_type: MwType,
        call: &UserCall<'_, Self::Device>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// As [`Self::created`](super::qp::Operations::created) of queue pairs.
    fn created(_mw: &Mw<Self>) -> Result {
        Ok(())
    }

    /// Called before the window goes. The driver has to give up what references to the window it
    /// keeps: it goes when there is none.
    fn dealloc(_mw: &Mw<Self>) {}
}

// SAFETY: See `Callbacks::dealloc`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_mw {}

has_device!(ib_mw);
has_pd!(ib_mw);

impl<T: Operations> NewMw<'_, T> {
    /// Sets the key by which the other side's work requests name the window.
    pub fn set_rkey(&mut self, rkey: u32) {
        // SAFETY: By the type invariants nobody else uses the object.
        unsafe { (*self.as_raw()).rkey = rkey };
    }
}

impl<T: Operations> Mw<T> {
    /// The key that [`NewMw::set_rkey`] has set. Binding the window can change it; the driver keeps
    /// note of that itself.
    pub fn rkey(&self) -> u32 {
        // SAFETY: A valid object; the field does not change.
        unsafe { (*self.as_raw()).rkey }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_mw` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn alloc(
        mw: *mut bindings::ib_mw,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_mw`, with room for the data behind it, and the
            // call's udata. If `created` fails, nobody has a reference to the object, or gives it up
            // soon.
            unsafe {
                let mw_type = (*mw).type_.try_into()?;
                let mut new = NewMw::<T>::from_raw(mw);
                let call = UserCall::from_raw(udata).ok_or(EINVAL)?;
                let data = T::alloc(&mut new, mw_type, &call)?;
                let this = Mw::init(mw, data)?;
                T::created(this).inspect_err(|_| Mw::<T>::destroy(mw))?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dealloc_mw` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn dealloc(mw: *mut bindings::ib_mw) -> c_int {
        // SAFETY: `ib_core` passes a window that `alloc` has initialised, and destroys it once, when
        // no call that uses it is left.
        unsafe {
            T::dealloc(Mw::from_raw(mw));
            Mw::<T>::destroy(mw);
        }
        0
    }
}
