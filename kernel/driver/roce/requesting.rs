// SPDX-License-Identifier: GPL-2.0

//! The half of a connection that sends requests.

use super::{
    alarm::Alarm,
    owner::SendOwner,
    transmit::{again_at, Way},
    tx_flow::TxFlow,
};
use crate::{
    attrs::Attrs,
    mr::Range,
    qp::QpAttr,
    queue_pair::{self, Caller, Qp},
    rdma,
    remote::{Identity, Next, RemoteSend},
    requester::Slot,
    ring::{Idle, RingError, SendQueue},
    rings::{self, SlotReturner, WorkQueue},
    verbs::{QpState, WcStatus},
    wire::Packet,
};
use core::cell::RefCell;
use kernel::{prelude::*, sync::aref::ARef};

/// How many requests are fetched while the lock is held.
const REQUESTS_AT_ONCE: u32 = 64;

/// The send queue, and its way to the peer.
pub(super) struct Requesting {
    sending: Sending,
    tx_flow: TxFlow,
    alarm: Alarm,
}

/// The send queue, and what it works with.
struct Sending {
    send: RemoteSend<KVVec<Slot>, KVVec<u8>, Range>,
    returner: RefCell<SlotReturner>,
    /// The queue pair's state, as of so many [changes](Qp::changes).
    state: Option<(u32, Option<QpState>)>,
}

impl Requesting {
    /// Of a send queue. `current` is an entry that was fetched already. It may sleep.
    pub(super) fn new(
        qp: &rdma::Qp<Qp>,
        queue: &WorkQueue<SendQueue>,
        current: &[u8],
    ) -> Result<KBox<Self>> {
        let flags = qp.flags();
        let size = queue.ring.geometry();
        let mut entries = KVVec::new();
        let length = RemoteSend::<KVVec<Slot>, KVVec<u8>, Range>::entries_len(size);
        entries.resize(length, 0, flags)?;
        let mut slots = KVVec::new();
        slots.resize(size.entries() as usize, Slot::default(), flags)?;
        let identity = Identity {
            number: qp.number,
            qp_type: qp.kind.qp_type,
            origin: qp.origin(),
            signal_all: qp.caps.signal_all,
        };
        let attr = qp.shared.lock().attr;
        let sending = Sending {
            send: RemoteSend::new(identity, &attr, size, Some(current), slots, entries),
            returner: RefCell::new(rings::returner(queue)),
            state: None,
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
        self.sending.send.configure(attr);
        self.tx_flow.changed();
    }

    /// Copies what is posted to its slots. Returns how many requests there were.
    pub(super) fn fetch(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<u32, RingError> {
        let returned = self.sending.returned();
        self.sending.send.fetch(queue, returned, REQUESTS_AT_ONCE)
    }

    /// Has the poster of the next request ring, unless there is one already.
    pub(super) fn sleep(&mut self, queue: &mut WorkQueue<SendQueue>) -> Result<Idle, RingError> {
        let returned = self.sending.returned();
        self.sending.send.sleep(queue, returned)
    }

    /// Notes how a request of this host's alone ended.
    pub(super) fn executed(&mut self, qp: &rdma::Qp<Qp>, slot: u32, result: Result<(), WcStatus>) {
        self.sending
            .with(qp, |send, owner| send.executed(slot, result, owner));
    }

    /// Notes that memory is there that was missing.
    pub(super) fn memory_ready(&mut self) {
        self.sending.send.memory_ready();
    }

    /// Takes a response.
    pub(super) fn take(&mut self, qp: &rdma::Qp<Qp>, now: u64, response: &Packet<'_>) {
        self.sending
            .with(qp, |send, owner| send.take(now, response, owner));
    }

    /// The alarm has rung.
    pub(super) fn expired(&mut self, qp: &rdma::Qp<Qp>, now: u64) {
        self.alarm.rang();
        self.sending
            .with(qp, |send, owner| send.expired(now, owner));
    }

    /// Does what the queue pair's state calls for, and sends what can be sent.
    pub(super) fn request(&mut self, qp: &rdma::Qp<Qp>, now: u64) -> Next {
        let Self {
            sending, tx_flow, ..
        } = self;
        let state = sending.state(qp);
        let mut way = Way { qp, tx_flow };
        let next = sending.with(qp, |send, owner| send.visit(now, state, owner, &mut way));
        if sending.send.has_drained(state) {
            queue_pair::change(qp, Caller::Any, Attrs::drained);
        }
        let times = [again_at(next, || now), sending.send.next_deadline()];
        if let Some(at) = times.into_iter().flatten().min() {
            self.alarm.set(at);
        }
        next
    }
}

impl Sending {
    /// How many slots have been handed back to the poster.
    fn returned(&mut self) -> u32 {
        self.returner.get_mut().returner.position()
    }

    /// The queue pair's state; `None` if that is being destroyed.
    fn state(&mut self, qp: &rdma::Qp<Qp>) -> Option<QpState> {
        let changes = qp.changes();
        match self.state {
            Some((as_of, state)) if as_of == changes => state,
            _ => {
                let state = qp.shared.lock().state();
                self.state = Some((changes, state));
                state
            }
        }
    }

    /// Calls the send queue, and has flushed what is to be flushed if a request has failed.
    fn with<R>(
        &mut self,
        qp: &rdma::Qp<Qp>,
        op: impl FnOnce(&mut RemoteSend<KVVec<Slot>, KVVec<u8>, Range>, &SendOwner<'_>) -> R,
    ) -> R {
        let owner = SendOwner {
            qp,
            returner: &self.returner,
        };
        let result = op(&mut self.send, &owner);
        // What is left on the send queue is flushed by a thread.
        queue_pair::carry_out(qp, Caller::Any, self.send.take_effects());
        result
    }
}
