// SPDX-License-Identifier: MIT OR Apache-2.0
//! The BTH's opcode: a transport service in the upper three bits, a kind of packet in the lower
//! five (IBTA table 38; FLUSH and ATOMIC WRITE by annex A19; the CNP by annex A17.9).

use crate::verbs::{numbered, InvalidValue, QpType};

numbered! {
    /// The transport service of a packet, in the opcode's upper three bits.
    pub enum Service, "transport service" {
        /// Reliable connection.
        Rc = 0,
        /// Unreliable connection.
        Uc = 1,
        /// Unreliable datagram.
        Ud = 3,
        /// Congestion notification: one opcode only.
        Cnp = 4,
    }
}

impl Service {
    /// The service of QPs of a type.
    pub const fn of(qp_type: QpType) -> Self {
        match qp_type {
            QpType::Rc => Self::Rc,
            QpType::Uc => Self::Uc,
            QpType::Ud | QpType::Gsi => Self::Ud,
        }
    }
}

numbered! {
    /// The kind of a packet, in the opcode's lower five bits.
    #[allow(missing_docs)] // The names are the specification's.
    pub enum Kind, "packet kind" {
        SendFirst = 0x00,
        SendMiddle = 0x01,
        SendLast = 0x02,
        SendLastImm = 0x03,
        SendOnly = 0x04,
        SendOnlyImm = 0x05,
        WriteFirst = 0x06,
        WriteMiddle = 0x07,
        WriteLast = 0x08,
        WriteLastImm = 0x09,
        WriteOnly = 0x0a,
        WriteOnlyImm = 0x0b,
        ReadRequest = 0x0c,
        ReadResponseFirst = 0x0d,
        ReadResponseMiddle = 0x0e,
        ReadResponseLast = 0x0f,
        ReadResponseOnly = 0x10,
        Acknowledge = 0x11,
        AtomicAcknowledge = 0x12,
        CompareSwap = 0x13,
        FetchAdd = 0x14,
        SendLastInvalidate = 0x16,
        SendOnlyInvalidate = 0x17,
        Flush = 0x1c,
        AtomicWrite = 0x1d,
    }
}

/// Which packet of a message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names are the specification's.
pub enum Part {
    First,
    Middle,
    Last,
    Only,
}

impl Part {
    /// The part that begins, ends, does both, or neither.
    pub const fn new(begins: bool, ends: bool) -> Self {
        match (begins, ends) {
            (true, true) => Self::Only,
            (true, false) => Self::First,
            (false, true) => Self::Last,
            (false, false) => Self::Middle,
        }
    }

    /// Whether a message begins with it.
    pub const fn begins(self) -> bool {
        matches!(self, Self::First | Self::Only)
    }

    /// Whether a message ends with it.
    pub const fn ends(self) -> bool {
        matches!(self, Self::Last | Self::Only)
    }
}

impl Kind {
    /// Which packet of its message it is.
    pub const fn part(self) -> Part {
        match self {
            Self::SendFirst | Self::WriteFirst | Self::ReadResponseFirst => Part::First,
            Self::SendMiddle | Self::WriteMiddle | Self::ReadResponseMiddle => Part::Middle,
            Self::SendLast
            | Self::SendLastImm
            | Self::SendLastInvalidate
            | Self::WriteLast
            | Self::WriteLastImm
            | Self::ReadResponseLast => Part::Last,
            _ => Part::Only,
        }
    }

    /// Whether a responder sends it, to a requester.
    pub const fn is_response(self) -> bool {
        matches!(
            self,
            Self::ReadResponseFirst
                | Self::ReadResponseMiddle
                | Self::ReadResponseLast
                | Self::ReadResponseOnly
                | Self::Acknowledge
                | Self::AtomicAcknowledge
        )
    }

    /// Whether it is a request that a response answers, and not an acknowledgement.
    pub const fn is_answered(self) -> bool {
        matches!(
            self,
            Self::ReadRequest
                | Self::CompareSwap
                | Self::FetchAdd
                | Self::AtomicWrite
                | Self::Flush
        )
    }

    /// Whether it may carry payload.
    pub const fn has_payload(self) -> bool {
        !matches!(
            self,
            Self::ReadRequest
                | Self::Acknowledge
                | Self::AtomicAcknowledge
                | Self::CompareSwap
                | Self::FetchAdd
                | Self::Flush
        )
    }

    /// Whether a service has it.
    const fn exists_in(self, service: Service) -> bool {
        match service {
            Service::Rc => true,
            Service::Uc => (self as u8) <= Self::WriteOnlyImm as u8,
            Service::Ud => matches!(self, Self::SendOnly | Self::SendOnlyImm),
            // It has an opcode of its own.
            Service::Cnp => matches!(self, Self::SendMiddle),
        }
    }
}

/// An opcode that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode {
    service: Service,
    kind: Kind,
}

impl Opcode {
    /// The congestion notification packet's.
    pub const CNP: Self = Self {
        service: Service::Cnp,
        kind: Kind::SendMiddle,
    };

    /// An opcode of a reliable connection, which has them all.
    pub(crate) const fn rc(kind: Kind) -> Self {
        Self {
            service: Service::Rc,
            kind,
        }
    }

    /// A datagram's opcode.
    pub(crate) const fn ud(kind: Kind) -> Self {
        Self {
            service: Service::Ud,
            kind,
        }
    }

    /// The opcode of a kind of packet, if the service has that.
    pub const fn new(service: Service, kind: Kind) -> Option<Self> {
        if kind.exists_in(service) {
            Some(Self { service, kind })
        } else {
            None
        }
    }

    /// Its transport service.
    pub const fn service(self) -> Service {
        self.service
    }

    /// Its kind of packet; of a [`CNP`](Self::CNP) it means nothing.
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// The byte in the BTH.
    pub const fn number(self) -> u8 {
        self.service.number() << 5 | self.kind.number()
    }
}

impl TryFrom<u8> for Opcode {
    type Error = InvalidValue;

    fn try_from(number: u8) -> Result<Self, InvalidValue> {
        let invalid = InvalidValue {
            what: "BTH opcode",
            value: number.into(),
        };
        let service = Service::try_from(u32::from(number >> 5)).map_err(|_| invalid)?;
        let kind = Kind::try_from(u32::from(number & 0x1f)).map_err(|_| invalid)?;
        Self::new(service, kind).ok_or(invalid)
    }
}
