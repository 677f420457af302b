// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that are not carried out (IBTA 9.7.4.1, 9.7.5.2, 9.9.3).

use core::ops::DerefMut;

use super::{Request, Resource, Responder};
use crate::local::{self, AccessError, Denied, Fault, FlushError, Region};
use crate::verbs::EventType;
use crate::wire::{Nak, Psn, Syndrome};

/// What keeps a request from being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No receive is posted, or memory is not there yet.
    NotReady,
    /// It makes no sense, or the QP does not do it.
    InvalidRequest,
    /// The key does not allow it.
    Access,
    /// A receive has failed: its completion has told the responder, and this tells the requester.
    Completed(Nak),
    /// A message that is longer than its receive; of UC it is dropped.
    TooLong,
}

impl From<AccessError> for Refusal {
    fn from(AccessError: AccessError) -> Self {
        Self::Access
    }
}

impl From<FlushError> for Refusal {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::InvalidRequest => Self::InvalidRequest,
            FlushError::Access => Self::Access,
        }
    }
}

/// A fault in memory that a remote key names.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Later => Self::NotReady,
            Fault::Gone => Self::Access,
        }
    }
}

impl Refusal {
    /// Whether memory that is denied is only not there yet.
    pub(super) fn is_later(denied: Denied) -> bool {
        denied == Denied::Fault(Fault::Later)
    }
}

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Tells the peer that the packet with this PSN is refused, and fails the QP.
    pub(super) fn refuse<P: local::Responder<Region = R>>(
        &mut self,
        psn: Psn,
        refusal: Refusal,
        peer: &P,
    ) -> Request {
        let (nak, event) = match refusal {
            Refusal::InvalidRequest | Refusal::NotReady => {
                (Nak::InvalidRequest, Some(EventType::QpReqErr))
            }
            // Table 61, length errors; the receive's completion tells the responder.
            Refusal::TooLong => (Nak::InvalidRequest, None),
            Refusal::Access => (Nak::RemoteAccessError, Some(EventType::QpAccessErr)),
            // IBTA 11.6.3: events are for what no completion tells.
            Refusal::Completed(nak) => (nak, None),
        };
        self.answer = Some((psn, Syndrome::Nak(nak)));
        self.fail(event, peer);
        Request::Refused(Some(nak))
    }

    /// Takes no more requests, and fails the QP.
    pub(super) fn fail<P: local::Responder<Region = R>>(
        &mut self,
        event: Option<EventType>,
        peer: &P,
    ) {
        self.failed = true;
        self.flush(peer);
        peer.fail(event);
    }
}
