// SPDX-License-Identifier: GPL-2.0

//! The sending side: executes what a send queue holds.

use super::{
    by_wire,
    datagram::{datagram, Datagrams},
    known::Known,
    receive::Own,
    tries::Tries,
    work::Timer,
    Qp,
};
use crate::{
    counter::PortCounter,
    cq,
    local::{self, AccessError, Outcome},
    mr::{self, Cache},
    mw,
    qp::state::{self, Processing},
    rdma::{self, qp::QpEvent, Details},
    ring::{Cqe, Data, Idle, Operation, Origin, SendQueue, SendRequest},
    rings::WorkQueue,
    roce,
    verbs::{QpState, QpType, SendFlags, SendOpcode, WcOpcode, WcStatus, RNR_RETRY_INFINITE},
};
use kernel::{
    error::Result,
    prelude::fmt,
    time::{Delta, Instant, Monotonic},
};

/// A send queue as whoever holds its mutex has it.
pub(crate) struct SendSide {
    queue: WorkQueue<SendQueue>,
    /// How many bytes of the buffer are the entry that is being executed.
    current: Option<usize>,
    /// Of the current entry.
    tries: Tries,
    /// When to try the current entry again.
    not_before: Option<Instant<Monotonic>>,
    /// Has it tried again then.
    timer: Option<Timer>,
    datagrams: Datagrams,
}

/// What came of an attempt at a request.
pub(super) enum Attempt {
    Done(u32),
    Failed(WcStatus),
    /// To be tried again after this.
    Wait(Delta),
    /// To be tried again never: no timer runs (a local ACK timeout of zero).
    Stuck,
    /// Own memory is not there: to be tried again by who waits for that.
    Paging,
    /// The thread has other things to do, or the peer has changed.
    Paused,
    /// The peer is on another host.
    Elsewhere,
}

/// When to try again what there was no memory for.
pub(super) const NO_MEMORY: Delta = Delta::from_millis(1);

/// How many requests are executed before others get a chance.
pub(super) const BATCH: u32 = 64;

impl SendSide {
    pub(super) fn new(queue: WorkQueue<SendQueue>) -> Self {
        Self {
            queue,
            current: None,
            tries: Tries::default(),
            not_before: None,
            timer: None,
            datagrams: Datagrams::default(),
        }
    }

    /// Writes where the two sides are, and what the current entry waits for.
    pub(super) fn details(&self, details: &mut Details<'_>) -> Result {
        let at = self.queue.executor.positions();
        details
            .u32(c"sq_producer", at.producer)?
            .u32(c"sq_consumer", at.consumer)?
            .u32(c"sq_need_doorbell", at.need_doorbell.into())?
            .u32(c"sq_waits", self.not_before.is_some().into())?
            .u32(c"rnr_tries", self.tries.not_ready.into())?
            .u32(c"ack_tries", self.tries.no_answer.into())?;
        Ok(())
    }

    /// Forgets all that was posted.
    pub(super) fn reset(&mut self) {
        self.forget_current();
        self.queue.executor.discard_all();
    }

    /// Leaves the current entry, for good. No timer runs any more.
    pub(super) fn forget_current(&mut self) {
        self.current = None;
        self.tries.forget();
        self.not_before = None;
        self.timer = None;
    }

    /// Has what is posted from now on found by whoever comes to look, without a doorbell.
    pub(super) fn stay_awake(&mut self) {
        self.queue.executor.stay_awake();
    }

    /// Whether there is nothing to execute now. Whoever posts something need not ring, and it is found by
    /// the next look.
    pub(super) fn is_idle(&mut self, qp: &rdma::Qp<Qp>) -> bool {
        self.stay_awake();
        let is_empty = self.current.is_none() && self.queue.executor.available() == Ok(0);
        is_empty && !qp.connection.is_engaged()
    }

    /// The current entry is done, and its slot is the poster's again. To be called before its
    /// completion is written: whoever sees that on another CPU may post at once, and has room.
    fn finish_current(&mut self) {
        self.forget_current();
        self.queue.executor.hand_back(1);
    }

    /// Has the current entry tried again after a time, and not before.
    fn wait(&mut self, qp: &rdma::Qp<Qp>, delay: Delta) {
        let time = Instant::<Monotonic>::now() + delay;
        self.not_before = Some(time);
        // The former one first: there is one timer, which the handle of either stops.
        self.timer = None;
        self.timer = Some(qp.deferred.at(time));
    }
}

/// How far a send queue is to be executed.
#[derive(Clone, Copy)]
pub(super) enum Extent {
    /// As far as it goes. Whoever posts more then rings.
    All,
    /// As far as it goes until then; what is left has its turn later.
    Until(Instant<Monotonic>),
    /// A batch at most. This side comes back by itself.
    Batch,
}

impl Extent {
    /// Whether the execution ends when all is executed, so that whoever posts then rings.
    pub(super) fn is_to_sleep(self) -> bool {
        !matches!(self, Self::Batch)
    }

    /// Whether the thread has other things to do.
    pub(super) fn is_over(self) -> bool {
        match self {
            // One that is to end does not wait for another that goes on posting: its child, say.
            Self::All => kernel::current!().signal_pending(),
            Self::Until(end) => (end - Instant::<Monotonic>::now()).is_negative(),
            Self::Batch => true,
        }
    }

    /// Gives others a chance after a batch. Returns where the execution is to stop, if it is.
    pub(super) fn pause(self, qp: &rdma::Qp<Qp>, executed: u32) -> Option<Stopped> {
        if let Self::Batch = self {
            return Some(Stopped::After(executed));
        }
        if !self.is_over() {
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
    let mut batch = || match qp.connection.is_engaged() {
        // What goes by the wire has no use for the other's cache.
        true => drain_by_wire(qp, send, extent),
        false => drain(qp, send, extent, &Cache::new()),
    };
    while let Stopped::After(executed @ BATCH..) = batch() {
        if extent.pause(qp, executed).is_some() {
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
    if qp.connection.is_engaged() {
        return drain_by_wire(qp, send, extent);
    }
    send.stay_awake();
    let mut known = Known::of(qp, extent);
    let (mut executed, mut bytes) = (0, 0_u32);
    loop {
        if qp.connection.is_engaged() {
            drop(known);
            return drain_by_wire(qp, send, extent);
        }
        known.refresh();
        let processing = state::send_queue(known.own.attr.state);
        if known.own.is_gone || processing == Processing::Hold {
            return Stopped::Waiting;
        }
        if processing == Processing::Drain && send.current.is_none() {
            if qp.change(|facts| facts.attr.drained()) {
                super::dispatch(qp, QpEvent::SqDrained);
            }
            return Stopped::Waiting;
        }
        if send.current.is_none() && !fetch(qp, send, extent) {
            return Stopped::After(executed);
        }
        match processing {
            Processing::Flush => {
                let wr_id = send.queue.buffer.get(..send.current.unwrap_or(0));
                let wr_id = wr_id.map_or(0, SendRequest::wr_id);
                send.finish_current();
                complete(qp, wr_id, WcOpcode::Send, WcStatus::WrFlushErr, 0);
            }
            _ => match execute(qp, send, &mut known, cache) {
                Then::Next(moved) => bytes = bytes.saturating_add(moved),
                Then::Stop => return Stopped::Waiting,
                // The thread comes back by itself. That it was busy it has seen.
                Then::Pause if !extent.is_to_sleep() => return Stopped::After(executed.max(1)),
                Then::Pause if extent.is_over() => {
                    qp.deferred.queue();
                    return Stopped::Waiting;
                }
                // The peer has changed.
                Then::Pause => {}
            },
        }
        executed += 1;
        if bytes >= local::PART && extent.is_to_sleep() {
            // As within a long message.
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

/// Makes the next entry the current one. If there is none, whoever posts one rings, unless this side
/// comes back by itself.
fn fetch(qp: &rdma::Qp<Qp>, send: &mut SendSide, extent: Extent) -> bool {
    loop {
        let entry = send.queue.executor.fetch(&mut send.queue.buffer);
        let entry = match entry {
            Ok(entry) => entry.map(<[u8]>::len),
            Err(_) => {
                broken(qp);
                return false;
            }
        };
        if entry.is_some() {
            send.current = entry;
            return true;
        }
        if !extent.is_to_sleep() {
            return false;
        }
        match send.queue.executor.sleep() {
            Ok(Idle::Work) => {}
            Ok(Idle::Asleep) => return false,
            Err(_) => {
                broken(qp);
                return false;
            }
        }
    }
}

/// The process has written nonsense to its ring: nothing in it can be told from anything else.
pub(super) fn broken(qp: &rdma::Qp<Qp>) {
    qp.warn(fmt!(
        "the indexes of queue pair {:#x}'s send queue make no sense: it is in error",
        qp.number
    ));
    end(qp);
}

/// No request is executed any more, and none that comes.
pub(super) fn end(qp: &rdma::Qp<Qp>) {
    let before = qp.change(|facts| {
        let before = facts.attr.state;
        facts.attr.state = state::after_fatal_error(before);
        before
    });
    if before != QpState::Err {
        super::dispatch(qp, QpEvent::Fatal);
        super::receiving_ends(qp);
    }
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

/// Executes the current entry.
fn execute(qp: &rdma::Qp<Qp>, send: &mut SendSide, known: &mut Known<'_>, cache: &Cache) -> Then {
    if let Some(time) = send.not_before {
        let left = time - Instant::<Monotonic>::now();
        if !left.is_negative() && !left.is_zero() {
            // The timer runs.
            return Then::Stop;
        }
        send.not_before = None;
    }
    let entry = send
        .queue
        .buffer
        .get(..send.current.unwrap_or(0))
        .unwrap_or(&[]);
    let wr_id = SendRequest::wr_id(entry);
    let origin = match qp.user {
        Some(_) => Origin::Kernel,
        None => Origin::User,
    };
    let (opcode, signaled, attempt) = match SendRequest::decode(entry, qp.qp_type, origin) {
        Ok((request, data)) => {
            let opcode = request.operation.opcode();
            let signaled = qp.caps.signal_all || request.flags.contains(SendFlags::SIGNALED);
            (
                opcode,
                signaled,
                attempt(
                    qp,
                    &request,
                    data,
                    &mut send.tries,
                    &mut send.datagrams,
                    known,
                    cache,
                ),
            )
        }
        Err(error) => (SendOpcode::Send, true, Attempt::Failed(error.status())),
    };
    match attempt {
        Attempt::Done(length) => {
            send.datagrams.send(qp);
            send.finish_current();
            if signaled {
                // Whoever sees the completion finds it counted.
                known.settle();
                complete(qp, wr_id, opcode.completion(), WcStatus::Success, length);
            }
            Then::Next(length)
        }
        Attempt::Failed(status) => {
            known.settle();
            send.finish_current();
            complete(qp, wr_id, opcode.completion(), status, 0);
            let (before, after) = qp.change(|facts| {
                let before = facts.attr.state;
                facts.attr.state = state::after_send_error(qp.qp_type, before);
                (before, facts.attr.state)
            });
            if before != after && after == QpState::Err {
                super::receiving_ends(qp);
            }
            Then::Next(0)
        }
        Attempt::Wait(delay) => {
            send.wait(qp, delay);
            Then::Stop
        }
        Attempt::Stuck | Attempt::Paging => Then::Stop,
        Attempt::Paused => Then::Pause,
        Attempt::Elsewhere => match qp.connection.engage(qp, &send.queue, entry) {
            Ok(()) => {
                send.forget_current();
                Then::Next(0)
            }
            Err(_) => {
                send.wait(qp, NO_MEMORY);
                Then::Stop
            }
        },
    }
}

/// Executes an operation that concerns this host alone.
pub(super) fn execute_local(
    qp: &rdma::Qp<Qp>,
    operation: &Operation,
) -> Option<Result<(), WcStatus>> {
    let keys = &qp.device().keys;
    let (result, status) = match operation {
        Operation::BindMw(bind) => (mw::bind(qp, qp.pd, bind), WcStatus::MwBindErr),
        Operation::LocalInvalidate { rkey } => (
            mr::invalidate(keys, qp.pd, *rkey, qp.number),
            WcStatus::LocQpOpErr,
        ),
        Operation::RegMr(registration) => (
            mr::register(keys, qp.pd, registration),
            WcStatus::LocQpOpErr,
        ),
        _ => return None,
    };
    Some(result.map_err(|AccessError| status))
}

/// Not inlined, since it takes a lot of the stack, of which to send packets takes much as well.
#[inline(never)]
fn attempt(
    qp: &rdma::Qp<Qp>,
    request: &SendRequest,
    data: Data<'_>,
    tries: &mut Tries,
    datagrams: &mut Datagrams,
    known: &mut Known<'_>,
    cache: &Cache,
) -> Attempt {
    if let Some(result) = execute_local(qp, &request.operation) {
        return result.map_or_else(Attempt::Failed, |()| Attempt::Done(0));
    }
    if qp.qp_type.is_datagram() {
        return datagram(qp, request, data, datagrams, tries);
    }
    let reliable = qp.qp_type == QpType::Rc;
    let counters = &qp.device().counters;
    let depth = known.own.attr.max_rd_atomic;
    let Some((peer, changes)) = known.peer(cache) else {
        let attr = &known.own.attr;
        if roce::is_elsewhere(qp.device(), &attr.ah_attr.dgid) {
            return Attempt::Elsewhere;
        }
        return match attr.timeout.nanos() {
            _ if !reliable => {
                counters.count(PortCounter::RdmaSends);
                counters.count(PortCounter::Undelivered);
                Attempt::Done(u32::try_from(data.length()).unwrap_or(0))
            }
            None => Attempt::Stuck,
            Some(_) if tries.no_answer >= attr.retry_cnt => {
                counters.count(PortCounter::RetryExceeded);
                Attempt::Failed(WcStatus::RetryExcErr)
            }
            Some(nanos) => {
                counters.count(PortCounter::AckTimeout);
                tries.no_answer += 1;
                Attempt::Wait(Delta::from_nanos(nanos as i64))
            }
        };
    };
    let own = Own(qp, cache);
    let progress = tries.progress_with(changes);
    match local::execute(request, data, &own, depth, &peer, reliable, progress) {
        Outcome::Done(length) => {
            known.tally.add(&request.operation, length);
            Attempt::Done(length)
        }
        Outcome::Dropped(length) => {
            counters.count(PortCounter::RdmaSends);
            counters.add(PortCounter::SentBytes, length.into());
            Attempt::Done(length)
        }
        Outcome::Failed(status) => {
            match status {
                WcStatus::RemInvReqErr => counters.count(PortCounter::RequestInvalid),
                WcStatus::RemAccessErr => counters.count(PortCounter::RequestAccess),
                _ => {}
            }
            Attempt::Failed(status)
        }
        Outcome::NotReady(timer) => {
            counters.count(PortCounter::RcvdRnr);
            let attr = &known.own.attr;
            if attr.rnr_retry != RNR_RETRY_INFINITE {
                if tries.not_ready >= attr.rnr_retry {
                    counters.count(PortCounter::RnrRetryExceeded);
                    return Attempt::Failed(WcStatus::RnrRetryExcErr);
                }
                tries.not_ready += 1;
            }
            Attempt::Wait(tries.backoff(timer))
        }
        Outcome::MemoryLater => match tries.wait_for_memory() {
            Some(delay) => Attempt::Wait(delay),
            None => {
                counters.count(PortCounter::Undelivered);
                Attempt::Done(u32::try_from(data.length()).unwrap_or(0))
            }
        },
        Outcome::OwnMemoryLater => Attempt::Paging,
        Outcome::Paused => Attempt::Paused,
    }
}

fn complete(qp: &rdma::Qp<Qp>, wr_id: u64, opcode: WcOpcode, status: WcStatus, length: u32) {
    let mut cqe = Cqe::new(wr_id, qp.number, opcode, status);
    cqe.byte_len = length;
    cq::complete(&qp.send_cq, &cqe, false);
}
