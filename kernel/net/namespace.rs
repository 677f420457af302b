// SPDX-License-Identifier: GPL-2.0

//! Network namespaces.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use crate::rdma::{bindings, NetDevice};
use core::marker::PhantomData;
use kernel::{bindings::net, error::to_result, prelude::*, types::Opaque};

/// Which network namespace. That is all: the namespace may go, and another be at the same place.
/// [`NamespaceEvents::exit`] tells of that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Namespace(usize);

impl Namespace {
    fn of(net: *const net) -> Self {
        Self(net.addr())
    }
}

impl NetDevice {
    /// Which namespace the device is in; `None` if that is going. It can move to another at any time.
    pub fn namespace(&self) -> Option<Namespace> {
        Some(Namespace::of(self.net()?.as_raw()))
    }
}

/// Who wants to know what happens to network namespaces.
pub trait NamespaceEvents {
    /// A namespace goes: its network devices are gone, and the kernel's own sockets there must go
    /// before this returns. It may sleep.
    fn exit(namespace: Namespace);
}

/// A registration of [`NamespaceEvents`], until it is dropped.
///
/// # Invariants
///
/// `ops` is registered with `register_pernet_subsys()`.
#[pin_data(PinnedDrop)]
pub struct Registration<T: NamespaceEvents> {
    #[pin]
    ops: Opaque<bindings::pernet_operations>,
    _p: PhantomData<T>,
}

// SAFETY: It may be unregistered on another thread than the one that registered it.
unsafe impl<T: NamespaceEvents> Send for Registration<T> {}
// SAFETY: There is nothing to do with a reference to it.
unsafe impl<T: NamespaceEvents> Sync for Registration<T> {}

impl<T: NamespaceEvents> Registration<T> {
    /// Registers it. Upon unregistration all namespaces are as if they went.
    pub fn register() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ops <- Opaque::try_ffi_init(|slot: *mut bindings::pernet_operations| {
                let ops = bindings::pernet_operations {
                    exit: Some(Self::exit),
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes. It stays where it is, since it is pinned,
                // until `drop` has unregistered it.
                unsafe {
                    slot.write(ops);
                    to_result(bindings::register_pernet_subsys(slot))
                }
            }),
            _p: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only for `cleanup_net()` to call.
    unsafe extern "C" fn exit(net: *mut net) {
        T::exit(Namespace::of(net));
    }
}

#[pinned_drop]
impl<T: NamespaceEvents> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. When the function returns, no call is under way.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
    }
}
