// SPDX-License-Identifier: GPL-2.0

//! The RTNL lock, with which network devices are configured, and what is done under it.
//!
//! C headers: [`include/linux/rtnetlink.h`](srctree/include/linux/rtnetlink.h),
//! [`include/linux/igmp.h`](srctree/include/linux/igmp.h),
//! [`include/net/addrconf.h`](srctree/include/net/addrconf.h)

use super::{
    bindings,
    net::{in6, NetDevice},
};
use core::{net::IpAddr, ops::Deref};
use kernel::{error::to_result, prelude::*, types::NotThreadSafe};

/// Shows that the thread holds the RTNL lock.
///
/// # Invariants
///
/// As long as this exists, the thread that has it holds the lock.
pub struct Rtnl(NotThreadSafe);

impl Rtnl {
    /// Takes the lock. The thread may sleep, and must not have it already.
    pub fn lock() -> RtnlGuard {
        // SAFETY: Released when the guard is dropped, by the same thread.
        unsafe { bindings::rtnl_lock() };
        // INVARIANT: Taken above.
        RtnlGuard(Rtnl(NotThreadSafe))
    }

    /// # Safety
    ///
    /// The thread must hold the lock for `'a`.
    pub(super) unsafe fn held<'a>() -> &'a Self {
        // INVARIANT: By the function's requirements.
        &Rtnl(NotThreadSafe)
    }
}

/// Holds the RTNL lock.
pub struct RtnlGuard(Rtnl);

impl Deref for RtnlGuard {
    type Target = Rtnl;

    fn deref(&self) -> &Rtnl {
        &self.0
    }
}

impl Drop for RtnlGuard {
    fn drop(&mut self) {
        // SAFETY: `Rtnl::lock` has taken it, on this thread.
        unsafe { bindings::rtnl_unlock() };
    }
}

/// Multicast groups.
///
/// IP counts how often a device has joined a group, and forgets all groups when it is switched off on the
/// device: that goes, or moves to another namespace, or has too small an MTU. It does so before anybody
/// who listens to [`NetEvents`](super::NetEvents) hears of the reason.
impl NetDevice {
    /// Whether IP is switched on, in the version of an address.
    pub fn has_ip_of(&self, address: IpAddr, _rtnl: &Rtnl) -> bool {
        match address {
            // SAFETY: A valid device, and the lock is held.
            IpAddr::V4(_) => unsafe { !bindings::rdma_helper_in_dev(self.as_raw()).is_null() },
            // SAFETY: As above.
            IpAddr::V6(_) => unsafe { !bindings::rdma_helper_in6_dev(self.as_raw()).is_null() },
        }
    }

    /// Joins a group: what goes to it gets through the device's filter and to the sockets of this host, and
    /// switches and routers are told (IGMP, MLD). `ENODEV` if IP is [off](Self::has_ip_of).
    pub fn join(&self, group: IpAddr, rtnl: &Rtnl) -> Result {
        if !self.has_ip_of(group, rtnl) {
            return Err(ENODEV);
        }
        match group {
            // SAFETY: A valid device. There is IP, which the lock keeps.
            IpAddr::V4(group) => unsafe {
                let ip = bindings::rdma_helper_in_dev(self.as_raw());
                bindings::ip_mc_inc_group(ip, u32::from_ne_bytes(group.octets()));
                Ok(())
            },
            IpAddr::V6(group) => {
                let group = in6(group);
                // SAFETY: A valid device and a valid address.
                to_result(unsafe { bindings::ipv6_dev_mc_inc(self.as_raw(), &group) })
            }
        }
    }

    /// Reverses a [`join`](Self::join). To be called only if IP has not been switched off since.
    pub fn leave(&self, group: IpAddr, rtnl: &Rtnl) {
        if !self.has_ip_of(group, rtnl) {
            return;
        }
        match group {
            // SAFETY: As in `join`.
            IpAddr::V4(group) => unsafe {
                let ip = bindings::rdma_helper_in_dev(self.as_raw());
                bindings::rdma_helper_ip_mc_dec_group(ip, u32::from_ne_bytes(group.octets()));
            },
            // SAFETY: As in `join`. That it is in no such group would be no harm.
            IpAddr::V6(group) => unsafe {
                bindings::ipv6_dev_mc_dec(self.as_raw(), &in6(group));
            },
        }
    }
}
