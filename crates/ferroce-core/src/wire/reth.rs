// SPDX-License-Identifier: MIT OR Apache-2.0
//! The RDMA extended transport header (IBTA 9.3.3).

use super::{get, put};
use crate::ring::Remote;

mod field {
    pub(super) const VA: usize = 0;
    pub(super) const RKEY: usize = 8;
    pub(super) const DMA_LEN: usize = 12;
}

/// A range of the responder's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reth {
    /// Where it begins, and its key.
    pub remote: Remote,
    /// Its length in bytes.
    pub dma_len: u32,
}

impl Reth {
    /// Bytes of it.
    pub const LEN: usize = 16;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            remote: Remote {
                addr: u64::from_be_bytes(get(bytes, field::VA)),
                rkey: u32::from_be_bytes(get(bytes, field::RKEY)),
            },
            dma_len: u32::from_be_bytes(get(bytes, field::DMA_LEN)),
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, field::VA, self.remote.addr.to_be_bytes());
        put(&mut bytes, field::RKEY, self.remote.rkey.to_be_bytes());
        put(&mut bytes, field::DMA_LEN, self.dma_len.to_be_bytes());
        bytes
    }
}
