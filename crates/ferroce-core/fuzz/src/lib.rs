// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the targets have in common: a QP as the tests have it, and packets that are nearly right.

#[path = "../../tests/wire/front.rs"]
#[allow(dead_code)]
pub mod front;
#[path = "../../tests/wire/memory.rs"]
#[allow(dead_code)]
pub mod memory;

use ferroce_core::qp::QpAttr;
use ferroce_core::ring::Remote;
use ferroce_core::verbs::{
    AccessFlags, AckTimeout, FlushPlacement, ImmData, Mtu, QpType, RnrTimer,
};
use ferroce_core::wire::{
    Aeth, AtomicEth, Bth, Feth, Headers, Kind, Nak, Opcode, Packet, Psn, Reth, Service, Syndrome,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use front::{Front, RKEY};
use memory::{Memory, BASE};

pub const MTU: usize = 256;
/// Bytes of the memory.
pub const SIZE: usize = 16 * 1024;
/// Just before the PSNs wrap around.
pub const FIRST: u32 = 0x00ff_fff0;

/// A QP: RC, or UC.
pub fn qp(reliable: bool) -> Front {
    let attr = QpAttr {
        path_mtu: Mtu::B256,
        sq_psn: FIRST,
        rq_psn: FIRST,
        qp_access_flags: AccessFlags::REMOTE,
        max_rd_atomic: 2,
        max_dest_rd_atomic: 3,
        timeout: AckTimeout::from_low_bits(8),
        retry_cnt: 3,
        rnr_retry: 3,
        min_rnr_timer: RnrTimer::try_from(5).unwrap(),
        ..QpAttr::new()
    };
    let qp_type = if reliable { QpType::Rc } else { QpType::Uc };
    Front::new(qp_type, &attr, Memory::new(vec![7; SIZE], 13))
}

/// A place in the memory, or nearly.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Place {
    at: u16,
    aligned: bool,
    wrong_key: bool,
    beyond: Option<u64>,
}

impl Place {
    pub fn remote(&self) -> Remote {
        let at = u64::from(self.at) % (SIZE as u64);
        let at = if self.aligned { at & !7 } else { at };
        Remote {
            addr: self.beyond.unwrap_or(BASE + at),
            rkey: RKEY + u32::from(self.wrong_key),
        }
    }
}

/// How much payload, or how long a range is.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Length {
    Of(u16),
    Packets(u8),
    Any(u32),
}

impl Length {
    pub fn bytes(&self) -> u32 {
        match self {
            Self::Of(length) => u32::from(length % 1024),
            Self::Packets(number) => u32::from(*number) * MTU as u32,
            Self::Any(length) => *length,
        }
    }
}

/// A packet whose headers are those that its opcode calls for.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Made {
    kind: u8,
    service: bool,
    /// From the one that is expected on.
    psn: i8,
    ack_req: bool,
    solicited: bool,
    place: Place,
    length: Length,
    number: u64,
    syndrome: u8,
    payload: Length,
}

impl Made {
    /// Its bytes; the PSN is counted from `expected` on.
    pub fn bytes(&self, reliable: bool, expected: Psn) -> Vec<u8> {
        let kind = Kind::ALL[usize::from(self.kind) % Kind::ALL.len()];
        let service = match reliable != (self.service && self.psn == 0) {
            true => Service::Rc,
            false => Service::Uc,
        };
        let Some(opcode) = Opcode::new(service, kind) else {
            return Vec::new();
        };
        let psn = if self.psn < 0 {
            expected - u32::from(self.psn.unsigned_abs())
        } else {
            expected + self.psn as u32 / 16
        };
        let mut bth = Bth::new(opcode, 0, psn);
        bth.ack_req = self.ack_req;
        bth.solicited = self.solicited;
        let remote = self.place.remote();
        let reth = Reth {
            remote,
            dma_len: self.length.bytes(),
        };
        let imm = ImmData(self.number.to_ne_bytes()[..4].try_into().unwrap());
        let aeth = Aeth {
            syndrome: match self.syndrome % 8 {
                0..=3 => Syndrome::UNLIMITED,
                4 => Syndrome::RnrNak(RnrTimer::try_from(u32::from(self.syndrome >> 3)).unwrap()),
                5 => Syndrome::Nak(Nak::PsnSequenceError),
                6 => Syndrome::Nak(Nak::ALL[usize::from(self.syndrome >> 3) % Nak::ALL.len()]),
                _ => Syndrome::Reserved(0x40 | self.syndrome),
            },
            msn: self.number as u32,
        };
        let headers = match kind {
            Kind::SendLastImm | Kind::SendOnlyImm | Kind::WriteLastImm => Headers::Imm(imm),
            Kind::SendLastInvalidate | Kind::SendOnlyInvalidate => {
                Headers::Ieth(front::WINDOW + u32::from(self.syndrome == 1))
            }
            Kind::WriteFirst | Kind::WriteOnly | Kind::ReadRequest | Kind::AtomicWrite => {
                Headers::Reth(reth)
            }
            Kind::WriteOnlyImm => Headers::RethImm(reth, imm),
            Kind::ReadResponseFirst
            | Kind::ReadResponseLast
            | Kind::ReadResponseOnly
            | Kind::Acknowledge => Headers::Aeth(aeth),
            Kind::AtomicAcknowledge => Headers::AtomicAck(aeth, self.number),
            Kind::CompareSwap | Kind::FetchAdd => Headers::Atomic(AtomicEth {
                remote,
                swap_add: self.number,
                compare: 7,
            }),
            Kind::Flush => Headers::Flush(
                Feth {
                    placement: FlushPlacement::from_bits_retain(u32::from(self.syndrome & 3)),
                    level: self.syndrome >> 6,
                },
                reth,
            ),
            _ => Headers::None,
        };
        let length = match kind.has_payload() {
            true => (self.payload.bytes() as usize).min(2 * MTU),
            false => 0,
        };
        let payload = vec![self.number as u8; length];
        let packet = Packet {
            bth,
            headers,
            payload: &payload,
        };
        let mut bytes = vec![0; packet.len()];
        packet.emit(&mut bytes).unwrap();
        bytes
    }
}
