// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive work requests, as values and as bytes of a ring.

use core::mem::offset_of;

use crate::ring::layout::{get, RecvWqe, Words, RECV_HEADER_LEN, SGE_LEN};
use crate::ring::{SgeList, WqeError};

/// A receive work request but its scatter list (IBTA 11.4.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvRequest {
    /// The caller's own number for it.
    pub wr_id: u64,
}

/// Bytes of payload an entry claims to have.
pub(super) fn payload_len(header: &[u8]) -> Option<usize> {
    let num_sge = u32::from_ne_bytes(get(header, offset_of!(RecvWqe, num_sge)));
    usize::try_from(num_sge).ok()?.checked_mul(SGE_LEN)
}

impl RecvRequest {
    /// The caller's number of an entry, whatever else is in it: its completion needs that even if
    /// [`decode`](Self::decode) fails.
    pub fn wr_id(entry: &[u8]) -> u64 {
        u64::from_ne_bytes(get(entry, offset_of!(RecvWqe, wr_id)))
    }

    /// Reads and checks an entry that [`Executor::fetch`](crate::ring::Executor::fetch) copied out.
    ///
    /// A scatter list longer than any message is no error: no message fills it.
    pub fn decode(entry: &[u8]) -> Result<(Self, SgeList<'_>), WqeError> {
        let (header, payload) = entry
            .split_first_chunk::<RECV_HEADER_LEN>()
            .ok_or(WqeError::Truncated)?;
        if get(header, offset_of!(RecvWqe, reserved)) != [0; 4] {
            return Err(WqeError::Reserved);
        }
        let claimed = payload_len(header).ok_or(WqeError::TooMuchData)?;
        let sges = SgeList::new(payload.get(..claimed).ok_or(WqeError::TooMuchData)?);
        let request = Self {
            wr_id: Self::wr_id(header),
        };
        Ok((request, sges))
    }

    /// The header of an entry with this many SGEs.
    pub(super) fn encode(&self, num_sge: u32) -> [u64; RECV_HEADER_LEN / 8] {
        let mut header = Words::new();
        header.put(offset_of!(RecvWqe, wr_id), self.wr_id.to_ne_bytes());
        header.put(offset_of!(RecvWqe, num_sge), num_sge.to_ne_bytes());
        header.0
    }
}
