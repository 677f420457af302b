// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of a send queue.

use core::sync::atomic::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use ferroce_core::local::{self, AccessError};
use ferroce_core::ring::{Data, Operation, Origin, SendQueue, SendRequest};
use ferroce_core::verbs::{EventType, QpType, WcStatus};
use ferroce_device::attrs::{Attrs, Endpoint, Terms};
use ferroce_device::queue::WorkQueue;
use ferroce_device::send::{self, Attempt, Execution, Next};

use crate::beside::{self, Message, Place};
use crate::keys::Cache;
use crate::peer::Peer;
use crate::process::Process;
use crate::qp::Qp;
use crate::side::Side;
use crate::{clock, cq, datagram, keys};

/// A send queue as the thread that holds its mutex has it.
pub struct SendSide {
    queue: WorkQueue<SendQueue, Box<[u8]>>,
    execution: Execution,
    /// The queue pair's own attributes, as of so many changes.
    own: Option<(Attrs, u32)>,
    peer: Option<Known>,
    cache: Cache,
}

/// What is known of the peer.
struct Known {
    /// Its process, which is looked for anew if it has ended.
    process: Arc<Peer>,
    /// The terms of the queue pair of this number, as of so many changes of it and of the own one.
    terms: Option<(u32, Terms, u32, u32)>,
    /// The short messages that may still lie beside their completions, oldest first.
    beside: VecDeque<Place>,
}

/// How many short messages may lie beside completions of the peer's.
const MOST_BESIDE: usize = 64;

impl Known {
    /// Whether another short message may lie beside its completion.
    fn has_room(&mut self, process: &Process) -> bool {
        if self.beside.len() == MOST_BESIDE {
            self.beside
                .retain(|place| !cq::was_taken(process, &self.process, *place));
        }
        self.beside.len() < MOST_BESIDE
    }

    /// Has the earlier messages be in place before what follows, which may be for the same memory (IBTA 9.5).
    fn settle(&mut self, process: &'static Process) {
        for place in self.beside.drain(..) {
            cq::place_for(process, &self.process, place);
        }
    }
}

impl SendSide {
    /// In which nothing is executed.
    pub fn new(queue: WorkQueue<SendQueue, Box<[u8]>>) -> Self {
        Self {
            queue,
            execution: Execution::default(),
            own: None,
            peer: None,
            cache: Cache::default(),
        }
    }

    /// Forgets all that was posted.
    pub fn reset(&mut self) {
        self.execution.abandon();
        self.queue.ring.discard_all();
        self.peer = None;
    }
}

/// How many requests are executed, and bytes moved, before whoever waits for this thread has a chance.
const BATCH: usize = 64;
/// As above.
const BATCH_BYTES: u32 = 1 << 20;

/// Executes requests until there is none, or one that has to wait.
pub fn drain(qp: &Qp, send: &mut SendSide) {
    send.queue.ring.stay_awake();
    let cache = core::mem::take(&mut send.cache);
    loop {
        // Whoever gives a region of this process up waits for this thread.
        let _entered = qp.context.process.own.enter();
        if !drain_batch(qp, send, &cache) {
            break;
        }
    }
    send.cache = cache;
    if let Ok(record) = qp.record() {
        let tries = &send.execution.tries;
        let tries = u32::from(tries.not_ready()) | u32::from(tries.no_answer()) << 8;
        // Nearly always it is there already, and the cache line stays where it is.
        if record.tries.load(Ordering::Relaxed) != tries {
            record.tries.store(tries, Ordering::Relaxed);
        }
    }
}

/// Executes some requests. Returns whether there may be more.
fn drain_batch(qp: &Qp, send: &mut SendSide, cache: &Cache) -> bool {
    let mut bytes = 0_u32;
    for _ in 0..BATCH {
        if bytes >= BATCH_BYTES {
            break;
        }
        let Some((attrs, own)) = look(qp, send, cache) else {
            return false;
        };
        let state = attrs.attr.state;
        match send.execution.next(&mut send.queue, state, true, clock) {
            Ok(Next::Held | Next::Idle | Next::Later) => return false,
            Ok(Next::Drained) => {
                if qp.change(|attrs| attrs.attr.drained()).unwrap_or(false) {
                    qp.raise(EventType::SqDrained);
                }
                return false;
            }
            Err(_) => {
                // The process has written nonsense to its ring.
                qp.fail_fatally();
                return false;
            }
            Ok(Next::Flush(wr_id)) => complete(qp, &send::flushed(wr_id, qp.number)),
            Ok(Next::Execute) => {
                let Some(moved) = execute(qp, send, &attrs, &own) else {
                    return false;
                };
                bytes = bytes.saturating_add(moved);
            }
        }
    }
    true
}

/// The queue pair itself, unless it is being destroyed: from what was known of it, if nothing has changed.
fn look<'a>(qp: &'a Qp, send: &mut SendSide, cache: &'a Cache) -> Option<(Attrs, Side<'a>)> {
    let process = qp.context.process;
    let record = qp.record().ok()?;
    // Pairs with the addition in `side::change`.
    let changes = record.changes.load(Ordering::Acquire);
    let (attrs, own) = match send.own {
        Some((attrs, as_of)) if as_of == changes => {
            let own = Side {
                process,
                peer: &process.own,
                record,
                number: qp.number,
                terms: Terms::of(&attrs.attr),
                changes,
                cache,
                message: None,
            };
            (attrs, own)
        }
        _ => qp.side(cache)?,
    };
    send.own = Some((attrs, own.changes));
    (!attrs.is_gone).then_some((attrs, own))
}

fn complete(qp: &Qp, cqe: &ferroce_core::ring::Cqe) {
    let process = qp.context.process;
    cq::complete(process, &process.own, qp.send_cq.number, cqe, false);
}

/// Executes the current request. Returns how many bytes were moved, and `None` if it has to wait.
fn execute(qp: &Qp, send: &mut SendSide, attrs: &Attrs, own: &Side<'_>) -> Option<u32> {
    let origin = Origin::User;
    let (completion, request) =
        send.execution
            .request(&send.queue, qp.qp_type, origin, qp.signal_all);
    let attempt = match request {
        Ok((request, data)) => {
            let (execution, peer) = (&mut send.execution, &mut send.peer);
            attempt(qp, &request, data, execution, peer, attrs, own)
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
            if qp
                .change(|attrs| attrs.fail_send(qp.qp_type))
                .unwrap_or(false)
            {
                qp.receiving_ends();
            }
            Some(0)
        }
        Attempt::Wait(nanos) => {
            let time = clock().saturating_add(nanos);
            send.execution.wait_until(time);
            qp.context.process.at(time, qp.number);
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
    let (result, status) = match operation {
        Operation::BindMw(bind) => (
            keys::bind(process, qp.pd.id(), qp.number, bind),
            WcStatus::MwBindErr,
        ),
        Operation::LocalInvalidate { rkey } => (
            keys::invalidate(process, &process.own, *rkey, qp.number),
            WcStatus::LocQpOpErr,
        ),
        Operation::RegMr(_) => (Err(AccessError), WcStatus::LocQpOpErr),
        _ => return None,
    };
    Some(result.map_err(|AccessError| status))
}

fn attempt(
    qp: &Qp,
    request: &SendRequest,
    data: Data<'_>,
    execution: &mut Execution,
    known: &mut Option<Known>,
    attrs: &Attrs,
    own: &Side<'_>,
) -> Attempt {
    if let Some(result) = execute_alone(qp, &request.operation) {
        return result.map_or_else(Attempt::Failed, |()| Attempt::Done(0));
    }
    if qp.qp_type.is_datagram() {
        return datagram::send(qp, own, attrs.attr.qkey, request, data);
    }
    let attr = &attrs.attr;
    let tries = &mut execution.tries;
    let is_reliable = qp.qp_type == QpType::Rc;
    if let Some(known) = find(qp, attrs, known) {
        let is_short = is_short(request, data.length()) && known.has_room(own.process);
        let target = known.process.clone();
        let _entered = target.enter();
        if !is_short {
            known.settle(own.process);
        }
        let Known {
            process,
            terms,
            beside,
        } = known;
        if let Some(side) = connected(qp, attrs, own, process, terms) {
            let message = Message::default();
            let side = Side {
                message: is_short.then_some(&message),
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
            beside.extend(message.place());
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
            beside: VecDeque::new(),
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
