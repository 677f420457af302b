// SPDX-License-Identifier: MIT OR Apache-2.0
//! The invariant CRC (IBTA 7.8.1, annex A17.3.3): CRC-32 over all of a packet that no router changes.
//!
//! Fields that routers do change count as ones: eight bytes in place of the LRH; of IPv4 the type of
//! service, time to live and checksum; of IPv6 the traffic class, flow label and hop limit; the UDP
//! checksum; of the BTH the byte with FECN and BECN.

use super::grh::{IPV4_LEN, IPV6_LEN};
use super::{get, put, Bth};

/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

/// CRC-32 (IEEE 802.3), least significant bit first.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// How many bytes are taken at once.
const SLICES: usize = 16;

/// `TABLES[n][b]` is what byte `b` becomes after `n` more bytes of zeros.
static TABLES: [[u32; 256]; SLICES] = tables();

/// Divides by the polynomial for the eight bits of a byte that was added.
const fn after_byte(mut crc: u32) -> u32 {
    let mut bit = 0;
    while bit < 8 {
        crc = if crc & 1 == 0 {
            crc >> 1
        } else {
            crc >> 1 ^ POLYNOMIAL
        };
        bit += 1;
    }
    crc
}

const fn tables() -> [[u32; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        tables[0][byte] = after_byte(byte as u32);
        byte += 1;
    }
    let mut slice = 1;
    while slice < SLICES {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[slice - 1][byte];
            tables[slice][byte] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// Bytes of a word, the first one of which is its lowest.
const WORD: usize = size_of::<u64>();

/// How many words after itself [`fold`] moves a word to, at most.
const REACH: usize = 5;

/// From how many bytes on folding is worth the while.
const LONG: usize = 128;

/// Adds bytes to a CRC: a few, and what follows them, which is [`LONG`] or longer.
///
/// Not inlined: what is short is not to save the registers that this takes.
#[inline(never)]
fn update(crc: u32, head: &[u8], bytes: &[u8]) -> u32 {
    let (first, head) = head.split_at(head.len() % WORD);
    let crc = look_up(crc, first);
    // All words but those which what is moved goes to.
    let (front, back) = bytes.split_at((bytes.len() / WORD - REACH) * WORD);
    let moved = fold(fold([crc.into(), 0, 0, 0, 0], head), front);
    let words = back.chunks_exact(WORD);
    let rest = words.remainder();
    let mut last = [[0; WORD]; REACH];
    for ((place, word), moved) in last.iter_mut().zip(words).zip(moved) {
        *place = (word_of(word) ^ moved).to_le_bytes();
    }
    look_up(look_up(0, last.as_flattened()), rest)
}

fn word_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(get(bytes, 0))
}

/// Moves words to what follows them: returns what is to be added to the next words, for the CRC of those
/// from zero on to be the CRC of all. `moved` is what is to be added to the first ones.
///
/// x³⁰⁰ + x¹⁵⁵ + x¹¹⁷ + x⁸⁹ + 1 is a multiple of the polynomial, the smallest one with five terms. So a
/// bit is as good as four others, 145, 183, 211 and 300 places after it, and those of a word are moved
/// together by some shifts, without a look at memory (Russell, "Chorba: A novel CRC32 implementation",
/// 2024). That takes three quarters of the time that the tables take, and a fifth where every look at
/// memory is dear, as in an emulator, which has no fast carry-less multiplication to offer either.
fn fold(moved: [u64; REACH], words: &[u8]) -> [u64; REACH] {
    let step = |[now, a, b, c, d]: [u64; REACH], word: &[u8]| {
        let word = word_of(word) ^ now;
        [
            a,
            b ^ word << 17 ^ word << 55,
            c ^ word >> 47 ^ word >> 9 ^ word << 19,
            d ^ word >> 45 ^ word << 44,
            word >> 20,
        ]
    };
    // Four at once spare most of the moves from one variable to the next.
    let groups = words.chunks_exact(4 * WORD);
    let rest = groups.remainder().chunks_exact(WORD);
    let of_group = |moved, group: &[u8]| group.chunks_exact(WORD).fold(moved, step);
    rest.fold(groups.fold(moved, of_group), step)
}

/// Adds bytes to a CRC by means of the tables.
fn look_up(mut crc: u32, bytes: &[u8]) -> u32 {
    let blocks = bytes.chunks_exact(SLICES);
    let words = blocks.remainder().chunks_exact(4);
    let rest = words.remainder();
    for block in blocks {
        let mut block: [u8; SLICES] = get(block, 0);
        for (byte, crc) in block.iter_mut().zip(crc.to_le_bytes()) {
            *byte ^= crc;
        }
        // Slice by 16 (Kounavis and Berry, 2005): sixteen look-ups that do not wait for each other.
        crc = 0;
        for (table, byte) in TABLES.iter().rev().zip(block) {
            crc ^= table[usize::from(byte)];
        }
    }
    // All that is sent is words.
    for word in words {
        let [a, b, c, d] = (crc ^ u32::from_le_bytes(get(word, 0)))
            .to_le_bytes()
            .map(usize::from);
        crc = TABLES[3][a] ^ TABLES[2][b] ^ TABLES[1][c] ^ TABLES[0][d];
    }
    for byte in rest {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// Adds bytes to a CRC-32, as Linux's `crc32_le()` does: neither the first number nor the result is
/// inverted.
pub fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    match bytes.len() {
        ..LONG => look_up(crc, bytes),
        _ => update(crc, &[], bytes),
    }
}

/// The CRC of eight bytes of ones, which stand for the LRH.
const LRH: u32 = {
    let mut crc = u32::MAX;
    let mut byte = 0;
    while byte < 8 {
        crc = after_byte(crc ^ 0xff);
        byte += 1;
    }
    crc
};

/// The BTH's byte with FECN, BECN and reserved bits.
const BTH_CONGESTION: usize = 4;

/// The CRC of all that precedes the BTH. It is the same for all packets of one length that go one way,
/// unless IPv4 numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preceding(u32);

impl Preceding {
    /// Of a packet over IPv4, as it is sent: lengths, identification and ports are as they are on the wire,
    /// checksums need not be set.
    pub fn ipv4(ip: &[u8; IPV4_LEN], udp: &[u8; UDP_LEN]) -> Self {
        let mut head = [0xff; IPV4_LEN + UDP_LEN];
        put(&mut head, 0, *ip);
        put(&mut head, ipv4_field::TYPE_OF_SERVICE, [0xff]);
        put(&mut head, ipv4_field::TIME_TO_LIVE, [0xff]);
        put(&mut head, ipv4_field::CHECKSUM, [0xff; 2]);
        put(&mut head, IPV4_LEN, but_checksum(udp));
        Self(look_up(LRH, &head))
    }

    /// Of a packet over IPv6, as it is sent.
    pub fn ipv6(ip: &[u8; IPV6_LEN], udp: &[u8; UDP_LEN]) -> Self {
        let mut head = [0xff; IPV6_LEN + UDP_LEN];
        put(&mut head, 0, *ip);
        // The version stays, traffic class and flow label do not.
        let [version] = get(ip, 0);
        put(&mut head, 0, [version | 0x0f, 0xff, 0xff, 0xff]);
        put(&mut head, ipv6_field::HOP_LIMIT, [0xff]);
        put(&mut head, IPV6_LEN, but_checksum(udp));
        Self(look_up(LRH, &head))
    }

    /// The ICRC of the packet. `transport` is what UDP carries, from the BTH up to the ICRC.
    pub fn icrc(self, transport: &[u8]) -> [u8; 4] {
        self.of(transport, |bth, rest| match rest.len() {
            ..LONG => look_up(look_up(self.0, bth), rest),
            _ => update(self.0, bth, rest),
        })
    }

    /// As [`icrc`](Self::icrc), by another [`crc32`]: the host may have a faster one for what is long.
    pub fn icrc_by(self, transport: &[u8], crc32: impl FnOnce(u32, &[u8]) -> u32) -> [u8; 4] {
        self.of(transport, |bth, rest| {
            let crc = look_up(self.0, bth);
            match rest.len() {
                ..LONG => look_up(crc, rest),
                _ => crc32(crc, rest),
            }
        })
    }

    fn of(self, transport: &[u8], crc: impl FnOnce(&[u8; Bth::LEN], &[u8]) -> u32) -> [u8; 4] {
        let Some((bth, rest)) = transport.split_first_chunk::<{ Bth::LEN }>() else {
            // No packet is that short.
            return [0; 4];
        };
        let mut masked = *bth;
        put(&mut masked, BTH_CONGESTION, [0xff]);
        (!crc(&masked, rest)).to_le_bytes()
    }
}

/// What counts of a UDP header.
fn but_checksum(udp: &[u8; UDP_LEN]) -> [u8; UDP_LEN - 2] {
    get(udp, 0)
}

mod ipv4_field {
    pub(super) const TYPE_OF_SERVICE: usize = 1;
    pub(super) const TIME_TO_LIVE: usize = 8;
    pub(super) const CHECKSUM: usize = 10;
}

mod ipv6_field {
    pub(super) const HOP_LIMIT: usize = 7;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_crc_is_that_of_ieee_802_3_at_every_length() {
        // The check value of CRC-32 in Ross Williams' guide.
        assert_eq!(!look_up(u32::MAX, b"123456789"), 0xcbf4_3926);
        let longest = if cfg!(miri) { 160 } else { 4200u32 };
        let bytes: Vec<u8> = (0..longest)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let mut by_bytes = u32::MAX;
        for length in 0..=bytes.len() {
            let bytes = &bytes[..length];
            if let Some(byte) = bytes.last() {
                by_bytes = by_bytes >> 8 ^ after_byte(by_bytes & 0xff ^ u32::from(*byte));
            }
            let (head, rest) = bytes.split_at(length.min(length % 48));
            if rest.len() >= LONG {
                let folded = update(u32::MAX, head, rest);
                assert_eq!(folded, by_bytes, "{length} bytes");
            }
            assert_eq!(look_up(u32::MAX, bytes), by_bytes, "{length} bytes");
            assert_eq!(crc32(u32::MAX, bytes), by_bytes, "{length} bytes");
            let preceding = Preceding(LRH);
            let icrc = preceding.icrc_by(bytes, crc32);
            assert_eq!(icrc, preceding.icrc(bytes), "{length} bytes");
        }
        assert_eq!(LRH, look_up(u32::MAX, &[0xff; 8]));
    }
}
