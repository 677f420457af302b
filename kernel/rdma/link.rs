// SPDX-License-Identifier: GPL-2.0

//! Devices that the administrator makes: `rdma link add NAME type TYPE netdev NETDEV`.
//!
//! If no module has registered `TYPE`, the kernel loads the one with the alias `rdma-link-TYPE`
//! first. (In C, `MODULE_ALIAS_RDMA_LINK`; for [`module!`] it is `alias: ["rdma-link-TYPE"]`.)
//!
//! `rdma link delete NAME` unregisters a device, if its driver says so with
//! [`KernelCaps::ALLOW_USER_UNREG`]; the RDMA core does that by itself.
//!
//! C header: [`include/rdma/rdma_netlink.h`](srctree/include/rdma/rdma_netlink.h)
//!
//! [`module!`]: kernel::prelude::module!
//! [`KernelCaps::ALLOW_USER_UNREG`]: super::KernelCaps::ALLOW_USER_UNREG

use super::{bindings, net::NetDevice};
use core::marker::PhantomData;
use kernel::{error::from_result, prelude::*, str::CStrExt, types::Opaque};

/// What a type of link does.
pub trait LinkOps {
    /// The name of the type, at most 15 bytes.
    const TYPE: &'static CStr;

    /// Makes a device of the given name over a network device.
    fn newlink(name: &CStr, netdev: &NetDevice) -> Result;
}

/// A registration of [`LinkOps`].
///
/// # Invariants
///
/// `ops` is registered with `rdma_link_register()`.
#[pin_data(PinnedDrop)]
pub struct LinkRegistration<T: LinkOps> {
    #[pin]
    ops: Opaque<bindings::rdma_link_ops>,
    _p: PhantomData<T>,
}

// SAFETY: It may be unregistered on another thread than the one that registered it.
unsafe impl<T: LinkOps> Send for LinkRegistration<T> {}
// SAFETY: There is nothing to do with a reference to it.
unsafe impl<T: LinkOps> Sync for LinkRegistration<T> {}

impl<T: LinkOps> LinkRegistration<T> {
    /// Registers it, until the value is dropped. No other type may have the name.
    pub fn register() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|slot: *mut bindings::rdma_link_ops| {
                let ops = bindings::rdma_link_ops {
                    type_: T::TYPE.as_char_ptr(),
                    newlink: Some(Self::newlink),
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes. It stays where it is, since it is pinned,
                // until `drop` has unregistered it.
                unsafe {
                    slot.write(ops);
                    bindings::rdma_link_register(slot);
                }
                Ok::<(), Error>(())
            }),
            _p: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only for the RDMA core to call.
    unsafe extern "C" fn newlink(name: *const c_char, netdev: *mut bindings::net_device) -> c_int {
        from_result(|| {
            // SAFETY: The RDMA core passes a string and a network device on which it has a
            // reference, both for the duration of the call.
            let (name, netdev) =
                unsafe { (CStr::from_char_ptr(name), NetDevice::from_raw(netdev)) };
            T::newlink(name, netdev)?;
            Ok(0)
        })
    }
}

#[pinned_drop]
impl<T: LinkOps> PinnedDrop for LinkRegistration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. When the function returns, no call is under way: it takes
        // for writing the lock that is held for reading during one.
        unsafe { bindings::rdma_link_unregister(self.ops.get()) };
    }
}
