// SPDX-License-Identifier: MIT OR Apache-2.0
//! What senders leave to the hardware, done here: cutting a large packet up, and checksums.

use std::borrow::Cow;

use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader, UdpHeader};

/// What precedes each packet of the socket: `struct virtio_net_hdr` (include/uapi/linux/virtio_net.h),
/// in the machine's byte order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// The UDP checksum is still to be made.
    needs_checksum: bool,
    /// The payload is that of several packets, of so many bytes each, the last one's perhaps less.
    segment: Option<u16>,
}

/// The length of that structure.
const LENGTH: usize = 10;

mod field {
    pub const FLAGS: usize = 0;
    pub const GSO_TYPE: usize = 1;
    pub const GSO_SIZE: usize = 4;
}

const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

impl Offload {
    /// Takes it off the beginning of what the socket gives.
    pub fn split_from(bytes: &[u8]) -> (Self, &[u8]) {
        let Some((header, frame)) = bytes.split_first_chunk::<LENGTH>() else {
            return (Self::default(), bytes);
        };
        let size = [header[field::GSO_SIZE], header[field::GSO_SIZE + 1]];
        let size = u16::from_ne_bytes(size);
        let is_cut = header[field::GSO_TYPE] == GSO_UDP_L4 && size > 0;
        let offload = Self {
            needs_checksum: header[field::FLAGS] & NEEDS_CSUM != 0,
            segment: is_cut.then_some(size),
        };
        (offload, frame)
    }

    /// The packets as they are on the wire. A frame that has nothing left to be done, or is not UDP, is
    /// one as it is.
    pub fn packets<'a>(&self, frame: &'a [u8]) -> Vec<Cow<'a, [u8]>> {
        let packets = match *self {
            Self::NOTHING => None,
            _ => self.made(frame),
        };
        packets.unwrap_or_else(|| vec![Cow::Borrowed(frame)])
    }

    const NOTHING: Self = Self {
        needs_checksum: false,
        segment: None,
    };

    fn made<'a>(&self, frame: &'a [u8]) -> Option<Vec<Cow<'a, [u8]>>> {
        // The lengths in a packet that is to be cut up need not be right.
        let headers = LaxPacketHeaders::from_ethernet(frame).ok()?;
        let (Some(TransportHeader::Udp(udp)), Some(net)) = (headers.transport, headers.net) else {
            return None;
        };
        let payload = headers.payload.slice();
        let link = frame.len() - payload.len() - UdpHeader::LEN - net.header_len();
        let size = self.segment.map_or(payload.len(), usize::from).max(1);
        let link = frame.get(..link)?;
        // A packet may be without payload.
        let pieces = payload
            .chunks(size)
            .chain(payload.is_empty().then_some(payload));
        (0u16..)
            .zip(pieces)
            .map(|(number, piece)| {
                self.packet(link, net.clone(), &udp, number, piece)
                    .map(Cow::Owned)
            })
            .collect()
    }

    /// One packet, of a piece of the payload.
    fn packet(
        &self,
        link: &[u8],
        mut net: NetHeaders,
        udp: &UdpHeader,
        number: u16,
        piece: &[u8],
    ) -> Option<Vec<u8>> {
        let length = UdpHeader::LEN + piece.len();
        let mut udp = udp.clone();
        udp.length = u16::try_from(length).ok()?;
        // Zero is for none, which RoCE v2 may have (IBTA A17.4.4): its own is the ICRC.
        let has_checksum = self.needs_checksum || udp.checksum != 0;
        let mut packet = link.to_vec();
        match &mut net {
            NetHeaders::Ipv4(ip, _) => {
                ip.set_payload_len(length).ok()?;
                // As inet_gso_segment() in net/ipv4/af_inet.c has them.
                ip.identification = ip.identification.wrapping_add(number);
                ip.header_checksum = ip.calc_header_checksum();
                if has_checksum {
                    udp.checksum = udp.calc_checksum_ipv4(ip, piece).ok()?;
                }
                ip.write(&mut packet).ok()?;
            }
            NetHeaders::Ipv6(ip, _) => {
                ip.set_payload_length(length).ok()?;
                if has_checksum {
                    udp.checksum = udp.calc_checksum_ipv6(ip, piece).ok()?;
                }
                ip.write(&mut packet).ok()?;
            }
            NetHeaders::Arp(_) => return None,
        }
        udp.write(&mut packet).ok()?;
        packet.extend_from_slice(piece);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, PacketHeaders};

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(0xc000, 4791)
            .write(&mut frame, payload)
            .unwrap();
        frame
    }

    fn offload(flags: u8, gso_type: u8, size: u16) -> Offload {
        let mut header = vec![flags, gso_type, 42, 0];
        header.extend(size.to_ne_bytes());
        header.extend([34, 0, 6, 0, 0xaa]);
        let (offload, frame) = Offload::split_from(&header);
        assert_eq!(frame, [0xaa]);
        offload
    }

    #[test]
    fn a_packet_with_nothing_left_to_do_stays_as_it_is() {
        let frame = frame(&[7; 100]);
        assert_eq!(offload(0, 0, 0).packets(&frame), [frame.as_slice()]);
        // Nor can anything be done for what is not UDP.
        assert_eq!(offload(1, 5, 9).packets(&[0; 60]), [[0; 60].as_slice()]);
        assert_eq!(offload(1, 5, 9).packets(&[]), [[0_u8; 0].as_slice()]);
    }

    #[test]
    fn a_large_packet_is_cut_into_those_that_a_sender_would_have_made() {
        let payload: Vec<u8> = (0..=255).collect();
        let large = frame(&payload);
        let packets = offload(1, 5, 100).packets(&large);
        let pieces: Vec<_> = payload.chunks(100).collect();
        assert_eq!(packets.len(), 3);
        for (number, (packet, piece)) in packets.iter().zip(pieces).enumerate() {
            // The builder's identification is zero, and it makes all checksums.
            let mut expected = PacketHeaders::from_ethernet_slice(packet).unwrap();
            assert_eq!(expected.payload.slice(), piece);
            let Some(NetHeaders::Ipv4(ip, _)) = &mut expected.net else {
                panic!("{expected:?}")
            };
            assert_eq!(usize::from(ip.identification), number);
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let alone = frame(piece);
            assert_eq!(packet[34..], alone[34..]);
            assert_eq!(packet[..18], alone[..18]);
        }
    }

    #[test]
    fn a_checksum_that_is_still_to_be_made_is_made_and_none_stays_none() {
        let whole = frame(&[7; 9]);
        let mut partial = whole.clone();
        partial[40..42].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(offload(1, 0, 0).packets(&partial), [whole.as_slice()]);
        partial[40..42].copy_from_slice(&[0, 0]);
        for packet in offload(0, 5, 4).packets(&partial) {
            assert_eq!(packet[40..42], [0, 0]);
        }
    }
}
