// SPDX-License-Identifier: GPL-2.0

//! The sending side: executes what a send queue holds.

use super::{
    by_wire,
    datagram::{datagram, Datagrams},
    effects::{self, Caller},
    peer_cache::PeerCache,
    receive::Own,
    work::Timer,
    Qp,
};
use crate::{
    attrs::Attrs,
    counter::PortCounter,
    cq,
    local::{self, Outcome},
    mr::{self, Cache},
    mw,
    rdma::{self, Details},
    ring::{Data, Operation, SendQueue, SendRequest},
    rings::WorkQueue,
    roce,
    send::{self, Alone, Execution, Next, Tries},
    verbs::{QpType, WcStatus},
};
use kernel::{
    error::Result,
    prelude::fmt,
    time::{Delta, Instant, Monotonic},
};

/// A send queue as the thread that holds its mutex has it.
pub(crate) struct SendSide {
    queue: WorkQueue<SendQueue>,
    execution: Execution,
    /// Has the current request tried again.
    timer: Option<Timer>,
    datagrams: Datagrams,
}

/// How many requests are executed before others get a chance.
pub(super) const BATCH: u32 = 64;

impl SendSide {
    pub(super) fn new(queue: WorkQueue<SendQueue>) -> Self {
        Self {
            queue,
            execution: Execution::default(),
            timer: None,
            datagrams: Datagrams::default(),
        }
    }

    /// Writes where the two sides are, and what the current entry waits for.
    pub(super) fn details(&self, details: &mut Details<'_>) -> Result {
        let at = self.queue.ring.positions();
        let tries = &self.execution.tries;
        details
            .u32(c"sq_producer", at.producer)?
            .u32(c"sq_consumer", at.consumer)?
            .u32(c"sq_need_doorbell", at.need_doorbell.into())?
            .u32(c"sq_waits", self.execution.is_waiting().into())?
            .u32(c"rnr_tries", tries.not_ready().into())?
            .u32(c"ack_tries", tries.no_answer().into())?;
        Ok(())
    }

    /// Forgets all that was posted.
    pub(super) fn reset(&mut self) {
        self.forget_current();
        self.queue.ring.discard_all();
    }

    /// Leaves the current entry, for good. No timer runs any more.
    pub(super) fn forget_current(&mut self) {
        self.execution.abandon();
        self.timer = None;
    }

    /// Has what is posted from now on found by the next thread that looks, without a doorbell.
    pub(super) fn stay_awake(&mut self) {
        self.queue.ring.stay_awake();
    }

    /// Whether there is nothing to execute now. A post need not ring, and is found by
    /// the next look.
    pub(super) fn is_idle(&mut self, qp: &rdma::Qp<Qp>) -> bool {
        self.stay_awake();
        let is_empty = self.execution.is_idle() && self.queue.ring.available() == Ok(0);
        is_empty && !qp.connection.is_remote()
    }

    /// The current request is done.
    fn finish_current(&mut self) {
        self.execution.finish(&mut self.queue);
        self.timer = None;
    }

    /// Has the current request tried again after so many nanoseconds, and not before.
    fn wait(&mut self, qp: &rdma::Qp<Qp>, nanos: u64) {
        // Both are the same clock. This one first: when the timer rings it is time.
        self.execution
            .wait_until(rdma::clock().saturating_add(nanos));
        let time = Instant::<Monotonic>::now() + Delta::from_nanos(nanos as i64);
        // The former one first: there is one timer, which the handle of either stops.
        self.timer = None;
        self.timer = Some(qp.deferred.at(time));
    }
}

/// How far a send queue is to be executed.
#[derive(Clone, Copy)]
pub(super) enum Extent {
    /// As far as it goes. The next post rings.
    All,
    /// About so many requests, to be flushed: what is posted meanwhile has its turn later. The next post
    /// rings.
    Flushed(u32),
    /// As far as it goes until then; what is left has its turn later.
    Until(Instant<Monotonic>),
    /// A batch at most. This side comes back by itself.
    Batch,
}

impl Extent {
    /// Whether the execution ends when all is executed, so that the next post rings.
    pub(super) fn is_to_sleep(self) -> bool {
        !matches!(self, Self::Batch)
    }

    /// Whether the thread that executes requests of a queue pair has other things to do.
    pub(super) fn is_over(self, qp: &rdma::Qp<Qp>) -> bool {
        match self {
            // A thread that is to end does not wait for another that goes on posting: its child, say. Nor does
            // who takes the device away, and waits for calls to end.
            Self::All => kernel::current!().signal_pending() || qp.device().is_removed(),
            // To flush them takes no time to speak of.
            Self::Flushed(_) => false,
            Self::Until(end) => (end - Instant::<Monotonic>::now()).is_negative(),
            Self::Batch => true,
        }
    }

    /// Gives others a chance after a batch. Returns where the execution is to stop, if it is.
    pub(super) fn pause(self, qp: &rdma::Qp<Qp>, executed: u32) -> Option<Stopped> {
        if let Self::Batch = self {
            return Some(Stopped::After(executed));
        }
        let are_enough = matches!(self, Self::Flushed(most) if executed >= most);
        if !are_enough && !self.is_over(qp) {
            rdma::cond_resched();
            return None;
        }
        qp.deferred.queue();
        Some(Stopped::Waiting)
    }
}

/// Where the execution of a send queue stopped.
pub(super) enum Stopped {
    /// So many requests were executed, and there may be more, or will be.
    After(u32),
    /// What comes next has to wait, or is not for now.
    Waiting,
}

/// Executes requests until there is none, or one that has to wait.
pub(super) fn drain_all(qp: &rdma::Qp<Qp>, send: &mut SendSide, extent: Extent) {
    let mut batch = || match qp.connection.is_remote() {
        // What goes by the wire has no use for the other's cache.
        true => drain_by_wire(qp, send, extent),
        false => drain(qp, send, extent, &Cache::new()),
    };
    let mut total: u32 = 0;
    while let Stopped::After(executed @ BATCH..) = batch() {
        total = total.saturating_add(executed);
        if extent.pause(qp, total).is_some() {
            return;
        }
    }
}

/// Executes a batch of requests, or up to one that has to wait. Regions are found in `cache`, and added
/// to it.
pub(super) fn drain(
    qp: &rdma::Qp<Qp>,
    send: &mut SendSide,
    extent: Extent,
    cache: &Cache,
) -> Stopped {
    if qp.connection.is_remote() {
        return drain_by_wire(qp, send, extent);
    }
    send.stay_awake();
    let mut peer_cache = PeerCache::of(qp, extent);
    let (mut executed, mut bytes) = (0, 0_u32);
    loop {
        if qp.connection.is_remote() {
            drop(peer_cache);
            return drain_by_wire(qp, send, extent);
        }
        peer_cache.refresh();
        if peer_cache.own.is_gone {
            return Stopped::Waiting;
        }
        let next = send.execution.next(
            &mut send.queue,
            peer_cache.own.attr.state,
            extent.is_to_sleep(),
            rdma::clock,
        );
        match next {
            Ok(Next::Held) => return Stopped::Waiting,
            Ok(Next::Drained) => {
                effects::change(qp, Caller::Executor, Attrs::drained);
                return Stopped::Waiting;
            }
            Ok(Next::Idle) => return Stopped::After(executed),
            // The timer runs.
            Ok(Next::Later) => return Stopped::Waiting,
            Err(_) => {
                broken(qp);
                return Stopped::After(executed);
            }
            Ok(Next::Flush(wr_id)) => {
                send.timer = None;
                cq::complete(&qp.send_cq, &send::flushed(wr_id, qp.number), false);
            }
            Ok(Next::Execute) => match execute(qp, send, &mut peer_cache, cache) {
                Then::Next(moved) => bytes = bytes.saturating_add(moved),
                Then::Stop => return Stopped::Waiting,
                // The thread comes back by itself. That it was busy it has seen.
                Then::Pause if !extent.is_to_sleep() => return Stopped::After(executed.max(1)),
                Then::Pause if extent.is_over(qp) => {
                    qp.deferred.queue();
                    return Stopped::Waiting;
                }
                // The peer has changed.
                Then::Pause => {}
            },
        }
        executed += 1;
        if bytes >= local::PART {
            // As within a long message.
            if !extent.is_to_sleep() {
                return Stopped::After(executed);
            }
            bytes = 0;
            if let Some(stopped) = extent.pause(qp, executed) {
                return stopped;
            }
        }
        if executed == BATCH {
            return Stopped::After(executed);
        }
    }
}

fn drain_by_wire(qp: &rdma::Qp<Qp>, send: &mut SendSide, extent: Extent) -> Stopped {
    send.stay_awake();
    by_wire::drain(qp, &mut send.queue, extent)
}

/// The process has written nonsense to its ring: nothing in it can be told from anything else.
pub(super) fn broken(qp: &rdma::Qp<Qp>) {
    qp.warn(fmt!(
        "the indexes of queue pair {:#x}'s send queue make no sense: it is in error",
        qp.number
    ));
    effects::change(qp, Caller::Executor, |attrs| attrs.fail_fatally(qp.kind));
}

/// What to do after a request was executed.
enum Then {
    /// To go on, with the same request if it is not done: so many bytes have been moved.
    Next(u32),
    /// Somebody comes to go on.
    Stop,
    /// To go on with the same request, or to have somebody come to go on.
    Pause,
}

/// What came of an attempt at a request.
pub(super) enum Attempt {
    Local(send::Attempt),
    /// The peer is on another host.
    Remote,
}

impl From<send::Attempt> for Attempt {
    fn from(attempt: send::Attempt) -> Self {
        Self::Local(attempt)
    }
}

/// Executes the current request.
fn execute(
    qp: &rdma::Qp<Qp>,
    send: &mut SendSide,
    peer_cache: &mut PeerCache<'_>,
    cache: &Cache,
) -> Then {
    let (completion, request) = send.execution.request(
        &send.queue,
        qp.kind.qp_type,
        qp.origin(),
        qp.caps.signal_all,
    );
    let attempt = match request {
        Ok((request, data)) => {
            let (tries, datagrams) = (&mut send.execution.tries, &mut send.datagrams);
            attempt(qp, &request, data, tries, datagrams, peer_cache, cache)
        }
        Err(status) => send::Attempt::Failed(status).into(),
    };
    let attempt = match attempt {
        Attempt::Local(attempt) => attempt,
        Attempt::Remote => {
            let entry = send.execution.entry(&send.queue);
            return match qp.connection.go_remote(qp, &send.queue, entry) {
                Ok(()) => {
                    send.forget_current();
                    Then::Next(0)
                }
                Err(_) => {
                    send.wait(qp, send::NO_MEMORY);
                    Then::Stop
                }
            };
        }
    };
    match attempt {
        send::Attempt::Done(length) => {
            send.datagrams.send(qp);
            let moved = length.max(send.datagrams.copied());
            send.finish_current();
            if let Some(cqe) = completion.done(qp.number, length) {
                // A program that sees the completion finds it counted.
                peer_cache.add_counts();
                cq::complete(&qp.send_cq, &cqe, false);
            }
            Then::Next(moved)
        }
        send::Attempt::Failed(status) => {
            peer_cache.add_counts();
            send.finish_current();
            cq::complete(&qp.send_cq, &completion.failed(qp.number, status), false);
            effects::change(qp, Caller::Executor, |attrs| attrs.fail_send(qp.kind));
            Then::Next(0)
        }
        send::Attempt::Wait(nanos) => {
            send.wait(qp, nanos);
            Then::Stop
        }
        send::Attempt::Stuck | send::Attempt::OwnMemory => Then::Stop,
        send::Attempt::Paused => Then::Pause,
    }
}

/// Executes an operation that concerns this host alone. It may sleep.
pub(super) fn execute_local(
    qp: &rdma::Qp<Qp>,
    operation: &Operation,
) -> Option<Result<(), WcStatus>> {
    let (keys, alone) = (&qp.device().keys, Alone::of(operation)?);
    let result = match &alone {
        Alone::Bind(bind) => mw::bind(qp, qp.pd, bind),
        Alone::Invalidate(rkey) => mr::invalidate(keys, qp.pd, *rkey, qp.number)
            .map(|invalidated| invalidated.wait_for_users()),
        Alone::Register(registration) => mr::register(keys, qp.pd, registration),
    };
    Some(alone.end(result))
}

/// Not inlined, since it takes a lot of the stack, of which to send packets takes much as well.
#[inline(never)]
fn attempt(
    qp: &rdma::Qp<Qp>,
    request: &SendRequest,
    data: Data<'_>,
    tries: &mut Tries,
    datagrams: &mut Datagrams,
    peer_cache: &mut PeerCache<'_>,
    cache: &Cache,
) -> Attempt {
    if let Some(result) = execute_local(qp, &request.operation) {
        let done = |()| send::Attempt::Done(0);
        return result.map_or_else(send::Attempt::Failed, done).into();
    }
    if qp.kind.qp_type.is_datagram() {
        return datagram(qp, request, data, datagrams, tries).into();
    }
    let counters = &qp.device().counters;
    let attr = peer_cache.own.attr;
    let Some((peer, version)) = peer_cache.peer(cache) else {
        if roce::is_remote_gid(qp.device(), &attr.ah_attr.dgid) {
            return Attempt::Remote;
        }
        let own = Own(qp, cache);
        if let Err(status) = local::check(request, data, &own, attr.max_rd_atomic) {
            return send::Attempt::Failed(status).into();
        }
        if qp.kind.qp_type != QpType::Rc {
            counters.count(PortCounter::RdmaSends);
        }
        let (attempt, counted) = tries.no_peer(qp.kind.qp_type, &attr, data.length());
        for counter in counted {
            counters.count(*counter);
        }
        return attempt.into();
    };
    let reliable = qp.kind.qp_type == QpType::Rc;
    let own = Own(qp, cache);
    let progress = tries.progress_with(version);
    let outcome = local::execute(
        request,
        data,
        &own,
        attr.max_rd_atomic,
        &peer,
        reliable,
        progress,
    );
    match outcome {
        Outcome::Done(length) => peer_cache.counts.add(&request.operation, length),
        Outcome::Dropped(length) => {
            counters.count(PortCounter::RdmaSends);
            counters.add(PortCounter::SentBytes, length.into());
        }
        _ => {}
    }
    let (attempt, counted) = tries.outcome(outcome, &attr, data.length(), rdma::clock);
    for counter in counted {
        counters.count(*counter);
    }
    attempt.into()
}
