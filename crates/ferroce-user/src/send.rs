// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of a send queue.

use core::sync::atomic::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use ferroce_core::local::{self, AccessError, Outcome, Progress};
use ferroce_core::qp::state::{self, Processing};
use ferroce_core::ring::{Data, Operation, Origin, SendQueue, SendRequest};
use ferroce_core::verbs::{QpType, WcStatus};
use ferroce_device::attrs::{Attrs, Endpoint, Terms};
use ferroce_device::effects::Effects;
use ferroce_device::queue::WorkQueue;
use ferroce_device::send::{self, Alone, Attempt, Completion, Execution, Next};

use crate::batch::Batch;
use crate::beside::{self, Message, Place};
use crate::helper::Due;
use crate::keys::Cache;
use crate::peer::{Entered, Peer};
use crate::process::Process;
use crate::qp::Qp;
use crate::side::Side;
use crate::{clock, cq, datagram, keys};

/// A send queue as the thread that holds its mutex has it.
pub struct SendSide {
    queue: WorkQueue<SendQueue, Box<[u8]>>,
    execution: Execution,
    peer: Option<Known>,
    /// Taken out while requests are executed.
    scratch: Option<Box<Scratch>>,
}

/// What is kept from one request to the next.
#[derive(Default)]
struct Scratch {
    /// The queue pair's own attributes, as of so many changes.
    own: Option<(Attrs, u32)>,
    cache: Cache,
    batch: Batch,
    message: Message,
}

/// What is known of the peer.
struct Known {
    /// Its process, which is looked for again if it has ended.
    process: Arc<Peer>,
    /// The terms of the queue pair of this number, as of so many changes of it and of the own one.
    terms: Option<(u32, Terms, u32, u32)>,
    beside: Beside,
}

/// The short messages that may still lie beside their completions, oldest first.
#[derive(Default)]
struct Beside(VecDeque<Place>);

/// How many short messages may lie beside completions of the peer's.
const MOST_BESIDE: usize = 64;

impl Beside {
    /// Whether another one may lie beside its completion.
    fn has_room(&mut self, process: &Process, peer: &Peer) -> bool {
        if self.0.len() == MOST_BESIDE {
            // Nearly always all are in one queue.
            let mut known = None;
            self.0.retain(|Place { cq, position }| {
                let (_, taken) = match known {
                    Some(known @ (of, _)) if of == *cq => known,
                    _ => *known.insert((*cq, cq::taken_up_to(process, peer, *cq))),
                };
                taken.is_some_and(|taken| (position.wrapping_sub(taken) as i32) >= 0)
            });
        }
        self.0.len() < MOST_BESIDE
    }

    /// Has them be in place before what follows, which may be for the same memory (IBTA 9.5).
    fn settle(&mut self, process: &'static Process, peer: &Peer) {
        for place in self.0.drain(..) {
            cq::place_for(process, peer, place);
        }
    }
}

impl SendSide {
    /// In which nothing is executed.
    pub fn new(queue: WorkQueue<SendQueue, Box<[u8]>>) -> Self {
        Self {
            queue,
            execution: Execution::default(),
            peer: None,
            scratch: None,
        }
    }

    /// Forgets all that was posted.
    pub fn reset(&mut self) {
        self.execution.abandon();
        self.queue.ring.discard_all();
        self.peer = None;
    }
}

/// How many requests are executed, and bytes moved, before a call that waits for this thread has a chance.
const BATCH: usize = 64;
/// As above.
const BATCH_BYTES: u32 = 1 << 20;

/// Executes requests until there is none, or one that has to wait.
pub fn drain(qp: &Qp, send: &mut SendSide) {
    let mut scratch = send.scratch.take().unwrap_or_default();
    loop {
        // Deregistering a region of this process waits for this thread.
        let _entered = Entered::new(&*qp.context.process.own);
        let has_more = drain_some(qp, send, &mut scratch);
        if !settle(qp, send, &mut scratch.batch) && !has_more {
            break;
        }
    }
    send.scratch = Some(scratch);
    if let Ok(record) = qp.record() {
        let tries = &send.execution.tries;
        let tries = u32::from(tries.not_ready()) | u32::from(tries.no_answer()) << 8;
        // Nearly always it is there already, and the cache line stays where it is.
        if record.tries.load(Ordering::Relaxed) != tries {
            record.tries.store(tries, Ordering::Relaxed);
        }
    }
}

/// Executes some requests, the last of which may be in the batch. Returns whether there may be more.
fn drain_some(qp: &Qp, send: &mut SendSide, scratch: &mut Scratch) -> bool {
    let Scratch {
        own: known,
        cache,
        batch,
        message,
    } = scratch;
    let mut bytes = 0_u32;
    for _ in 0..BATCH {
        if bytes >= BATCH_BYTES {
            break;
        }
        let Some((attrs, own)) = look(qp, known, cache) else {
            return false;
        };
        let state = attrs.attr.state;
        // `next` hands the slot of what it flushes back: those of the batch come first.
        if state::send_queue(state) == Processing::Flush && settle(qp, send, batch) {
            return true;
        }
        // It never sleeps: a thread that posts finds the lock free, or leaves a request to look.
        let next = send.execution.next(&mut send.queue, state, false, clock);
        if next != Ok(Next::Execute) && settle(qp, send, batch) {
            return true;
        }
        match next {
            Ok(Next::Held | Next::Idle | Next::Later) => return false,
            Ok(Next::Drained) => {
                change(qp, Attrs::drained);
                return false;
            }
            Err(_) => {
                // The process has written nonsense to its ring.
                qp.fail_fatally();
                return false;
            }
            Ok(Next::Flush(wr_id)) => complete(qp, &send::flushed(wr_id, qp.number)),
            Ok(Next::Execute) => {
                let Some(moved) = execute(qp, send, attrs, &own, batch, message) else {
                    return false;
                };
                bytes = bytes.saturating_add(moved);
            }
        }
    }
    true
}

/// Copies what is in the batch, and completes it. Returns whether memory was not there: then the request
/// that it was for is the next one again.
fn settle(qp: &Qp, send: &mut SendSide, batch: &mut Batch) -> bool {
    let (count, done) = (batch.len(), batch.copy());
    if done > 0 {
        // Before the completions, as `Execution::finish` says.
        send.queue.ring.hand_back(done as u32);
        let process = qp.context.process;
        let completions = batch.completions(done, qp.number);
        cq::complete_all(process, &process.own, qp.send_cq.number, completions);
    }
    batch.clear();
    if done == count {
        return false;
    }
    send.execution.abandon();
    send.queue.ring.rewind();
    batch.close();
    true
}

/// The queue pair itself, unless it is being destroyed: from what was known of it, if nothing has changed.
fn look<'a>(
    qp: &'a Qp,
    known: &'a mut Option<(Attrs, u32)>,
    cache: &'a Cache,
) -> Option<(&'a Attrs, Side<'a>)> {
    let process = qp.context.process;
    let record = qp.record().ok()?;
    // Pairs with the addition in `side::change`.
    let changes = record.changes.load(Ordering::Acquire);
    if known.as_ref().is_none_or(|(_, as_of)| *as_of != changes) {
        let (attrs, own) = qp.side(cache)?;
        *known = Some((attrs, own.changes));
    }
    let (attrs, as_of) = known.as_ref()?;
    let own = Side {
        process,
        peer: &process.own,
        record,
        number: qp.number,
        terms: Terms::of(&attrs.attr),
        changes: *as_of,
        cache,
        message: None,
        batch: None,
    };
    (!attrs.is_gone).then_some((attrs, own))
}

fn complete(qp: &Qp, cqe: &ferroce_core::ring::Cqe) {
    let process = qp.context.process;
    cq::complete(process, &process.own, qp.send_cq.number, cqe, false, None);
}

/// Changes the attributes, and does what that leads to; the send queue is being executed.
fn change(qp: &Qp, op: impl FnOnce(&mut Attrs) -> Effects) {
    if let Ok(effects) = qp.change(op) {
        qp.carry_out(effects, |_| {});
    }
}

/// Executes the current request, or has it join the batch. Returns how many bytes were moved, and `None` if it
/// has to wait.
fn execute(
    qp: &Qp,
    send: &mut SendSide,
    attrs: &Attrs,
    own: &Side<'_>,
    batch: &mut Batch,
    message: &mut Message,
) -> Option<u32> {
    let origin = Origin::User;
    let (completion, request) =
        send.execution
            .request(&send.queue, qp.qp_type, origin, qp.signal_all);
    if let Ok((request, data)) = &request
        && batch.admits(request, data.length())
    {
        let peer = &mut send.peer;
        let joined = join(qp, completion, request, *data, peer, attrs, own, batch);
        match joined {
            // Its slot is handed back when it is done.
            Some(_) => send.execution.abandon(),
            None => batch.close(),
        }
        return Some(joined.unwrap_or(0));
    }
    if !batch.is_empty() {
        settle(qp, send, batch);
        return Some(0);
    }
    batch.reopen();
    let attempt = match request {
        Ok((request, data)) => {
            let (execution, peer) = (&mut send.execution, &mut send.peer);
            attempt(qp, &request, data, execution, peer, attrs, own, message)
        }
        Err(status) => Attempt::Failed(status),
    };
    match attempt {
        Attempt::Done(length) => {
            send.execution.finish(&mut send.queue);
            if let Some(cqe) = completion.done(qp.number, length) {
                complete(qp, &cqe);
            }
            Some(length)
        }
        Attempt::Failed(status) => {
            send.execution.finish(&mut send.queue);
            complete(qp, &completion.failed(qp.number, status));
            change(qp, |attrs| attrs.fail_send(qp.kind()));
            Some(0)
        }
        Attempt::Wait(nanos) => {
            let time = clock().saturating_add(nanos);
            send.execution.wait_until(time);
            qp.context.process.at(time, qp.number, Due::Retry);
            None
        }
        // The peer has changed.
        Attempt::Paused => Some(0),
        Attempt::Stuck | Attempt::OwnMemory => None,
    }
}

/// Executes an operation that concerns this process alone.
fn execute_alone(qp: &Qp, operation: &Operation) -> Option<Result<(), WcStatus>> {
    let process = qp.context.process;
    let alone = Alone::of(operation)?;
    let result = match &alone {
        Alone::Bind(bind) => keys::bind(process, qp.pd.id(), qp.number, bind),
        Alone::Invalidate(rkey) => keys::invalidate(process, &process.own, *rkey, qp.number),
        // No process can post that.
        Alone::Register(_) => Err(AccessError),
    };
    Some(alone.end(result))
}

/// Has a request join the batch. Returns how many bytes it is; `None` if it is to be executed by itself, for
/// whatever is wrong with it too.
#[allow(clippy::too_many_arguments)] // The parts of the send queue.
fn join(
    qp: &Qp,
    completion: Completion,
    request: &SendRequest,
    data: Data<'_>,
    known: &mut Option<Known>,
    attrs: &Attrs,
    own: &Side<'_>,
    batch: &mut Batch,
) -> Option<u32> {
    let known = find(qp, attrs, known)?;
    if !batch.begin(request, &known.process) {
        return None;
    }
    known.beside.settle(own.process, &known.process);
    let side = connected(qp, attrs, own, &known.process, &mut known.terms)?;
    let is_reliable = qp.qp_type == QpType::Rc;
    batch.join(completion, |batch| {
        let side = Side {
            batch: Some(batch),
            ..side
        };
        let mut progress = Progress::default();
        let most_reads = attrs.attr.max_rd_atomic;
        let outcome = local::execute(
            request,
            data,
            own,
            most_reads,
            &side,
            is_reliable,
            &mut progress,
        );
        match outcome {
            Outcome::Done(length) => Some(length),
            _ => None,
        }
    })
}

/// Executes a request by itself. `message` has room for a short one.
#[allow(clippy::too_many_arguments)] // The parts of the send queue.
fn attempt(
    qp: &Qp,
    request: &SendRequest,
    data: Data<'_>,
    execution: &mut Execution,
    known: &mut Option<Known>,
    attrs: &Attrs,
    own: &Side<'_>,
    message: &mut Message,
) -> Attempt {
    if let Some(result) = execute_alone(qp, &request.operation) {
        return result.map_or_else(Attempt::Failed, |()| Attempt::Done(0));
    }
    if qp.qp_type.is_datagram() {
        let (qkey, tries) = (attrs.attr.qkey, &mut execution.tries);
        return datagram::send(qp, own, qkey, request, data, tries);
    }
    let attr = &attrs.attr;
    let tries = &mut execution.tries;
    let is_reliable = qp.qp_type == QpType::Rc;
    if let Some(Known {
        process,
        terms,
        beside,
    }) = find(qp, attrs, known)
    {
        let _entered = Entered::new(&**process);
        let is_short = is_short(request, data.length()) && beside.has_room(own.process, process);
        if !is_short {
            beside.settle(own.process, process);
        }
        if let Some(side) = connected(qp, attrs, own, process, terms) {
            message.clear();
            let side = Side {
                message: is_short.then_some(&*message),
                ..side
            };
            let progress = tries.progress_with(side.changes);
            let outcome = local::execute(
                request,
                data,
                own,
                attr.max_rd_atomic,
                &side,
                is_reliable,
                progress,
            );
            beside.0.extend(message.place());
            // Who ends is not there any more, whatever was tried of him.
            if !process.reach.is_gone() {
                return tries.outcome(outcome, attr, data.length(), clock).0;
            }
        }
    }
    if let Err(status) = local::check(request, data, own, attr.max_rd_atomic) {
        return Attempt::Failed(status);
    }
    tries.no_peer(qp.qp_type, attr, data.length()).0
}

/// Whether a message can lie beside its completion: one that takes a receive, and fits.
pub fn is_short(request: &SendRequest, length: u64) -> bool {
    let takes_receive = matches!(
        request.operation,
        Operation::Send | Operation::SendImm(_) | Operation::SendInvalidate { .. }
    );
    takes_receive && length <= beside::ROOM as u64
}

/// What is known of the queue pair that this one is connected to, and of its process.
fn find<'a>(qp: &Qp, attrs: &Attrs, known: &'a mut Option<Known>) -> Option<&'a mut Known> {
    if !qp.context.has_gid(&attrs.attr.ah_attr.dgid) {
        return None;
    }
    let process = qp.context.process;
    let is_current = known
        .as_ref()
        .is_some_and(|known| process.has(&known.process, attrs.attr.dest_qp_num));
    if !is_current {
        let found = process.peer_of(attrs.attr.dest_qp_num);
        *known = found.map(|process| Known {
            process,
            terms: None,
            beside: Beside::default(),
        });
    }
    known
        .as_mut()
        .filter(|known| !known.process.reach.is_gone())
}

/// The peer, if it takes messages of this queue pair.
fn connected<'a>(
    qp: &Qp,
    attrs: &Attrs,
    own: &Side<'a>,
    peer: &'a Peer,
    known: &mut Option<(u32, Terms, u32, u32)>,
) -> Option<Side<'a>> {
    let number = attrs.attr.dest_qp_num;
    let record = peer.segment.qp(crate::qp::index(number))?;
    // Pairs with the addition in `side::change`.
    let changes = record.changes.load(Ordering::Acquire);
    if let Some((of, terms, as_of, own_as_of)) = *known
        && (of, as_of, own_as_of) == (number, changes, own.changes)
    {
        return Some(Side {
            peer,
            record,
            number,
            terms,
            changes,
            ..*own
        });
    }
    let endpoint = Endpoint {
        number: qp.number,
        qp_type: qp.qp_type,
        gid: attrs.sgid,
    };
    let (_guard, peer_attrs, side) = Side::lock(own.process, peer, number, own.cache)?;
    let qp_type = crate::qp::qp_type(side.record)?;
    let terms = peer_attrs.takes_from(qp_type, &endpoint)?;
    *known = Some((number, terms, side.changes, own.changes));
    Some(Side { terms, ..side })
}
