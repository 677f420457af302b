// SPDX-License-Identifier: GPL-2.0

//! What a connected queue pair has for the wire.

use super::{
    alarm::Alarm,
    host::Host,
    paging::Paging,
    path::{Path, PAUSE},
    transmit::{transmit, Source, Stopped},
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
    verbs::{limits::ATOMIC_LENGTH, WcStatus},
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
/// the queue pair takes requests of such a peer. Each has a lock of its own, and sends by itself: while a
/// CPU makes the acknowledgement of a message, another sends what its receiver answers.
#[pin_data]
pub(crate) struct Connection {
    /// Requests go by the wire.
    is_engaged: AtomicBool,
    /// A packet has come for which there is no responder yet.
    is_called: AtomicBool,
    #[pin]
    paging: Paging,
    #[pin]
    requesting: SpinLockBh<Requesting>,
    /// Taken inside that of the requester, if both are.
    #[pin]
    responding: SpinLockBh<Responding>,
}

#[derive(Default)]
struct Requesting {
    sending: Option<KBox<Sending>>,
    path: Option<Path>,
}

#[derive(Default)]
struct Responding {
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
    /// What the queue pair's state calls for, unless that is gone, as of so many
    /// [changes](Qp::changes).
    processing: Option<(u32, Option<Processing>)>,
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

/// How many requests are fetched while the lock is held.
const REQUESTS_AT_ONCE: u32 = 64;

impl Connection {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            is_engaged: AtomicBool::new(false),
            is_called: AtomicBool::new(false),
            paging <- Paging::new(),
            requesting <- SpinLockBh::new(
                Requesting::default(), c"ferroce::Connection::requesting", static_lock_class!()
            ),
            responding <- SpinLockBh::new(
                Responding::default(), c"ferroce::Connection::responding", static_lock_class!()
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
            processing: None,
        };
        self.requesting.lock().sending = Some(KBox::new(sending, GFP_KERNEL)?);
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
        let mut requesting = self.requesting.lock();
        let mut fetched = 0;
        if let Some(sending) = &mut requesting.sending {
            while fetched < REQUESTS_AT_ONCE && sending.fetch(queue)? {
                fetched += 1;
            }
        }
        let mut next = requesting.request(qp, rdma::clock());
        if let (Some(sending), Next::Idle, 0, true) =
            (&mut requesting.sending, next, fetched, sleep)
        {
            sending.note_returned(queue);
            if queue.executor.sleep()? == Idle::Work {
                next = Next::More;
            }
        }
        Ok((fetched, next))
    }

    /// Does what the queue pair's state calls for.
    pub(crate) fn settle(&self, qp: &rdma::Qp<Qp>) {
        self.requesting.lock().request(qp, rdma::clock());
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
        let next = self.responding.lock().respond(qp, Peer::by_packet(qp));
        let mut requesting = self.requesting.lock();
        if let (Some(sending), true) = (&mut requesting.sending, is_ready) {
            sending.requester.memory_ready();
        }
        // If there is more, whoever looks at the send queue after this goes on with it.
        requesting.request(qp, rdma::clock());
        drop(requesting);
        if next == Next::More {
            qp.deferred.soon();
        }
    }

    /// Notes how a request of this host's alone ended.
    pub(crate) fn executed(&self, qp: &rdma::Qp<Qp>, slot: u32, result: Result<(), WcStatus>) {
        if let Some(sending) = &mut self.requesting.lock().sending {
            sending.with_requester(qp, |requester, host| {
                requester.executed(slot, result, host);
            });
        }
    }

    /// Takes over attributes that can change while requests are under way.
    pub(crate) fn configure(&self, attr: &QpAttr) {
        let mut requesting = self.requesting.lock();
        if let Some(sending) = &mut requesting.sending {
            sending.requester.configure(attr);
        }
        // It is made anew of what they are now.
        requesting.path = None;
        drop(requesting);
        self.responding.lock().path = None;
    }

    /// Has a responder be there, if the peer is on another host.
    pub(crate) fn prepare(&self, qp: &rdma::Qp<Qp>) -> Result {
        let attr = qp.shared.lock().attr;
        let takes = !qp.qp_type.is_datagram() && state::accepts_requests(attr.state);
        let is_needed =
            self.is_called.load(Ordering::Relaxed) || is_elsewhere(qp.device(), &attr.ah_attr.dgid);
        if !takes || !is_needed || self.responding.lock().responder.is_some() {
            return Ok(());
        }
        let mut resources = KVVec::new();
        let count = usize::from(attr.max_dest_rd_atomic).max(1);
        resources.resize(count, Resource::default(), GFP_KERNEL)?;
        let responder = Responder::new(qp.qp_type, &attr, resources);
        let responder = KBox::new(responder, GFP_KERNEL)?;
        let mut responding = self.responding.lock();
        // Unless somebody else was faster.
        let unused = match responding.responder {
            Some(_) => Some(responder),
            None => responding.responder.replace(responder),
        };
        drop(responding);
        drop(unused);
        Ok(())
    }

    /// Completes the receive that a message is in the middle of, if there is one, before all others
    /// are flushed.
    pub(crate) fn flush_receive(&self, qp: &rdma::Qp<Qp>) {
        if let Some(responder) = &mut self.responding.lock().responder {
            responder.flush(&Peer::by_packet(qp));
        }
    }

    /// Forgets all. Whoever calls it holds the send queue's mutex, or has the queue pair to itself.
    pub(crate) fn reset(&self) {
        self.is_engaged.store(false, Ordering::Relaxed);
        self.is_called.store(false, Ordering::Relaxed);
        let requesting = core::mem::take(&mut *self.requesting.lock());
        let responding = core::mem::take(&mut *self.responding.lock());
        // Dropped with the locks released, of which the timer's call takes one.
        drop((requesting, responding));
        self.paging.forget();
    }

    /// Takes a packet, and those that `next` has after it, which are responses as well, or not, and sends
    /// what they lead to; all that if `check` has nothing against it.
    pub(super) fn take<'q, 'p>(
        &self,
        qp: &rdma::Qp<Qp>,
        first: &Packet<'p>,
        next: impl FnMut() -> Option<Packet<'p>>,
        check: impl FnOnce() -> Result<Peer<'q>, counters::Port>,
    ) -> Result<(), counters::Port> {
        let taken = match first.bth.opcode.kind().is_response() {
            true => self.take_responses(qp, first, next, check)?,
            false => self.take_requests(qp, first, next, check)?,
        };
        if taken.is_for_a_thread() {
            qp.deferred.soon();
        }
        Ok(())
    }

    fn take_responses<'q, 'p>(
        &self,
        qp: &rdma::Qp<Qp>,
        first: &Packet<'p>,
        mut next: impl FnMut() -> Option<Packet<'p>>,
        check: impl FnOnce() -> Result<Peer<'q>, counters::Port>,
    ) -> Result<Next, counters::Port> {
        let mut requesting = self.requesting.lock();
        // With the lock held: who has the queue pair fail flushes what was taken before.
        check()?;
        let now = rdma::clock();
        let mut take = |response: &Packet<'_>| {
            let taken = match &mut requesting.sending {
                Some(sending) => sending.with_requester(qp, |requester, host| {
                    requester.on_packet(now, response, host)
                }),
                None => Response::Ignored,
            };
            count_response(qp.device(), taken);
        };
        take(first);
        while let Some(response) = next() {
            take(&response);
        }
        Ok(requesting.request(qp, now))
    }

    fn take_requests<'q, 'p>(
        &self,
        qp: &rdma::Qp<Qp>,
        first: &Packet<'p>,
        mut next: impl FnMut() -> Option<Packet<'p>>,
        check: impl FnOnce() -> Result<Peer<'q>, counters::Port>,
    ) -> Result<Next, counters::Port> {
        let mut responding = self.responding.lock();
        // As above.
        let peer = check()?;
        let Some(responder) = &mut responding.responder else {
            // The packets are as good as lost. By the time that they are sent again there is one.
            drop(responding);
            self.is_called.store(true, Ordering::Relaxed);
            qp.deferred.soon();
            return Ok(Next::Idle);
        };
        let mut take = |request: &Packet<'_>| {
            let taken = responder.on_packet(request, &peer);
            count_request(qp.device(), taken, request);
        };
        take(first);
        while let Some(request) = next() {
            take(&request);
        }
        Ok(responding.respond(qp, peer))
    }

    /// Time has passed.
    pub(super) fn expired(&self, qp: &rdma::Qp<Qp>) {
        let mut requesting = self.requesting.lock();
        let now = rdma::clock();
        let timeout = requesting.sending.as_mut().and_then(|sending| {
            sending.alarm.rang();
            sending.with_requester(qp, |requester, host| requester.on_deadline(now, host))
        });
        let counters = &qp.device().counters;
        match timeout {
            Some(TimedOut::Retry) => counters.count(counters::Port::AckTimeout),
            Some(TimedOut::Exceeded) => counters.count(counters::Port::RetryExceeded),
            None => {}
        }
        let next = requesting.request(qp, now);
        drop(requesting);
        if next.is_for_a_thread() {
            qp.deferred.soon();
        }
    }
}

impl Responding {
    /// Sends what there is to say to requests.
    fn respond(&mut self, qp: &rdma::Qp<Qp>, peer: Peer<'_>) -> Next {
        let Self { responder, path } = self;
        let Some(responder) = responder else {
            return Next::Idle;
        };
        let stopped = transmit(qp, path, &mut Responses { responder, peer });
        // No memory is kept beyond the lock: it would be given back under it, where nothing may sleep.
        responder.end_batch();
        match stopped {
            Stopped::More => Next::More,
            Stopped::Later => Next::Later,
            _ => Next::Idle,
        }
    }
}

/// A responder as who sends its packets has it.
struct Responses<'a> {
    responder: &'a mut Responder<KVVec<Resource>, Range>,
    peer: Peer<'a>,
}

impl Source for Responses<'_> {
    fn has_sent_all(&self) -> bool {
        self.responder.has_sent_all()
    }

    fn row(&mut self) -> u32 {
        self.responder.row().unwrap_or(1)
    }

    fn poll(&mut self, room: &mut [u8]) -> Transmit {
        self.responder.poll_transmit(&self.peer, room)
    }
}

impl Requesting {
    /// Does what the queue pair's state calls for, and sends what requests can be sent.
    fn request(&mut self, qp: &rdma::Qp<Qp>, now: u64) -> Next {
        let Self { sending, path } = self;
        let Some(sending) = sending else {
            return Next::Idle;
        };
        let Some(processing) = sending.processing(qp) else {
            return Next::Idle;
        };
        sending.with_requester(qp, |requester, host| match processing {
            Processing::Hold => {}
            Processing::Run => requester.hold(false),
            Processing::Drain => requester.hold(true),
            Processing::Flush => requester.flush(host),
        });
        let next = match processing {
            Processing::Hold | Processing::Flush => Next::Idle,
            Processing::Run | Processing::Drain => sending.send(qp, path, now),
        };
        if processing == Processing::Drain
            && sending.requester.is_drained()
            && qp.change(|facts| facts.attr.drained())
        {
            crate::queue_pair::dispatch(qp, QpEvent::SqDrained);
        }
        if let Some(at) = sending.requester.next_deadline() {
            sending.alarm.set(at);
        }
        next
    }
}

/// A requester as who sends its packets has it.
struct Requests<'a> {
    qp: &'a rdma::Qp<Qp>,
    sending: &'a mut Sending,
    now: u64,
}

impl Source for Requests<'_> {
    fn has_sent_all(&self) -> bool {
        self.sending.requester.has_sent_all()
    }

    fn row(&mut self) -> u32 {
        self.sending.requester.row()
    }

    fn poll(&mut self, room: &mut [u8]) -> Transmit {
        let now = self.now;
        self.sending.with_requester(self.qp, |requester, host| {
            requester.poll_transmit(now, host, room)
        })
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

    /// What the queue pair's state calls for; `None` if that is gone.
    fn processing(&mut self, qp: &rdma::Qp<Qp>) -> Option<Processing> {
        let changes = qp.changes();
        match self.processing {
            Some((as_of, processing)) if as_of == changes => processing,
            _ => {
                let shared = qp.shared.lock();
                let state = (!shared.is_gone).then_some(shared.attr.state);
                let processing = state.map(state::send_queue);
                self.processing = Some((changes, processing));
                processing
            }
        }
    }

    /// Calls the requester, and does what follows of a request that fails.
    fn with_requester<R>(
        &mut self,
        qp: &rdma::Qp<Qp>,
        op: impl FnOnce(&mut Requester<KVVec<Slot>, Range>, &Host<'_>) -> R,
    ) -> R {
        let has_failed = Cell::new(false);
        let host = Host {
            qp,
            entries: &self.entries,
            stride: self.stride,
            returner: &self.returner,
            has_failed: &has_failed,
        };
        let result = op(&mut self.requester, &host);
        if has_failed.get() {
            qp.connection.flush_receive(qp);
            crate::queue_pair::receiving_ends(qp);
        }
        result
    }

    /// Sends what can be sent.
    fn send(&mut self, qp: &rdma::Qp<Qp>, path: &mut Option<Path>, now: u64) -> Next {
        let mut requests = Requests {
            qp,
            sending: self,
            now,
        };
        let stopped = transmit(qp, path, &mut requests);
        // As of the responder.
        self.requester.end_batch();
        match stopped {
            Stopped::Idle => Next::Idle,
            Stopped::More => Next::More,
            Stopped::Later => Next::Later,
            Stopped::Local(slot) => self.local(qp, slot),
            Stopped::Full => {
                self.alarm.set(now + PAUSE);
                Next::Idle
            }
        }
    }

    /// The request of this host's alone in a slot.
    fn local(&self, qp: &rdma::Qp<Qp>, slot: u32) -> Next {
        let at = slot as usize * self.stride;
        let entry = self.entries.get(at..at + self.stride);
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

fn count_response(device: &Device<Ferroce>, response: Response) {
    let counter = match response {
        Response::NotReady => counters::Port::RcvdRnr,
        Response::SequenceError => counters::Port::RcvdSequenceError,
        Response::ImpliedNak => counters::Port::ImpliedNak,
        Response::Failed(WcStatus::RemInvReqErr) => counters::Port::RequestInvalid,
        Response::Failed(WcStatus::RemAccessErr) => counters::Port::RequestAccess,
        Response::Failed(WcStatus::RetryExcErr) => counters::Port::RetryExceeded,
        Response::Failed(WcStatus::RnrRetryExcErr) => {
            device.counters.count(counters::Port::RcvdRnr);
            counters::Port::RnrRetryExceeded
        }
        Response::Ignored => counters::Port::Ghosts,
        Response::Taken | Response::Failed(_) => return,
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
