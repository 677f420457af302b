// SPDX-License-Identifier: GPL-2.0

//! What a connected queue pair has for the wire.

use super::{
    paging::Paging, requesting::Requesting, responding::Responding, transmit::leave_to_thread,
};
use crate::{
    counter::PortCounter,
    device::Ferroce,
    local::Fault,
    mr::Missing,
    net::SpinLockBh,
    qp::QpAttr,
    queue_pair::{Peer, Qp},
    rdma::{self, Device, Gid, GidType},
    remote::Next,
    ring::{Idle, RingError, SendQueue},
    rings::WorkQueue,
    verbs::WcStatus,
    wire::Packet,
};
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::{prelude::*, sync::static_lock_class};

/// What a connected queue pair has for the wire.
///
/// There is a requester once a request was for a peer that is not on this host, and a responder once
/// the queue pair takes requests of such a peer. Each has a lock of its own, and sends by itself: while a
/// CPU makes the acknowledgement of a message, another sends what its receiver answers.
#[pin_data]
pub(crate) struct Connection {
    /// Requests go by the wire.
    is_remote: AtomicBool,
    #[pin]
    paging: Paging,
    #[pin]
    requesting: SpinLockBh<Option<KBox<Requesting>>>,
    /// Taken inside that of the requester, if both are.
    #[pin]
    responding: SpinLockBh<Option<KBox<Responding>>>,
}

impl Connection {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            is_remote: AtomicBool::new(false),
            paging <- Paging::new(),
            requesting <- SpinLockBh::new(
                None, c"ferroce::Connection::requesting", static_lock_class!()
            ),
            responding <- SpinLockBh::new(
                None, c"ferroce::Connection::responding", static_lock_class!()
            ),
        })
    }

    /// Whether requests go by the wire. Changed under the send queue's mutex.
    pub(crate) fn is_remote(&self) -> bool {
        self.is_remote.load(Ordering::Relaxed)
    }

    /// Has requests go by the wire from here on. `current` is one that was fetched already.
    pub(crate) fn go_remote(
        &self,
        qp: &rdma::Qp<Qp>,
        queue: &WorkQueue<SendQueue>,
        current: &[u8],
    ) -> Result {
        let requesting = qp.charge(|| Requesting::new(qp, queue, current))?;
        *self.requesting.lock() = Some(requesting);
        self.is_remote.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Fetches what is posted, and sends what can be sent. Returns how many requests were fetched too. If
    /// there were none, and nothing is left to do, the next post rings, if it is to `sleep`.
    pub(crate) fn post(
        &self,
        qp: &rdma::Qp<Qp>,
        queue: &mut WorkQueue<SendQueue>,
        sleep: bool,
    ) -> Result<(u32, Next), RingError> {
        let mut requesting = self.requesting.lock();
        let Some(requesting) = &mut *requesting else {
            return Ok((0, Next::Idle));
        };
        let fetched = requesting.fetch(queue)?;
        let mut next = requesting.request(qp, rdma::clock());
        if fetched == 0
            && matches!(next, Next::Idle | Next::Busy)
            && sleep
            && requesting.sleep(queue)? == Idle::Work
        {
            next = Next::More;
        }
        Ok((fetched, next))
    }

    /// Does what the queue pair's state calls for.
    pub(crate) fn run_requester(&self, qp: &rdma::Qp<Qp>) {
        let next = match &mut *self.requesting.lock() {
            Some(requesting) => requesting.request(qp, rdma::clock()),
            None => Next::Idle,
        };
        leave_to_thread(qp, next);
    }

    /// Memory on demand is missing, in a bottom half.
    pub(crate) fn missing(&self, qp: &rdma::Qp<Qp>, missing: Missing) -> Fault {
        let fault = self.paging.missing(missing);
        if fault == Fault::Later {
            qp.deferred.queue();
        }
        fault
    }

    /// Has memory be there that was missing, and goes on with what was left. It may sleep.
    pub(crate) fn resume(&self, qp: &rdma::Qp<Qp>) {
        let is_ready = self.paging.fault_in();
        let next = match &mut *self.responding.lock() {
            Some(responding) => responding.respond(qp, Peer::by_packet(qp)),
            None => Next::Idle,
        };
        if let Some(requesting) = &mut *self.requesting.lock() {
            if is_ready {
                requesting.memory_ready();
            }
            // If there is more, the thread that looks at the send queue after this goes on with it.
            requesting.request(qp, rdma::clock());
        }
        leave_to_thread(qp, next);
    }

    /// Notes how a request of this host's alone ended.
    pub(crate) fn executed(&self, qp: &rdma::Qp<Qp>, slot: u32, result: Result<(), WcStatus>) {
        if let Some(requesting) = &mut *self.requesting.lock() {
            requesting.executed(qp, slot, result);
        }
    }

    /// Takes over attributes that can change while requests are under way.
    pub(crate) fn configure(&self, attr: &QpAttr) {
        if let Some(requesting) = &mut *self.requesting.lock() {
            requesting.configure(attr);
        }
        if let Some(responding) = &mut *self.responding.lock() {
            responding.changed();
        }
    }

    /// Has a responder be there, if the peer is on another host.
    pub(crate) fn prepare(&self, qp: &rdma::Qp<Qp>) -> Result {
        loop {
            let changes = qp.changes();
            let (attr, takes) = {
                let shared = qp.shared.lock();
                (shared.attr, shared.takes_packets(qp.kind))
            };
            // What a peer on this host asks for, that executes itself: nobody else is to ask in its name.
            let is_needed = is_remote_gid(qp.device(), &attr.ah_attr.dgid);
            if !takes || !is_needed || self.responding.lock().is_some() {
                return Ok(());
            }
            let made = qp.charge(|| Responding::new(qp, &attr))?;
            let mut responding = self.responding.lock();
            // With the lock held: reset and destroy take a responder away under it, and one that was made
            // after them would stay.
            let is_it = qp.changes() == changes;
            if is_it && responding.is_none() {
                *responding = Some(made);
                return Ok(());
            }
            // Somebody else was faster, or it is that of a state of before.
            drop(responding);
            drop(made);
        }
    }

    /// Completes the receive that a message is in the middle of, if there is one, before all others
    /// are flushed.
    pub(crate) fn flush_receive(&self, qp: &rdma::Qp<Qp>) {
        if let Some(responding) = &mut *self.responding.lock() {
            responding.flush(qp);
        }
    }

    /// Forgets all. The caller holds the send queue's mutex, or has the queue pair to itself.
    pub(crate) fn reset(&self) {
        self.is_remote.store(false, Ordering::Relaxed);
        let requesting = self.requesting.lock().take();
        let responding = self.responding.lock().take();
        // Dropped with the locks released, which the timers' calls take.
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
        check: impl FnOnce() -> Result<Peer<'q>, PortCounter>,
    ) -> Result<(), PortCounter> {
        let taken = match first.bth.opcode.kind().is_response() {
            true => self.take_responses(qp, first, next, check)?,
            false => self.take_requests(qp, first, next, check)?,
        };
        leave_to_thread(qp, taken);
        Ok(())
    }

    fn take_responses<'q, 'p>(
        &self,
        qp: &rdma::Qp<Qp>,
        first: &Packet<'p>,
        mut next: impl FnMut() -> Option<Packet<'p>>,
        check: impl FnOnce() -> Result<Peer<'q>, PortCounter>,
    ) -> Result<Next, PortCounter> {
        let mut requesting = self.requesting.lock();
        // With the lock held: who has the queue pair fail flushes what was taken before.
        check()?;
        let Some(requesting) = &mut *requesting else {
            return Err(PortCounter::Ghosts);
        };
        let now = rdma::clock();
        requesting.take(qp, now, first);
        while let Some(response) = next() {
            requesting.take(qp, now, &response);
        }
        Ok(requesting.request(qp, now))
    }

    fn take_requests<'q, 'p>(
        &self,
        qp: &rdma::Qp<Qp>,
        first: &Packet<'p>,
        mut next: impl FnMut() -> Option<Packet<'p>>,
        check: impl FnOnce() -> Result<Peer<'q>, PortCounter>,
    ) -> Result<Next, PortCounter> {
        let mut responding = self.responding.lock();
        // As above.
        let peer = check()?;
        let Some(responding) = &mut *responding else {
            // There was no memory for one, or the peer was on this host, or the device down, when the queue
            // pair came to RTR. The packets are as good as lost. When they are sent again there may be one.
            qp.deferred.queue();
            return Ok(Next::Idle);
        };
        responding.take(qp, &peer, first);
        while let Some(request) = next() {
            responding.take(qp, &peer, &request);
        }
        Ok(responding.respond(qp, peer))
    }

    /// The requester's alarm has rung.
    pub(super) fn expired(&self, qp: &rdma::Qp<Qp>) {
        let next = match &mut *self.requesting.lock() {
            Some(requesting) => {
                let now = rdma::clock();
                requesting.expired(qp, now);
                requesting.request(qp, now)
            }
            None => Next::Idle,
        };
        leave_to_thread(qp, next);
    }

    /// The responder's alarm has rung: what it had to wait for may have arrived.
    pub(super) fn respond_again(&self, qp: &rdma::Qp<Qp>) {
        let next = match &mut *self.responding.lock() {
            Some(responding) => {
                responding.expired();
                responding.respond(qp, Peer::by_packet(qp))
            }
            None => Next::Idle,
        };
        leave_to_thread(qp, next);
    }
}

/// Whether an address is not one of this host's, in the device's network namespace, or local traffic
/// goes by the wire as well.
pub(crate) fn is_remote_gid(device: &Device<Ferroce>, dgid: &[u8; 16]) -> bool {
    let dgid = Gid(*dgid);
    if device.netns_mismatch() {
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
