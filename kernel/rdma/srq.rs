// SPDX-License-Identifier: GPL-2.0

//! Shared receive queues.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    details::{self, Details},
    eopnotsupp,
    object::{New, Object, Shared},
    ops,
    udata::UserCall,
    verbs::SrqAttrMask,
    wr::RecvWrs,
    Device, Pd,
};
use core::marker::PhantomData;
use kernel::{
    error::{from_result, VTABLE_DEFAULT_ERROR},
    prelude::*,
};

/// A shared receive queue with the driver's data `T`.
///
/// `ib_core` keeps it as long as there are queue pairs that use it.
pub type Srq<T> = Object<bindings::ib_srq, T>;

/// A shared receive queue in the making.
pub type NewSrq<'a, T> = New<'a, bindings::ib_srq, T>;

/// Attributes: plain numbers.
pub use super::bindings::ib_srq_attr as SrqAttr;

/// What a driver does for shared receive queues. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Srq = Self>;

    /// Whether there are such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Creates a shared receive queue; `call` is `None` for one of the kernel's own. `attr.max_wr` and
    /// `attr.max_sge` are what is wanted at least, and are to be set to what there is.
    fn create(
        srq: &mut NewSrq<'_, Self>,
        attr: &mut SrqAttr,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called before the queue goes; all queue pairs that used it have gone already. The driver has
    /// to give up what references to the queue it keeps.
    fn destroy(_srq: &Srq<Self>) {}

    /// Changes the attributes that `mask` names.
    fn modify(
        srq: &Srq<Self>,
        attr: &SrqAttr,
        mask: SrqAttrMask,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result;

    /// Fills in the attributes.
    fn query(srq: &Srq<Self>, attr: &mut SrqAttr) -> Result;

    /// Posts work requests, see [`wr`](super::wr).
    fn post_recv(_srq: &Srq<Self>, _wrs: &mut RecvWrs<'_, Self::Device>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes what there is to say of the state of a queue, for people, see [`details`](super::details).
    /// Others may use it at the same time.
    fn details(_srq: &Srq<Self>, _details: &mut Details<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// What has happened to a shared receive queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum SrqEvent {
    /// It is broken.
    Error = bindings::ib_event_type_IB_EVENT_SRQ_ERR,
    /// There are fewer work requests in it than its limit says, which is then no longer armed.
    LimitReached = bindings::ib_event_type_IB_EVENT_SRQ_LIMIT_REACHED,
}

// SAFETY: See `Callbacks::destroy`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_srq {}

has_device!(ib_srq);
has_pd!(ib_srq);
has_owner!(ib_srq);

impl<T: Operations> Srq<T> {
    /// Tells the user of an event. Not with locks held that its handler may want.
    pub fn dispatch(&self, event: SrqEvent) {
        let mut event = bindings::ib_event {
            // SAFETY: A valid object.
            device: unsafe { (*self.as_raw()).device },
            element: bindings::ib_event__bindgen_ty_1 { srq: self.as_raw() },
            event: event as u32,
        };
        // SAFETY: A valid object. `ib_core` sets the fields before it calls the driver.
        unsafe {
            if let Some(handler) = (*self.as_raw()).event_handler {
                handler(&mut event, (*self.as_raw()).srq_context);
            }
        }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `create_srq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn create(
        srq: *mut bindings::ib_srq,
        attr: *mut bindings::ib_srq_init_attr,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_srq`, with room for the data behind it, attributes
            // that nobody else uses, and the call's udata, if any.
            unsafe {
                // Those of XRC and with tag matching have more to them.
                if (*attr).srq_type != bindings::ib_srq_type_IB_SRQT_BASIC {
                    return Err(eopnotsupp());
                }
                let mut new = NewSrq::<T>::from_raw(srq);
                let call = UserCall::from_raw(udata);
                let data = T::create(&mut new, &mut (*attr).attr, call.as_ref())?;
                Srq::init(srq, data)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `destroy_srq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn destroy(
        srq: *mut bindings::ib_srq,
        _udata: *mut bindings::ib_udata,
    ) -> c_int {
        // SAFETY: `ib_core` passes a queue that `create` has initialised, and destroys it once, when
        // no queue pair and no call that uses it is left.
        unsafe {
            T::destroy(Srq::from_raw(srq));
            Srq::<T>::destroy(srq);
        }
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `modify_srq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn modify(
        srq: *mut bindings::ib_srq,
        attr: *mut bindings::ib_srq_attr,
        mask: bindings::ib_srq_attr_mask,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue, valid attributes, and the call's udata, if any.
            unsafe {
                let call = UserCall::from_raw(udata);
                let mask = SrqAttrMask::from_bits(mask);
                T::modify(Srq::from_raw(srq), &*attr, mask, call.as_ref())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_srq` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn query(
        srq: *mut bindings::ib_srq,
        attr: *mut bindings::ib_srq_attr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue and attributes that nobody else uses.
            unsafe {
                attr.write(pin_init::zeroed());
                T::query(Srq::from_raw(srq), &mut *attr)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `post_srq_recv` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn post_recv(
        srq: *mut bindings::ib_srq,
        list: *const bindings::ib_recv_wr,
        bad: *mut *const bindings::ib_recv_wr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue, a list of valid work requests, and a place for
            // the bad one.
            unsafe {
                let srq = Srq::<T>::from_raw(srq);
                let mut wrs = RecvWrs::from_raw(list, None, srq.is_user());
                T::post_recv(srq, &mut wrs).inspect_err(|_| *bad = wrs.bad())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `fill_res_srq_entry` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn details(
        msg: *mut kernel::bindings::sk_buff,
        srq: *mut bindings::ib_srq,
    ) -> c_int {
        // SAFETY: `ib_core` passes a message that it is writing, and a queue that is not destroyed
        // before this returns.
        unsafe { details::fill(msg, |details| T::details(Srq::from_raw(srq), details)) }
    }
}
