// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an error becomes at the edge, and the error of a number that has no meaning.

use core::fmt;

/// The errno an error turns into at the edge: in the kernel's callback or the provider's verb.
///
/// The numbers are those of `asm-generic`; an edge with names of its own matches on the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Errno {
    /// `EIO`: the queue is in error.
    Io = 5,
    /// `ENOMEM`: the queue is full (what `ibv_post_send(3)` gives for that).
    NoMemory = 12,
    /// `EINVAL`: the caller asked for something the specification forbids.
    Invalid = 22,
    /// `EOPNOTSUPP`: well formed, but this device does not do it.
    NotSupported = 95,
}

impl Errno {
    /// The positive number.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// A raw integer that stands for no value of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InvalidValue {
    /// What the number was to be, in words: "QP state".
    pub what: &'static str,
    /// The number itself.
    pub value: u32,
}

impl InvalidValue {
    /// The class of errno this turns into.
    pub const fn errno(self) -> Errno {
        Errno::Invalid
    }
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} is not a valid {}", self.value, self.what)
    }
}

impl core::error::Error for InvalidValue {}
