// SPDX-License-Identifier: MIT OR Apache-2.0
//! RoCEv2 packets (IBTA volume 1, chapter 9, and annex A17).
//!
//! [`Packet`] parses and emits what UDP carries but the ICRC, which is a function of the IP and UDP
//! headers as well: [`icrc`]. One file has one header; its fields' places are in its `field`
//! module. Reserved bits are sent as zero and ignored on receipt (IBTA 9.2).

mod aeth;
mod atomic;
mod bth;
mod deth;
mod feth;
pub mod grh;
pub mod icrc;
mod opcode;
mod packet;
mod psn;
mod reth;
#[cfg(test)]
mod tests;

pub use aeth::{Aeth, Nak, Syndrome};
pub use atomic::AtomicEth;
pub use bth::Bth;
pub use deth::Deth;
pub use feth::Feth;
pub use opcode::{Kind, Opcode, Part, Service};
pub(crate) use packet::emit_with;
pub use packet::{EmitError, Headers, Malformed, Packet};
pub use psn::Psn;
pub use reth::Reth;

/// The UDP port of RoCEv2 (annex A17.2; IANA `roce`).
pub const UDP_PORT: u16 = 4791;

/// Bytes of the ICRC that follows every packet (IBTA 7.8.1).
pub const ICRC_LEN: usize = 4;

/// The most bytes of a packet that are no payload: BTH, DETH or AtomicETH, immediate data and the
/// like. What a packet takes in a buffer is at most this and the path MTU.
pub const MAX_HEADERS_LEN: usize = Bth::LEN + AtomicEth::LEN;

const _: () = {
    assert!(MAX_HEADERS_LEN >= Bth::LEN + Deth::LEN + 4);
    assert!(MAX_HEADERS_LEN >= Bth::LEN + Reth::LEN + 4);
    assert!(MAX_HEADERS_LEN >= Bth::LEN + Aeth::LEN + 8);
};

/// The `N` bytes at `at`, a constant within `bytes`.
fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

/// Puts `value` at `at`, a constant within `bytes`.
fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = value;
    }
}

/// The low three bytes of a number, in network byte order.
fn be24(value: u32) -> [u8; 3] {
    let [_, a, b, c] = value.to_be_bytes();
    [a, b, c]
}

/// A number of three bytes in network byte order.
fn from_be24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}
