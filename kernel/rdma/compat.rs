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

/// The table of the functions on a PCI bus that a driver is for, whose numbers become aliases of the module.
///
/// `pci_device_table!` has a name for the aliases as well until Linux 7.2.
#[cfg(linux_7_3)]
#[allow(unused_macros)]
macro_rules! pci_device_table {
    ($table:ident, $aliases:ident, $functions:tt) => {
        ::kernel::pci_device_table!($table, (), $functions);
    };
}
/// The table of the functions on a PCI bus that a driver is for, whose numbers become aliases of the module.
#[cfg(not(linux_7_3))]
#[allow(unused_macros)]
macro_rules! pci_device_table {
    ($table:ident, $aliases:ident, $functions:tt) => {
        ::kernel::pci_device_table!($table, $aliases, (), $functions);
    };
}
// Not each driver is for a bus.
#[allow(unused_imports)]
pub(crate) use pci_device_table;

/// What `probe` is told of the entry of the table, if it is of one, which it always is until Linux 7.2.
#[cfg(linux_7_3)]
pub type IdInfo<'a, T> = Option<&'a T>;
/// What `probe` is told of the entry of the table.
#[cfg(not(linux_7_3))]
pub type IdInfo<'a, T> = &'a T;

/// The value of a module's parameter, to which there is a reference until Linux 7.2.
pub fn parameter<T: Copy, V: Borrow<T>>(value: V) -> T {
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
