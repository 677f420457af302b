// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a requester remembers of a send work request.

use crate::wire::Psn;

/// What a requester remembers of a send work request, beside the entry itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// The PSN of its first packet, once it has been begun.
    pub(super) first: Psn,
    /// How many PSNs it takes: those of a READ are its responses'. One that is for this host alone takes
    /// none.
    pub(super) packets: u32,
    /// Bytes of the message.
    pub(super) length: u32,
}
