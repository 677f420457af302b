// SPDX-License-Identifier: MIT OR Apache-2.0
//! The atomic extended transport header (IBTA 9.3.4).

use super::{get, put};
use crate::ring::Remote;

mod field {
    pub(super) const VA: usize = 0;
    pub(super) const RKEY: usize = 8;
    pub(super) const SWAP_ADD: usize = 12;
    pub(super) const COMPARE: usize = 20;
}

/// The operands of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtomicEth {
    /// The eight bytes it works on.
    pub remote: Remote,
    /// What is added, or what replaces the value.
    pub swap_add: u64,
    /// What the value has to be to be replaced.
    pub compare: u64,
}

impl AtomicEth {
    /// Bytes of it.
    pub const LEN: usize = 28;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            remote: Remote {
                addr: u64::from_be_bytes(get(bytes, field::VA)),
                rkey: u32::from_be_bytes(get(bytes, field::RKEY)),
            },
            swap_add: u64::from_be_bytes(get(bytes, field::SWAP_ADD)),
            compare: u64::from_be_bytes(get(bytes, field::COMPARE)),
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, field::VA, self.remote.addr.to_be_bytes());
        put(&mut bytes, field::RKEY, self.remote.rkey.to_be_bytes());
        put(&mut bytes, field::SWAP_ADD, self.swap_add.to_be_bytes());
        put(&mut bytes, field::COMPARE, self.compare.to_be_bytes());
        bytes
    }
}
