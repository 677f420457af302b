// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets that two devices of rdma_rxe sent to each other: `captures/rxe.sh` made the file, on Linux
//! 7.2.12, and `captures/rxe.py` says what is in it, over IPv4 and then over IPv6.

use std::collections::BTreeSet;

use ferroce_core::wire::{
    icrc::Preceding, Headers, Kind, Nak, Opcode, Packet, Service, Syndrome, ICRC_LEN, UDP_PORT,
};

static RXE: &[u8] = include_bytes!("captures/rxe.pcap");

/// A packet of a capture.
struct Captured<'a> {
    ip: &'a [u8],
    udp: &'a [u8; 8],
    transport: &'a [u8],
    icrc: [u8; ICRC_LEN],
}

impl Captured<'_> {
    fn computed(&self) -> [u8; ICRC_LEN] {
        let preceding = match <&[u8; 20]>::try_from(self.ip) {
            Ok(ip) => Preceding::ipv4(ip, self.udp),
            Err(_) => Preceding::ipv6(self.ip.try_into().unwrap(), self.udp),
        };
        preceding.icrc(self.transport)
    }
}

/// The packets of a capture file of Ethernet (libpcap's format, `pcap-savefile(5)`).
fn packets() -> Vec<Captured<'static>> {
    let u32_at = |bytes: &[u8], at| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let (file, mut rest) = RXE.split_at(24);
    assert_eq!((u32_at(file, 0), u32_at(file, 20)), (0xa1b2_c3d4, 1));
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (record, frame) = rest.split_at(16);
        let (frame, next) = frame.split_at(u32_at(record, 8) as usize);
        rest = next;
        let (ethernet, ip) = frame.split_at(14);
        let (ip, udp) = match ethernet[12..] {
            [0x08, 0x00] => ip.split_at(20),
            _ => ip.split_at(40),
        };
        let (udp, payload) = udp.split_first_chunk::<8>().unwrap();
        assert_eq!(udp[2..4], UDP_PORT.to_be_bytes());
        let (transport, icrc) = payload.split_last_chunk().unwrap();
        packets.push(Captured {
            ip,
            udp,
            transport,
            icrc: *icrc,
        });
    }
    packets
}

#[test]
fn the_icrc_is_what_rdma_rxe_computes_over_ipv4_and_over_ipv6() {
    let packets = packets();
    for header in [20, 40] {
        let of_kind = packets.iter().filter(|packet| packet.ip.len() == header);
        assert!(of_kind.clone().count() > 50);
        for packet in of_kind {
            assert_eq!(packet.computed(), packet.icrc);
        }
    }
}

#[test]
fn every_packet_is_parsed_and_emitted_again_byte_for_byte() {
    for captured in packets() {
        let packet = Packet::parse(captured.transport).unwrap();
        let mut emitted = vec![0xff; captured.transport.len()];
        assert_eq!(packet.len(), emitted.len());
        assert_eq!(packet.emit(&mut emitted), Ok(emitted.len()));
        assert_eq!(emitted, captured.transport, "{packet:?}");
        let short = packet.emit(&mut vec![0; emitted.len() - 1]).unwrap_err();
        assert_eq!(short.0, emitted.len());
    }
}

#[test]
fn the_capture_has_one_of_everything_that_rdma_rxe_says() {
    let captured = packets();
    let parsed: Vec<_> = captured
        .iter()
        .map(|captured| Packet::parse(captured.transport).unwrap())
        .collect();
    let seen: BTreeSet<u8> = parsed.iter().map(|p| p.bth.opcode.number()).collect();
    // RC has them all; rdma-core 44 posts no FLUSH.
    let missing = |service| {
        let opcodes = Kind::ALL
            .iter()
            .filter_map(move |kind| Opcode::new(service, *kind));
        let missing = opcodes.filter(|opcode| !seen.contains(&opcode.number()));
        missing.map(Opcode::kind).collect::<Vec<_>>()
    };
    assert_eq!(missing(Service::Rc), [Kind::Flush]);
    assert_eq!(missing(Service::Uc), []);
    assert_eq!(missing(Service::Ud), []);

    let syndromes: Vec<_> = parsed
        .iter()
        .filter_map(|packet| match packet.headers {
            Headers::Aeth(aeth) => Some(aeth.syndrome),
            _ => None,
        })
        .collect();
    let has = |wanted: fn(&Syndrome) -> bool| syndromes.iter().any(wanted);
    assert!(has(|s| *s == Syndrome::UNLIMITED));
    assert!(has(
        |s| matches!(s, Syndrome::RnrNak(timer) if timer.nanos() == 10_000)
    ));
    assert!(has(|s| *s == Syndrome::Nak(Nak::RemoteAccessError)));
    assert!(has(|s| *s == Syndrome::Nak(Nak::InvalidRequest)));

    let first = parsed.first().unwrap();
    assert_eq!(first.bth.opcode.kind(), Kind::SendOnly);
    assert!(first.bth.solicited && first.bth.ack_req && !first.bth.mig_req);
    assert_eq!(
        (first.bth.psn.number(), first.bth.pkey),
        (0x12_3456, 0xffff)
    );
    let padded = parsed
        .iter()
        .find(|packet| packet.payload.len() == 3)
        .unwrap();
    assert_eq!((padded.bth.pad_count, padded.payload), (1, &[0, 7, 14][..]));
}
