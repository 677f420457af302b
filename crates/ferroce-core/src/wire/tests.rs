// SPDX-License-Identifier: MIT OR Apache-2.0
//! What no captured packet shows: every opcode and syndrome, and what is no packet.

use std::vec;
use std::vec::Vec;

use super::*;
use crate::ring::Remote;
use crate::verbs::{FlushPlacement, FlushSelectivity, ImmData, RnrTimer};

fn opcodes() -> impl Iterator<Item = Opcode> {
    (0..=u8::MAX).filter_map(|number| Opcode::try_from(number).ok())
}

#[test]
fn opcodes_are_those_of_the_specification() {
    let of = |service: Service| opcodes().filter(move |o| o.service() == service).count();
    // Table 38, and the two of annex A19.
    assert_eq!(of(Service::Rc), 25);
    assert_eq!(of(Service::Uc), 12);
    assert_eq!(of(Service::Ud), 2);
    assert_eq!(of(Service::Cnp), 1);
    assert_eq!(Opcode::CNP.number(), 0x81);
    for opcode in opcodes() {
        assert_eq!(Opcode::try_from(opcode.number()), Ok(opcode));
        assert_eq!(Opcode::new(opcode.service(), opcode.kind()), Some(opcode));
    }
    // Reliable datagrams, reserved ones, UC's READ, UD's WRITE, the manufacturers' own.
    for number in [
        0x40, 0x15, 0x18, 0x1e, 0x2c, 0x36, 0x6a, 0x80, 0xa0, 0xc0, 0xff,
    ] {
        assert!(Opcode::try_from(number).is_err(), "{number:#x}");
    }
}

const REMOTE: Remote = Remote {
    addr: 0x0102_0304_0506_0708,
    rkey: 0x1112_1314,
};

/// The headers of an opcode, with something in every field.
fn headers(opcode: Opcode) -> Headers {
    let reth = Reth {
        remote: REMOTE,
        dma_len: 0x2122_2324,
    };
    let imm = ImmData([9, 8, 7, 6]);
    let aeth = Aeth {
        syndrome: Syndrome::UNLIMITED,
        msn: 0x00ab_cdef,
    };
    let deth = Deth {
        qkey: 0x3132_3334,
        src_qp: 0x0041_4243,
    };
    let atomic = AtomicEth {
        remote: REMOTE,
        swap_add: 5,
        compare: 6,
    };
    let feth = Feth {
        placement: FlushPlacement::PERSISTENT,
        level: FlushSelectivity::Mr.number(),
    };
    match (opcode.service(), opcode.kind()) {
        (Service::Cnp, _) => Headers::None,
        (Service::Ud, Kind::SendOnlyImm) => Headers::DethImm(deth, imm),
        (Service::Ud, _) => Headers::Deth(deth),
        (_, Kind::SendLastImm | Kind::SendOnlyImm | Kind::WriteLastImm) => Headers::Imm(imm),
        (_, Kind::SendLastInvalidate | Kind::SendOnlyInvalidate) => Headers::Ieth(7),
        (_, Kind::WriteOnlyImm) => Headers::RethImm(reth, imm),
        (_, Kind::WriteFirst | Kind::WriteOnly | Kind::ReadRequest | Kind::AtomicWrite) => {
            Headers::Reth(reth)
        }
        (_, Kind::AtomicAcknowledge) => Headers::AtomicAck(aeth, 77),
        (_, Kind::CompareSwap | Kind::FetchAdd) => Headers::Atomic(atomic),
        (_, Kind::Flush) => Headers::Flush(feth, reth),
        (
            _,
            Kind::ReadResponseFirst
            | Kind::ReadResponseLast
            | Kind::ReadResponseOnly
            | Kind::Acknowledge,
        ) => Headers::Aeth(aeth),
        _ => Headers::None,
    }
}

#[test]
fn every_packet_survives_the_wire_at_every_length() {
    for opcode in opcodes() {
        let lengths = if opcode.kind().has_payload() {
            0..9
        } else {
            0..1
        };
        for length in lengths {
            let payload: Vec<u8> = (0..length).collect();
            let mut bth = Bth::new(opcode, 0x0051_5253, Psn::new(0x0061_6263));
            bth.solicited = true;
            bth.ack_req = true;
            bth.fecn = true;
            bth.pad_count = length.wrapping_neg() % 4;
            let packet = Packet {
                bth,
                headers: headers(opcode),
                payload: &payload,
            };
            let mut bytes = vec![0xff; packet.len()];
            assert_eq!(packet.emit(&mut bytes), Ok(bytes.len()));
            assert_eq!(Packet::parse(&bytes), Ok(packet));
            assert!(bytes.len() <= MAX_HEADERS_LEN + payload.len() + 3);
            // Cut short anywhere, it is another packet or none; never a panic.
            for cut in 0..bytes.len() {
                assert_ne!(Packet::parse(&bytes[..cut]), Ok(packet));
            }
        }
    }
}

#[test]
fn every_syndrome_survives_the_wire() {
    for byte in 0..=u8::MAX {
        let bytes = [byte, 1, 2, 3];
        assert_eq!(Aeth::parse(&bytes).emit(), bytes);
    }
    let syndrome = |byte| Aeth::parse(&[byte, 0, 0, 0]).syndrome;
    assert_eq!(syndrome(0x1f), Syndrome::UNLIMITED);
    let timer = RnrTimer::try_from(14).unwrap();
    assert_eq!(syndrome(0x2e), Syndrome::RnrNak(timer));
    assert_eq!(syndrome(0x62), Syndrome::Nak(Nak::RemoteAccessError));
    assert_eq!(syndrome(0x65), Syndrome::Reserved(0x65));
    assert_eq!(syndrome(0x40), Syndrome::Reserved(0x40));
}

#[test]
fn credits_are_those_of_the_specification() {
    // IBTA table 45.
    let table = [
        0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
        2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768,
    ];
    for (code, credits) in (0..).zip(table) {
        assert_eq!(Syndrome::Ack(code).credits(), Some(credits));
    }
    assert_eq!(Syndrome::UNLIMITED.credits(), None);
    assert_eq!(Syndrome::Nak(Nak::InvalidRequest).credits(), None);
}

#[test]
fn what_is_no_packet_is_told_apart() {
    let bth = Bth::new(Opcode::rc(Kind::SendOnly), 1, Psn::new(1));
    let mut bytes = bth.emit().to_vec();
    assert!(Packet::parse(&bytes).is_ok());
    bytes[1] |= 1;
    assert!(
        matches!(Packet::parse(&bytes), Err(Malformed::Value(_))),
        "version"
    );
    bytes[1] = 0x30;
    assert_eq!(
        Packet::parse(&bytes),
        Err(Malformed::Truncated),
        "padding only"
    );
    bytes[1] = 0;
    bytes.push(0);
    assert_eq!(
        Packet::parse(&bytes),
        Err(Malformed::Payload),
        "not a multiple of 4"
    );
    let mut ack = Bth::new(Opcode::rc(Kind::Acknowledge), 1, Psn::new(1))
        .emit()
        .to_vec();
    ack.extend([0; 8]);
    assert_eq!(
        Packet::parse(&ack),
        Err(Malformed::Payload),
        "no payload is due"
    );
}

#[test]
fn reserved_bits_are_ignored_and_sent_as_zero() {
    let bth = Bth::new(Opcode::rc(Kind::SendOnly), 1, Psn::new(1));
    let mut bytes = bth.emit();
    bytes[4] |= 0x3f;
    bytes[8] |= 0x7f;
    assert_eq!(Bth::parse(&bytes), Ok(bth));
}

#[test]
fn half_of_all_psns_are_before_any_one_and_half_after() {
    let zero = Psn::new(0);
    assert_eq!((zero - 1).number(), 0x00ff_ffff);
    assert_eq!(zero.since(zero - 1), 1);
    assert_eq!((zero + 0x007f_ffff).since(zero), 0x007f_ffff);
    assert_eq!((zero + 0x0080_0000).since(zero), -0x0080_0000);
    assert!((zero - 1).is_before(zero) && !zero.is_before(zero - 1));
}

#[test]
fn a_datagrams_grh_is_the_ip_header_at_its_end() {
    let header: [u8; 20] = core::array::from_fn(|at| at as u8 + 1);
    let bytes = grh::of_ipv4(&header);
    assert_eq!((&bytes[..20], &bytes[20..]), (&[0; 20][..], &header[..]));
}
