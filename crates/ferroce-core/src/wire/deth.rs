// SPDX-License-Identifier: MIT OR Apache-2.0
//! The datagram extended transport header (IBTA 9.3.1).

use super::{be24, from_be24, get, put};

mod field {
    pub(super) const QKEY: usize = 0;
    /// After a reserved byte.
    pub(super) const SRC_QP: usize = 5;
}

/// Whom a datagram is from, and what it has to show to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deth {
    /// The Q_Key.
    pub qkey: u32,
    /// The sender's QP, 24 bits.
    pub src_qp: u32,
}

impl Deth {
    /// Bytes of it.
    pub const LEN: usize = 8;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            qkey: u32::from_be_bytes(get(bytes, field::QKEY)),
            src_qp: from_be24(get(bytes, field::SRC_QP)),
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, field::QKEY, self.qkey.to_be_bytes());
        put(&mut bytes, field::SRC_QP, be24(self.src_qp));
        bytes
    }
}
