// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carrying out requests that are expected (IBTA 9.7.4.1: the checks in their order).

use core::ops::DerefMut;

use super::resource::{Answer, Exhausted};
use super::{Progress, Resource, Responder};
use crate::local::{self, AtomicChange, Extra, Fault, Region};
use crate::ring::Remote;
use crate::rules::{self, ReceiveError, Refusal};
use crate::verbs::limits::ATOMIC_LENGTH;
use crate::verbs::{AccessFlags, ImmData, WcOpcode, WcStatus};
use crate::wire::{AtomicEth, Feth, Headers, Kind, Packet, Part, Reth};

impl From<Exhausted> for Refusal {
    /// The peer has more under way than it was told it may (IBTA 9.7.4.1.5).
    fn from(Exhausted: Exhausted) -> Self {
        Self::InvalidRequest
    }
}

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Carries out the request packet that is expected. Returns how many PSNs it takes.
    pub(super) fn execute<Q: local::Responder<Region = R>>(
        &mut self,
        packet: &Packet<'_>,
        qp: &Q,
    ) -> Result<u32, Refusal> {
        let kind = packet.bth.opcode.kind();
        let part = kind.part();
        match (kind, packet.headers) {
            (
                Kind::SendFirst
                | Kind::SendMiddle
                | Kind::SendLast
                | Kind::SendLastImm
                | Kind::SendLastInvalidate
                | Kind::SendOnly
                | Kind::SendOnlyImm
                | Kind::SendOnlyInvalidate,
                headers,
            ) => {
                let extra = match headers {
                    Headers::Imm(imm) => Extra::Immediate(imm),
                    Headers::Ieth(rkey) => Extra::Invalidated(rkey),
                    _ => Extra::None,
                };
                let at = match (part.begins(), self.message) {
                    (true, None) => 0,
                    (false, Some(Progress::Send(at))) => at,
                    _ => return Err(Refusal::InvalidRequest),
                };
                self.check_payload(part, packet.payload)?;
                let solicited = packet.bth.solicited;
                self.send(at, part, extra, solicited, packet.payload, qp)?;
                Ok(1)
            }
            (
                Kind::WriteFirst
                | Kind::WriteMiddle
                | Kind::WriteLast
                | Kind::WriteLastImm
                | Kind::WriteOnly
                | Kind::WriteOnlyImm,
                headers,
            ) => {
                let (reth, imm) = match headers {
                    Headers::Reth(reth) => (Some(reth), None),
                    Headers::RethImm(reth, imm) => (Some(reth), Some(imm)),
                    Headers::Imm(imm) => (None, Some(imm)),
                    _ => (None, None),
                };
                let (reth, at) = match (reth, self.message) {
                    (Some(reth), None) => (reth, 0),
                    (None, Some(Progress::Write(reth, at))) => (reth, at),
                    _ => return Err(Refusal::InvalidRequest),
                };
                self.check_payload(part, packet.payload)?;
                let solicited = packet.bth.solicited;
                self.write(reth, at, part, imm, solicited, packet.payload, qp)?;
                Ok(1)
            }
            _ if self.message.is_some() => Err(Refusal::InvalidRequest),
            (Kind::ReadRequest, Headers::Reth(reth)) => self.read(reth, qp),
            (Kind::CompareSwap, Headers::Atomic(atomic)) => {
                let change = AtomicChange::CompareSwap {
                    compare: atomic.compare,
                    swap: atomic.swap_add,
                };
                self.atomic(atomic, change, qp)
            }
            (Kind::FetchAdd, Headers::Atomic(atomic)) => {
                self.atomic(atomic, AtomicChange::Add(atomic.swap_add), qp)
            }
            (Kind::AtomicWrite, Headers::Reth(reth)) => self.atomic_write(reth, packet.payload, qp),
            (Kind::Flush, Headers::Flush(feth, reth)) => self.flush_memory(feth, reth, qp),
            _ => Err(Refusal::InvalidRequest),
        }
    }

    /// Checks how long a packet's payload is (IBTA 9.7.4.1.7).
    pub(super) fn check_payload(&self, part: Part, payload: &[u8]) -> Result<(), Refusal> {
        let mtu = self.mtu as usize;
        let fits = match part {
            Part::First | Part::Middle => payload.len() == mtu,
            Part::Last => !payload.is_empty() && payload.len() <= mtu,
            Part::Only => payload.len() <= mtu,
        };
        fits.then_some(()).ok_or(Refusal::InvalidRequest)
    }

    /// Takes a packet of an RDMA WRITE: `at` bytes of the message have come before.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn write<Q: local::Responder<Region = R>>(
        &mut self,
        reth: Reth,
        at: u32,
        part: Part,
        imm: Option<ImmData>,
        solicited: bool,
        payload: &[u8],
        qp: &Q,
    ) -> Result<(), Refusal> {
        if part.begins() {
            rules::check_write(qp, reth.dma_len)?;
            self.writing = None;
        }
        let left = reth
            .dma_len
            .checked_sub(at)
            .ok_or(Refusal::InvalidRequest)?;
        let length = payload.len() as u32;
        let fits = if part.ends() {
            length == left
        } else {
            length < left
        };
        if !fits {
            return Err(Refusal::InvalidRequest);
        }
        if self.writing.is_none() {
            // The whole range when it begins; later, in another batch, what is left of it.
            let rest = Remote {
                addr: reth.remote.addr.wrapping_add(at.into()),
                ..reth.remote
            };
            let region = rules::range(qp, rest, left, AccessFlags::REMOTE_WRITE)?;
            self.writing = region.map(|region| (at, region));
        }
        if imm.is_some() {
            self.take_receive(0, qp)?;
        }
        let written = match &self.writing {
            Some((start, region)) if length > 0 => region.write(at - start, payload),
            _ => Ok(()),
        };
        if !part.ends() {
            written?;
            self.message = Some(Progress::Write(reth, at + length));
            return Ok(());
        }
        let Some(imm) = imm else {
            written?;
            self.end_write();
            return Ok(());
        };
        let opcode = WcOpcode::RecvRdmaWithImm;
        let extra = Extra::Immediate(imm);
        match written {
            Ok(()) => {
                self.end_write();
                let status = WcStatus::Success;
                self.complete(opcode, status, reth.dma_len, extra, solicited, qp);
                Ok(())
            }
            Err(Fault::Later) => Err(Refusal::MemoryLater),
            Err(Fault::Gone) => {
                let error = ReceiveError::Immediate;
                Err(self.fail_receive(error, opcode, reth.dma_len, extra, qp))
            }
        }
    }

    fn end_write(&mut self) {
        self.message = None;
        self.writing = None;
        self.count_message();
    }

    /// Remembers a request that is answered by more than an acknowledgement.
    fn remember(&mut self, packets: u32, answer: Answer) -> Result<u32, Refusal> {
        self.resources.push(Resource {
            first: self.epsn,
            packets,
            answer,
            ..Resource::default()
        })?;
        // The region that is kept may be of a READ whose repetition this has ended.
        self.reading = None;
        // Its response acknowledges what came before it.
        self.answer = None;
        self.count_message();
        Ok(packets)
    }

    fn read<Q: local::Responder<Region = R>>(
        &mut self,
        reth: Reth,
        qp: &Q,
    ) -> Result<u32, Refusal> {
        rules::read(qp, reth.remote, reth.dma_len)?;
        let packets = reth.dma_len.div_ceil(self.mtu.max(1)).max(1);
        self.remember(packets, Answer::Read(reth))
    }

    /// Eight aligned bytes of memory.
    fn word<Q: local::Responder<Region = R>>(
        &self,
        remote: Remote,
        access: AccessFlags,
        qp: &Q,
    ) -> Result<R, Refusal> {
        // What cannot be answered must not be done.
        if !self.resources.has_room() {
            return Err(Refusal::InvalidRequest);
        }
        rules::word(qp, remote, access)
    }

    fn atomic<Q: local::Responder<Region = R>>(
        &mut self,
        atomic: AtomicEth,
        change: AtomicChange,
        qp: &Q,
    ) -> Result<u32, Refusal> {
        let word = self.word(atomic.remote, AccessFlags::REMOTE_ATOMIC, qp)?;
        let before = word.update(change)?;
        let remote = atomic.remote;
        self.remember(
            1,
            Answer::Atomic {
                remote,
                change,
                before,
            },
        )
    }

    fn atomic_write<Q: local::Responder<Region = R>>(
        &mut self,
        reth: Reth,
        payload: &[u8],
        qp: &Q,
    ) -> Result<u32, Refusal> {
        let bytes = <[u8; ATOMIC_LENGTH as usize]>::try_from(payload);
        let bytes = bytes.map_err(|_| Refusal::InvalidRequest)?;
        if reth.dma_len != ATOMIC_LENGTH {
            return Err(Refusal::InvalidRequest);
        }
        let word = self.word(reth.remote, AccessFlags::REMOTE_WRITE, qp)?;
        word.update(AtomicChange::Store(bytes))?;
        self.remember(1, Answer::Done)
    }

    fn flush_memory<Q: local::Responder<Region = R>>(
        &mut self,
        feth: Feth,
        reth: Reth,
        qp: &Q,
    ) -> Result<u32, Refusal> {
        let (placement, selectivity) = (feth.placement, feth.selectivity());
        rules::flush(qp, placement, selectivity, reth.remote, reth.dma_len)?;
        self.remember(1, Answer::Done)
    }
}
