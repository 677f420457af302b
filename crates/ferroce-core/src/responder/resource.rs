// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a responder remembers of RDMA READs and atomics, to answer them again.

use crate::ring::Remote;
use crate::wire::Psn;

/// What a responder remembers of one RDMA READ, atomic, FLUSH or ATOMIC WRITE (IBTA 9.7.5.1.1, responder
/// resources).
#[derive(Clone, Copy, Debug, Default)]
pub struct Resource {
    pub(super) first: Psn,
    pub(super) packets: u32,
    pub(super) remote: Remote,
    pub(super) length: u32,
}
