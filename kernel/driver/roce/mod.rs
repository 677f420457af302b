// SPDX-License-Identifier: GPL-2.0

//! The wire's front end: RoCE v2, packets of UDP between hosts.
//!
//! What is in a packet, and when one is sent, is the core's to say ([`requester`](crate::requester),
//! [`responder`](crate::responder)). Here is what carries them:
//!
//! - [`port`]: UDP port 4791 of each network namespace that has a device.
//! - [`path`]: how packets get to a peer, and their IP and UDP headers.
//! - [`lane`]: how those of a connection keep their order.
//! - [`burst`]: packets in the making, with their ICRC.
//! - [`connection`]: what a connected queue pair has for the wire, under locks that bottom halves take.
//!   It has two halves: [`requesting`] and [`responding`]. Requests get there by `queue_pair::send`,
//!   packets by [`receive`], time by [`alarm`], and [`transmit`] sends what there is to send.
//! - [`datagram`]: those of UD queue pairs, which have no state.
//! - [`paging`]: memory on demand that is missing.
//!
//! All that a packet leads to is done where it arrives, in a bottom half: nothing there sleeps.

mod alarm;
mod burst;
mod connection;
pub(crate) mod datagram;
mod host;
mod lane;
mod paging;
mod path;
pub(crate) mod port;
mod receive;
mod requesting;
mod responding;
mod transmit;

pub(crate) use connection::{is_elsewhere, Connection};
pub(crate) use lane::in_flight;
pub(crate) use path::{Address, Path, PAUSE};
pub(crate) use transmit::Next;

pub(crate) use crate::wire::UDP_PORT;

/// Whether traffic between queue pairs of this host goes from memory to memory, and not by the wire.
pub(crate) fn delivers_locally() -> bool {
    *crate::module_parameters::local.value() != 0
}
