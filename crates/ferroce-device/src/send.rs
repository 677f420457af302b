// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send queue of a queue pair whose peer is on this host: what is executed next, and what becomes of
//! it.
//!
//! The host calls [`Execution::next`], carries out what that says, by [`execute`](crate::local::execute) if it is a
//! request, and tells of its end by one of [`finish`](Execution::finish),
//! [`wait_until`](Execution::wait_until) and [`abandon`](Execution::abandon). The queue itself is the
//! host's, and handed in.

use core::ops::DerefMut;

use crate::counter::PortCounter;
use crate::local::{AccessError, Outcome, Progress};
use crate::qp::state::{self, Processing};
use crate::qp::QpAttr;
use crate::queue::WorkQueue;
use crate::ring::{
    BindMw, Cqe, Data, Idle, Operation, Origin, RegMr, RingError, SendQueue, SendRequest,
};
use crate::verbs::{QpState, QpType, RnrTimer, SendFlags, WcOpcode, WcStatus, RNR_RETRY_INFINITE};

/// What is being executed.
#[derive(Debug, Default)]
pub struct Execution {
    /// How many bytes of the buffer are the entry that is being executed.
    current: Option<usize>,
    /// When it is to be tried again, at the earliest.
    not_before: Option<u64>,
    /// What was tried of it.
    pub tries: Tries,
}

/// What comes next on a send queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the queue pair's state does not let it (IBTA 10.3.1).
    Held,
    /// Nothing, and the queue pair is to be told to have [drained](QpAttr::drained).
    Drained,
    /// There is nothing. If so it was asked, the poster of the next request rings.
    Idle,
    /// The current request has to wait: see [`Execution::wait_until`].
    Later,
    /// A request that is to be completed as flushed, with this `wr_id`.
    Flush(u64),
    /// The [current](Execution::request) request is to be executed.
    Execute,
}

/// What to make of a request when it is done, whatever came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    wr_id: u64,
    opcode: WcOpcode,
    /// A request that succeeds has a completion too.
    is_signaled: bool,
}

impl Completion {
    /// Of a request that was done, which moved so many bytes.
    pub fn done(&self, qpn: u32, length: u32) -> Option<Cqe> {
        self.is_signaled
            .then(|| completed(self.wr_id, qpn, self.opcode, WcStatus::Success, length))
    }

    /// Of one that failed.
    pub const fn failed(&self, qpn: u32, status: WcStatus) -> Cqe {
        completed(self.wr_id, qpn, self.opcode, status, 0)
    }
}

/// The completion of a request that was flushed.
pub const fn flushed(wr_id: u64, qpn: u32) -> Cqe {
    completed(wr_id, qpn, WcOpcode::Send, WcStatus::WrFlushErr, 0)
}

const fn completed(wr_id: u64, qpn: u32, opcode: WcOpcode, status: WcStatus, length: u32) -> Cqe {
    let mut cqe = Cqe::new(wr_id, qpn, opcode, status);
    cqe.byte_len = length;
    cqe
}

impl Execution {
    /// Finds what comes next, in this state of the queue pair. If that is nothing, and execution is to end
    /// with this (`sleep`), the next post rings. `now` is the host's clock, in nanoseconds.
    pub fn next<B: DerefMut<Target = [u8]>>(
        &mut self,
        queue: &mut WorkQueue<SendQueue, B>,
        state: QpState,
        sleep: bool,
        now: impl FnOnce() -> u64,
    ) -> Result<Next, RingError> {
        let processing = state::send_queue(state);
        match processing {
            Processing::Hold => return Ok(Next::Held),
            Processing::Drain if self.current.is_none() => return Ok(Next::Drained),
            _ => {}
        }
        if self.current.is_none() {
            self.current = fetch(queue, sleep)?;
            if self.current.is_none() {
                return Ok(Next::Idle);
            }
        }
        if processing == Processing::Flush {
            let wr_id = SendRequest::wr_id(self.entry(queue));
            self.finish(queue);
            return Ok(Next::Flush(wr_id));
        }
        if let Some(time) = self.not_before {
            if now() < time {
                return Ok(Next::Later);
            }
            self.not_before = None;
        }
        Ok(Next::Execute)
    }

    /// Whether nothing is being executed.
    pub const fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    /// Whether the current request has to wait.
    pub const fn is_waiting(&self) -> bool {
        self.not_before.is_some()
    }

    /// The current entry.
    pub fn entry<'b, B: DerefMut<Target = [u8]>>(
        &self,
        queue: &'b WorkQueue<SendQueue, B>,
    ) -> &'b [u8] {
        queue.entry(self.current.unwrap_or(0))
    }

    /// The current request, or what it fails with that makes no sense.
    pub fn request<'b, B: DerefMut<Target = [u8]>>(
        &self,
        queue: &'b WorkQueue<SendQueue, B>,
        qp_type: QpType,
        origin: Origin,
        signal_all: bool,
    ) -> (Completion, Result<(SendRequest, Data<'b>), WcStatus>) {
        let entry = self.entry(queue);
        let wr_id = SendRequest::wr_id(entry);
        match SendRequest::decode(entry, qp_type, origin) {
            Ok((request, data)) => {
                let completion = Completion {
                    wr_id,
                    opcode: request.operation.opcode().completion(),
                    is_signaled: signal_all || request.flags.contains(SendFlags::SIGNALED),
                };
                (completion, Ok((request, data)))
            }
            Err(error) => {
                let completion = Completion {
                    wr_id,
                    opcode: WcOpcode::Send,
                    is_signaled: true,
                };
                (completion, Err(error.status()))
            }
        }
    }

    /// Has the current request tried again, and not before a time.
    pub fn wait_until(&mut self, time: u64) {
        self.not_before = Some(time);
    }

    /// The current request is done, and its slot is the poster's again. To be called before its completion
    /// is written: a poster that sees that on another CPU may post at once, and has room.
    pub fn finish<B>(&mut self, queue: &mut WorkQueue<SendQueue, B>) {
        self.abandon();
        queue.ring.hand_back(1);
    }

    /// Leaves the current request, for good.
    pub fn abandon(&mut self) {
        self.current = None;
        self.not_before = None;
        self.tries.forget();
    }
}

/// Fetches the next entry. Returns its length in bytes.
fn fetch<B: DerefMut<Target = [u8]>>(
    queue: &mut WorkQueue<SendQueue, B>,
    sleep: bool,
) -> Result<Option<usize>, RingError> {
    loop {
        let length = queue.fetch()?;
        if length.is_some() || !sleep || queue.ring.sleep()? == Idle::Asleep {
            return Ok(length);
        }
    }
}

/// A request that concerns its own host alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// A window is bound.
    Bind(BindMw),
    /// The access by this key ends.
    Invalidate(u32),
    /// Memory is registered.
    Register(RegMr),
}

impl Alone {
    /// That of a request, if it is none of the peer's.
    pub const fn of(operation: &Operation) -> Option<Self> {
        Some(match *operation {
            Operation::BindMw(bind) => Self::Bind(bind),
            Operation::LocalInvalidate { rkey } => Self::Invalidate(rkey),
            Operation::RegMr(registration) => Self::Register(registration),
            _ => return None,
        })
    }

    /// How the request ends for which this is what the keys have said.
    pub const fn end(&self, result: Result<(), AccessError>) -> Result<(), WcStatus> {
        match (result, self) {
            (Ok(()), _) => Ok(()),
            (Err(AccessError), Self::Bind(_)) => Err(WcStatus::MwBindErr),
            (Err(AccessError), _) => Err(WcStatus::LocQpOpErr),
        }
    }
}

/// What comes of an attempt at a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It is done: so many bytes were moved.
    Done(u32),
    /// It failed.
    Failed(WcStatus),
    /// It is to be tried again after so many nanoseconds.
    Wait(u64),
    /// It is never tried again (a local ACK timeout of zero, and nobody answers).
    Stuck,
    /// It is to be tried again when the requester's own memory is there.
    OwnMemory,
    /// It is to go on, with what has become of the peer.
    Paused,
}

/// How often the current request was tried in vain, and how far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tries {
    not_ready: u8,
    no_answer: u8,
    /// How often memory of an unreliable connection's peer was not there.
    no_memory: u8,
    /// Since when there has been no receive, or no memory, in nanoseconds.
    waits_since: Option<u64>,
    progress: Progress,
    /// The version of the peer's attributes for which `progress` holds.
    peer: u32,
}

/// When to try again what there was no memory for, in nanoseconds.
pub const NO_MEMORY: u64 = 1_000_000;

/// How often a message of an unreliable connection is tried again because memory of its peer is not there
/// yet, before it is taken for lost.
const UNRELIABLE_TRIES: u8 = 100;

impl Tries {
    /// How often there was no receive; 255 stands for more as well.
    pub const fn not_ready(&self) -> u8 {
        self.not_ready
    }

    /// How often there was no answer.
    pub const fn no_answer(&self) -> u8 {
        self.no_answer
    }

    /// The next request is to be tried for the first time.
    fn forget(&mut self) {
        if self.not_ready | self.no_answer | self.no_memory != 0 || self.waits_since.is_some() {
            *self = Self::default();
        }
        self.progress = Progress::default();
    }

    /// How far the request is with a peer whose attributes are of this version.
    pub fn progress_with(&mut self, version: u32) -> &mut Progress {
        if self.peer != version {
            self.peer = version;
            self.progress = Progress::default();
        }
        &mut self.progress
    }

    /// How long to wait for memory of an unreliable peer; `None` if that has been too often.
    pub fn wait_for_memory(&mut self) -> Option<u64> {
        if self.no_memory == UNRELIABLE_TRIES {
            return None;
        }
        self.no_memory += 1;
        Some(NO_MEMORY)
    }

    /// How long to wait for a peer that is not ready: as long as it says, and the longer the longer that
    /// has been in vain. A peer that never gets ready costs little, and one that does loses little.
    fn backoff(&mut self, timer: RnrTimer, now: u64) -> u64 {
        let waited = now.saturating_sub(*self.waits_since.get_or_insert(now));
        timer.backoff_nanos(waited)
    }

    /// What comes of an attempt to execute a message of `length` bytes against the peer, and what counts
    /// for it. (A message that was done with the peer's knowledge is counted with others.)
    pub fn outcome(
        &mut self,
        outcome: Outcome,
        attr: &QpAttr,
        length: u64,
        now: impl FnOnce() -> u64,
    ) -> (Attempt, &'static [PortCounter]) {
        match outcome {
            Outcome::Done(length) | Outcome::Dropped(length) => (Attempt::Done(length), &[]),
            Outcome::Failed(status) => {
                let counters: &[_] = match status {
                    WcStatus::RemInvReqErr => &[PortCounter::RequestInvalid],
                    WcStatus::RemAccessErr => &[PortCounter::RequestAccess],
                    _ => &[],
                };
                (Attempt::Failed(status), counters)
            }
            Outcome::NotReady(timer) => {
                let is_bounded = attr.rnr_retry != RNR_RETRY_INFINITE;
                if is_bounded && self.not_ready >= attr.rnr_retry {
                    let failed = Attempt::Failed(WcStatus::RnrRetryExcErr);
                    return (
                        failed,
                        &[PortCounter::RcvdRnr, PortCounter::RnrRetryExceeded],
                    );
                }
                self.not_ready = self.not_ready.saturating_add(1);
                let wait = Attempt::Wait(self.backoff(timer, now()));
                (wait, &[PortCounter::RcvdRnr])
            }
            Outcome::MemoryLater => match self.wait_for_memory() {
                Some(nanos) => (Attempt::Wait(nanos), &[]),
                None => lost(length),
            },
            Outcome::OwnMemoryLater => (Attempt::OwnMemory, &[]),
            Outcome::Paused => (Attempt::Paused, &[]),
        }
    }

    /// What comes of a message of `length` bytes to a peer that does not exist, or does not take messages
    /// of this queue pair (IBTA 9.7.6.1.3, 9.8.2).
    pub fn no_peer(
        &mut self,
        qp_type: QpType,
        attr: &QpAttr,
        length: u64,
    ) -> (Attempt, &'static [PortCounter]) {
        if qp_type != QpType::Rc {
            return lost(length);
        }
        match attr.timeout.nanos() {
            None => (Attempt::Stuck, &[]),
            Some(_) if self.no_answer >= attr.retry_cnt => {
                let failed = Attempt::Failed(WcStatus::RetryExcErr);
                (failed, &[PortCounter::RetryExceeded])
            }
            Some(nanos) => {
                self.no_answer += 1;
                (Attempt::Wait(nanos), &[PortCounter::AckTimeout])
            }
        }
    }
}

/// A message of an unreliable connection that nobody takes: its sender does not learn of it.
fn lost(length: u64) -> (Attempt, &'static [PortCounter]) {
    let length = u32::try_from(length).unwrap_or(0);
    (Attempt::Done(length), &[PortCounter::Undelivered])
}
