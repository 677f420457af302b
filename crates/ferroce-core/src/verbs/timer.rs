// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two encodings of time in QP attributes.

use crate::verbs::InvalidValue;

/// The value of `rnr_retry` that stands for "for ever" (IBTA 9.7.5.2, 11.2.5.2).
pub const RNR_RETRY_INFINITE: u8 = 7;

/// How long a requester waits after an RNR NAK: five bits that select from a table (IBTA table 45;
/// `enum ib_rnr_timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct RnrTimer(u8);

impl RnrTimer {
    /// That of a field of five bits: of a larger number the low ones count.
    pub const fn from_low_bits(bits: u32) -> Self {
        Self((bits & 31) as u8)
    }

    /// IBTA table 45, in units of 10 µs. Code 0 is the longest.
    const TENS_OF_MICROS: [u16; 32] = {
        let mut table = [0u16; 32];
        // From code 4 on, the table is two interleaved doublings: 0.04, 0.08, 0.16 ms at the even
        // codes and 0.06, 0.12, 0.24 ms at the odd ones.
        let mut code = 4;
        while code < 32 {
            let first: u16 = if code % 2 == 0 { 4 } else { 6 };
            table[code] = first << ((code - 4) / 2);
            code += 1;
        }
        table[1] = 1;
        table[2] = 2;
        table[3] = 3;
        table
    };

    /// The code itself, 0 to 31.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// How long a requester waits that has waited for a receive in vain for `waited` nanoseconds: at least
    /// the time that it was told to (IBTA 9.7.5.2.8), in nanoseconds.
    ///
    /// It is a sixteenth of the time waited so far, up to 10 ms. So a peer that never has a receive costs
    /// little, however short its timer is and however often it may be tried, and one that has a receive
    /// late has the message a sixteenth later at most.
    pub fn backoff_nanos(self, waited: u64) -> u64 {
        const MOST: u64 = 10_000_000;
        self.nanos().max((waited / 16).min(MOST))
    }

    /// The time in nanoseconds.
    pub fn nanos(self) -> u64 {
        match Self::TENS_OF_MICROS.get(usize::from(self.0)) {
            // 655.36 ms: one more than the table's type holds.
            None | Some(0) => 65_536 * 10_000,
            Some(&tens) => u64::from(tens) * 10_000,
        }
    }
}

impl TryFrom<u32> for RnrTimer {
    type Error = InvalidValue;

    fn try_from(code: u32) -> Result<Self, InvalidValue> {
        match u8::try_from(code) {
            Ok(code @ 0..=31) => Ok(Self(code)),
            _ => Err(InvalidValue {
                what: "RNR timer code",
                value: code,
            }),
        }
    }
}

/// How long a requester waits for an acknowledgement: 4.096 µs · 2^n, and 0 for ever (IBTA
/// 9.7.6.1.3, 11.2.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AckTimeout(u8);

impl AckTimeout {
    /// That of a field of five bits: of a larger number the low ones count.
    pub const fn from_low_bits(bits: u32) -> Self {
        Self((bits & 31) as u8)
    }

    /// The exponent n, 0 to 31.
    pub const fn code(self) -> u8 {
        self.0
    }

    /// The time in nanoseconds; `None` if the timer is off.
    pub const fn nanos(self) -> Option<u64> {
        match self.0 {
            0 => None,
            exponent => Some(4096 << exponent),
        }
    }
}
