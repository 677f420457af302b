// SPDX-License-Identifier: GPL-2.0

//! How much of what was sent is still on its way.
//!
//! C header: [`include/net/sock.h`](srctree/include/net/sock.h)

use crate::rdma::{bindings, NetDevice};
use core::ptr::NonNull;
use kernel::{bindings::AF_INET, prelude::*};

/// Counts the packets of one sender that are on their way: sent by
/// [`UdpSocket::send`](super::UdpSocket::send), and not yet with a receiver on this host, or with the
/// hardware.
///
/// # Invariants
///
/// The pointer is to a `struct sock` that this owns. It belongs to no `struct socket`, is bound to nothing,
/// and no protocol knows it: it is there for what the kernel charges to the owner of packets.
pub struct InFlight(NonNull<bindings::sock>);

// SAFETY: It is not tied to a thread.
unsafe impl Send for InFlight {}
// SAFETY: The methods on `&InFlight` read what the kernel changes atomically.
unsafe impl Sync for InFlight {}

impl InFlight {
    /// Of a sender in the network namespace of a device. It may sleep.
    pub fn new(netdev: &NetDevice) -> Result<Self> {
        let namespace = netdev.net().ok_or(ENODEV)?;
        // SAFETY: A valid namespace, of which the result keeps what it needs. The memory is that of a
        // UDP socket, so that code that looks at the owner of a packet finds a socket there, and all
        // zero but for what `sock_init_data()` sets up.
        unsafe {
            let sk = bindings::sk_alloc(
                namespace.as_raw(),
                AF_INET as c_int,
                kernel::bindings::GFP_KERNEL,
                &raw mut bindings::udp_prot,
                1,
            );
            let sk = NonNull::new(sk).ok_or(ENOMEM)?;
            bindings::sock_init_data(core::ptr::null_mut(), sk.as_ptr());
            // Nobody waits for there to be room.
            bindings::net_helper_sock_use_write_queue(sk.as_ptr());
            // INVARIANT: Made above.
            Ok(Self(sk))
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::sock {
        self.0.as_ptr()
    }

    /// Whether all has arrived.
    pub fn is_empty(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::net_helper_sk_wmem_alloc_get(self.as_raw()) == 0 }
    }

    /// Whether there is so much that more would be lost in a queue: in this host, or in another namespace
    /// of it.
    pub fn is_full(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { bindings::net_helper_sock_wspace(self.as_raw()) == 0 }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. What is still on its way keeps the memory.
        unsafe { bindings::sk_free(self.as_raw()) };
    }
}
