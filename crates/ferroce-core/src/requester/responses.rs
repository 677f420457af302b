// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the peer answers (IBTA 9.7.5, 9.7.6).

use core::ops::DerefMut;

use super::transmit::read_end;
use super::{Host, Requester, Slot};
use crate::local::{Denied, Fault, Region};
use crate::ring::{Data, SendRequest};
use crate::verbs::limits::ATOMIC_LENGTH;
use crate::verbs::{SendOpcode, WcStatus};
use crate::wire::{Aeth, Headers, Kind, Nak, Packet, Psn, Service, Syndrome};

/// What came of a response packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// It told something new.
    Taken,
    /// It is of no use: a duplicate, or not to any request (a ghost; IBTA 9.7.1).
    Ignored,
    /// The peer misses packets, which are sent again.
    SequenceError,
    /// The peer has no receive: some packets are sent again, later.
    NotReady,
    /// Responses were lost, which are asked for again.
    ImpliedNak,
    /// It ended a request with an error.
    Failed(WcStatus),
}

/// How long a READ waits for memory on demand, in nanoseconds, before its data is asked for again, if
/// [`Requester::memory_ready`] does not come first.
const LATER: u64 = 1_000_000;

impl<S: DerefMut<Target = [Slot]>, R: Region> Requester<S, R> {
    /// Takes a response packet of the peer's.
    pub fn on_packet<H: Host<Region = R>>(
        &mut self,
        now: u64,
        packet: &Packet<'_>,
        host: &H,
    ) -> Response {
        let psn = packet.bth.psn;
        let is_expected = !psn.is_before(self.una) && psn.is_before(self.end);
        let service = packet.bth.opcode.service();
        if self.failed || service != Service::Rc || !is_expected {
            return Response::Ignored;
        }
        match (packet.bth.opcode.kind(), packet.headers) {
            (Kind::Acknowledge, Headers::Aeth(aeth)) => self.on_acknowledge(now, psn, aeth, host),
            (Kind::AtomicAcknowledge, Headers::AtomicAck(_, before)) => {
                // In the byte order of the host, as rdma_rxe and hardware on it return it.
                self.on_data(now, packet, &before.to_ne_bytes(), host)
            }
            (
                Kind::ReadResponseFirst
                | Kind::ReadResponseMiddle
                | Kind::ReadResponseLast
                | Kind::ReadResponseOnly,
                _,
            ) => self.on_data(now, packet, packet.payload, host),
            _ => Response::Ignored,
        }
    }

    fn on_acknowledge<H: Host<Region = R>>(
        &mut self,
        now: u64,
        psn: Psn,
        aeth: Aeth,
        host: &H,
    ) -> Response {
        let syndrome = aeth.syndrome;
        let before = match syndrome {
            Syndrome::Ack(_) => {
                self.take_credits(aeth);
                psn + 1
            }
            // A NAK acknowledges what comes before it (IBTA 9.7.5.2).
            Syndrome::RnrNak(_) | Syndrome::Nak(_) => psn,
            Syndrome::Reserved(_) => return Response::Ignored,
        };
        if !self.acknowledge(now, before, host) {
            return self.again(Response::ImpliedNak, host);
        }
        if self.failed {
            return Response::Taken;
        }
        let status = match syndrome {
            Syndrome::Ack(_) | Syndrome::Reserved(_) => return Response::Taken,
            Syndrome::RnrNak(timer) => return self.not_ready(now, timer, host),
            Syndrome::Nak(Nak::PsnSequenceError) => {
                return self.again(Response::SequenceError, host)
            }
            Syndrome::Nak(nak) => nak.status(),
        };
        self.fail(status, host);
        Response::Failed(status)
    }

    /// Takes everything before a PSN as acknowledged. Returns false if that is not possible since the
    /// response to a READ or atomic has not come.
    fn acknowledge<H: Host<Region = R>>(&mut self, now: u64, before: Psn, host: &H) -> bool {
        let from = self.una;
        let mut position = self.head;
        let mut is_possible = true;
        while self.una.is_before(before) && position != self.begun {
            let slot = self.slot(position);
            if self.una.is_before(slot.end()) {
                if slot.opcode.is_rd_atomic() {
                    is_possible = false;
                    break;
                }
                self.una = if before.is_before(slot.end()) {
                    before
                } else {
                    slot.end()
                };
            }
            position = position.wrapping_add(1);
        }
        if self.una != from {
            self.progress(now);
            self.retire(host);
        }
        is_possible
    }

    /// Data of a READ, or the result of an atomic.
    fn on_data<H: Host<Region = R>>(
        &mut self,
        now: u64,
        packet: &Packet<'_>,
        data: &[u8],
        host: &H,
    ) -> Response {
        let psn = packet.bth.psn;
        // It acknowledges what comes before it (IBTA 9.7.5.1.1).
        if !self.acknowledge(now, psn, host) {
            return self.again(Response::ImpliedNak, host);
        }
        if self.failed {
            return Response::Taken;
        }
        // All before are done: it is the oldest one's, if it is to anything.
        let slot = self.slot(self.head);
        let index = psn.since(slot.first) as u32;
        let Some(expected) = expected(&slot, index, self.config.mtu) else {
            return self.bad_response(host);
        };
        let positive = match packet.headers {
            Headers::Aeth(aeth) | Headers::AtomicAck(aeth, _) => {
                self.take_credits(aeth);
                matches!(aeth.syndrome, Syndrome::Ack(_))
            }
            _ => true,
        };
        let kind = packet.bth.opcode.kind();
        let is_atomic = kind == Kind::AtomicAcknowledge;
        if !positive
            || is_atomic != expected.is_atomic
            || kind.part().ends() != expected.ends
            || data.len() != expected.length as usize
        {
            return self.bad_response(host);
        }
        let entry = self.entry(self.head, host);
        let decoded = SendRequest::decode(entry, self.config.qp_type, self.config.origin);
        let Ok((_, Data::Sges(sges))) = decoded else {
            // What is answered with no data at all may have been inline.
            return self.took_data(now, expected.ends, host);
        };
        let scatter = self.scatter.of(self.head);
        match scatter.write(host, sges, expected.at, data) {
            Ok(()) => self.took_data(now, expected.ends, host),
            Err(Denied::Fault(Fault::Later)) => {
                // As if it had been lost, but that the peer is there, and answers.
                self.retries = 0;
                self.ack_deadline = None;
                self.resume_at = Some(now.saturating_add(LATER));
                self.faulted = true;
                Response::Ignored
            }
            Err(_) => {
                self.fail(WcStatus::LocProtErr, host);
                Response::Failed(WcStatus::LocProtErr)
            }
        }
    }

    /// Notes how many messages the peer has receives for.
    fn take_credits(&mut self, aeth: Aeth) {
        let credits = aeth.syndrome.credits();
        self.lsn = credits.map(|credits| aeth.msn.wrapping_add(credits));
    }

    fn took_data<H: Host<Region = R>>(&mut self, now: u64, ends: bool, host: &H) -> Response {
        self.una = self.una + 1;
        if ends {
            self.rd_atomic = self.rd_atomic.saturating_sub(1);
        }
        self.progress(now);
        self.retire(host);
        Response::Taken
    }

    /// A response that makes no sense (IBTA 9.9.2.3, table 59).
    fn bad_response<H: Host<Region = R>>(&mut self, host: &H) -> Response {
        self.fail(WcStatus::BadRespErr, host);
        Response::Failed(WcStatus::BadRespErr)
    }
}

/// What the response with some index has to be.
struct Expected {
    at: u32,
    length: u32,
    /// It is the last one to a request.
    ends: bool,
    is_atomic: bool,
}

fn expected(slot: &Slot, index: u32, mtu: u32) -> Option<Expected> {
    match slot.opcode {
        SendOpcode::RdmaRead => {
            let at = index.checked_mul(mtu)?;
            Some(Expected {
                at,
                length: slot.length.checked_sub(at)?.min(mtu),
                ends: index + 1 == read_end(index, slot.packets),
                is_atomic: false,
            })
        }
        SendOpcode::CompareSwap | SendOpcode::FetchAdd => Some(Expected {
            at: 0,
            length: ATOMIC_LENGTH,
            ends: true,
            is_atomic: true,
        }),
        // Annex A19: an RDMA READ response of no bytes.
        SendOpcode::Flush | SendOpcode::AtomicWrite => Some(Expected {
            at: 0,
            length: 0,
            ends: true,
            is_atomic: false,
        }),
        _ => None,
    }
}
