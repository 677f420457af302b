// SPDX-License-Identifier: GPL-2.0

//! Completion queues.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    details::{self, Details},
    object::{New, Object, Shared},
    ops,
    udata::UserCall,
    verbs::NotifyFlags,
    wc::WcBuffer,
    Device,
};
use core::marker::PhantomData;
use kernel::{
    error::{from_result, VTABLE_DEFAULT_ERROR},
    prelude::*,
};

/// A completion queue with the driver's data `T`.
///
/// `ib_core` keeps it as long as there are queue pairs that use it.
pub type Cq<T> = Object<bindings::ib_cq, T>;

/// A completion queue in the making.
pub type NewCq<'a, T> = New<'a, bindings::ib_cq, T>;

/// What is asked for: plain numbers. `cqe` is how many entries at least, and not zero; `flags` are
/// [`CqFlags`].
pub use super::bindings::ib_cq_init_attr as CqInitAttr;

c_flags! {
    /// What a completion queue is to do. A driver refuses what it does not know, with `EOPNOTSUPP`.
    CqFlags {
        /// Tell of each completion when it was.
        TIMESTAMP_COMPLETION = ib_uverbs_ex_create_cq_flags_IB_UVERBS_CQ_FLAGS_TIMESTAMP_COMPLETION,
        /// Do not look whether there is room for a completion.
        IGNORE_OVERRUN = ib_uverbs_ex_create_cq_flags_IB_UVERBS_CQ_FLAGS_IGNORE_OVERRUN,
    }
}

/// What a driver does for completion queues. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Cq = Self>;

    /// Whether there are such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Creates a completion queue; `call` is `None` for one of the kernel's own. To set:
    /// [`NewCq::set_entries`].
    fn create(
        cq: &mut NewCq<'_, Self>,
        attr: &CqInitAttr,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called for a queue of the kernel's own before [`Self::destroy`]: when this has returned, the
    /// driver must not call [`Cq::notify`] any more.
    fn pre_destroy(_cq: &Cq<Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called before the queue goes; all queue pairs that used it have gone already. The driver has
    /// to give up what references to the queue it keeps.
    fn destroy(_cq: &Cq<Self>) {}

    /// Makes a queue of user space larger or smaller. Returns the new number of entries.
    fn resize(_cq: &Cq<Self>, _entries: u32, _call: &UserCall<'_, Self::Device>) -> Result<u32> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Takes completions out of the queue, as many as there are and there is room for.
    fn poll(_cq: &Cq<Self>, _completions: &mut WcBuffer<'_, Self::Device>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Arms the queue, so that the driver calls [`Cq::notify`] once for a completion to come. Returns
    /// whether there are completions already, if `flags` ask for that.
    fn request_notify(_cq: &Cq<Self>, _flags: NotifyFlags) -> Result<bool> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes what there is to say of the state of a queue, for people, see [`details`](super::details).
    /// Others may use it at the same time.
    fn details(_cq: &Cq<Self>, _details: &mut Details<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

// SAFETY: See `Callbacks::destroy`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_cq {}

has_device!(ib_cq);
has_log!(ib_cq);
has_owner!(ib_cq);

impl<T: Operations> NewCq<'_, T> {
    /// Sets how many entries it has.
    pub fn set_entries(&mut self, entries: u32) {
        // SAFETY: By the type invariants nobody else uses the object.
        unsafe { (*self.as_raw()).cqe = entries as c_int };
    }
}

impl<T: Operations> Cq<T> {
    /// How many entries it has.
    pub fn entries(&self) -> u32 {
        // SAFETY: A valid object. Another thread may be resizing it.
        unsafe { (&raw const (*self.as_raw()).cqe).read_volatile() as u32 }
    }

    /// Tells the user that there is a completion: wakes up who waits at the completion channel, or
    /// has the kernel's handler run. In any context, but for a queue of the kernel's own not from within
    /// a function of the driver's that `ib_core` calls, nor twice at the same time
    /// (`Documentation/infiniband/core_locking.rst`).
    pub fn notify(&self) {
        // SAFETY: A valid object. `ib_core` sets the fields before it calls the driver.
        unsafe {
            if let Some(handler) = (*self.as_raw()).comp_handler {
                handler(self.as_raw(), (*self.as_raw()).cq_context);
            }
        }
    }

    /// Tells the user that the queue is broken: that a completion was lost, since there was no room.
    pub fn dispatch_error(&self) {
        let mut event = bindings::ib_event {
            // SAFETY: A valid object.
            device: unsafe { (*self.as_raw()).device },
            element: bindings::ib_event__bindgen_ty_1 { cq: self.as_raw() },
            event: bindings::ib_event_type_IB_EVENT_CQ_ERR,
        };
        // SAFETY: A valid object. `ib_core` sets the fields before it calls the driver.
        unsafe {
            if let Some(handler) = (*self.as_raw()).event_handler {
                handler(&mut event, (*self.as_raw()).cq_context);
            }
        }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `create_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn create(
        cq: *mut bindings::ib_cq,
        attr: *const bindings::ib_cq_init_attr,
        bundle: *mut bindings::uverbs_attr_bundle,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_cq`, with room for the data behind it, valid
            // attributes, and the call's attributes and udata, if any.
            unsafe {
                let mut new = NewCq::<T>::from_raw(cq);
                let call = UserCall::from_bundle(bundle);
                let data = T::create(&mut new, &*attr, call.as_ref())?;
                Cq::init(cq, data)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `destroy_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn destroy(
        cq: *mut bindings::ib_cq,
        _udata: *mut bindings::ib_udata,
    ) -> c_int {
        // SAFETY: `ib_core` passes a queue that `create` has initialised, and destroys it once, when
        // no queue pair and no call that uses it is left.
        unsafe {
            T::destroy(Cq::from_raw(cq));
            Cq::<T>::destroy(cq);
        }
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `pre_destroy_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn pre_destroy(cq: *mut bindings::ib_cq) -> c_int {
        // SAFETY: `ib_core` passes a queue that `create` has initialised.
        T::pre_destroy(unsafe { Cq::from_raw(cq) });
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `post_destroy_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn post_destroy(cq: *mut bindings::ib_cq) {
        // SAFETY: `ib_core` calls this in place of `destroy` if there is a `pre_destroy`.
        unsafe { Self::destroy(cq, core::ptr::null_mut()) };
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `resize_user_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn resize(
        cq: *mut bindings::ib_cq,
        entries: c_uint,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue and the call's udata.
            unsafe {
                let call = UserCall::from_raw(udata).ok_or(EINVAL)?;
                let entries = T::resize(Cq::from_raw(cq), entries, &call)?;
                (&raw mut (*cq).cqe).write_volatile(entries as c_int);
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `poll_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn poll(
        cq: *mut bindings::ib_cq,
        max: c_int,
        wc: *mut bindings::ib_wc,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue and an array with room for that many.
            unsafe {
                let mut buffer = WcBuffer::from_raw(wc, usize::try_from(max)?);
                T::poll(Cq::from_raw(cq), &mut buffer)?;
                Ok(buffer.len() as c_int)
            }
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `req_notify_cq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn request_notify(
        cq: *mut bindings::ib_cq,
        flags: bindings::ib_cq_notify_flags,
    ) -> c_int {
        from_result(|| {
            let flags = NotifyFlags::from_bits(flags);
            // SAFETY: `ib_core` passes a valid queue.
            let missed = T::request_notify(unsafe { Cq::from_raw(cq) }, flags)?;
            Ok((missed && flags.contains(NotifyFlags::REPORT_MISSED)).into())
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `fill_res_cq_entry` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn details(
        msg: *mut kernel::bindings::sk_buff,
        cq: *mut bindings::ib_cq,
    ) -> c_int {
        // SAFETY: `ib_core` passes a message that it is writing, and a queue that is not destroyed
        // before this returns.
        unsafe { details::fill(msg, |details| T::details(Cq::from_raw(cq), details)) }
    }
}
