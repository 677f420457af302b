// SPDX-License-Identifier: MIT OR Apache-2.0
//! Transport types, QP states and path MTUs.

use crate::verbs::numbered;

numbered! {
    /// The transport service of a QP (IBTA 3.2.2; `enum ib_qp_type`).
    pub enum QpType, "QP type" {
        /// General services: QP 1, kernel only. A datagram QP.
        Gsi = 1,
        /// Reliable connection.
        Rc = 2,
        /// Unreliable connection.
        Uc = 3,
        /// Unreliable datagram.
        Ud = 4,
    }
}

impl QpType {
    /// Whether each work request names its own destination.
    pub const fn is_datagram(self) -> bool {
        matches!(self, Self::Ud | Self::Gsi)
    }
}

numbered! {
    /// The state of a QP (IBTA 10.3.1; `enum ib_qp_state`). [`crate::qp`] says what each means.
    pub enum QpState, "QP state" {
        /// As created.
        Reset = 0,
        /// Initialised: receives can be posted.
        Init = 1,
        /// Ready to receive.
        Rtr = 2,
        /// Ready to send.
        Rts = 3,
        /// The send queue drains, or is drained.
        Sqd = 4,
        /// The send queue is in error (never RC).
        Sqe = 5,
        /// Both queues are in error.
        Err = 6,
    }
}

numbered! {
    /// What a FLUSH covers (IBTA A19.4.1.2; `enum ib_selectivity_level`).
    pub enum FlushSelectivity, "flush selectivity level" {
        /// The given range.
        Range = 0,
        /// The whole memory region.
        Mr = 1,
    }
}

numbered! {
    /// The largest payload of one packet (IBTA 9.4.3; `enum ib_mtu`).
    pub enum Mtu, "path MTU" {
        /// 256 bytes.
        B256 = 1,
        /// 512 bytes.
        B512 = 2,
        /// 1024 bytes.
        B1024 = 3,
        /// 2048 bytes.
        B2048 = 4,
        /// 4096 bytes.
        B4096 = 5,
    }
}

impl PartialOrd for Mtu {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Mtu {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}

impl Mtu {
    /// Length in bytes.
    pub const fn bytes(self) -> u32 {
        128 << self.number()
    }

    /// The largest one whose payload fits in `bytes`; `None` below 256.
    pub const fn largest_within(bytes: u32) -> Option<Self> {
        match bytes {
            0..=255 => None,
            256..=511 => Some(Self::B256),
            512..=1023 => Some(Self::B512),
            1024..=2047 => Some(Self::B1024),
            2048..=4095 => Some(Self::B2048),
            _ => Some(Self::B4096),
        }
    }
}

/// Immediate data: four bytes in the order they travel in.
///
/// The verbs hand them over in network byte order (`__be32 imm_data`) and no part of ferroce looks
/// into them, so they are bytes, not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct ImmData(pub [u8; 4]);
