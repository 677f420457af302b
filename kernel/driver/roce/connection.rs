// SPDX-License-Identifier: GPL-2.0

//! What a connected queue pair has for the wire.

use super::{
    alarm::Alarm,
    burst::Burst,
    host::Host,
    paging::Paging,
    path::{Address, Path, PAUSE},
};
use crate::{
    counters::{self, Counters},
    device::Ferroce,
    local::Fault,
    memory::{Missing, Range},
    net::SpinLockBh,
    qp::{
        state::{self, Processing},
        QpAttr,
    },
    queue_pair::{Peer, Qp},
    rdma::{self, qp::QpEvent, Device, Gid, GidType},
    requester::{Requester, Response, Slot, TimedOut, Transmit},
    responder::{Request, Resource, Responder},
    ring::{Idle, Operation, Origin, RingError, SendQueue, SendRequest},
    rings::{SlotReturner, WorkQueue},
    verbs::{limits::ATOMIC_LENGTH, QpType, WcStatus},
    wire::{Headers, Kind, Packet},
};
use core::{
    cell::{Cell, RefCell},
    sync::atomic::{AtomicBool, Ordering},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
};

/// What a connected queue pair has for the wire.
///
/// There is a requester once a request was for a peer that is not on this host, and a responder once
/// the queue pair takes requests of such a peer.
#[pin_data]
pub(crate) struct Connection {
    /// Requests go by the wire.
    is_engaged: AtomicBool,
    /// A packet has come for which there is no responder yet.
    is_called: AtomicBool,
    #[pin]
    paging: Paging,
    #[pin]
    state: SpinLockBh<State>,
}

#[derive(Default)]
struct State {
    sending: Option<KBox<Sending>>,
    responder: Option<KBox<Responder<KVVec<Resource>, Range>>>,
    path: Option<Path>,
}

/// The requester, and what it works with.
struct Sending {
    requester: Requester<KVVec<Slot>, Range>,
    /// Copies of the entries of the send queue, in order, by slot.
    entries: KVVec<u8>,
    /// Bytes of each.
    stride: usize,
    /// How many there are: a power of two.
    slots: u32,
    /// The slot of the next entry.
    next: u32,
    returner: RefCell<SlotReturner>,
    alarm: Alarm,
}

/// How a visit to the connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// All is sent that can be.
    Idle,
    /// There is more to send.
    More,
    /// It is the turn of a request of this host's alone, in this slot.
    Local(u32, Operation),
    /// Memory on demand is missing, and a thread has it be there.
    Later,
}

impl Next {
    /// Whether a thread is to go on.
    fn is_for_a_thread(self) -> bool {
        matches!(self, Self::More | Self::Local(..))
    }
}

/// How many packets are sent while the lock is held, with bottom halves off.
const PACKETS_AT_ONCE: u32 = 64;

/// How many requests are fetched while the lock is held.
const REQUESTS_AT_ONCE: u32 = 64;

impl Connection {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            is_engaged: AtomicBool::new(false),
            is_called: AtomicBool::new(false),
            paging <- Paging::new(),
            state <- SpinLockBh::new(
                State::default(), c"ferroce::Connection::state", static_lock_class!()
            ),
        })
    }

    /// Whether requests go by the wire. Whoever holds the send queue's mutex sees to that.
    pub(crate) fn is_engaged(&self) -> bool {
        self.is_engaged.load(Ordering::Relaxed)
    }

    /// Has requests go by the wire from here on. `current` is one that was fetched already.
    pub(crate) fn engage(
        &self,
        qp: &rdma::Qp<Qp>,
        queue: &WorkQueue<SendQueue>,
        current: &[u8],
    ) -> Result {
        let geometry = queue.executor.geometry();
        let (slots, stride) = (geometry.entries(), geometry.stride());
        let mut entries = KVVec::new();
        entries.resize(slots as usize * stride, 0, GFP_KERNEL)?;
        for (place, byte) in entries.iter_mut().zip(current) {
            *place = *byte;
        }
        let mut memory = KVVec::new();
        memory.resize(slots as usize, Slot::default(), GFP_KERNEL)?;
        let origin = match qp.user {
            Some(_) => Origin::Kernel,
            None => Origin::User,
        };
        let attr = qp.shared.lock().attr;
        let mut requester = Requester::new(qp.qp_type, origin, &attr, memory);
        requester.posted();
        let sending = Sending {
            requester,
            entries,
            stride,
            slots,
            next: 1 & (slots - 1),
            returner: RefCell::new(queue.returner()),
            alarm: Alarm::new(ARef::from(qp))?,
        };
        self.state.lock().sending = Some(KBox::new(sending, GFP_KERNEL)?);
        self.is_engaged.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Fetches what is posted, and sends what can be sent. Returns how many requests were fetched too. If
    /// there were none, and nothing is left to do, whoever posts one rings, if it is to `sleep`.
    pub(crate) fn post(
        &self,
        qp: &rdma::Qp<Qp>,
        queue: &mut WorkQueue<SendQueue>,
        sleep: bool,
    ) -> Result<(u32, Next), RingError> {
        let mut state = self.state.lock();
        let mut fetched = 0;
        if let Some(sending) = &mut state.sending {
            while fetched < REQUESTS_AT_ONCE && sending.fetch(queue)? {
                fetched += 1;
            }
        }
        let mut next = state.run(qp, rdma::clock());
        if let (Some(sending), Next::Idle, 0, true) = (&mut state.sending, next, fetched, sleep) {
            sending.note_returned(queue);
            if queue.executor.sleep()? == Idle::Work {
                next = Next::More;
            }
        }
        Ok((fetched, next))
    }

    /// Does what the queue pair's state calls for.
    pub(crate) fn settle(&self, qp: &rdma::Qp<Qp>) {
        self.state.lock().run(qp, rdma::clock());
    }

    /// Memory on demand is missing, in a bottom half.
    pub(crate) fn missing(&self, qp: &rdma::Qp<Qp>, missing: Missing) -> Fault {
        let fault = self.paging.missing(missing);
        if fault == Fault::Later {
            qp.deferred.soon();
        }
        fault
    }

    /// Has memory be there that was missing, and goes on with what was left. It may sleep.
    pub(crate) fn resume(&self, qp: &rdma::Qp<Qp>) {
        let is_ready = self.paging.fault_in();
        let mut state = self.state.lock();
        if let (Some(sending), true) = (&mut state.sending, is_ready) {
            sending.requester.memory_ready();
        }
        if state.sending.is_none() && state.responder.is_none() {
            return;
        }
        let next = state.run(qp, rdma::clock());
        drop(state);
        // Whoever looks at the send queue after this goes on with the rest.
        if next == Next::More && !self.is_engaged() {
            qp.deferred.soon();
        }
    }

    /// Notes how a request of this host's alone ended.
    pub(crate) fn executed(&self, qp: &rdma::Qp<Qp>, slot: u32, result: Result<(), WcStatus>) {
        self.state.lock().with_requester(qp, |requester, host| {
            requester.executed(slot, result, host);
        });
    }

    /// Takes over attributes that can change while requests are under way.
    pub(crate) fn configure(&self, attr: &QpAttr) {
        let mut state = self.state.lock();
        if let Some(sending) = &mut state.sending {
            sending.requester.configure(attr);
        }
        // It is made anew of what they are now.
        state.path = None;
    }

    /// Has a responder be there, if the peer is on another host.
    pub(crate) fn prepare(&self, qp: &rdma::Qp<Qp>) -> Result {
        let attr = qp.shared.lock().attr;
        let takes = !qp.qp_type.is_datagram() && state::accepts_requests(attr.state);
        let is_needed =
            self.is_called.load(Ordering::Relaxed) || is_elsewhere(qp.device(), &attr.ah_attr.dgid);
        if !takes || !is_needed || self.state.lock().responder.is_some() {
            return Ok(());
        }
        let mut resources = KVVec::new();
        let count = usize::from(attr.max_dest_rd_atomic).max(1);
        resources.resize(count, Resource::default(), GFP_KERNEL)?;
        let responder = Responder::new(qp.qp_type, &attr, resources);
        let responder = KBox::new(responder, GFP_KERNEL)?;
        let mut state = self.state.lock();
        // Unless somebody else was faster.
        let unused = match state.responder {
            Some(_) => Some(responder),
            None => state.responder.replace(responder),
        };
        drop(state);
        drop(unused);
        Ok(())
    }

    /// Completes the receive that a message is in the middle of, if there is one, before all others
    /// are flushed.
    pub(crate) fn flush_receive(&self, qp: &rdma::Qp<Qp>) {
        if let Some(responder) = &mut self.state.lock().responder {
            responder.flush(&Peer::by_packet(qp));
        }
    }

    /// Forgets all. Whoever calls it holds the send queue's mutex, or has the queue pair to itself.
    pub(crate) fn reset(&self) {
        self.is_engaged.store(false, Ordering::Relaxed);
        self.is_called.store(false, Ordering::Relaxed);
        let before = core::mem::take(&mut *self.state.lock());
        // Dropped with the lock released, which the timer's call takes.
        drop(before);
        self.paging.forget();
    }

    /// Takes a packet, if `check` has nothing against it. To be followed by [`Self::answer`].
    pub(super) fn take(
        &self,
        qp: &rdma::Qp<Qp>,
        packet: &Packet<'_>,
        check: impl FnOnce() -> Result<(), counters::Port>,
    ) -> Result<(), counters::Port> {
        let mut state = self.state.lock();
        // With the lock held: who has the queue pair fail flushes what was taken before.
        check()?;
        if packet.bth.opcode.kind().is_response() {
            let now = rdma::clock();
            let response =
                state.with_requester(qp, |requester, host| requester.on_packet(now, packet, host));
            count_response(qp.device(), response);
        } else if let Some(responder) = &mut state.responder {
            let request = responder.on_packet(packet, &Peer::by_packet(qp));
            count_request(qp.device(), request, packet);
        } else {
            // The packet is as good as lost. By the time that it is sent again there is one.
            drop(state);
            self.is_called.store(true, Ordering::Relaxed);
            qp.deferred.soon();
        }
        Ok(())
    }

    /// Sends what packets that were taken have led to.
    pub(super) fn answer(&self, qp: &rdma::Qp<Qp>) {
        let next = self.state.lock().run(qp, rdma::clock());
        if next.is_for_a_thread() {
            qp.deferred.soon();
        }
    }

    /// Time has passed.
    pub(super) fn expired(&self, qp: &rdma::Qp<Qp>) {
        let mut state = self.state.lock();
        let now = rdma::clock();
        if let Some(sending) = &mut state.sending {
            sending.alarm.rang();
        }
        let timeout = state.with_requester(qp, |requester, host| requester.on_deadline(now, host));
        let counters = &qp.device().counters;
        match timeout.flatten() {
            Some(TimedOut::Retry) => counters.count(counters::Port::AckTimeout),
            Some(TimedOut::Exceeded) => counters.count(counters::Port::RetryExceeded),
            None => {}
        }
        let next = state.run(qp, now);
        drop(state);
        if next.is_for_a_thread() {
            qp.deferred.soon();
        }
    }
}

impl Sending {
    /// Lets the executor know which slots the poster has again.
    fn note_returned(&mut self, queue: &mut WorkQueue<SendQueue>) {
        let position = self.returner.get_mut().returner.position();
        queue.executor.returned(position);
    }

    /// Copies the next entry to its slot, if there is one.
    fn fetch(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<bool, RingError> {
        self.note_returned(queue);
        let at = self.next as usize * self.stride;
        let place = self.entries.get_mut(at..at + self.stride);
        let place = place.ok_or(RingError::Buffer)?;
        if queue.executor.fetch(place)?.is_none() {
            return Ok(false);
        }
        self.next = (self.next + 1) & (self.slots - 1);
        self.requester.posted();
        Ok(true)
    }
}

impl State {
    /// Calls the requester, if there is one, and does what follows of a request that fails.
    fn with_requester<R>(
        &mut self,
        qp: &rdma::Qp<Qp>,
        op: impl FnOnce(&mut Requester<KVVec<Slot>, Range>, &Host<'_>) -> R,
    ) -> Option<R> {
        let has_failed = Cell::new(false);
        let sending = self.sending.as_mut()?;
        let Sending {
            requester,
            entries,
            stride,
            returner,
            ..
        } = &mut **sending;
        let host = Host {
            qp,
            entries,
            stride: *stride,
            returner,
            has_failed: &has_failed,
        };
        let result = op(requester, &host);
        if has_failed.get() {
            if let Some(responder) = &mut self.responder {
                responder.flush(&Peer::by_packet(qp));
            }
            crate::queue_pair::receiving_ends(qp);
        }
        Some(result)
    }

    /// Does what the queue pair's state calls for, and sends what can be sent.
    fn run(&mut self, qp: &rdma::Qp<Qp>, now: u64) -> Next {
        let (state, is_gone) = {
            let shared = qp.shared.lock();
            (shared.attr.state, shared.is_gone)
        };
        if is_gone {
            return Next::Idle;
        }
        let processing = state::send_queue(state);
        self.with_requester(qp, |requester, host| match processing {
            Processing::Hold => {}
            Processing::Run => requester.hold(false),
            Processing::Drain => requester.hold(true),
            Processing::Flush => requester.flush(host),
        });
        let next = self.transmit(qp, now, processing);
        if processing == Processing::Drain {
            let is_drained = self.with_requester(qp, |requester, _| requester.is_drained());
            if is_drained == Some(true) && qp.change(|facts| facts.attr.drained()) {
                crate::queue_pair::dispatch(qp, QpEvent::SqDrained);
            }
        }
        if let Some(sending) = &mut self.sending {
            if let Some(at) = sending.requester.next_deadline() {
                sending.alarm.set(at);
            }
        }
        next
    }

    /// Sends packets, until there is none or there have been enough.
    fn transmit(&mut self, qp: &rdma::Qp<Qp>, now: u64, processing: Processing) -> Next {
        let device = qp.device();
        let mut path = match self.path.take() {
            Some(path) => path,
            None => Path::new(device, address(qp)),
        };
        let mut sent = 0;
        let next = loop {
            if sent >= PACKETS_AT_ONCE {
                break Next::More;
            }
            if qp.qp_type == QpType::Uc && path.is_full(device) {
                if let Some(sending) = &mut self.sending {
                    sending.alarm.set(now + PAUSE);
                }
                break Next::Idle;
            }
            // With no room at all: to learn how much it takes.
            let length = match self.poll(qp, now, processing, &mut []) {
                Transmit::NeedsRoom(length) => length,
                Transmit::Packet(_) | Transmit::Nothing => break Next::Idle,
                Transmit::Later => break Next::Later,
                Transmit::Local(slot) => break self.local(qp, slot),
            };
            let row = self.row().min(PACKETS_AT_ONCE - sent);
            let Some(mut burst) = Burst::new(&mut path, length, row) else {
                // Later there may be memory.
                break Next::More;
            };
            let mut last = Transmit::Nothing;
            while burst.has_room() && u32::from(burst.count()) < row {
                last = burst.add(|room| match self.poll(qp, now, processing, room) {
                    packet @ Transmit::Packet(length) => (Some(length), packet),
                    other => (None, other),
                });
                if !matches!(last, Transmit::Packet(_)) {
                    break;
                }
            }
            let count = burst.count();
            if count == 0 {
                // What would have been sent could not be made. That memory is missing is said once.
                match last {
                    Transmit::Later => break Next::Later,
                    _ => continue,
                }
            }
            sent += u32::from(count);
            let packet = burst.finish();
            path.send(device, packet, count);
        };
        self.path = Some(path);
        // No memory is kept beyond the lock: it would be given back under it, where nothing may sleep.
        if let Some(responder) = &mut self.responder {
            responder.end_batch();
        }
        if let Some(sending) = &mut self.sending {
            sending.requester.end_batch();
        }
        next
    }

    /// How many packets may go as one with that which is next.
    fn row(&mut self) -> u32 {
        let answers = self
            .responder
            .as_mut()
            .and_then(|responder| responder.row());
        let requests = || self.sending.as_ref().map(|sending| sending.requester.row());
        answers.or_else(requests).unwrap_or(1)
    }

    /// Asks for the next packet. Answers come first: the peer waits for them. Not inlined, since it takes
    /// more of the stack than what sends the packet can spare.
    #[inline(never)]
    fn poll(
        &mut self,
        qp: &rdma::Qp<Qp>,
        now: u64,
        processing: Processing,
        room: &mut [u8],
    ) -> Transmit {
        let mut later = Transmit::Nothing;
        if let Some(responder) = &mut self.responder {
            match responder.poll_transmit(&Peer::by_packet(qp), room) {
                Transmit::Nothing => {}
                Transmit::Later => later = Transmit::Later,
                other => return other,
            }
        }
        if matches!(processing, Processing::Run | Processing::Drain) {
            let polled = self.with_requester(qp, |requester, host| {
                requester.poll_transmit(now, host, room)
            });
            match polled {
                None | Some(Transmit::Nothing) => {}
                Some(other) => return other,
            }
        }
        later
    }

    /// The request of this host's alone in a slot.
    fn local(&self, qp: &rdma::Qp<Qp>, slot: u32) -> Next {
        let Some(sending) = &self.sending else {
            return Next::Idle;
        };
        let at = slot as usize * sending.stride;
        let entry = sending.entries.get(at..at + sending.stride);
        let origin = match qp.user {
            Some(_) => Origin::Kernel,
            None => Origin::User,
        };
        match SendRequest::decode(entry.unwrap_or_default(), qp.qp_type, origin) {
            Ok((request, _)) => Next::Local(slot, request.operation),
            Err(_) => Next::Idle,
        }
    }
}

/// Where packets of a connected queue pair go.
fn address(qp: &rdma::Qp<Qp>) -> Address {
    let shared = qp.shared.lock();
    let to = &shared.attr.ah_attr;
    Address {
        sgid: shared.sgid,
        dgid: to.dgid,
        traffic_class: to.traffic_class,
        flow_label: to.flow_label,
        hop_limit: to.hop_limit,
        entropy: qp.number ^ shared.attr.dest_qp_num,
    }
}

/// Whether an address is not one of this host's, in the device's network namespace, or local traffic
/// goes by the wire as well.
pub(crate) fn is_elsewhere(device: &Device<Ferroce>, dgid: &[u8; 16]) -> bool {
    let dgid = Gid(*dgid);
    if device.is_apart() {
        return false;
    }
    if dgid.ip().is_multicast() {
        // What is sent by the loopback device comes back, and nobody else gets it.
        return device.netdev(1).is_some_and(|netdev| !netdev.is_loopback());
    }
    if !super::delivers_locally() {
        return true;
    }
    if device.find_gid(&dgid, GidType::RoceV2, 1).is_some() {
        return false;
    }
    let netdev = device.netdev(1);
    netdev.is_some_and(|netdev| netdev.with_address(dgid.ip()).is_none())
}

fn count_response(device: &Device<Ferroce>, response: Option<Response>) {
    let counter = match response {
        Some(Response::NotReady) => counters::Port::RcvdRnr,
        Some(Response::SequenceError) => counters::Port::RcvdSequenceError,
        Some(Response::ImpliedNak) => counters::Port::ImpliedNak,
        Some(Response::Failed(WcStatus::RemInvReqErr)) => counters::Port::RequestInvalid,
        Some(Response::Failed(WcStatus::RemAccessErr)) => counters::Port::RequestAccess,
        Some(Response::Failed(WcStatus::RetryExcErr)) => counters::Port::RetryExceeded,
        Some(Response::Failed(WcStatus::RnrRetryExcErr)) => {
            device.counters.count(counters::Port::RcvdRnr);
            counters::Port::RnrRetryExceeded
        }
        Some(Response::Ignored) | None => counters::Port::Ghosts,
        Some(Response::Taken | Response::Failed(_)) => return,
    };
    device.counters.count(counter);
}

fn count_request(device: &Device<Ferroce>, request: Request, packet: &Packet<'_>) {
    let counters = &device.counters;
    let counter = match request {
        Request::Taken => return count_bytes(counters, packet),
        Request::Duplicate => counters::Port::Duplicate,
        Request::OutOfSequence => counters::Port::OutOfSequence,
        Request::Dropped => counters::Port::Dropped,
        // Counted by the peer, where it is refused.
        Request::NotReady | Request::Refused(_) => return,
    };
    counters.count(counter);
}

/// Counts what came with a request, or is sent in answer to it.
fn count_bytes(counters: &Counters, packet: &Packet<'_>) {
    let (counter, length) = match (packet.bth.opcode.kind(), packet.headers) {
        (Kind::ReadRequest, Headers::Reth(reth)) => {
            (counters::Port::SentBytes, reth.dma_len.into())
        }
        (_, Headers::Atomic(_)) => (counters::Port::SentBytes, ATOMIC_LENGTH.into()),
        _ => (counters::Port::RcvdBytes, packet.payload.len() as u64),
    };
    counters.add(counter, length);
}
