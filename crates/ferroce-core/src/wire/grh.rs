// SPDX-License-Identifier: MIT OR Apache-2.0
//! The global route header (IBTA 8.3), which a datagram's receiver finds in front of it. On RoCEv2 that
//! is the IPv6 header, or the IPv4 header in its last 20 bytes (annex A17.4.5.2).

use crate::verbs::limits::GRH_LENGTH;

/// Bytes of an IPv4 header without options; RoCEv2 allows none (annex A17.4.5.1).
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;

const _: () = assert!(IPV6_LEN == GRH_LENGTH as usize);

/// The global route header of a datagram that came with this IPv4 header. That of IPv6 is the header
/// itself.
pub fn of_ipv4(header: &[u8; IPV4_LEN]) -> [u8; GRH_LENGTH as usize] {
    let mut bytes = [0; GRH_LENGTH as usize];
    if let Some(place) = bytes.last_chunk_mut() {
        *place = *header;
    }
    bytes
}
