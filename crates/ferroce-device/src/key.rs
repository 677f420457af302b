// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys of regions and windows, and what they are used for.

use crate::local::AccessError;
use crate::ring::{Remote, Sge};
use crate::verbs::AccessFlags;

/// The lowest bits of a key are the owner's to change, the rest is the number in the device's table of
/// keys (IBTA 10.6.3.3; 10.6.6, keys made by the consumer).
pub const VARIANT_BITS: u32 = 8;

/// How many keys a device has at most.
pub const COUNT: u32 = 1 << (u32::BITS - VARIANT_BITS);

/// The key of a number, below [`COUNT`], and a variant.
pub const fn new(number: u32, variant: u8) -> u32 {
    number << VARIANT_BITS | variant as u32
}

/// The number in the table of keys.
pub const fn number(key: u32) -> u32 {
    key >> VARIANT_BITS
}

/// The bits that are the owner's to change.
pub const fn variant(key: u32) -> u8 {
    let [variant, ..] = key.to_le_bytes();
    variant
}

/// Tells the protection domains of a host apart. Zero is none's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PdId(u64);

impl PdId {
    /// The domain of a number that no other domain of the host has.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// An access to memory by a key, for a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The queue pair's protection domain.
    pub pd: PdId,
    /// The queue pair's number.
    pub qpn: u32,
    /// The key.
    pub key: u32,
    /// The first byte, as the region or window numbers them.
    pub addr: u64,
    /// How many bytes.
    pub length: u32,
    /// The rights that it takes.
    pub rights: AccessFlags,
}

impl Access {
    /// By a local key, to be written to or not: to read is always allowed (IBTA 10.6.3.1).
    pub const fn local(pd: PdId, qpn: u32, sge: Sge, write: bool) -> Self {
        Self {
            pd,
            qpn,
            key: sge.lkey,
            addr: sge.addr,
            length: sge.length,
            rights: match write {
                true => AccessFlags::LOCAL_WRITE,
                false => AccessFlags::EMPTY,
            },
        }
    }

    /// By a remote key.
    pub const fn remote(
        pd: PdId,
        qpn: u32,
        remote: Remote,
        length: u32,
        rights: AccessFlags,
    ) -> Self {
        Self {
            pd,
            qpn,
            key: remote.rkey,
            addr: remote.addr,
            length,
            rights,
        }
    }
}

/// Where `length` bytes from `addr` on begin in a range of `size` bytes whose first one is `start`, if
/// they are within it.
pub(crate) fn offset(addr: u64, length: u64, start: u64, size: u64) -> Result<u64, AccessError> {
    let offset = addr.checked_sub(start).ok_or(AccessError)?;
    let end = offset.checked_add(length).ok_or(AccessError)?;
    if end > size {
        return Err(AccessError);
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_number_and_a_variant() {
        let key = new(COUNT - 1, 0x5a);
        assert_eq!((number(key), variant(key)), (COUNT - 1, 0x5a));
        assert_eq!(key, 0xffff_ff5a);
    }

    #[test]
    fn a_range_is_within_another_or_not() {
        assert_eq!(offset(100, 10, 100, 10), Ok(0));
        assert_eq!(offset(109, 1, 100, 10), Ok(9));
        assert_eq!(offset(110, 0, 100, 10), Ok(10));
        for (addr, length) in [(99, 1), (110, 1), (100, 11), (u64::MAX, 1), (101, u64::MAX)] {
            assert_eq!(offset(addr, length, 100, 10), Err(AccessError), "{addr}");
        }
    }
}
