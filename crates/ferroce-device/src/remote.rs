// SPDX-License-Identifier: MIT OR Apache-2.0
//! A connection to a queue pair of another host: the send queue, and what is counted of both directions.
//!
//! [`RemoteSend`] is to such a connection what [`Execution`](crate::send::Execution) is to one on this
//! host. The receiving direction is a [`Responder`](crate::responder::Responder), to which nothing is to be
//! added here.

use core::cell::Cell;
use core::ops::DerefMut;

use crate::counter::PortCounter;
use crate::effects::{Effect, Effects};
use crate::local::{AccessError, LocalMemory, Region};
use crate::qp::state::{self, Processing};
use crate::qp::QpAttr;
use crate::queue::WorkQueue;
use crate::requester::{self, Completed, Requester, Response, Slot, TimedOut, Transmit};
use crate::responder::Request;
use crate::ring::{
    Cqe, Idle, Operation, Origin, RingError, SendQueue, SendRequest, Sge, WqGeometry,
};
use crate::transmit::{self, Flow, Source, Stopped};
use crate::verbs::limits::ATOMIC_LENGTH;
use crate::verbs::{QpState, QpType, SendFlags, SendOpcode, WcStatus};
use crate::wire::{Headers, Kind, Packet};

/// What a [`RemoteSend`] uses of its queue pair. It is called with the lock on that held: completions are
/// written in the order of the requests.
pub trait Owner: LocalMemory {
    /// Hands the slot of the oldest request back to the poster.
    fn hand_back(&self);

    /// Writes a completion of the send queue.
    fn complete(&self, cqe: &Cqe);

    /// A request has failed: [`Attrs::fail_send`](crate::attrs::Attrs::fail_send), whose result this
    /// returns.
    fn fail(&self) -> Effects;

    /// Counts at the port.
    fn count(&self, what: PortCounter, number: u64);
}

/// What a queue pair is, beyond its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Its number.
    pub number: u32,
    /// Its transport.
    pub qp_type: QpType,
    /// Who posts to it.
    pub origin: Origin,
    /// Each request that succeeds has a completion (`sq_sig_all`).
    pub signal_all: bool,
}

/// The send queue of a queue pair whose peer is on another host: a requester, and copies of the requests.
///
/// `S` is a [`Slot`] and `E` the bytes of an entry for each entry of the send queue.
pub struct RemoteSend<S, E, R> {
    identity: Identity,
    requester: Requester<S, R>,
    /// By slot.
    entries: E,
    /// Bytes of each.
    stride: usize,
    /// How many there are: a power of two.
    slots: u32,
    /// The slot of the next request.
    next: u32,
    effects: Effects,
}

/// What the state of a queue pair calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing is to be sent.
    Hold,
    /// What there is is to be sent.
    Send,
    /// Requests were flushed, and there may be more.
    Flushed,
}

/// What a visit to a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// All is sent that can be.
    Idle,
    /// There is more to send, or to flush: another visit goes on.
    More,
    /// As [`Idle`](Self::Idle), for a little while: then another visit goes on.
    Busy,
    /// It is the turn of a request of this host's alone, in this slot. The host executes it and says so by
    /// [`RemoteSend::executed`].
    Local(u32, Operation),
    /// Memory on demand is missing. When it is there, [`RemoteSend::memory_ready`] says so.
    Later,
}

impl Next {
    /// What a responder's visit has come to.
    pub const fn of_responder(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Idle | Stopped::Local(_) => Self::Idle,
            Stopped::More => Self::More,
            Stopped::Busy => Self::Busy,
            Stopped::Later => Self::Later,
        }
    }
}

impl<S, E, R> RemoteSend<S, E, R>
where
    S: DerefMut<Target = [Slot]>,
    E: DerefMut<Target = [u8]>,
    R: Region,
{
    /// Of a send queue of that size. `current` is the entry that was fetched from it already, if one was;
    /// `slots` and `entries` are zero.
    pub fn new(
        identity: Identity,
        attr: &QpAttr,
        size: WqGeometry<SendQueue>,
        current: Option<&[u8]>,
        slots: S,
        mut entries: E,
    ) -> Self {
        let mut requester = Requester::new(identity.qp_type, identity.origin, attr, slots);
        let mut next = 0;
        if let Some(current) = current {
            for (place, byte) in entries.iter_mut().zip(current) {
                *place = *byte;
            }
            requester.posted();
            next = 1 & (size.entries() - 1);
        }
        Self {
            identity,
            requester,
            entries,
            stride: size.stride(),
            slots: size.entries(),
            next,
            effects: Effects::NONE,
        }
    }

    /// How many bytes of entries there are in a send queue of that size.
    pub fn entries_len(size: WqGeometry<SendQueue>) -> usize {
        size.entries() as usize * size.stride()
    }

    /// Takes over attributes that can change while requests are under way.
    pub fn configure(&mut self, attr: &QpAttr) {
        self.requester.configure(attr);
    }

    /// Copies what is posted to its slots, no more than `most` requests. `returned` is how many slots have
    /// been handed back so far. Returns how many requests there were.
    pub fn fetch<B: DerefMut<Target = [u8]>>(
        &mut self,
        queue: &mut WorkQueue<SendQueue, B>,
        returned: u32,
        most: u32,
    ) -> Result<u32, RingError> {
        queue.ring.returned(returned);
        let posted = queue.ring.available()?.min(most);
        for _ in 0..posted {
            let at = self.next as usize * self.stride;
            let place = self.entries.get_mut(at..at + self.stride);
            let place = place.ok_or(RingError::Buffer)?;
            if queue.ring.fetch(place)?.is_some() {
                self.next = (self.next + 1) & (self.slots - 1);
                self.requester.posted();
            }
        }
        Ok(posted)
    }

    /// Has the poster of the next request ring, unless there is one already.
    pub fn sleep<B>(
        &mut self,
        queue: &mut WorkQueue<SendQueue, B>,
        returned: u32,
    ) -> Result<Idle, RingError> {
        queue.ring.returned(returned);
        queue.ring.sleep()
    }

    /// Does what the queue pair's state calls for, and sends what can be sent. `state` is `None` if the queue
    /// pair is being destroyed. The memory that is kept meanwhile is given up.
    pub fn visit(
        &mut self,
        now: u64,
        state: Option<QpState>,
        owner: &impl Owner<Region = R>,
        flow: &mut impl Flow,
    ) -> Next {
        match self.begin(state, owner) {
            Turn::Hold => return Next::Idle,
            Turn::Flushed => return Next::More,
            Turn::Send => {}
        }
        let qp_type = self.identity.qp_type;
        let mut requests = Requests {
            send: self,
            owner,
            now,
        };
        let stopped = transmit::transmit(qp_type, flow, &mut requests);
        self.requester.end_batch();
        match stopped {
            Stopped::Idle => Next::Idle,
            Stopped::More => Next::More,
            Stopped::Busy => Next::Busy,
            Stopped::Later => Next::Later,
            Stopped::Local(slot) => match self.local(slot) {
                Some(operation) => Next::Local(slot, operation),
                None => Next::Idle,
            },
        }
    }

    /// Does what the queue pair's state calls for before anything is sent.
    fn begin(&mut self, state: Option<QpState>, owner: &impl Owner<Region = R>) -> Turn {
        match state.map(state::send_queue) {
            None | Some(Processing::Hold) => Turn::Hold,
            Some(processing @ (Processing::Run | Processing::Drain)) => {
                self.requester.recover();
                self.requester.hold(processing == Processing::Drain);
                Turn::Send
            }
            Some(Processing::Flush) => {
                match self.with(owner, |requester, host| requester.flush(host)) {
                    true => Turn::Flushed,
                    false => Turn::Hold,
                }
            }
        }
    }

    /// Whether the queue pair, in this state, is to be told to have [drained](QpAttr::drained). To be called
    /// after what could be sent was sent.
    pub fn has_drained(&self, state: Option<QpState>) -> bool {
        state == Some(QpState::Sqd) && self.requester.is_drained()
    }

    /// What is to be done because a request has failed since the last call. To be called after each of the
    /// others that have an `owner`. [`Effect::Execute`] is another [visit](Self::visit), which flushes.
    pub fn take_effects(&mut self) -> Effects {
        core::mem::take(&mut self.effects)
    }

    /// When [`expired`](Self::expired) is to be called, in nanoseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.requester.next_deadline()
    }

    /// Takes a response.
    pub fn take(&mut self, now: u64, response: &Packet<'_>, owner: &impl Owner<Region = R>) {
        let taken = self.with(owner, |requester, host| {
            requester.on_packet(now, response, host)
        });
        let counter = match taken {
            Response::NotReady => PortCounter::RcvdRnr,
            Response::SequenceError => PortCounter::RcvdSequenceError,
            Response::ImpliedNak => PortCounter::ImpliedNak,
            Response::Failed(WcStatus::RemInvReqErr) => PortCounter::RequestInvalid,
            Response::Failed(WcStatus::RemAccessErr) => PortCounter::RequestAccess,
            Response::Failed(WcStatus::RetryExcErr) => PortCounter::RetryExceeded,
            Response::Failed(WcStatus::RnrRetryExcErr) => {
                owner.count(PortCounter::RcvdRnr, 1);
                PortCounter::RnrRetryExceeded
            }
            Response::Ignored => PortCounter::Ghosts,
            Response::Taken | Response::Failed(_) => return,
        };
        owner.count(counter, 1);
    }

    /// The time of the [deadline](Self::next_deadline) has come.
    pub fn expired(&mut self, now: u64, owner: &impl Owner<Region = R>) {
        let timed_out = self.with(owner, |requester, host| requester.on_deadline(now, host));
        match timed_out {
            Some(TimedOut::Retry) => owner.count(PortCounter::AckTimeout, 1),
            Some(TimedOut::Exceeded) => owner.count(PortCounter::RetryExceeded, 1),
            None => {}
        }
    }

    /// Memory is there that was missing.
    pub fn memory_ready(&mut self) {
        self.requester.memory_ready();
    }

    /// The request in a slot, which is for this host alone ([`Transmit::Local`]).
    fn local(&self, slot: u32) -> Option<Operation> {
        let at = slot as usize * self.stride;
        let entry = self.entries.get(at..at + self.stride)?;
        let Identity {
            qp_type, origin, ..
        } = self.identity;
        let (request, _) = SendRequest::decode(entry, qp_type, origin).ok()?;
        Some(request.operation)
    }

    /// Notes how the request in a slot has ended that was for this host alone.
    pub fn executed(
        &mut self,
        slot: u32,
        result: Result<(), WcStatus>,
        owner: &impl Owner<Region = R>,
    ) {
        self.with(owner, |requester, host| {
            requester.executed(slot, result, host)
        });
    }

    /// Gives up the memory that is kept, before the lock is released.
    pub fn end_batch(&mut self) {
        self.requester.end_batch();
    }

    fn with<O: Owner<Region = R>, T>(
        &mut self,
        owner: &O,
        op: impl FnOnce(&mut Requester<S, R>, &Host<'_, O>) -> T,
    ) -> T {
        let host = Host {
            owner,
            identity: self.identity,
            entries: &self.entries,
            stride: self.stride,
            effects: Cell::new(self.effects),
        };
        let result = op(&mut self.requester, &host);
        self.effects = host.effects.get();
        result
    }
}

/// The requester, as who sends its packets has it.
struct Requests<'a, S, E, R, O> {
    send: &'a mut RemoteSend<S, E, R>,
    owner: &'a O,
    now: u64,
}

impl<S, E, R, O> Source for Requests<'_, S, E, R, O>
where
    S: DerefMut<Target = [Slot]>,
    E: DerefMut<Target = [u8]>,
    R: Region,
    O: Owner<Region = R>,
{
    fn has_sent_all(&self) -> bool {
        self.send.requester.has_sent_all()
    }

    fn batch_len(&mut self) -> u32 {
        self.send.requester.batch_len()
    }

    fn poll(&mut self, room: &mut [u8]) -> Transmit {
        let now = self.now;
        self.send.with(self.owner, |requester, host| {
            requester.poll_transmit(now, host, room)
        })
    }
}

/// What the requester is lent.
struct Host<'a, O> {
    owner: &'a O,
    identity: Identity,
    entries: &'a [u8],
    stride: usize,
    effects: Cell<Effects>,
}

impl<O: Owner> LocalMemory for Host<'_, O> {
    type Region = O::Region;

    fn local(&self, sge: Sge, write: bool) -> Result<O::Region, AccessError> {
        self.owner.local(sge, write)
    }
}

impl<O: Owner> requester::Host for Host<'_, O> {
    fn entry(&self, slot: u32) -> &[u8] {
        let at = slot as usize * self.stride;
        self.entries.get(at..at + self.stride).unwrap_or_default()
    }

    fn complete(&self, completed: &Completed) {
        // Before the completion is written: a poster that sees it may post at once, and has room.
        self.owner.hand_back();
        match completed.status {
            WcStatus::Success => self.count(completed),
            WcStatus::WrFlushErr => {}
            _ => {
                let effects = self.effects.get().union(self.owner.fail());
                self.effects.set(effects.and(Effect::Execute));
            }
        }
        let is_signaled = self.identity.signal_all || completed.flags.contains(SendFlags::SIGNALED);
        if completed.status == WcStatus::Success && !is_signaled {
            return;
        }
        let opcode = match completed.status {
            WcStatus::WrFlushErr => SendOpcode::Send,
            _ => completed.opcode,
        };
        let number = self.identity.number;
        let mut cqe = Cqe::new(
            completed.wr_id,
            number,
            opcode.completion(),
            completed.status,
        );
        if completed.status == WcStatus::Success {
            cqe.byte_len = completed.length;
        }
        self.owner.complete(&cqe);
    }
}

impl<O: Owner> Host<'_, O> {
    fn count(&self, completed: &Completed) {
        if completed.opcode.is_local() {
            return;
        }
        let bytes = match completed.opcode.gets_data() {
            true => PortCounter::RcvdBytes,
            false => PortCounter::SentBytes,
        };
        self.owner.count(PortCounter::RdmaSends, 1);
        self.owner.count(bytes, completed.length.into());
    }
}

/// What a request of the peer's counts at this port, and how much. (One that is refused is counted where it
/// is refused.)
pub fn counted(request: Request, packet: &Packet<'_>) -> Option<(PortCounter, u64)> {
    Some(match request {
        Request::Taken => match (packet.bth.opcode.kind(), packet.headers) {
            (Kind::ReadRequest, Headers::Reth(reth)) => {
                (PortCounter::SentBytes, reth.dma_len.into())
            }
            (_, Headers::Atomic(_)) => (PortCounter::SentBytes, ATOMIC_LENGTH.into()),
            _ => (PortCounter::RcvdBytes, packet.payload.len() as u64),
        },
        Request::Duplicate => (PortCounter::Duplicate, 1),
        Request::OutOfSequence => (PortCounter::OutOfSequence, 1),
        Request::Dropped => (PortCounter::Dropped, 1),
        Request::NotReady | Request::Refused(_) => return None,
    })
}
