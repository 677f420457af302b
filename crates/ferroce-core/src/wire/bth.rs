// SPDX-License-Identifier: MIT OR Apache-2.0
//! The base transport header (IBTA 9.2).

use super::{be24, from_be24, get, put, Opcode, Psn};
use crate::verbs::limits::{DEFAULT_PKEY, QPN_MASK};
use crate::verbs::InvalidValue;

mod field {
    pub(super) const OPCODE: usize = 0;
    /// SE, MigReq, PadCnt (2 bits), TVer (4 bits).
    pub(super) const FLAGS: usize = 1;
    pub(super) const PKEY: usize = 2;
    /// FECN, BECN, six reserved bits.
    pub(super) const CONGESTION: usize = 4;
    pub(super) const DEST_QP: usize = 5;
    /// AckReq, seven reserved bits.
    pub(super) const ACK_REQ: usize = 8;
    pub(super) const PSN: usize = 9;
}

const SOLICITED: u8 = 0x80;
const MIG_REQ: u8 = 0x40;
const PAD_SHIFT: u8 = 4;
const PAD_MASK: u8 = 3;
const VERSION_MASK: u8 = 0x0f;
const FECN: u8 = 0x80;
const BECN: u8 = 0x40;
const ACK_REQ: u8 = 0x80;

// ANCHOR: bth
/// The base transport header, with which every packet begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bth {
    /// What the packet is.
    pub opcode: Opcode,
    /// SE: the receiver is to be woken.
    pub solicited: bool,
    /// MigReq: the sender's path is its primary one, as it always is on RoCE.
    pub mig_req: bool,
    /// Bytes that fill the payload up to a multiple of four, 0 to 3.
    pub pad_count: u8,
    /// The partition key.
    pub pkey: u16,
    /// Congestion was met on the way.
    pub fecn: bool,
    /// Congestion was met on the way of a packet of the other direction.
    pub becn: bool,
    /// The receiver's QP, 24 bits.
    pub dest_qp: u32,
    /// The sender asks for an acknowledgement.
    pub ack_req: bool,
    /// The packet's sequence number.
    pub psn: Psn,
}
// ANCHOR_END: bth

impl Bth {
    /// Bytes of it.
    pub const LEN: usize = 12;

    /// A header with nothing in it but this.
    pub const fn new(opcode: Opcode, dest_qp: u32, psn: Psn) -> Self {
        Self {
            opcode,
            solicited: false,
            mig_req: true,
            pad_count: 0,
            pkey: DEFAULT_PKEY,
            fecn: false,
            becn: false,
            dest_qp: dest_qp & QPN_MASK,
            ack_req: false,
            psn,
        }
    }

    /// Reads the header: its version has to be 0, its opcode has to exist.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidValue> {
        let [opcode] = get(bytes, field::OPCODE);
        let [flags] = get(bytes, field::FLAGS);
        let [congestion] = get(bytes, field::CONGESTION);
        let [ack_req] = get(bytes, field::ACK_REQ);
        if flags & VERSION_MASK != 0 {
            return Err(InvalidValue {
                what: "transport header version",
                value: (flags & VERSION_MASK).into(),
            });
        }
        Ok(Self {
            opcode: Opcode::try_from(opcode)?,
            solicited: flags & SOLICITED != 0,
            mig_req: flags & MIG_REQ != 0,
            pad_count: flags >> PAD_SHIFT & PAD_MASK,
            pkey: u16::from_be_bytes(get(bytes, field::PKEY)),
            fecn: congestion & FECN != 0,
            becn: congestion & BECN != 0,
            dest_qp: from_be24(get(bytes, field::DEST_QP)),
            ack_req: ack_req & ACK_REQ != 0,
            psn: Psn::new(from_be24(get(bytes, field::PSN))),
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; Self::LEN];
        let flags = bit(self.solicited, SOLICITED)
            | bit(self.mig_req, MIG_REQ)
            | (self.pad_count & PAD_MASK) << PAD_SHIFT;
        put(&mut bytes, field::OPCODE, [self.opcode.number()]);
        put(&mut bytes, field::FLAGS, [flags]);
        put(&mut bytes, field::PKEY, self.pkey.to_be_bytes());
        let congestion = bit(self.fecn, FECN) | bit(self.becn, BECN);
        put(&mut bytes, field::CONGESTION, [congestion]);
        put(&mut bytes, field::DEST_QP, be24(self.dest_qp));
        put(&mut bytes, field::ACK_REQ, [bit(self.ack_req, ACK_REQ)]);
        put(&mut bytes, field::PSN, be24(self.psn.number()));
        bytes
    }
}
