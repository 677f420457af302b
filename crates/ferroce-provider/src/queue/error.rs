// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a work request is not accepted.

use core::fmt;

use ferroce_core::ring;
use ferroce_core::verbs::{Errno, InvalidValue, QpState, QpType, SendOpcode};

/// Why a work request is not accepted. Nothing of it is in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The queue pair takes none in this state.
    State(QpState),
    /// The queue pair takes its receives from a shared receive queue.
    NoReceiveQueue,
    /// An opcode, or a set of rights, that stands for nothing here.
    Value(InvalidValue),
    /// The transport has no such operation.
    NotPermitted(SendOpcode, QpType),
    /// A datagram without address handle.
    NoAddressHandle,
    /// A negative number of SGEs, or a pointer missing.
    NoData,
    /// The extended verbs: data, or a destination, of no work request.
    NoOperation,
    /// The extended verbs: zero-based windows are for type 2 only.
    ZeroBased,
    /// The ring does not take it.
    Ring(ring::PostError),
}

impl PostError {
    /// What the verb returns (`ibv_post_send(3)`).
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Ring(error) => error.errno(),
            _ => Errno::Invalid,
        }
    }
}

impl From<ring::PostError> for PostError {
    fn from(error: ring::PostError) -> Self {
        Self::Ring(error)
    }
}

impl From<InvalidValue> for PostError {
    fn from(error: InvalidValue) -> Self {
        Self::Value(error)
    }
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "a QP in {state:?} takes no such work request"),
            Self::NoReceiveQueue => f.write_str("the QP's receives are those of an SRQ"),
            Self::Value(error) => error.fmt(f),
            Self::NotPermitted(opcode, qp_type) => write!(f, "{qp_type:?} has no {opcode:?}"),
            Self::NoAddressHandle => f.write_str("a datagram needs an address handle"),
            Self::NoData => f.write_str("the list of SGEs or data is not there"),
            Self::NoOperation => f.write_str("there is no work request that it belongs to"),
            Self::ZeroBased => f.write_str("a type 1 memory window cannot be zero-based"),
            Self::Ring(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for PostError {}
