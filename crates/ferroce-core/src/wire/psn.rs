// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packet sequence numbers.

use core::fmt;
use core::ops::{Add, Sub};

use crate::verbs::limits::PSN_MASK;

/// A packet sequence number: 24 bits that wrap (IBTA 9.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Psn(u32);

impl Psn {
    /// The number's low 24 bits.
    pub const fn new(number: u32) -> Self {
        Self(number & PSN_MASK)
    }

    /// The number.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// How many packets this one is after `other`; negative if it is before. Half of the numbers are
    /// after, half before (IBTA 9.7.1: at most 2^23 packets are under way).
    pub const fn since(self, other: Self) -> i32 {
        // The difference in the upper 24 bits, so that its sign is where it is looked for.
        (self.0.wrapping_sub(other.0) << 8) as i32 >> 8
    }

    /// Whether it comes before `other`.
    pub const fn is_before(self, other: Self) -> bool {
        self.since(other) < 0
    }
}

impl Add<u32> for Psn {
    type Output = Self;

    fn add(self, packets: u32) -> Self {
        Self::new(self.0.wrapping_add(packets))
    }
}

impl Sub<u32> for Psn {
    type Output = Self;

    fn sub(self, packets: u32) -> Self {
        Self::new(self.0.wrapping_sub(packets))
    }
}

impl fmt::Debug for Psn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
