// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of several packets, and the receives they go to.

use core::ops::DerefMut;

use super::{Resource, Responder};
use crate::local::{self, Denied, Extra, Fault, Receive, Received, Region, Taken};
use crate::ring::{SgeList, SGE_LEN};
use crate::rules::{self, ReceiveError, Refusal};
use crate::verbs::limits::{MAX_MESSAGE_LENGTH, MAX_RECV_SGE};
use crate::verbs::{QpType, WcOpcode, WcStatus};
use crate::wire::{Part, Reth};

/// How far a message has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A SEND, of which there are so many bytes.
    Send(u32),
    /// An RDMA WRITE to a range, of which there are so many bytes.
    Write(Reth, u32),
}

/// The receive that was taken for a message, if one was. It is filled in where it stays: it is too much
/// for the stack of a bottom half.
pub(super) struct HeldReceive {
    is_held: bool,
    wr_id: u64,
    entries: [[u8; SGE_LEN]; MAX_RECV_SGE as usize],
    count: usize,
}

impl HeldReceive {
    /// No receive.
    pub(super) const fn none() -> Self {
        Self {
            is_held: false,
            wr_id: 0,
            entries: [[0; SGE_LEN]; MAX_RECV_SGE as usize],
            count: 0,
        }
    }

    fn hold(&mut self, receive: &Receive<'_>) {
        let places = self.entries.iter_mut().zip(receive.scatter.iter());
        self.count = places.map(|(place, sge)| *place = sge.to_bytes()).count();
        self.wr_id = receive.wr_id;
        self.is_held = true;
    }

    /// Gives the receive up. Returns its number.
    fn take(&mut self) -> Option<u64> {
        core::mem::take(&mut self.is_held).then_some(self.wr_id)
    }

    fn scatter(&self) -> SgeList<'_> {
        SgeList::of(self.entries.get(..self.count).unwrap_or(&[]))
    }
}

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Has a receive for the message, if none was taken for it before, with room for so many bytes.
    pub(super) fn take_receive<Q: local::Responder<Region = R>>(
        &mut self,
        room: u64,
        qp: &Q,
    ) -> Result<(), Refusal> {
        if self.receive.is_held {
            return Ok(());
        }
        let hold = |receive: &Receive<'_>| {
            self.receive.hold(receive);
            Some(())
        };
        match qp.take_receive(|receive| room == 0 || receive.capacity() >= room, hold) {
            Taken::Done(()) => {
                self.scatter.forget();
                Ok(())
            }
            Taken::Empty | Taken::Refused => Err(Refusal::NoReceive),
        }
    }

    /// Takes a packet of a SEND: `at` bytes of the message have come before.
    pub(super) fn send<Q: local::Responder<Region = R>>(
        &mut self,
        at: u32,
        part: Part,
        extra: Extra,
        solicited: bool,
        payload: &[u8],
        qp: &Q,
    ) -> Result<(), Refusal> {
        // One that is too short for an unreliable message is left where it is, if the length is known (see
        // `Refusal::fails_unreliable`).
        let room = match self.qp_type {
            QpType::Rc => 0,
            _ if part.begins() && part.ends() => payload.len() as u64,
            _ => 0,
        };
        self.take_receive(room, qp)?;
        let scatter = self.receive.scatter();
        // No message is longer, however much its receive takes (IBTA 9.7.4.1.7).
        let room = scatter.length().min(MAX_MESSAGE_LENGTH.into());
        let length = u32::try_from(payload.len()).ok();
        let length = length.and_then(|length| at.checked_add(length));
        let Some(length) = length.filter(|length| u64::from(*length) <= room) else {
            let error = ReceiveError::TooLong;
            if self.qp_type != QpType::Rc {
                // The receive stays: see `Refusal::fails_unreliable`.
                return Err(Refusal::Receive(error));
            }
            return Err(self.fail_receive(error, WcOpcode::Recv, at, extra, qp));
        };
        match self.scatter.write(qp, scatter, at, payload) {
            Ok(()) => {}
            Err(Denied::Fault(Fault::Later)) => return Err(Refusal::MemoryLater),
            Err(Denied::Access | Denied::Fault(Fault::Gone)) => {
                return Err(self.fail_receive(
                    ReceiveError::Memory,
                    WcOpcode::Recv,
                    length,
                    extra,
                    qp,
                ));
            }
        }
        if !part.ends() {
            self.message = Some(Progress::Send(length));
            return Ok(());
        }
        self.message = None;
        if let Err(error) = rules::invalidate(qp, extra) {
            return Err(self.fail_receive(error, WcOpcode::Recv, length, extra, qp));
        }
        self.complete(
            WcOpcode::Recv,
            WcStatus::Success,
            length,
            extra,
            solicited,
            qp,
        );
        self.count_message();
        Ok(())
    }

    /// Completes the receive of the message as failed.
    pub(super) fn fail_receive<Q: local::Responder<Region = R>>(
        &mut self,
        error: ReceiveError,
        opcode: WcOpcode,
        byte_len: u32,
        extra: Extra,
        qp: &Q,
    ) -> Refusal {
        self.complete(opcode, error.status(), byte_len, extra, false, qp);
        Refusal::Receive(error)
    }

    /// Completes the receive of the message.
    pub(super) fn complete<Q: local::Responder<Region = R>>(
        &mut self,
        opcode: WcOpcode,
        status: WcStatus,
        byte_len: u32,
        extra: Extra,
        solicited: bool,
        qp: &Q,
    ) {
        if let Some(wr_id) = self.receive.take() {
            qp.complete(&Received {
                wr_id,
                status,
                opcode,
                byte_len,
                extra,
                solicited,
                source: None,
            });
        }
        // Only now: it is the completion that others wait for.
        self.scatter.forget();
    }

    /// Completes the receive of a message that has begun to arrive with
    /// [`WrFlushErr`](WcStatus::WrFlushErr), if there is one: on the way to ERR or RESET, before the other
    /// receives are flushed.
    pub fn flush<Q: local::Responder<Region = R>>(&mut self, qp: &Q) {
        self.message = None;
        self.complete(
            WcOpcode::Recv,
            WcStatus::WrFlushErr,
            0,
            Extra::None,
            false,
            qp,
        );
    }
}
