// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state machine of a queue pair (IBTA 10.3.1, 11.2.5.2).
//!
//! [`modify`] is the whole of Modify QP but its effects: from what a QP is and what is asked of it,
//! what it becomes, or why not. The effects are the caller's; [`Transition`] names them. What a
//! state means for the two queues is in [`state`].

mod attr;
mod modify;
pub mod state;
mod table;

pub use attr::{AddressVector, AttrMask, DeviceLimits, QpAttr, RequestedAttr};
pub use modify::{modify, Modified, ModifyError, Transition};
pub use table::{rule, MaskError, Rule};

#[cfg(test)]
mod tests;
