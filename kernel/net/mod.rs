// SPDX-License-Identifier: GPL-2.0

//! UDP from within the kernel: safe abstractions for a protocol that has a port to itself.
//!
//! - [`Registration`] tells when a network namespace goes, and with it the sockets there.
//! - [`UdpSocket`] has a port, in one namespace, of IPv4 or IPv6. What comes in is handed to a
//!   [`Receiver`] where it arrives, in a bottom half.
//! - [`Route`] is where IP sends what goes to an address, to be kept as long as it is valid.
//! - [`Packet`] is what is sent: the protocol writes it with all its headers.
//! - [`crc32_le`] is the kernel's CRC-32.
//! - [`InFlight`] tells how much of that is still on its way.
//! - [`SpinLockBh`] is a lock for what a bottom half and others share.
//!
//! In the kernel tree this would be `rust/kernel/net/`.

pub mod crc32;
pub mod in_flight;
pub mod lock;
pub mod namespace;
pub mod route;
pub mod skb;
pub mod udp;

/// Waits until all bottom halves that run now have ended. It sleeps.
pub fn wait_for_bottom_halves() {
    // SAFETY: In a thread. Bottom halves are read-side critical sections of RCU.
    unsafe { kernel::bindings::synchronize_rcu() };
}

pub use self::{
    crc32::crc32_le,
    in_flight::InFlight,
    lock::SpinLockBh,
    namespace::{Namespace, NamespaceEvents, Registration},
    route::{Flow, Route},
    skb::{Datagram, IpHeader, Packet},
    udp::{Receiver, UdpSocket},
};
