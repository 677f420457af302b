// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completions, as values and as bytes of a ring.

use core::mem::offset_of;

use crate::ring::layout::{get, RawCqe, Words, CQE_WORDS};
use crate::verbs::{ImmData, WcFlags, WcOpcode, WcStatus};

/// Bytes of a completion but its last eight.
pub(super) const ENCODED_LEN: usize = CQE_WORDS * 8;

/// A completion (IBTA 11.4.2.1; `struct ib_wc`).
///
/// If `status` is not `Success`, only `wr_id`, `status`, `qp_num` and `vendor_err` mean anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    /// The number its work request had.
    pub wr_id: u64,
    /// How it ended.
    pub status: WcStatus,
    /// What it was.
    pub opcode: WcOpcode,
    /// Bytes received, or read.
    pub byte_len: u32,
    /// By `flags`: immediate data ([`imm_data`](Self::imm_data)), or the invalidated key in the
    /// machine's byte order ([`invalidated_rkey`](Self::invalidated_rkey)).
    pub imm_or_rkey: [u8; 4],
    /// The QP the work request was on.
    pub qp_num: u32,
    /// The peer's QP (datagram receives).
    pub src_qp: u32,
    /// What else it carries.
    pub flags: WcFlags,
    /// Index of the P_Key the datagram came with (GSI).
    pub pkey_index: u16,
    /// Service level the datagram came with; with RoCE v2, which has none, which network header (as a
    /// ConnectX tells it). Of a process alone: the kernel's users have [`Self::network_hdr_type`].
    pub sl: u8,
    /// IPv4 or IPv6, as the kernel's `enum rdma_network_type` numbers them (datagram receives).
    pub network_hdr_type: u8,
    /// Why, in ferroce's own numbers; for people.
    pub vendor_err: u32,
    /// When, in nanoseconds of the device's clock.
    pub timestamp: u64,
}

impl Cqe {
    /// A completion with nothing in it but this.
    pub const fn new(wr_id: u64, qp_num: u32, opcode: WcOpcode, status: WcStatus) -> Self {
        Self {
            wr_id,
            status,
            opcode,
            byte_len: 0,
            imm_or_rkey: [0; 4],
            qp_num,
            src_qp: 0,
            flags: WcFlags::EMPTY,
            pkey_index: 0,
            sl: 0,
            network_hdr_type: 0,
            vendor_err: 0,
            timestamp: 0,
        }
    }

    /// Adds immediate data.
    pub const fn with_imm(mut self, ImmData(bytes): ImmData) -> Self {
        self.imm_or_rkey = bytes;
        self.flags = self.flags.union(WcFlags::WITH_IMM);
        self
    }

    /// Adds the key the peer invalidated.
    pub const fn with_invalidated(mut self, rkey: u32) -> Self {
        self.imm_or_rkey = rkey.to_ne_bytes();
        self.flags = self.flags.union(WcFlags::WITH_INVALIDATE);
        self
    }

    /// The immediate data, if there is any.
    pub fn imm_data(&self) -> Option<ImmData> {
        self.flags
            .contains(WcFlags::WITH_IMM)
            .then_some(ImmData(self.imm_or_rkey))
    }

    /// The key the peer invalidated, if it did.
    pub fn invalidated_rkey(&self) -> Option<u32> {
        self.flags
            .contains(WcFlags::WITH_INVALIDATE)
            .then(|| u32::from_ne_bytes(self.imm_or_rkey))
    }

    pub(super) fn encode(&self) -> [u64; CQE_WORDS] {
        let mut to = Words::new();
        to.put(offset_of!(RawCqe, wr_id), self.wr_id.to_ne_bytes());
        to.put(offset_of!(RawCqe, timestamp), self.timestamp.to_ne_bytes());
        to.put(offset_of!(RawCqe, byte_len), self.byte_len.to_ne_bytes());
        to.put(offset_of!(RawCqe, imm_or_rkey), self.imm_or_rkey);
        to.put(offset_of!(RawCqe, qp_num), self.qp_num.to_ne_bytes());
        to.put(offset_of!(RawCqe, src_qp), self.src_qp.to_ne_bytes());
        let vendor_err = self.vendor_err.to_ne_bytes();
        to.put(offset_of!(RawCqe, vendor_err), vendor_err);
        let pkey_index = self.pkey_index.to_ne_bytes();
        to.put(offset_of!(RawCqe, pkey_index), pkey_index);
        // Every flag is in the low byte.
        let flags = (self.flags.bits() as u16).to_ne_bytes();
        to.put(offset_of!(RawCqe, flags), flags);
        to.put(offset_of!(RawCqe, status), [self.status.number()]);
        to.put(offset_of!(RawCqe, opcode), [self.opcode.number()]);
        to.put(offset_of!(RawCqe, sl), [self.sl]);
        let network_hdr_type = [self.network_hdr_type];
        to.put(offset_of!(RawCqe, network_hdr_type), network_hdr_type);
        to.0
    }

    /// Takes any bytes at all: the kernel wrote them, but another thread of the process can have
    /// scribbled over them. A completion whose status or opcode means nothing is one in error.
    pub(super) fn decode(from: &[u8; ENCODED_LEN]) -> Self {
        let u32_at = |at| u32::from_ne_bytes(get(from, at));
        let [status] = get(from, offset_of!(RawCqe, status));
        let [opcode] = get(from, offset_of!(RawCqe, opcode));
        let [sl] = get(from, offset_of!(RawCqe, sl));
        let [network_hdr_type] = get(from, offset_of!(RawCqe, network_hdr_type));
        let flags = u16::from_ne_bytes(get(from, offset_of!(RawCqe, flags)));
        let (status, opcode) = match (
            WcStatus::try_from(u32::from(status)),
            WcOpcode::try_from(u32::from(opcode)),
        ) {
            (Ok(status), Ok(opcode)) => (status, opcode),
            _ => (WcStatus::GeneralErr, WcOpcode::Send),
        };
        Self {
            wr_id: u64::from_ne_bytes(get(from, offset_of!(RawCqe, wr_id))),
            status,
            opcode,
            byte_len: u32_at(offset_of!(RawCqe, byte_len)),
            imm_or_rkey: get(from, offset_of!(RawCqe, imm_or_rkey)),
            qp_num: u32_at(offset_of!(RawCqe, qp_num)),
            src_qp: u32_at(offset_of!(RawCqe, src_qp)),
            flags: WcFlags::from_bits_retain(u32::from(flags)) & WcFlags::ALL,
            pkey_index: u16::from_ne_bytes(get(from, offset_of!(RawCqe, pkey_index))),
            sl,
            network_hdr_type,
            vendor_err: u32_at(offset_of!(RawCqe, vendor_err)),
            timestamp: u64::from_ne_bytes(get(from, offset_of!(RawCqe, timestamp))),
        }
    }
}

const _: () = assert!(WcFlags::ALL.bits() <= 0xff);
