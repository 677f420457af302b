// SPDX-License-Identifier: GPL-2.0

//! Routes.
//!
//! C headers: [`include/net/dst.h`](srctree/include/net/dst.h),
//! [`include/net/route.h`](srctree/include/net/route.h),
//! [`include/net/ip6_route.h`](srctree/include/net/ip6_route.h)

use crate::rdma::{bindings, net::in6, NetDevice};
use core::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ptr::NonNull,
};
use kernel::{prelude::*, sync::rcu};

/// The number of UDP in an IP header.
pub const UDP: u8 = 17;

/// What a route is looked for by.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Flow {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        with: With,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
        with: With,
    },
}

/// What a flow has in either version of IP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct With {
    /// The interface that it is to leave by; zero for any.
    pub ifindex: i32,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// 20 bits, of IPv6.
    pub flow_label: u32,
    /// UDP ports.
    pub ports: (u16, u16),
}

impl Flow {
    /// From one address to another; `None` if they are of different versions.
    pub fn new(source: IpAddr, destination: IpAddr, with: With) -> Option<Self> {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some(Self::V4 {
                source,
                destination,
                with,
            }),
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(Self::V6 {
                source,
                destination,
                with,
            }),
            _ => None,
        }
    }

    fn ports(with: &With) -> bindings::flowi_uli {
        bindings::flowi_uli {
            ports: bindings::flowi_uli__bindgen_ty_1 {
                sport: with.ports.0.to_be(),
                dport: with.ports.1.to_be(),
            },
        }
    }

    fn common(with: &With) -> bindings::flowi_common {
        bindings::flowi_common {
            flowic_oif: with.ifindex,
            flowic_proto: UDP,
            // The two lowest bits are for congestion, and no routes are chosen by them.
            flowic_dscp: with.traffic_class & !3,
            ..pin_init::zeroed()
        }
    }

    pub(super) fn as_v4(&self) -> Option<bindings::flowi4> {
        let Self::V4 {
            source,
            destination,
            with,
        } = self
        else {
            return None;
        };
        Some(bindings::flowi4 {
            __fl_common: Self::common(with),
            saddr: u32::from_ne_bytes(source.octets()),
            daddr: u32::from_ne_bytes(destination.octets()),
            uli: Self::ports(with),
        })
    }

    pub(super) fn as_v6(&self) -> Option<bindings::flowi6> {
        let Self::V6 {
            source,
            destination,
            with,
        } = self
        else {
            return None;
        };
        let info = u32::from(with.traffic_class) << 20 | with.flow_label & 0xf_ffff;
        Some(bindings::flowi6 {
            __fl_common: Self::common(with),
            saddr: in6(*source),
            daddr: in6(*destination),
            flowlabel: info.to_be(),
            uli: Self::ports(with),
            ..pin_init::zeroed()
        })
    }
}

/// A route: where IP sends what goes to an address.
///
/// # Invariants
///
/// `dst` is a `dst_entry` on which this owns a reference.
pub struct Route {
    dst: NonNull<bindings::dst_entry>,
    /// Tells whether an IPv6 route is still what it was.
    cookie: u32,
}

// SAFETY: A route is not tied to a thread.
unsafe impl Send for Route {}
// SAFETY: The methods on `&Route` call functions for any thread.
unsafe impl Sync for Route {}

impl Route {
    /// # Safety
    ///
    /// `dst` must be a `dst_entry` on which the caller owns a reference, of IPv6 or IPv4 as `ipv6` says.
    pub(super) unsafe fn from_raw(dst: *mut bindings::dst_entry, ipv6: bool) -> Result<Self> {
        let dst = NonNull::new(dst).ok_or(EINVAL)?;
        let cookie = match ipv6 {
            // SAFETY: By the function's requirements.
            true => unsafe { bindings::net_helper_rt6_get_cookie(dst.as_ptr()) },
            false => 0,
        };
        // INVARIANT: By the function's requirements.
        let route = Self { dst, cookie };
        // SAFETY: A valid route.
        match unsafe { (*route.dst.as_ptr()).error } {
            0 => Ok(route),
            error => Err(Error::from_errno(c_int::from(error))),
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dst_entry {
        self.dst.as_ptr()
    }

    /// Whether it still is the route: nothing has changed that it was found by.
    pub fn is_valid(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::net_helper_dst_check(self.as_raw(), self.cookie) }
    }
}

impl Route {
    /// Whether it leads to the loopback device: the destination is this network namespace.
    pub fn is_loopback(&self) -> bool {
        let _guard = rcu::read_lock();
        // SAFETY: By the type invariants a valid route. It always has a device, which stays in memory as
        // long as RCU's read lock is held.
        unsafe {
            let netdev = (&raw const (*self.as_raw()).__bindgen_anon_1.dev).read_volatile();
            NetDevice::from_raw(netdev).is_loopback()
        }
    }

    /// Shows the device at the other end, if that which packets leave by is one of a pair: of virtual
    /// Ethernet devices, say, between two namespaces. `op` must not sleep.
    pub fn with_peer<R>(&self, op: impl FnOnce(&NetDevice) -> R) -> Option<R> {
        let _guard = rcu::read_lock();
        // SAFETY: By the type invariants a valid route. It always has a device, which stays in memory as
        // long as RCU's read lock is held, and so does the one at the other end.
        unsafe {
            let netdev = (&raw const (*self.as_raw()).__bindgen_anon_1.dev).read_volatile();
            let peer_of = (*(*netdev).netdev_ops).ndo_get_peer_dev?;
            let peer = peer_of(netdev);
            (!peer.is_null()).then(|| op(NetDevice::from_raw(peer)))
        }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. In any context.
        unsafe { bindings::dst_release(self.as_raw()) };
    }
}
