// SPDX-License-Identifier: MIT OR Apache-2.0
//! The FLUSH extended transport header (IBTA A19.4.1).

use crate::verbs::{FlushPlacement, FlushSelectivity};

const PLACEMENT_MASK: u32 = 0x0f;
const SELECTIVITY_SHIFT: u32 = 4;
const SELECTIVITY_MASK: u32 = 3;

/// What is to be flushed, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feth {
    /// How far. It may have bits that mean nothing, which the responder refuses.
    pub placement: FlushPlacement,
    /// What, as a number: [`selectivity`](Self::selectivity).
    pub level: u8,
}

impl Feth {
    /// Bytes of it.
    pub const LEN: usize = 4;

    /// What is to be flushed, if the level means anything.
    pub fn selectivity(&self) -> Option<FlushSelectivity> {
        u32::from(self.level).try_into().ok()
    }

    /// Reads the header.
    pub fn parse(bytes: [u8; Self::LEN]) -> Self {
        let bits = u32::from_be_bytes(bytes);
        Self {
            placement: FlushPlacement::from_bits_retain(bits & PLACEMENT_MASK),
            level: (bits >> SELECTIVITY_SHIFT & SELECTIVITY_MASK) as u8,
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let level = u32::from(self.level) & SELECTIVITY_MASK;
        let bits = self.placement.bits() & PLACEMENT_MASK | level << SELECTIVITY_SHIFT;
        bits.to_be_bytes()
    }
}
