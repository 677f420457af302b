// SPDX-License-Identifier: GPL-2.0

//! The wire's front end: RoCE v2, packets of UDP between hosts.
//!
//! What is in a packet, and when one is sent, is the core's to say ([`requester`](crate::requester),
//! [`responder`](crate::responder)). Here is what carries them:
//!
//! - [`port`]: UDP port 4791 of each network namespace that has a device.
//! - [`path`]: how packets get to a peer, and their IP and UDP headers.
//! - [`tx_flow`]: how those of a connection keep their order.
//! - [`batch`]: packets in the making, with their ICRC.
//! - [`connection`]: what a connected queue pair has for the wire, under locks that bottom halves take.
//!   It has two halves: [`requesting`] and [`responding`]. Requests get there by `queue_pair::send`,
//!   packets by [`receive`], time by [`alarm`], and [`transmit`] sends what there is to send.
//! - [`datagram`]: those of UD queue pairs, which have no state.
//! - [`paging`]: memory on demand that is missing.
//!
//! All that a packet leads to is done where it arrives, in a bottom half: nothing there sleeps.

mod alarm;
mod connection;
pub(crate) mod datagram;
mod gso;
mod icrc;
mod owner;
mod paging;
mod path;
pub(crate) mod port;
mod receive;
mod requesting;
mod responding;
mod transmit;
mod tx_flow;

pub(crate) use connection::{is_remote_gid, Connection};
pub(crate) use path::{Address, Path, PAUSE};
pub(crate) use transmit::Next;
pub(crate) use tx_flow::in_flight;

pub(crate) use crate::wire::UDP_PORT;

use crate::{net::Datagram, rdma};
use core::sync::atomic::{AtomicU32, Ordering};

/// The priority of packets that the driver sends by the loopback device, by which it knows them for its own.
/// Chosen at random when the module is loaded, and none that programs without privileges can give to theirs.
static OWN_PRIORITY: AtomicU32 = AtomicU32::new(0);

/// Chooses [`OWN_PRIORITY`]. To be called before there are devices.
pub(crate) fn init() {
    let priority = 1 << 31 | u32::from_ne_bytes(rdma::random());
    OWN_PRIORITY.store(priority, Ordering::Relaxed);
    icrc::choose();
}

/// Whether a packet that was sent in this network namespace is taken: only one of the driver's own, with
/// `local=0`. All others are from programs' sockets. Such a packet can name any queue pair, and has the
/// address of its peer if that is this host's: RoCE v2 asks for no other proof of where a packet comes from.
fn takes_from_this_host(datagram: &Datagram) -> bool {
    !delivers_locally() && datagram.priority() == own_priority()
}

fn own_priority() -> u32 {
    OWN_PRIORITY.load(Ordering::Relaxed)
}

/// Whether traffic between queue pairs of this host goes from memory to memory, and not by the wire.
pub(crate) fn delivers_locally() -> bool {
    crate::rdma::compat::parameter(crate::module_parameters::local.value()) != 0
}
