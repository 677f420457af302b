// SPDX-License-Identifier: MIT OR Apache-2.0
//! The responder of an unreliable connection (IBTA 9.8.2): what cannot be carried out is dropped, with the
//! rest of its message, and the peer is not told.

use core::ops::DerefMut;

use super::{Request, Resource, Responder};
use crate::local::{self, Region};
use crate::wire::Packet;

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    pub(super) fn on_unreliable<Q: local::Responder<Region = R>>(
        &mut self,
        packet: &Packet<'_>,
        qp: &Q,
    ) -> Request {
        qp.established();
        let psn = packet.bth.psn;
        let is_expected = psn == self.epsn;
        // Whatever comes, the next one is expected after it (IBTA 9.8.2.2.1).
        self.epsn = psn + 1;
        let part = packet.bth.opcode.kind().part();
        if part.begins() {
            // The rest of the message before is lost; its receive is there for this one.
            self.give_up();
        } else if !is_expected {
            self.give_up();
            return Request::OutOfSequence;
        } else if self.message.is_none() {
            return Request::Dropped;
        }
        match self.execute(packet, qp) {
            Ok(_) => Request::Taken,
            Err(refusal) if refusal.fails_unreliable() => {
                self.fail(None, qp);
                Request::Refused(None)
            }
            Err(refusal) => {
                self.give_up();
                match refusal.answer() {
                    None => Request::NotReady,
                    Some(_) => Request::Dropped,
                }
            }
        }
    }

    /// Drops what has come of a message. Its receive stays for the next one.
    fn give_up(&mut self) {
        self.message = None;
        self.writing = None;
        self.scatter.forget();
    }
}
