// SPDX-License-Identifier: GPL-2.0

//! Device memory: memory of the device's own, which processes map and register (`ibv_alloc_dm(3)`). Only
//! user space has it.
//!
//! As a memory region, it is allocated and freed by the driver, so here by the callbacks below.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings, eopnotsupp,
    object::{New, Object},
    ops,
    udata::UserCall,
    Device,
};
use core::{marker::PhantomData, mem::MaybeUninit, ptr};
use kernel::{
    alloc::flags::__GFP_ZERO,
    error::{from_result, to_result},
    prelude::*,
};

/// Device memory with the driver's data `T`.
///
/// `ib_core` keeps it as long as there are regions over it.
pub type Dm<T> = Object<bindings::ib_dm, T>;

/// The attribute in which a process is told the offset to call `mmap()` with, a `u64`
/// (`UVERBS_METHOD_DM_ALLOC`).
pub const OFFSET_ATTR: u16 = bindings::RDMA_ATTR_ALLOC_DM_OFFSET as u16;

/// Device memory in the making.
pub type NewDm<'a, T> = New<'a, bindings::ib_dm, T>;

/// What a driver does for device memory. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Dm = Self>;

    /// Whether there is such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Allocates `length` bytes. In the process that maps them their address is to be a multiple of
    /// 2^`alignment`. Both numbers are as user space gave them.
    fn alloc(
        dm: &NewDm<'_, Self>,
        length: u64,
        alignment: u32,
        call: &UserCall<'_, Self::Device>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// The offset that the process is to call `mmap()` with.
    fn offset(&self) -> u64;
}

has_device!(ib_dm);

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

type Memory<T> = KBox<MaybeUninit<Dm<T>>>;

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_dm` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn alloc(
        device: *mut bindings::ib_device,
        _ucontext: *mut bindings::ib_ucontext,
        attr: *mut bindings::ib_dm_alloc_attr,
        attrs: *mut bindings::uverbs_attr_bundle,
    ) -> *mut bindings::ib_dm {
        // SAFETY: `ib_core` passes a valid device, the attributes, and the call's bundle.
        let dm = unsafe { Self::make(device, &*attr, attrs) };
        dm.unwrap_or_else(|err| err.to_ptr())
    }

    /// # Safety
    ///
    /// As [`Self::alloc`].
    unsafe fn make(
        device: *mut bindings::ib_device,
        attr: &bindings::ib_dm_alloc_attr,
        attrs: *mut bindings::uverbs_attr_bundle,
    ) -> Result<*mut bindings::ib_dm> {
        // All zeroes is what `ib_core` expects of an `ib_dm` where it does not set the fields.
        let mut memory: Memory<T> = KBox::new_uninit(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        let dm: *mut bindings::ib_dm = memory.as_mut_ptr().cast();
        // SAFETY: The memory is ours, and large enough. `ib_core` sets the field as well, but not before
        // it has the object, and the driver wants to know.
        let this = unsafe {
            (*dm).device = device;
            let new = NewDm::<T>::from_raw(dm);
            let call = UserCall::from_bundle(attrs).ok_or_else(eopnotsupp)?;
            let data = T::alloc(&new, attr.length, attr.alignment, &call)?;
            Dm::init(dm, data)?
        };
        let offset = this.offset();
        // SAFETY: A valid bundle, and as many bytes as the attribute has.
        to_result(unsafe {
            bindings::uverbs_copy_to(
                attrs,
                OFFSET_ATTR.into(),
                ptr::from_ref(&offset).cast(),
                size_of_val(&offset),
            )
        })
        // SAFETY: Initialised above, and nobody else knows of it.
        .inspect_err(|_| unsafe { Dm::<T>::drop_data(dm) })?;
        // It is freed in `dealloc`.
        let _ = KBox::into_raw(memory);
        Ok(dm)
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dealloc_dm` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn dealloc(
        dm: *mut bindings::ib_dm,
        _attrs: *mut bindings::uverbs_attr_bundle,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes what `make` has made, once, when no region over it and no call
            // that uses it is left.
            unsafe {
                Dm::<T>::drop_data(dm);
                drop(Memory::<T>::from_raw(dm.cast()));
            }
            Ok(0)
        })
    }
}
