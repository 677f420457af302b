// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making response packets (IBTA 9.7.5). They are sent in the order of their PSNs.

use core::ops::DerefMut;

use super::resource::Answer;
use super::{Resource, Responder};
use crate::local::{self, Fault, Region};
use crate::requester::Transmit;
use crate::ring::Remote;
use crate::rules::{self, Refusal};
use crate::verbs::AccessFlags;
use crate::wire::{
    emit_with, Aeth, Bth, EmitError, Headers, Kind, Opcode, Packet, Part, Psn, Reth, Syndrome,
};

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Fills `buffer` with the next response packet, from the BTH to the padding.
    pub fn poll_transmit<Q: local::Responder<Region = R>>(
        &mut self,
        qp: &Q,
        buffer: &mut [u8],
    ) -> Transmit {
        let transmit = self.try_transmit(qp, buffer);
        if !matches!(transmit, Transmit::Packet(_) | Transmit::NeedsRoom(_)) {
            self.end_batch();
        }
        transmit
    }

    /// Whether there is nothing to be sent.
    pub fn has_sent_all(&self) -> bool {
        self.answer.is_none() && self.resources.count() == 0
    }

    /// How many packets there are in a row, from the next one on, that are as long as that, but for the
    /// last, which may be shorter; `None` if there is nothing to be sent. It is a guess.
    pub fn batch_len(&mut self) -> Option<u32> {
        let Some(resource) = self.resources.pending() else {
            return self.answer.map(|_| 1);
        };
        let left = resource.stop.saturating_sub(resource.next);
        match left {
            0 | 1 => Some(self.resources.count()),
            // The first one has an AETH as well.
            _ if resource.next == resource.start => Some(2),
            _ => Some(left),
        }
    }

    fn try_transmit<Q: local::Responder<Region = R>>(
        &mut self,
        qp: &Q,
        buffer: &mut [u8],
    ) -> Transmit {
        if let Some(resource) = self.resources.pending() {
            match self.emit_pending(&resource, qp, buffer) {
                Ok(Ok(length)) => {
                    self.read_repeated = false;
                    if self.resources.sent() {
                        self.reading = None;
                    }
                    return Transmit::Packet(length);
                }
                Ok(Err(Refusal::MemoryLater)) => return self.wait(&resource, qp, buffer),
                Ok(Err(refusal)) => {
                    // What the key allowed when the request came, it does not any more.
                    self.resources.clear();
                    self.refuse(resource.first + resource.next, refusal, qp);
                }
                Err(EmitError(length)) => return Transmit::NeedsRoom(length),
            }
        }
        let Some((psn, syndrome)) = self.answer else {
            return Transmit::Nothing;
        };
        let psn = match syndrome {
            Syndrome::Ack(_) => self.acknowledged - 1,
            _ => psn,
        };
        let aeth = Aeth {
            syndrome,
            msn: self.msn,
        };
        match self.emit(psn, Kind::Acknowledge, Headers::Aeth(aeth), buffer) {
            Ok(length) => {
                self.answer = None;
                Transmit::Packet(length)
            }
            Err(EmitError(length)) => Transmit::NeedsRoom(length),
        }
    }

    /// Has a READ wait for memory on demand. If its peer has asked again, that waits in vain, and does not
    /// do so for ever: it is told that this is not ready yet, upon which it counts its retries from zero. (Not in
    /// the middle of a READ, where rdma_rxe takes nothing but data.)
    fn wait<Q: local::Responder<Region = R>>(
        &mut self,
        resource: &Resource,
        qp: &Q,
        buffer: &mut [u8],
    ) -> Transmit {
        if !self.read_repeated || resource.next > 0 {
            return Transmit::Later;
        }
        let aeth = Aeth {
            syndrome: Syndrome::RnrNak(qp.min_rnr_timer()),
            msn: self.msn,
        };
        match self.emit(
            resource.first,
            Kind::Acknowledge,
            Headers::Aeth(aeth),
            buffer,
        ) {
            Ok(length) => {
                self.read_repeated = false;
                Transmit::Packet(length)
            }
            Err(EmitError(length)) => Transmit::NeedsRoom(length),
        }
    }

    /// Makes the next response of a request that has some to be sent.
    fn emit_pending<Q: local::Responder<Region = R>>(
        &mut self,
        resource: &Resource,
        qp: &Q,
        buffer: &mut [u8],
    ) -> Result<Result<usize, Refusal>, EmitError> {
        let (kind, headers) = match resource.answer {
            Answer::Read(reth) => return self.emit_read(resource, reth, qp, buffer),
            Answer::Done => (Kind::ReadResponseOnly, Headers::Aeth(self.positive())),
            Answer::Atomic { before, .. } => {
                let headers = Headers::AtomicAck(self.positive(), before);
                (Kind::AtomicAcknowledge, headers)
            }
        };
        self.emit(resource.first, kind, headers, buffer).map(Ok)
    }

    fn positive(&self) -> Aeth {
        Aeth {
            syndrome: Syndrome::UNLIMITED,
            msn: self.msn,
        }
    }

    /// Makes a packet without payload.
    fn emit(
        &self,
        psn: Psn,
        kind: Kind,
        headers: Headers,
        buffer: &mut [u8],
    ) -> Result<usize, EmitError> {
        let bth = Bth::new(Opcode::rc(kind), self.dest_qp, psn);
        Packet {
            bth,
            headers,
            payload: &[],
        }
        .emit(buffer)
    }

    fn emit_read<Q: local::Responder<Region = R>>(
        &mut self,
        resource: &Resource,
        reth: Reth,
        qp: &Q,
        buffer: &mut [u8],
    ) -> Result<Result<usize, Refusal>, EmitError> {
        let index = resource.next;
        let at = index * self.mtu;
        let length = (reth.dma_len - at).min(self.mtu);
        let begins = index == resource.start;
        let (kind, headers) = match Part::new(begins, index + 1 == resource.stop) {
            Part::First => (Kind::ReadResponseFirst, Headers::Aeth(self.positive())),
            Part::Middle => (Kind::ReadResponseMiddle, Headers::None),
            Part::Last => (Kind::ReadResponseLast, Headers::Aeth(self.positive())),
            Part::Only => (Kind::ReadResponseOnly, Headers::Aeth(self.positive())),
        };
        if self.reading.is_none() {
            let rest = Remote {
                addr: reth.remote.addr.wrapping_add(at.into()),
                ..reth.remote
            };
            let left = reth.dma_len - at;
            match rules::range(qp, rest, left, AccessFlags::REMOTE_READ) {
                Ok(region) => self.reading = region.map(|region| (at, region)),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        let bth = Bth::new(Opcode::rc(kind), self.dest_qp, resource.first + index);
        let emitted = emit_with(
            &bth,
            &headers,
            length as usize,
            buffer,
            |payload| match &self.reading {
                Some((start, region)) if length > 0 => region.read(at - start, payload),
                _ => Ok(()),
            },
        )?;
        Ok(emitted
            .map(|(length, ())| length)
            .map_err(|fault: Fault| fault.into()))
    }
}
