// SPDX-License-Identifier: GPL-2.0

//! Queue pairs.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    details::{self, Details},
    eopnotsupp,
    gid::Gid,
    object::{New, Object, Shared},
    ops,
    qp_attr::{QpAttr, QpAttrOut, QpInitAttr},
    udata::UserCall,
    verbs::{QpAttrMask, QpType},
    wr::{RecvWrs, SendWrs},
    Cq, Device, Pd, Srq,
};
use core::marker::PhantomData;
use kernel::{
    error::{from_result, VTABLE_DEFAULT_ERROR},
    prelude::*,
};

/// A queue pair with the driver's data `T`.
pub type Qp<T> = Object<bindings::ib_qp, T>;

/// A queue pair in the making.
pub type NewQp<'a, T> = New<'a, bindings::ib_qp, T>;

/// What a driver does for queue pairs. To be implemented by the driver's data for one.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Qp = Self>;

    /// Whether there are such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Creates a queue pair; `call` is `None` for one of the kernel's own. To set:
    /// [`NewQp::set_number`] and [`QpInitAttr::caps_mut`].
    ///
    /// Nobody is to find the queue pair before it is complete, so look at [`Self::created`] as well.
    fn create(
        qp: &mut NewQp<'_, Self>,
        attr: &mut QpInitAttr,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called when the queue pair is complete. This is where a driver puts a reference to it in its
    /// table of queue pairs. If it fails, the queue pair goes as if it never was; [`Self::destroy`] is
    /// not called.
    fn created(_qp: &Qp<Self>) -> Result {
        Ok(())
    }

    /// Called before the queue pair goes. The driver has to give up what references to it it keeps:
    /// it goes when there is none.
    fn destroy(_qp: &Qp<Self>) {}

    /// Changes attributes, among which can be the state.
    ///
    /// `ib_core` neither checks that the change is allowed (see [`QpAttrMask::allows`]) nor keeps
    /// others from changing the same queue pair at the same time.
    fn modify(
        qp: &Qp<Self>,
        attr: &QpAttr<'_>,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result;

    /// Fills in attributes; those that `mask` does not name may be left out.
    fn query(qp: &Qp<Self>, attr: &mut QpAttrOut<'_>, mask: QpAttrMask) -> Result;

    /// Posts work requests to the send queue, see [`wr`](super::wr).
    fn post_send(qp: &Qp<Self>, wrs: &mut SendWrs<'_, Self::Device>) -> Result;

    /// Posts work requests to the receive queue, see [`wr`](super::wr).
    fn post_recv(qp: &Qp<Self>, wrs: &mut RecvWrs<'_, Self::Device>) -> Result;

    /// Has the queue pair receive what goes to a multicast group.
    fn attach_mcast(_qp: &Qp<Self>, _gid: &Gid) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Reverses [`Self::attach_mcast`].
    fn detach_mcast(_qp: &Qp<Self>, _gid: &Gid) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Writes what there is to say of the state of a queue pair, for people, see [`details`](super::details).
    /// Others may use it at the same time.
    fn details(_qp: &Qp<Self>, _details: &mut Details<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// What has happened to a queue pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum QpEvent {
    /// It is broken; its state is [`QpState::Error`](super::QpState::Error).
    Fatal = bindings::ib_event_type_IB_EVENT_QP_FATAL,
    /// The other side has sent an invalid request.
    RequestError = bindings::ib_event_type_IB_EVENT_QP_REQ_ERR,
    /// The other side has asked for what it may not.
    AccessError = bindings::ib_event_type_IB_EVENT_QP_ACCESS_ERR,
    /// The first packet has come, and the state is still [`QpState::Rtr`](super::QpState::Rtr).
    CommEstablished = bindings::ib_event_type_IB_EVENT_COMM_EST,
    /// The send queue is empty, as was asked for by going to [`QpState::Sqd`](super::QpState::Sqd).
    SqDrained = bindings::ib_event_type_IB_EVENT_SQ_DRAINED,
    /// It takes nothing more from its shared receive queue.
    LastWqeReached = bindings::ib_event_type_IB_EVENT_QP_LAST_WQE_REACHED,
}

// SAFETY: See `Callbacks::destroy`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_qp {}

has_device!(ib_qp);
has_log!(ib_qp);
has_pd!(ib_qp);
has_owner!(ib_qp);

macro_rules! queues {
    ($type:ty) => {
        impl<T: Operations> $type {
            /// Its type.
            pub fn qp_type(&self) -> QpType {
                // SAFETY: `ib_core` sets the field before it calls the driver.
                let qp_type = unsafe { (*self.as_raw()).qp_type };
                // `Callbacks::create` lets no others pass.
                qp_type.try_into().unwrap_or(QpType::Rc)
            }

            /// Where completions of the send queue go to.
            pub fn send_cq(&self) -> Option<&Cq<<T::Device as ops::Operations>::Cq>> {
                // SAFETY: `ib_core` sets the field before it calls the driver. The completion queue
                // is of the same device, and outlives the queue pair.
                unsafe {
                    let cq = (*self.as_raw()).send_cq;
                    (!cq.is_null()).then(|| Cq::from_raw(cq))
                }
            }

            /// Where completions of the receive queue go to.
            pub fn recv_cq(&self) -> Option<&Cq<<T::Device as ops::Operations>::Cq>> {
                // SAFETY: As in `send_cq`.
                unsafe {
                    let cq = (*self.as_raw()).recv_cq;
                    (!cq.is_null()).then(|| Cq::from_raw(cq))
                }
            }

            /// The shared receive queue; `None` if it has a receive queue of its own.
            pub fn srq(&self) -> Option<&Srq<<T::Device as ops::Operations>::Srq>> {
                // SAFETY: As in `send_cq`.
                unsafe {
                    let srq = (*self.as_raw()).srq;
                    (!srq.is_null()).then(|| Srq::from_raw(srq))
                }
            }
        }
    };
}

queues!(Qp<T>);
queues!(NewQp<'_, T>);

impl<T: Operations> NewQp<'_, T> {
    /// Sets the number by which it is known, 24 bits.
    pub fn set_number(&mut self, qpn: u32) {
        // SAFETY: By the type invariants nobody else uses the object.
        unsafe { (*self.as_raw()).qp_num = qpn };
    }
}

impl<T: Operations> Qp<T> {
    /// The number by which it is known.
    pub fn number(&self) -> u32 {
        // SAFETY: A valid object; the driver has set the field before this could be called.
        unsafe { (*self.as_raw()).qp_num }
    }

    /// Tells the user of an event. Where it may sleep, and without locks that the handler may want:
    /// kernel users expect to be called by a work queue.
    pub fn dispatch(&self, event: QpEvent) {
        let mut event = bindings::ib_event {
            // SAFETY: A valid object.
            device: unsafe { (*self.as_raw()).device },
            element: bindings::ib_event__bindgen_ty_1 { qp: self.as_raw() },
            event: event as u32,
        };
        // SAFETY: A valid object. `ib_core` sets the fields before it calls the driver.
        unsafe {
            if let Some(handler) = (*self.as_raw()).event_handler {
                handler(&mut event, (*self.as_raw()).qp_context);
            }
        }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `create_qp` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn create(
        qp: *mut bindings::ib_qp,
        attr: *mut bindings::ib_qp_init_attr,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_qp`, with room for the data behind it, attributes
            // that nobody else uses, and the call's udata, if any. If `created` fails, nobody has a
            // reference to the object, or gives it up soon.
            unsafe {
                // Without a protection domain: the target side of XRC. With a table: for RSS, of
                // which neither RC, UC nor UD know. Types beyond those of the specification.
                if (*qp).pd.is_null()
                    || !(*attr).rwq_ind_tbl.is_null()
                    || QpType::try_from((*attr).qp_type).is_err()
                {
                    return Err(eopnotsupp());
                }
                let mut new = NewQp::<T>::from_raw(qp);
                let call = UserCall::from_raw(udata);
                let data = T::create(&mut new, QpInitAttr::from_raw(attr), call.as_ref())?;
                let this = Qp::init(qp, data)?;
                T::created(this).inspect_err(|_| Qp::<T>::destroy(qp))?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `destroy_qp` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn destroy(
        qp: *mut bindings::ib_qp,
        _udata: *mut bindings::ib_udata,
    ) -> c_int {
        // SAFETY: `ib_core` passes a queue pair that `create` has initialised, and destroys it once,
        // when no call that uses it is left.
        unsafe {
            T::destroy(Qp::from_raw(qp));
            Qp::<T>::destroy(qp);
        }
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `modify_qp` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn modify(
        qp: *mut bindings::ib_qp,
        attr: *mut bindings::ib_qp_attr,
        mask: c_int,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue pair, valid attributes, and the call's udata, if
            // any.
            unsafe {
                let call = UserCall::from_raw(udata);
                let attr = QpAttr::from_raw(&*attr, QpAttrMask::from_bits(mask as u32))?;
                T::modify(Qp::from_raw(qp), &attr, call.as_ref())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_qp` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn query(
        qp: *mut bindings::ib_qp,
        attr: *mut bindings::ib_qp_attr,
        mask: c_int,
        init: *mut bindings::ib_qp_init_attr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue pair and attributes that nobody else uses.
            unsafe {
                let this = Qp::from_raw(qp);
                let mut out = QpAttrOut::from_raw(this, &mut *attr, &mut *init);
                T::query(this, &mut out, QpAttrMask::from_bits(mask as u32))?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `post_send` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn post_send(
        qp: *mut bindings::ib_qp,
        list: *const bindings::ib_send_wr,
        bad: *mut *const bindings::ib_send_wr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue pair, a list of valid work requests, and a place
            // for the bad one.
            unsafe {
                let qp = Qp::<T>::from_raw(qp);
                let mut wrs = SendWrs::from_raw(list, Some(qp.qp_type()), qp.is_user());
                T::post_send(qp, &mut wrs).inspect_err(|_| *bad = wrs.bad())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `post_recv` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn post_recv(
        qp: *mut bindings::ib_qp,
        list: *const bindings::ib_recv_wr,
        bad: *mut *const bindings::ib_recv_wr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: As in `post_send`.
            unsafe {
                let qp = Qp::<T>::from_raw(qp);
                let mut wrs = RecvWrs::from_raw(list, None, qp.is_user());
                T::post_recv(qp, &mut wrs).inspect_err(|_| *bad = wrs.bad())?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `attach_mcast` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn attach_mcast(
        qp: *mut bindings::ib_qp,
        gid: *mut bindings::ib_gid,
        _lid: u16,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue pair and a valid GID.
            unsafe { T::attach_mcast(Qp::from_raw(qp), &Gid::from_raw(&*gid))? };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `detach_mcast` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn detach_mcast(
        qp: *mut bindings::ib_qp,
        gid: *mut bindings::ib_gid,
        _lid: u16,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid queue pair and a valid GID.
            unsafe { T::detach_mcast(Qp::from_raw(qp), &Gid::from_raw(&*gid))? };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `fill_res_qp_entry` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn details(
        msg: *mut kernel::bindings::sk_buff,
        qp: *mut bindings::ib_qp,
    ) -> c_int {
        // SAFETY: `ib_core` passes a message that it is writing, and a queue pair that is not destroyed
        // before this returns.
        unsafe { details::fill(msg, |details| T::details(Qp::from_raw(qp), details)) }
    }
}
