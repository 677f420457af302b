// SPDX-License-Identifier: GPL-2.0

//! The half of a connection that sends requests.

use super::{
    alarm::Alarm,
    host::Host,
    path::PAUSE,
    transmit::{transmit, Next, Source, Stopped},
    tx_flow::TxFlow,
};
use crate::{
    counter::PortCounter,
    device::Ferroce,
    mr::Range,
    qp::{
        state::{self, Processing},
        QpAttr,
    },
    queue_pair::Qp,
    rdma::{self, qp::QpEvent, Device},
    requester::{Requester, Response, Slot, TimedOut, Transmit},
    ring::{Idle, Origin, RingError, SendQueue, SendRequest},
    rings::{self, SlotReturner, WorkQueue},
    verbs::WcStatus,
    wire::Packet,
};
use core::cell::{Cell, RefCell};
use kernel::{prelude::*, sync::aref::ARef};

/// How many requests are fetched while the lock is held.
const REQUESTS_AT_ONCE: u32 = 64;

/// The requester, its queue, and its way to the peer.
pub(super) struct Requesting {
    sending: Sending,
    tx_flow: TxFlow,
    alarm: Alarm,
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
    /// What the queue pair's state calls for, unless that is gone, as of so many
    /// [changes](Qp::changes).
    processing: Option<(u32, Option<Processing>)>,
}

impl Requesting {
    /// Of a send queue. `current` is an entry that was fetched already. It may sleep.
    pub(super) fn new(
        qp: &rdma::Qp<Qp>,
        queue: &WorkQueue<SendQueue>,
        current: &[u8],
    ) -> Result<KBox<Self>> {
        let flags = qp.flags();
        let geometry = queue.ring.geometry();
        let (slots, stride) = (geometry.entries(), geometry.stride());
        let mut entries = KVVec::new();
        entries.resize(slots as usize * stride, 0, flags)?;
        for (place, byte) in entries.iter_mut().zip(current) {
            *place = *byte;
        }
        let mut memory = KVVec::new();
        memory.resize(slots as usize, Slot::default(), flags)?;
        let attr = qp.shared.lock().attr;
        let mut requester = Requester::new(qp.qp_type, origin(qp), &attr, memory);
        requester.posted();
        let sending = Sending {
            requester,
            entries,
            stride,
            slots,
            next: 1 & (slots - 1),
            returner: RefCell::new(rings::returner(queue)),
            processing: None,
        };
        let requesting = Self {
            sending,
            tx_flow: TxFlow::new(qp.device())?,
            alarm: Alarm::new(ARef::from(qp), |qp| qp.connection.expired(qp))?,
        };
        Ok(KBox::new(requesting, flags)?)
    }

    /// Takes over attributes that can change while requests are under way.
    pub(super) fn configure(&mut self, attr: &QpAttr) {
        self.sending.requester.configure(attr);
        self.tx_flow.changed();
    }

    /// Copies what is posted to its slots. Returns how many requests there were.
    pub(super) fn fetch(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<u32, RingError> {
        self.sending.note_returned(queue);
        let posted = queue.ring.available()?.min(REQUESTS_AT_ONCE);
        for _ in 0..posted {
            self.sending.fetch(queue)?;
        }
        Ok(posted)
    }

    /// Whoever posts a request from now on rings, unless there is one already.
    pub(super) fn sleep(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<Idle, RingError> {
        self.sending.note_returned(queue);
        queue.ring.sleep()
    }

    /// Notes how a request of this host's alone ended.
    pub(super) fn executed(&mut self, qp: &rdma::Qp<Qp>, slot: u32, result: Result<(), WcStatus>) {
        self.sending.with_requester(qp, |requester, host| {
            requester.executed(slot, result, host);
        });
    }

    /// Notes that memory is there that was missing.
    pub(super) fn memory_ready(&mut self) {
        self.sending.requester.memory_ready();
    }

    /// Takes a response.
    pub(super) fn take(&mut self, qp: &rdma::Qp<Qp>, now: u64, response: &Packet<'_>) {
        let taken = self.sending.with_requester(qp, |requester, host| {
            requester.on_packet(now, response, host)
        });
        count(qp.device(), taken);
    }

    /// The alarm has rung.
    pub(super) fn expired(&mut self, qp: &rdma::Qp<Qp>, now: u64) {
        self.alarm.rang();
        let timeout = self
            .sending
            .with_requester(qp, |requester, host| requester.on_deadline(now, host));
        let counters = &qp.device().counters;
        match timeout {
            Some(TimedOut::Retry) => counters.count(PortCounter::AckTimeout),
            Some(TimedOut::Exceeded) => counters.count(PortCounter::RetryExceeded),
            None => {}
        }
    }

    /// Does what the queue pair's state calls for, and sends what requests can be sent.
    pub(super) fn request(&mut self, qp: &rdma::Qp<Qp>, now: u64) -> Next {
        let Some(processing) = self.sending.processing(qp) else {
            return Next::Idle;
        };
        let next = match processing {
            Processing::Hold => Next::Idle,
            Processing::Run | Processing::Drain => {
                let hold = processing == Processing::Drain;
                self.sending.requester.recover();
                self.sending.requester.hold(hold);
                self.send(qp, now)
            }
            Processing::Flush => {
                let flush =
                    |requester: &mut Requester<_, _>, host: &Host<'_>| requester.flush(host);
                match self.sending.with_requester(qp, flush) {
                    true => Next::More,
                    false => Next::Idle,
                }
            }
        };
        if processing == Processing::Drain
            && self.sending.requester.is_drained()
            && qp.change(|attrs| attrs.attr.drained())
        {
            crate::queue_pair::dispatch(qp, QpEvent::SqDrained);
        }
        if let Some(at) = self.sending.requester.next_deadline() {
            self.alarm.set(at);
        }
        next
    }

    /// Sends what can be sent.
    fn send(&mut self, qp: &rdma::Qp<Qp>, now: u64) -> Next {
        let sending = &mut self.sending;
        let stopped = transmit(qp, &mut self.tx_flow, &mut Requests { qp, sending, now });
        // No memory is kept beyond the lock: it would be given back under it, where nothing may sleep.
        self.sending.requester.end_batch();
        match stopped {
            Stopped::Idle => Next::Idle,
            Stopped::More => Next::More,
            Stopped::Later => Next::Later,
            Stopped::Local(slot) => self.sending.local(qp, slot),
            Stopped::Busy => {
                self.alarm.set(now + PAUSE);
                Next::Idle
            }
        }
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

    fn batch_len(&mut self) -> u32 {
        self.sending.requester.batch_len()
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
        queue.ring.returned(position);
    }

    /// Copies the next entry, of those that there are, to its slot.
    fn fetch(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<(), RingError> {
        let at = self.next as usize * self.stride;
        let place = self.entries.get_mut(at..at + self.stride);
        let place = place.ok_or(RingError::Buffer)?;
        if queue.ring.fetch(place)?.is_some() {
            self.next = (self.next + 1) & (self.slots - 1);
            self.requester.posted();
        }
        Ok(())
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

    /// The request of this host's alone in a slot.
    fn local(&self, qp: &rdma::Qp<Qp>, slot: u32) -> Next {
        let at = slot as usize * self.stride;
        let entry = self.entries.get(at..at + self.stride);
        match SendRequest::decode(entry.unwrap_or_default(), qp.qp_type, origin(qp)) {
            Ok((request, _)) => Next::Local(slot, request.operation),
            Err(_) => Next::Idle,
        }
    }
}

/// Whose requests a queue pair has.
fn origin(qp: &rdma::Qp<Qp>) -> Origin {
    match qp.user {
        Some(_) => Origin::Kernel,
        None => Origin::User,
    }
}

fn count(device: &Device<Ferroce>, response: Response) {
    let counter = match response {
        Response::NotReady => PortCounter::RcvdRnr,
        Response::SequenceError => PortCounter::RcvdSequenceError,
        Response::ImpliedNak => PortCounter::ImpliedNak,
        Response::Failed(WcStatus::RemInvReqErr) => PortCounter::RequestInvalid,
        Response::Failed(WcStatus::RemAccessErr) => PortCounter::RequestAccess,
        Response::Failed(WcStatus::RetryExcErr) => PortCounter::RetryExceeded,
        Response::Failed(WcStatus::RnrRetryExcErr) => {
            device.counters.count(PortCounter::RcvdRnr);
            PortCounter::RnrRetryExceeded
        }
        Response::Ignored => PortCounter::Ghosts,
        Response::Taken | Response::Failed(_) => return,
    };
    device.counters.count(counter);
}
