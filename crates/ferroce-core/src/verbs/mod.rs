// SPDX-License-Identifier: MIT OR Apache-2.0
//! The types of the verbs (IBTA volume 1, chapter 11), with the numbers Linux gives them.
//!
//! Numbers are those of `include/rdma/ib_verbs.h` and `include/uapi/rdma/ib_user_verbs.h`. Where
//! libibverbs' public header numbers something differently, the item says so and the provider
//! translates.

mod errno;
mod flags;
pub mod limits;
mod macros;
mod opcode;
mod status;
mod timer;
mod types;

pub use errno::{Errno, InvalidValue};
pub use flags::{AccessFlags, FlushPlacement, SendFlags, WcFlags};
pub use opcode::{SendOpcode, WcOpcode};
pub use status::{EventType, WcStatus};
pub use timer::{AckTimeout, RnrTimer, RNR_RETRY_INFINITE};
pub use types::{FlushSelectivity, ImmData, Mtu, QpState, QpType};

pub(crate) use macros::{bit_flags, numbered};

#[cfg(test)]
mod tests;
