// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACK extended transport header (IBTA 9.3.5, tables 44 to 46).

use super::{be24, from_be24, get, put};
use crate::verbs::limits::PSN_MASK;
use crate::verbs::{numbered, RnrTimer, WcStatus};

mod field {
    pub(super) const SYNDROME: usize = 0;
    pub(super) const MSN: usize = 1;
}

const TYPE_SHIFT: u8 = 5;
const TYPE_MASK: u8 = 3;
const VALUE_MASK: u8 = 0x1f;
const ACK: u8 = 0;
const RNR_NAK: u8 = 1;
const NAK: u8 = 3;

numbered! {
    /// Why a request was refused (IBTA table 46).
    pub enum Nak, "NAK code" {
        /// Packets are missing.
        PsnSequenceError = 0,
        /// The request makes no sense.
        InvalidRequest = 1,
        /// The key does not allow the access.
        RemoteAccessError = 2,
        /// The responder could not complete the operation.
        RemoteOperationalError = 3,
        /// Of reliable datagrams only.
        InvalidRdRequest = 4,
    }
}

impl Nak {
    /// The status of the request that it ends; that of a request whose packets are missing is not ended.
    pub const fn status(self) -> WcStatus {
        match self {
            Self::InvalidRequest => WcStatus::RemInvReqErr,
            Self::RemoteAccessError => WcStatus::RemAccessErr,
            Self::RemoteOperationalError => WcStatus::RemOpErr,
            Self::PsnSequenceError | Self::InvalidRdRequest => WcStatus::BadRespErr,
        }
    }
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syndrome {
    /// Positive, with five bits of credits: [`UNLIMITED`](Self::UNLIMITED) or a code of table 45.
    Ack(u8),
    /// Receiver not ready: try again, at the earliest after this.
    RnrNak(RnrTimer),
    /// Negative.
    Nak(Nak),
    /// A reserved number.
    Reserved(u8),
}

impl Syndrome {
    /// Positive, without a limit on what may be sent (IBTA 9.7.7.2).
    pub const UNLIMITED: Self = Self::Ack(VALUE_MASK);

    /// How many messages that consume a receive may be sent beyond those that are complete; `None` if the
    /// peer sets no limit, or says nothing of it (IBTA table 45).
    pub fn credits(self) -> Option<u32> {
        match self {
            Self::Ack(VALUE_MASK) => None,
            Self::Ack(code @ 0..=2) => Some(code.into()),
            // From code 3 on, two interleaved doublings: 4, 8, 16 at the even codes and 3, 6, 12 at the
            // odd ones.
            Self::Ack(code) if code % 2 == 0 => Some(4 << ((code - 4) / 2)),
            Self::Ack(code) => Some(3 << ((code - 3) / 2)),
            _ => None,
        }
    }

    fn parse(byte: u8) -> Self {
        let value = byte & VALUE_MASK;
        match byte >> TYPE_SHIFT {
            ACK => Self::Ack(value),
            RNR_NAK => {
                RnrTimer::try_from(u32::from(value)).map_or(Self::Reserved(byte), Self::RnrNak)
            }
            NAK => Nak::try_from(u32::from(value)).map_or(Self::Reserved(byte), Self::Nak),
            _ => Self::Reserved(byte),
        }
    }

    fn emit(self) -> u8 {
        let of = |kind: u8, value: u8| (kind & TYPE_MASK) << TYPE_SHIFT | value & VALUE_MASK;
        match self {
            Self::Ack(credits) => of(ACK, credits),
            Self::RnrNak(timer) => of(RNR_NAK, timer.code()),
            Self::Nak(code) => of(NAK, code.number()),
            Self::Reserved(byte) => byte,
        }
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aeth {
    /// What it says.
    pub syndrome: Syndrome,
    /// How many messages the responder has completed, 24 bits.
    pub msn: u32,
}

impl Aeth {
    /// Bytes of it.
    pub const LEN: usize = 4;

    /// Reads the header.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Self {
        let [syndrome] = get(bytes, field::SYNDROME);
        Self {
            syndrome: Syndrome::parse(syndrome),
            msn: from_be24(get(bytes, field::MSN)),
        }
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        put(&mut bytes, field::SYNDROME, [self.syndrome.emit()]);
        put(&mut bytes, field::MSN, be24(self.msn & PSN_MASK));
        bytes
    }
}
