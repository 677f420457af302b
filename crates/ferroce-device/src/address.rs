// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where datagrams go, and what tells where they come from.

use crate::key::PdId;
use crate::verbs::limits::GRH_LENGTH;

/// Where a datagram goes to, as an address handle has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The protection domain of the address handle.
    pub pd: PdId,
    /// To whom.
    pub dgid: [u8; 16],
    /// From whom.
    pub sgid: [u8; 16],
    /// The traffic class, or the TOS of IPv4.
    pub traffic_class: u8,
    /// Of IPv6, 20 bits.
    pub flow_label: u32,
    /// The hop limit, or the TTL of IPv4.
    pub hop_limit: u8,
}

/// Bytes of a GRH.
const LENGTH: usize = GRH_LENGTH as usize;

/// UDP's number as the next header of IP.
const UDP: u8 = 17;

impl Address {
    /// The first 40 bytes of a datagram of `length` bytes that is received: the GRH, which for RoCE is the
    /// IP header, for IPv4 in the last 20 bytes (IBTA annex A17, A17.4.5.2).
    pub fn grh(&self, length: u64) -> [u8; LENGTH] {
        /// UDP, BTH, DETH, ICRC.
        const HEADERS: u64 = 8 + 12 + 8 + 4;
        let mut grh = [0; LENGTH];
        // One that is too long for an IP packet goes nowhere, but its length is only checked later.
        let length = u16::try_from(length.saturating_add(HEADERS)).unwrap_or(u16::MAX);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        if self.dgid.starts_with(&mapped) {
            let ip = &mut grh[20..];
            ip[0] = 0x45;
            ip[1] = self.traffic_class;
            ip[2..4].copy_from_slice(&length.saturating_add(20).to_be_bytes());
            ip[8] = self.hop_limit;
            ip[9] = UDP;
            ip[12..16].copy_from_slice(&self.sgid[12..]);
            ip[16..20].copy_from_slice(&self.dgid[12..]);
            let checksum = checksum(ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let first = 6 << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
            grh[..4].copy_from_slice(&first.to_be_bytes());
            grh[4..6].copy_from_slice(&length.to_be_bytes());
            grh[6] = UDP;
            grh[7] = self.hop_limit;
            grh[8..24].copy_from_slice(&self.sgid);
            grh[24..40].copy_from_slice(&self.dgid);
        }
        grh
    }
}

/// The checksum of an IPv4 header whose checksum is zero (RFC 1071). Programs tell by it whether there
/// is one (`ibv_init_ah_from_wc(3)`).
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    // Each time the carry of a sum of ten words.
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// What network header a datagram came with (`enum rdma_network_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkType {
    /// IPv4.
    Ipv4 = 2,
    /// IPv6.
    Ipv6 = 3,
}

impl NetworkType {
    /// That which the first 40 bytes of a datagram have.
    pub const fn of(grh: &[u8; LENGTH]) -> Self {
        // The first four bits are IPv6's version, or they are before the IPv4 header, where all are zero.
        match grh[0] >> 4 {
            6 => Self::Ipv6,
            _ => Self::Ipv4,
        }
    }

    /// What a received datagram has in place of a service level, which RoCE v2 has not: a ConnectX writes
    /// there that there was a UDP header (bit 3), and before it one of IPv6 (1) or IPv4 (2). UCX looks
    /// there for where in the first 40 bytes the header is. (Annex A17.4.5.1 asks for such a flag, and
    /// names no field.)
    pub const fn l3_type(self) -> u8 {
        const UDP_HEADER: u8 = 1 << 3;
        UDP_HEADER
            | match self {
                Self::Ipv6 => 1,
                Self::Ipv4 => 2,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(dgid: [u8; 16]) -> Address {
        Address {
            pd: PdId::new(1),
            dgid,
            sgid: dgid,
            traffic_class: 0xa4,
            flow_label: 0xf_1234,
            hop_limit: 64,
        }
    }

    fn mapped() -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1]
    }

    #[test]
    fn an_ipv4_header_is_at_the_end_and_sums_up() {
        let grh = address(mapped()).grh(8);
        assert_eq!(grh[..20], [0; 20]);
        let ip = &grh[20..];
        assert_eq!(ip[..10], [0x45, 0xa4, 0, 60, 0, 0, 0, 0, 64, 17]);
        let sum: u32 = ip
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        assert_eq!(NetworkType::of(&grh), NetworkType::Ipv4);
        assert_eq!(NetworkType::Ipv4.l3_type(), 0xa);
    }

    #[test]
    fn an_ipv6_header_is_all_of_it() {
        let grh = address([0xfd; 16]).grh(8);
        assert_eq!(grh[..8], [0x6a, 0x4f, 0x12, 0x34, 0, 40, 17, 64]);
        assert_eq!(grh[8..], [0xfd; 32]);
        assert_eq!(NetworkType::of(&grh), NetworkType::Ipv6);
        assert_eq!(NetworkType::Ipv6.l3_type(), 9);
    }

    #[test]
    fn any_length_has_a_header() {
        for length in [0, 65_480, 65_503, 65_504, u64::MAX] {
            for dgid in [mapped(), [0xfd; 16]] {
                address(dgid).grh(length);
            }
        }
    }
}
