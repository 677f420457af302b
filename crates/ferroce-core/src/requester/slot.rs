// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a requester remembers of a send work request.

use crate::verbs::{SendFlags, SendOpcode};
use crate::wire::Psn;

/// What a requester remembers of a send work request, beside the entry itself.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The PSN of its first packet, once it has been begun.
    pub(super) first: Psn,
    /// How many PSNs it takes: those of a READ are its responses'. A request for this host alone takes
    /// none.
    pub(super) packets: u32,
    /// Bytes of the message.
    pub(super) length: u32,
    pub(super) opcode: SendOpcode,
    pub(super) flags: SendFlags,
    /// Whether a request for this host alone has been executed.
    pub(super) executed: bool,
}

impl Slot {
    /// The PSN after its last.
    pub(super) fn end(&self) -> Psn {
        self.first + self.packets
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            first: Psn::default(),
            packets: 0,
            length: 0,
            opcode: SendOpcode::Send,
            flags: SendFlags::EMPTY,
            executed: false,
        }
    }
}
