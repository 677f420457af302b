// SPDX-License-Identifier: GPL-2.0

//! GIDs, the addresses of ports.
//!
//! For RoCE, `ib_core` keeps the GID table itself: it has an entry for each IP address of the port's
//! network device, for each protocol that the port speaks.
//!
//! C headers: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h),
//! [`include/rdma/ib_cache.h`](srctree/include/rdma/ib_cache.h)

use super::{bindings, net::NetDevice, types::GidType};
use core::{
    net::{IpAddr, Ipv6Addr},
    ptr::{self, NonNull},
};
use kernel::{
    prelude::*,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        rcu,
    },
    types::Opaque,
};

/// A GID: 16 bytes, an IPv6 address or an IPv4 address mapped into one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct Gid(pub [u8; 16]);

impl Gid {
    pub(super) fn from_raw(raw: &bindings::ib_gid) -> Self {
        // SAFETY: All fields of the union are 16 bytes that have any value.
        Self(unsafe { raw.raw })
    }

    pub(super) fn as_raw(&self) -> *const bindings::ib_gid {
        ptr::from_ref(self).cast()
    }

    /// The GID that stands for an IP address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }

    /// The IP address that it stands for.
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.0).to_canonical()
    }
}

/// An entry of a GID table.
///
/// # Invariants
///
/// Reference counted with `rdma_hold_gid_attr()` and `rdma_put_gid_attr()`.
#[repr(transparent)]
pub struct GidAttr(Opaque<bindings::ib_gid_attr>);

// SAFETY: An entry is not tied to a thread.
unsafe impl Send for GidAttr {}
// SAFETY: All fields stay the same while there are references, but `ndev`, which is read under RCU.
unsafe impl Sync for GidAttr {}

// SAFETY: `rdma_hold_gid_attr()` keeps the entry until `rdma_put_gid_attr()`.
unsafe impl AlwaysRefCounted for GidAttr {
    fn inc_ref(&self) {
        // SAFETY: A valid entry.
        unsafe { bindings::rdma_hold_gid_attr(self.0.get()) };
    }

    unsafe fn dec_ref(this: NonNull<Self>) {
        // SAFETY: The caller has a reference to give up.
        unsafe { bindings::rdma_put_gid_attr(this.as_ptr().cast()) };
    }
}

impl GidAttr {
    /// # Safety
    ///
    /// `raw` must point to an entry on which somebody has a reference for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *const bindings::ib_gid_attr) -> &'a Self {
        // SAFETY: By the function's requirements; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// # Safety
    ///
    /// `raw` must point to an entry on which the caller owns a reference.
    pub(super) unsafe fn aref_from_raw(raw: *mut bindings::ib_gid_attr) -> ARef<Self> {
        // SAFETY: By the function's requirements, and so it is not null.
        unsafe { ARef::from_raw(NonNull::new_unchecked(raw.cast())) }
    }

    /// The GID itself.
    pub fn gid(&self) -> Gid {
        // SAFETY: A valid entry.
        Gid::from_raw(unsafe { &(*self.0.get()).gid })
    }

    /// The protocol that it is for.
    pub fn gid_type(&self) -> Result<GidType> {
        // SAFETY: A valid entry.
        unsafe { (*self.0.get()).gid_type }.try_into()
    }

    /// Index in the table.
    pub fn index(&self) -> u16 {
        // SAFETY: A valid entry.
        unsafe { (*self.0.get()).index }
    }

    /// The port, from 1 on.
    pub fn port(&self) -> u32 {
        // SAFETY: A valid entry.
        unsafe { (*self.0.get()).port_num }
    }

    /// The network device that has the address, which can be a VLAN over that of the port; `None`
    /// if it is gone, or not up.
    pub fn netdev(&self) -> Option<ARef<NetDevice>> {
        let _guard = rcu::read_lock();
        // SAFETY: A valid entry, and the read lock is held.
        let raw = unsafe { bindings::rdma_read_gid_attr_ndev_rcu(self.0.get()) };
        let raw = kernel::error::from_err_ptr(raw).ok()?;
        if raw.is_null() {
            return None;
        }
        // SAFETY: The read lock keeps the device in memory until `ARef::from` has a reference.
        Some(ARef::from(unsafe { NetDevice::from_raw(raw) }))
    }
}
