// SPDX-License-Identifier: GPL-2.0

//! Address handles: where a datagram goes to.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    gid::{Gid, GidAttr},
    object::{New, Object},
    ops,
    udata::UserCall,
    Device, Pd,
};
use core::{marker::PhantomData, ops::Deref, ptr};
use kernel::{alloc::Flags, error::from_result, prelude::*};

/// An address handle with the driver's data `T`.
///
/// Unlike other objects it cannot be held on to with an `ARef`: it may have to go at once. For what a
/// driver does later it copies the [`AddressVector`].
pub type Ah<T> = Object<bindings::ib_ah, T>;

/// An address handle in the making.
pub type NewAh<'a, T> = New<'a, bindings::ib_ah, T>;

/// An address, `struct rdma_ah_attr`: what routes a packet to another port.
#[repr(transparent)]
pub struct AhAttr(bindings::rdma_ah_attr);

impl AhAttr {
    /// # Safety
    ///
    /// `raw` must point to valid attributes that nobody changes for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *const bindings::rdma_ah_attr) -> &'a Self {
        // SAFETY: By the function's requirements; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// The port that packets leave by.
    pub fn port(&self) -> u32 {
        self.0.port_num
    }

    /// Service level.
    pub fn sl(&self) -> u8 {
        self.0.sl
    }

    /// Static rate, as in `enum ib_rate`.
    pub fn static_rate(&self) -> u8 {
        self.0.static_rate
    }

    /// Where packets go to.
    pub fn dgid(&self) -> Gid {
        Gid::from_raw(&self.0.grh.dgid)
    }

    /// Index of the GID in the table of this port that packets come from.
    pub fn sgid_index(&self) -> u8 {
        self.0.grh.sgid_index
    }

    /// The GID that packets come from. For RoCE there always is one.
    pub fn sgid(&self) -> Option<&GidAttr> {
        // SAFETY: Null or an entry on which `ib_core` has a reference.
        (!self.0.grh.sgid_attr.is_null())
            .then(|| unsafe { GidAttr::from_raw(self.0.grh.sgid_attr) })
    }

    /// Flow label: the low 20 bits of the number, as rdma_rxe and mlx5 take them (UCX passes 32). If it is
    /// not zero, it tells which UDP port packets come from.
    pub fn flow_label(&self) -> u32 {
        self.0.grh.flow_label & bindings::IB_GRH_FLOWLABEL_MASK
    }

    /// Hop limit, or time to live.
    pub fn hop_limit(&self) -> u8 {
        self.0.grh.hop_limit
    }

    /// Traffic class, or type of service.
    pub fn traffic_class(&self) -> u8 {
        self.0.grh.traffic_class
    }

    /// The Ethernet address that packets go to; only RoCE has one. For addresses that come from user
    /// space `ib_core` has looked it up.
    pub fn dmac(&self) -> Option<[u8; 6]> {
        if self.0.type_ != bindings::rdma_ah_attr_type_RDMA_AH_ATTR_TYPE_ROCE {
            return None;
        }
        // SAFETY: The type tells which field of the union is the one.
        Some(unsafe { self.0.__bindgen_anon_1.roce.dmac })
    }
}

/// A copy of an address, for the driver to keep. It has no reference to the entry of the GID table
/// that packets come from, just its index.
///
/// # Invariants
///
/// `sgid_attr` is null.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct AddressVector(bindings::rdma_ah_attr);

// SAFETY: By the type invariants there is no pointer in it.
unsafe impl Send for AddressVector {}
// SAFETY: As above.
unsafe impl Sync for AddressVector {}

impl AddressVector {
    pub(super) fn into_raw(self) -> bindings::rdma_ah_attr {
        self.0
    }
}

impl From<&AhAttr> for AddressVector {
    fn from(attr: &AhAttr) -> Self {
        let mut copy = attr.0;
        copy.grh.sgid_attr = ptr::null();
        // INVARIANT: `sgid_attr` is null.
        Self(copy)
    }
}

impl Deref for AddressVector {
    type Target = AhAttr;

    fn deref(&self) -> &AhAttr {
        // SAFETY: Both types are transparent.
        unsafe { AhAttr::from_raw(&self.0) }
    }
}

/// What a driver does for address handles. To be implemented by the driver's data for one.
///
/// The kernel may create and destroy its own where it must not sleep.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Ah = Self>;

    /// Creates an address handle; `call` is `None` for one of the kernel's own. `flags` are those to
    /// allocate with: `GFP_ATOMIC` where the caller must not sleep.
    fn create(
        ah: &NewAh<'_, Self>,
        attr: &AhAttr,
        flags: Flags,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Called before the handle goes.
    fn destroy(_ah: &Ah<Self>) {}
}

has_device!(ib_ah);
has_pd!(ib_ah);

impl<T: Operations> Ah<T> {
    /// The GID that packets come from. For RoCE there always is one.
    pub fn sgid(&self) -> Option<&GidAttr> {
        // SAFETY: `ib_core` sets the field before it calls the driver, and holds a reference as long
        // as the handle exists.
        unsafe {
            let attr = (*self.as_raw()).sgid_attr;
            (!attr.is_null()).then(|| GidAttr::from_raw(attr))
        }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `create_ah` or `create_user_ah` of a device of the driver
    /// `T::Device`.
    pub(super) unsafe extern "C" fn create(
        ah: *mut bindings::ib_ah,
        attr: *mut bindings::rdma_ah_init_attr,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a new `ib_ah`, with room for the data behind it, valid
            // attributes, and the call's udata, if any.
            unsafe {
                let new = NewAh::<T>::from_raw(ah);
                let call = UserCall::from_raw(udata);
                let sleepable =
                    (*attr).flags & bindings::rdma_create_ah_flags_RDMA_CREATE_AH_SLEEPABLE != 0;
                let flags = if sleepable { GFP_KERNEL } else { GFP_ATOMIC };
                let attr = AhAttr::from_raw((*attr).ah_attr);
                let data = T::create(&new, attr, flags, call.as_ref())?;
                Ah::init(ah, data)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `destroy_ah` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn destroy(ah: *mut bindings::ib_ah, _flags: u32) -> c_int {
        // SAFETY: `ib_core` passes a handle that `create` has initialised, and destroys it once,
        // when no call that uses it is left. Address handles are not `Shared`.
        unsafe {
            T::destroy(Ah::from_raw(ah));
            Ah::<T>::drop_data(ah);
        }
        0
    }
}
