// SPDX-License-Identifier: MIT OR Apache-2.0
//! A whole packet: the BTH, the extended headers that its opcode calls for, and the payload.

use core::convert::Infallible;
use core::fmt;

use super::{Aeth, AtomicEth, Bth, Deth, Feth, Kind, Reth, Service};
use crate::verbs::{ImmData, InvalidValue};

/// The extended headers of a packet, which its opcode decides on (IBTA table 38).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the specification's.
pub enum Headers {
    None,
    Imm(ImmData),
    /// The key to be invalidated.
    Ieth(u32),
    Reth(Reth),
    RethImm(Reth, ImmData),
    Aeth(Aeth),
    /// With what was there before.
    AtomicAck(Aeth, u64),
    Atomic(AtomicEth),
    Flush(Feth, Reth),
    Deth(Deth),
    DethImm(Deth, ImmData),
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its headers and padding.
    Truncated,
    /// A field has a value that does not exist.
    Value(InvalidValue),
    /// There is payload, or not a multiple of four bytes, where that cannot be.
    Payload,
}

impl From<InvalidValue> for Malformed {
    fn from(error: InvalidValue) -> Self {
        Self::Value(error)
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the packet is cut short"),
            Self::Value(error) => error.fmt(f),
            Self::Payload => f.write_str("the packet's payload does not fit its opcode"),
        }
    }
}

impl core::error::Error for Malformed {}

/// The buffer is too short for the packet: it takes this many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitError(pub usize);

/// A packet, but the ICRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its base transport header.
    pub bth: Bth,
    /// The headers that follow.
    pub headers: Headers,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

/// Takes a header off the front of some bytes.
fn split<const N: usize>(bytes: &[u8]) -> Result<(&[u8; N], &[u8]), Malformed> {
    bytes.split_first_chunk().ok_or(Malformed::Truncated)
}

impl Headers {
    /// Reads the headers that an opcode calls for, and what follows them.
    fn parse(service: Service, kind: Kind, bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let imm = |bytes| split(bytes).map(|(imm, rest)| (ImmData(*imm), rest));
        if service == Service::Cnp {
            return Ok((Self::None, bytes));
        }
        if service == Service::Ud {
            let (deth, rest) = split(bytes)?;
            let deth = Deth::parse(deth);
            return match kind {
                Kind::SendOnlyImm => imm(rest).map(|(imm, rest)| (Self::DethImm(deth, imm), rest)),
                _ => Ok((Self::Deth(deth), rest)),
            };
        }
        Ok(match kind {
            Kind::SendFirst
            | Kind::SendMiddle
            | Kind::SendLast
            | Kind::SendOnly
            | Kind::WriteMiddle
            | Kind::WriteLast
            | Kind::ReadResponseMiddle => (Self::None, bytes),
            Kind::SendLastImm | Kind::SendOnlyImm | Kind::WriteLastImm => {
                imm(bytes).map(|(imm, rest)| (Self::Imm(imm), rest))?
            }
            Kind::SendLastInvalidate | Kind::SendOnlyInvalidate => {
                split(bytes).map(|(rkey, rest)| (Self::Ieth(u32::from_be_bytes(*rkey)), rest))?
            }
            Kind::WriteFirst | Kind::WriteOnly | Kind::ReadRequest | Kind::AtomicWrite => {
                split(bytes).map(|(reth, rest)| (Self::Reth(Reth::parse(reth)), rest))?
            }
            Kind::WriteOnlyImm => {
                let (reth, rest) = split(bytes)?;
                let (imm, rest) = imm(rest)?;
                (Self::RethImm(Reth::parse(reth), imm), rest)
            }
            Kind::ReadResponseFirst
            | Kind::ReadResponseLast
            | Kind::ReadResponseOnly
            | Kind::Acknowledge => {
                split(bytes).map(|(aeth, rest)| (Self::Aeth(Aeth::parse(aeth)), rest))?
            }
            Kind::AtomicAcknowledge => {
                let (aeth, rest) = split(bytes)?;
                let (before, rest) = split(rest)?;
                let before = u64::from_be_bytes(*before);
                (Self::AtomicAck(Aeth::parse(aeth), before), rest)
            }
            Kind::CompareSwap | Kind::FetchAdd => {
                split(bytes).map(|(atomic, rest)| (Self::Atomic(AtomicEth::parse(atomic)), rest))?
            }
            Kind::Flush => {
                let (feth, rest) = split(bytes)?;
                let (reth, rest) = split(rest)?;
                (Self::Flush(Feth::parse(*feth), Reth::parse(reth)), rest)
            }
        })
    }

    /// Bytes of them.
    pub const fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Imm(_) | Self::Ieth(_) => 4,
            Self::Reth(_) => Reth::LEN,
            Self::RethImm(..) => Reth::LEN + 4,
            Self::Aeth(_) => Aeth::LEN,
            Self::AtomicAck(..) => Aeth::LEN + 8,
            Self::Atomic(_) => AtomicEth::LEN,
            Self::Flush(..) => Feth::LEN + Reth::LEN,
            Self::Deth(_) => Deth::LEN,
            Self::DethImm(..) => Deth::LEN + 4,
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    fn emit(&self, to: &mut Writer<'_>) {
        match self {
            Self::None => {}
            Self::Imm(ImmData(imm)) => to.put(imm),
            Self::Ieth(rkey) => to.put(&rkey.to_be_bytes()),
            Self::Reth(reth) => to.put(&reth.emit()),
            Self::RethImm(reth, ImmData(imm)) => {
                to.put(&reth.emit());
                to.put(imm);
            }
            Self::Aeth(aeth) => to.put(&aeth.emit()),
            Self::AtomicAck(aeth, before) => {
                to.put(&aeth.emit());
                to.put(&before.to_be_bytes());
            }
            Self::Atomic(atomic) => to.put(&atomic.emit()),
            Self::Flush(feth, reth) => {
                to.put(&feth.emit());
                to.put(&reth.emit());
            }
            Self::Deth(deth) => to.put(&deth.emit()),
            Self::DethImm(deth, ImmData(imm)) => {
                to.put(&deth.emit());
                to.put(imm);
            }
        }
    }
}

/// Puts one thing after the other into a buffer that is long enough.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some((place, rest)) = core::mem::take(&mut self.0).split_at_mut_checked(bytes.len())
        {
            place.copy_from_slice(bytes);
            self.0 = rest;
        }
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet: what UDP carries, without the ICRC.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (bth, rest) = split(bytes)?;
        let bth = Bth::parse(bth)?;
        let (service, kind) = (bth.opcode.service(), bth.opcode.kind());
        let (headers, rest) = Headers::parse(service, kind, rest)?;
        let length = rest
            .len()
            .checked_sub(bth.pad_count.into())
            .ok_or(Malformed::Truncated)?;
        // IBTA 9.2.3.2: payload and padding are a multiple of four bytes together.
        let misfit = rest.len() % 4 != 0 || (!rest.is_empty() && !kind.has_payload());
        if misfit {
            return Err(Malformed::Payload);
        }
        let payload = rest.get(..length).ok_or(Malformed::Truncated)?;
        Ok(Self {
            bth,
            headers,
            payload,
        })
    }

    /// Bytes that [`emit`](Self::emit) writes.
    pub fn len(&self) -> usize {
        head_len(&self.headers) + padded(self.payload.len())
    }

    /// Whether it carries no payload.
    pub fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Writes the packet to the front of a buffer, and returns how long it is. The pad count of the BTH
    /// follows from the payload.
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, EmitError> {
        let length = self.payload.len();
        let emitted = emit_with(&self.bth, &self.headers, length, buffer, |place| {
            place.copy_from_slice(self.payload);
            Ok::<(), Infallible>(())
        })?;
        match emitted {
            Ok((length, ())) => Ok(length),
            Err(never) => match never {},
        }
    }
}

/// Bytes of a packet before its payload.
fn head_len(headers: &Headers) -> usize {
    Bth::LEN + headers.len()
}

/// Bytes of payload with its padding.
const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes a packet to the front of a buffer; the payload, of `length` bytes, is put there by `fill`, and
/// if it cannot be had the buffer's contents mean nothing. Returns how long the packet is.
pub(crate) fn emit_with<T, E>(
    bth: &Bth,
    headers: &Headers,
    length: usize,
    buffer: &mut [u8],
    fill: impl FnOnce(&mut [u8]) -> Result<T, E>,
) -> Result<Result<(usize, T), E>, EmitError> {
    let head = head_len(headers);
    let padded = padded(length);
    let total = head + padded;
    let (head, rest) = buffer
        .get_mut(..total)
        .and_then(|buffer| buffer.split_at_mut_checked(head))
        .ok_or(EmitError(total))?;
    let (payload, pad) = rest.split_at_mut_checked(length).ok_or(EmitError(total))?;
    let filled = match fill(payload) {
        Ok(filled) => filled,
        Err(error) => return Ok(Err(error)),
    };
    pad.fill(0);
    let mut writer = Writer(head);
    let bth = Bth {
        pad_count: (padded - length) as u8,
        ..*bth
    };
    writer.put(&bth.emit());
    headers.emit(&mut writer);
    Ok(Ok((total, filled)))
}
