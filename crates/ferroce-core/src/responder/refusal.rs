// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that are not carried out (IBTA 9.7.4.1, 9.7.5.2, 9.9.3).

use core::ops::DerefMut;

use super::{Request, Resource, Responder};
use crate::local::{self, Region};
use crate::rules::Refusal;
use crate::verbs::EventType;
use crate::wire::{Psn, Syndrome};

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Tells the peer that the packet with this PSN is refused, and fails the QP; or, if the peer is to try
    /// again, that the QP is not ready.
    pub(super) fn refuse<Q: local::Responder<Region = R>>(
        &mut self,
        psn: Psn,
        refusal: Refusal,
        qp: &Q,
    ) -> Request {
        let Some((nak, event)) = refusal.answer() else {
            self.nak_sent = true;
            self.answer = Some((psn, Syndrome::RnrNak(qp.min_rnr_timer())));
            return Request::NotReady;
        };
        self.answer = Some((psn, Syndrome::Nak(nak)));
        self.fail(event, qp);
        Request::Refused(Some(nak))
    }

    /// Takes no more requests, and fails the QP.
    pub(super) fn fail<Q: local::Responder<Region = R>>(
        &mut self,
        event: Option<EventType>,
        qp: &Q,
    ) {
        self.failed = true;
        self.flush(qp);
        qp.fail(event);
    }
}
