// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can be wrong with a work request.

use core::fmt;

use crate::verbs::{InvalidValue, SendOpcode, WcStatus};

/// Why a work request makes no sense. It completes with [`WqeError::status`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WqeError {
    /// The entry is shorter than its header: not from [`Executor::fetch`](crate::ring::Executor).
    Truncated,
    /// A number stands for nothing: an opcode, a flag, a level.
    Value(InvalidValue),
    /// A reserved field is not zero.
    Reserved,
    /// The transport, or a process, has no such operation.
    NotPermitted(SendOpcode),
    /// More SGEs, or more inline data, than the ring has room for.
    TooMuchData,
    /// Inline data where it cannot be, or SGEs beside it.
    Inline(SendOpcode),
    /// Data for an operation that takes none.
    UnexpectedData(SendOpcode),
    /// Longer than any message may be, in bytes.
    MessageTooLong(u64),
    /// Not the length an atomic's data has, in bytes.
    AtomicLength(u64),
}

impl WqeError {
    /// The status of the completion (IBTA 11.6.2).
    pub const fn status(&self) -> WcStatus {
        match self {
            Self::MessageTooLong(_) | Self::AtomicLength(_) => WcStatus::LocLenErr,
            _ => WcStatus::LocQpOpErr,
        }
    }
}

impl From<InvalidValue> for WqeError {
    fn from(error: InvalidValue) -> Self {
        Self::Value(error)
    }
}

impl fmt::Display for WqeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the work request is cut short"),
            Self::Value(error) => error.fmt(f),
            Self::Reserved => f.write_str("a reserved field is not zero"),
            Self::NotPermitted(opcode) => write!(f, "{opcode:?} is not permitted on this QP"),
            Self::TooMuchData => f.write_str("more data than the queue has room for"),
            Self::Inline(opcode) => write!(f, "inline data is misplaced in {opcode:?}"),
            Self::UnexpectedData(opcode) => write!(f, "{opcode:?} takes no data"),
            Self::MessageTooLong(length) => write!(f, "a message of {length} bytes is too long"),
            Self::AtomicLength(length) => write!(f, "an atomic has 8 bytes, not {length}"),
        }
    }
}

impl core::error::Error for WqeError {}
