// SPDX-License-Identifier: GPL-2.0

//! User contexts: what a process has of a device it has opened.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    object::{New, Object, Shared},
    ops,
    udata::Udata,
    Device,
};
use core::marker::PhantomData;
use kernel::{error::from_result, prelude::*, ThisModule};

/// A user context with the driver's data `T`.
///
/// It exists as long as the file `/dev/infiniband/uverbs*` is open and the device is registered. All
/// objects that the process creates by that file are destroyed before it is.
///
/// While there is one, the driver's module cannot be unloaded. The device can be unregistered at any
/// time: the process keeps the file, but whatever it does with it fails from then on.
pub type Ucontext<T> = Object<bindings::ib_ucontext, T>;

/// A user context in the making.
pub type NewUcontext<'a, T> = New<'a, bindings::ib_ucontext, T>;

/// What a driver does for user contexts. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Ucontext = Self>;

    /// Allocates the context of a process that opens the device.
    fn alloc(
        ucontext: &NewUcontext<'_, Self>,
        udata: &Udata<'_>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called before the context goes; all objects in it have gone already.
    fn dealloc(_ucontext: &Ucontext<Self>) {}
}

// SAFETY: See `Callbacks::dealloc`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_ucontext {}

has_device!(ib_ucontext);

/// Keeps a module loaded.
///
/// To give up the last reference from within the module is sound only if unloading waits for the code
/// that does: here `ib_unregister_driver()` does, see
/// [`DriverRegistration`](super::DriverRegistration), since user contexts are destroyed with a lock
/// held that it takes.
struct ModuleRef(&'static ThisModule);

impl ModuleRef {
    /// `ENODEV` if the module is being unloaded.
    fn get(module: &'static ThisModule) -> Result<Self> {
        // SAFETY: A valid module, or null if it is part of the kernel, which is fine.
        let got = unsafe { bindings::rdma_helper_try_module_get(module.as_ptr()) };
        // Made only if it was got: to drop one gives a reference up.
        got.then(|| Self(module)).ok_or(ENODEV)
    }

    /// # Safety
    ///
    /// There must be a reference for this to own.
    unsafe fn from_forgotten(module: &'static ThisModule) -> Self {
        Self(module)
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: There is a reference to give up.
        unsafe { bindings::rdma_helper_module_put(self.0.as_ptr()) };
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_ucontext` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn alloc(
        ucontext: *mut bindings::ib_ucontext,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            let module = ModuleRef::get(<T::Device as ops::Operations>::MODULE)?;
            // SAFETY: `ib_core` passes a new `ib_ucontext`, with room for the data behind it, and
            // the call's udata, which is never null here.
            unsafe {
                let new = NewUcontext::<T>::from_raw(ucontext);
                let udata = Udata::from_raw(udata);
                let data = T::alloc(&new, &udata)?;
                Ucontext::init(ucontext, data)?;
            }
            // Until `dealloc`.
            core::mem::forget(module);
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dealloc_ucontext` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn dealloc(ucontext: *mut bindings::ib_ucontext) {
        // SAFETY: `ib_core` passes a context that `alloc` has initialised, and destroys it once,
        // when no object in it and no call that uses it is left. `alloc` has left a reference to the
        // module.
        let _module = unsafe {
            T::dealloc(Ucontext::from_raw(ucontext));
            Ucontext::<T>::destroy(ucontext);
            ModuleRef::from_forgotten(<T::Device as ops::Operations>::MODULE)
        };
    }

    /// Adds nothing to what `ib_uverbs` answers. That it is there lets a process query a context that
    /// another one has opened, as importing a device does (`ibv_import_device(3)`).
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_ucontext` of a device.
    pub(super) unsafe extern "C" fn query(
        _ucontext: *mut bindings::ib_ucontext,
        _attrs: *mut bindings::uverbs_attr_bundle,
    ) -> c_int {
        0
    }

    /// Does nothing: that it is there tells `ib_uverbs` not to wait for processes to close the device
    /// before that is unregistered. Pages that a process has mapped stay, as long as it maps them.
    ///
    /// It also tells `ib_uverbs` not to hold a reference to the module while the device is open; hence
    /// [`ModuleRef`].
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `disassociate_ucontext` of a device.
    pub(super) unsafe extern "C" fn disassociate(_ucontext: *mut bindings::ib_ucontext) {}
}
