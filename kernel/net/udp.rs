// SPDX-License-Identifier: GPL-2.0

//! Sockets that take all that comes to a UDP port.
//!
//! C headers: [`include/net/udp_tunnel.h`](srctree/include/net/udp_tunnel.h),
//! [`include/linux/udp.h`](srctree/include/linux/udp.h)

use super::{
    in_flight::InFlight,
    route::{Flow, Route},
    skb::{Datagram, Packet, SkBuff},
};
use crate::rdma::{bindings, NetDevice};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings::{net, AF_INET, AF_INET6},
    error::{from_err_ptr, to_result},
    prelude::*,
    sync::rcu,
};

/// Who takes what comes in.
pub trait Receiver: 'static {
    /// Takes a datagram, in a bottom half.
    fn receive(datagram: Datagram);
}

/// A UDP socket of the kernel's, whose datagrams a [`Receiver`] takes as they come.
///
/// It does not keep its network namespace from going: then it has to go before, see
/// [`NamespaceEvents::exit`](super::NamespaceEvents::exit).
///
/// # Invariants
///
/// The pointers are to the `struct sock` of a socket that this owns, of `ipv6` or not, and to its namespace.
pub struct UdpSocket<T: Receiver> {
    sk: NonNull<bindings::sock>,
    net: *mut net,
    ipv6: bool,
    _p: PhantomData<fn() -> T>,
}

// SAFETY: A socket is not tied to a thread.
unsafe impl<T: Receiver> Send for UdpSocket<T> {}
// SAFETY: The methods on `&UdpSocket` read what does not change, or call functions for any thread.
unsafe impl<T: Receiver> Sync for UdpSocket<T> {}

impl<T: Receiver> UdpSocket<T> {
    /// Opens a port of all IPv4 addresses, in the namespace of `netdev`, or of all IPv6 addresses.
    /// `EADDRINUSE` if somebody else has it; `EAFNOSUPPORT` if the kernel was told to do without IPv6.
    pub fn open(netdev: &NetDevice, ipv6: bool, port: u16) -> Result<Self> {
        let namespace = netdev.net().ok_or(ENODEV)?;
        let net: *mut net = namespace.as_raw();
        let mut config = bindings::udp_port_cfg {
            family: if ipv6 { AF_INET6 } else { AF_INET } as u8,
            local_udp_port: port.to_be(),
            ..pin_init::zeroed()
        };
        // The protocol has a checksum of its own that covers more, so UDP's is not needed (RFC 6935).
        config.set_ipv6_v6only(1);
        let mut sock = core::ptr::null_mut();
        // SAFETY: A valid namespace and configuration. Upon success there is a socket, which has its
        // `struct sock` until it is released.
        let sk = unsafe {
            to_result(match ipv6 {
                true => bindings::udp_sock_create6(net, &mut config, &mut sock),
                false => bindings::udp_sock_create4(net, &mut config, &mut sock),
            })?;
            NonNull::new((*sock).sk).ok_or(EINVAL)?
        };
        let mut setup = bindings::udp_tunnel_sock_cfg {
            encap_type: 1,
            encap_rcv: Some(Self::receive),
            ..pin_init::zeroed()
        };
        // SAFETY: A new socket; the configuration is copied. The function called upon a datagram is
        // there until `drop` has waited for the last call to return.
        unsafe {
            bindings::setup_udp_tunnel_sock(net, sk.as_ptr(), &mut setup);
            // What is sent to a group does not come back. The function above sees to that for IPv4.
            bindings::net_helper_sock_no_mc6_loop(sk.as_ptr());
        }
        // Several datagrams in one are welcome.
        // SAFETY: A socket of UDP.
        unsafe { bindings::net_helper_udp_accept_l4(sk.as_ptr()) };
        // INVARIANT: Made above.
        Ok(Self {
            sk,
            net,
            ipv6,
            _p: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only for UDP to call, in a bottom half, with a datagram that has come to such a socket.
    unsafe extern "C" fn receive(
        _sk: *mut bindings::sock,
        skb: *mut kernel::bindings::sk_buff,
    ) -> c_int {
        // SAFETY: By the function's requirements, the datagram is ours from here on.
        let skb = unsafe { SkBuff::from_raw(skb) };
        if let Some(datagram) = Datagram::new(skb) {
            T::receive(datagram);
        }
        0
    }

    /// Finds the way to an address. In any context but interrupts.
    pub fn route(&self, flow: &Flow) -> Result<Route> {
        match (flow, self.ipv6) {
            (Flow::V4 { .. }, false) => {
                let mut raw = flow.as_v4().ok_or(EINVAL)?;
                // SAFETY: A valid namespace, as the socket is in it, and a valid flow. The result
                // comes with a reference for us.
                unsafe {
                    let route =
                        bindings::ip_route_output_flow(self.net, &mut raw, core::ptr::null());
                    Route::from_raw(&raw mut (*from_err_ptr(route)?).dst, false)
                }
            }
            (Flow::V6 { .. }, true) => {
                let mut raw = flow.as_v6().ok_or(EINVAL)?;
                // SAFETY: As above.
                unsafe {
                    let sk = self.sk.as_ptr();
                    let none = core::ptr::null();
                    let route = bindings::ip6_dst_lookup_flow(self.net, sk, &mut raw, none);
                    Route::from_raw(from_err_ptr(route)?, true)
                }
            }
            _ => Err(EINVAL),
        }
    }

    /// Sends a packet on its way. If that leads to the loopback device, the packet has a priority there, see
    /// [`Datagram::priority`]. It counts as `in_flight` until it has arrived; what else becomes of it
    /// nobody hears. In any context but interrupts.
    pub fn send(
        &self,
        packet: Packet,
        route: &Route,
        priority: u32,
        in_flight: &InFlight,
        _guard: &rcu::Guard,
    ) {
        let skb = packet.into_skb();
        if route.is_loopback() {
            skb.set_priority(priority);
        }
        let skb = skb.into_raw();
        // SAFETY: A valid namespace and socket, and a packet with IP header, which is given away. It has
        // no reference to the route of its own: that is there as long as RCU's read lock is held, and who
        // keeps the packet for longer takes a reference.
        unsafe {
            bindings::net_helper_skb_set_dst(skb, route.as_raw());
            bindings::skb_set_owner_w(skb, in_flight.as_raw());
            match self.ipv6 {
                true => bindings::ip6_local_out(self.net, self.sk.as_ptr(), skb),
                false => bindings::ip_local_out(self.net, self.sk.as_ptr(), skb),
            };
        }
    }
}

impl<T: Receiver> Drop for UdpSocket<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::udp_tunnel_sock_release(self.sk.as_ptr()) };
        // UDP looks sockets up and calls their functions in bottom halves.
        super::wait_for_bottom_halves();
    }
}
