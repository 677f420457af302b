// SPDX-License-Identifier: GPL-2.0

//! What differs between the releases of Linux that this folder is for, 7.2 and 7.3.
//!
//! `Kbuild.include` sets `linux_7_3` for Linux 7.3 and later.

use core::borrow::Borrow;
#[cfg(linux_7_3)]
use kernel::device::Bound;
use kernel::{device::Device, faux, prelude::*};

/// What counts in the attributes of a device, such as `max_qp`.
#[cfg(linux_7_3)]
pub type Count = u32;
/// What counts in the attributes of a device, such as `max_qp`.
#[cfg(not(linux_7_3))]
pub type Count = i32;

/// The module that this is expanded in, as a constant `&'static ThisModule`.
///
/// `module!` makes a static of it until Linux 7.2, and a constant of the module's type since.
#[cfg(linux_7_3)]
macro_rules! this_module {
    () => {
        ::kernel::module::this_module::<$crate::LocalModule>()
    };
}
/// The module that this is expanded in, as a constant `&'static ThisModule`.
#[cfg(not(linux_7_3))]
macro_rules! this_module {
    () => {
        &$crate::THIS_MODULE
    };
}
pub(crate) use this_module;

/// The value of a module's parameter, to which there is a reference until Linux 7.2.
pub fn parameter(value: impl Borrow<u8>) -> u8 {
    *value.borrow()
}

/// The device of a registration. Since Linux 7.3 it is a `faux::Device`, which is bound.
pub fn faux_device(registration: &faux::Registration) -> &Device {
    #[cfg(linux_7_3)]
    let device: &Device<Bound> = AsRef::<faux::Device<Bound>>::as_ref(registration).as_ref();
    #[cfg(not(linux_7_3))]
    let device: &Device = registration.as_ref();
    device
}

/// Initialises a place.
///
/// # Safety
///
/// `slot` must be valid for writes, and pinned from then on if this succeeds. If it fails, nothing is
/// left initialised.
pub(super) unsafe fn init<T, E>(slot: *mut T, init: impl PinInit<T, E>) -> Result<(), E> {
    // SAFETY: By the function's requirements.
    #[cfg(linux_7_3)]
    unsafe {
        pin_init::raw_try_init(slot, init)
    }
    // SAFETY: By the function's requirements.
    #[cfg(not(linux_7_3))]
    unsafe {
        init.__pinned_init(slot)
    }
}
