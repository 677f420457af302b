// SPDX-License-Identifier: GPL-2.0

//! Folders in sysfs, with links to network devices.
//!
//! C headers: [`include/linux/kobject.h`](srctree/include/linux/kobject.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::{bindings, net::NetDevice};
use core::ptr::NonNull;
use kernel::{bindings::kobject, device::Device, error::to_result, prelude::*, str::CStrExt};

/// A folder below that of a device, which goes with this value.
///
/// # Invariants
///
/// The pointer is to an object of `kobject_create_and_add()` to which this owns a reference.
pub struct Folder(NonNull<kobject>);

// SAFETY: A folder is not tied to a thread.
unsafe impl Send for Folder {}
// SAFETY: Any number of threads may call the functions of sysfs for a folder.
unsafe impl Sync for Folder {}

impl Folder {
    /// Makes a folder. The device's own must have none of that name.
    pub fn new(parent: &Device, name: &CStr) -> Result<Self> {
        // SAFETY: The type is a transparent wrapper of the C structure, which is initialised. The name
        // is copied, and the new object has a reference to that of the device.
        let raw = unsafe {
            let parent = core::ptr::from_ref(parent)
                .cast_mut()
                .cast::<kernel::bindings::device>();
            bindings::kobject_create_and_add(name.as_char_ptr(), &raw mut (*parent).kobj)
        };
        // INVARIANT: The function has made it for us.
        NonNull::new(raw).map(Self).ok_or(ENOMEM)
    }

    /// Adds a link to a network device, wherever that is. There must be none of that name.
    pub fn add_link(&self, name: &CStr, netdev: &NetDevice) -> Result {
        // SAFETY: A valid folder and a valid network device, which may even be going. The name is
        // copied.
        to_result(unsafe {
            bindings::sysfs_create_link(self.0.as_ptr(), netdev.kobject(), name.as_char_ptr())
        })
    }

    /// Removes a link, if there is one of that name.
    pub fn remove_link(&self, name: &CStr) {
        // SAFETY: A valid folder.
        unsafe { bindings::sysfs_remove_link(self.0.as_ptr(), name.as_char_ptr()) };
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. Nobody else has a reference for long, and with the last one
        // the folder goes, and all links in it.
        unsafe { bindings::kobject_put(self.0.as_ptr()) };
    }
}
