// SPDX-License-Identifier: MIT OR Apache-2.0
//! The card that a virtual machine is given: a PCI function with memory on board.
//!
//! It is QEMU's `ivshmem-plain`, whose BAR 2 is memory that the host makes (QEMU,
//! `docs/specs/ivshmem-spec.rst`). Others use such functions for their own ends, so the memory begins with a
//! header, of [`HEADER_LEN`] bytes in little-endian order:
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | [`MAGIC`] |
//! | 8 | 2 | [`VERSION`] |
//! | 10 | 6 | the Ethernet address of the network device that belongs to it |
//!
//! What is [programs'](MEMORY_OFFSET) follows at the next page.

/// The PCI device number of `ivshmem-plain`; the vendor is Red Hat (1af4).
pub const DEVICE: u16 = 0x1110;

/// The BAR with the memory.
pub const MEMORY_BAR: u8 = 2;

/// What the memory begins with.
pub const MAGIC: [u8; 8] = *b"ferroce\0";

/// Another layout has another number.
pub const VERSION: u16 = 1;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 16;

/// Where in the memory that begins which programs allocate, in bytes.
pub const MEMORY_OFFSET: usize = 4096;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The Ethernet address of the card's network device.
    pub mac: [u8; 6],
}

impl Header {
    /// As it is in the memory.
    pub fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..].copy_from_slice(&self.mac);
        bytes
    }

    /// `None` if this is the memory of something else.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let [magic @ .., v0, v1, a, b, c, d, e, f] = *bytes;
        let ours = magic == MAGIC && u16::from_le_bytes([v0, v1]) == VERSION;
        ours.then_some(Self {
            mac: [a, b, c, d, e, f],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_written_and_no_other() {
        let header = Header {
            mac: [0x52, 0x54, 0, 1, 2, 3],
        };
        let bytes = header.to_bytes();
        assert_eq!(&bytes[..10], b"ferroce\0\x01\0");
        assert_eq!(Header::parse(&bytes), Some(header));
        for place in 0..10 {
            let mut other = bytes;
            other[place] ^= 1;
            assert_eq!(Header::parse(&other), None);
        }
        assert_eq!(Header::parse(&[0; HEADER_LEN]), None);
    }
}
