// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of a send queue.

use std::sync::Arc;

use ferroce_core::local::{self, AccessError};
use ferroce_core::ring::{Data, Operation, Origin, SendQueue, SendRequest};
use ferroce_core::verbs::{EventType, QpType, WcStatus};
use ferroce_device::attrs::{Attrs, Endpoint};
use ferroce_device::queue::WorkQueue;
use ferroce_device::send::{self, Attempt, Execution, Next};

use crate::beside::{self, Message};
use crate::peer::Peer;
use crate::qp::Qp;
use crate::side::Side;
use crate::{clock, cq, datagram, keys};

/// A send queue as the thread that holds its mutex has it.
pub struct SendSide {
    queue: WorkQueue<SendQueue, Box<[u8]>>,
    execution: Execution,
    /// The process of the peer, which is looked for anew if it has ended.
    peer: Option<Arc<Peer>>,
}

impl SendSide {
    /// In which nothing is executed.
    pub fn new(queue: WorkQueue<SendQueue, Box<[u8]>>) -> Self {
        Self {
            queue,
            execution: Execution::default(),
            peer: None,
        }
    }

    /// Forgets all that was posted.
    pub fn reset(&mut self) {
        self.execution.abandon();
        self.queue.ring.discard_all();
        self.peer = None;
    }
}

/// Executes requests until there is none, or one that has to wait.
pub fn drain(qp: &Qp, send: &mut SendSide) {
    send.queue.ring.stay_awake();
    let Some((mut attrs, mut own)) = qp.side() else {
        return;
    };
    loop {
        if own
            .record
            .changes
            .load(core::sync::atomic::Ordering::Acquire)
            != own.changes
        {
            match qp.side() {
                Some(changed) => (attrs, own) = changed,
                None => return,
            }
        }
        if attrs.is_gone {
            return;
        }
        let state = attrs.attr.state;
        match send.execution.next(&mut send.queue, state, true, clock) {
            Ok(Next::Held | Next::Idle | Next::Later) => return,
            Ok(Next::Drained) => {
                if qp.change(|attrs| attrs.attr.drained()).unwrap_or(false) {
                    qp.raise(EventType::SqDrained);
                }
                return;
            }
            Err(_) => {
                // The process has written nonsense to its ring.
                qp.fail_fatally();
                return;
            }
            Ok(Next::Flush(wr_id)) => complete(qp, &send::flushed(wr_id, qp.number)),
            Ok(Next::Execute) => {
                if !execute(qp, send, &attrs, &own) {
                    return;
                }
            }
        }
    }
}

fn complete(qp: &Qp, cqe: &ferroce_core::ring::Cqe) {
    let process = qp.context.process;
    cq::complete(process, &process.own, qp.send_cq.number, cqe, false);
}

/// Executes the current request. Returns whether to go on.
fn execute(qp: &Qp, send: &mut SendSide, attrs: &Attrs, own: &Side<'_>) -> bool {
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
            true
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
            true
        }
        Attempt::Wait(nanos) => {
            let time = clock().saturating_add(nanos);
            send.execution.wait_until(time);
            qp.context.process.at(time, qp.number);
            false
        }
        // The peer has changed.
        Attempt::Paused => true,
        Attempt::Stuck | Attempt::OwnMemory => false,
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
    known: &mut Option<Arc<Peer>>,
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
    if let Some(peer) = find(qp, attrs, known) {
        let _entered = peer.enter();
        if let Some(side) = connected(qp, attrs, own, peer) {
            let message = Message::default();
            let side = Side {
                message: is_short(request, data.length()).then_some(&message),
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
            // Who ends is not there any more, whatever was tried of him.
            if !peer.reach.is_gone() {
                return tries.outcome(outcome, attr, data.length(), clock).0;
            }
        }
    } else {
        *known = None;
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

/// The process of the queue pair that this one is connected to.
fn find<'a>(qp: &Qp, attrs: &Attrs, known: &'a mut Option<Arc<Peer>>) -> Option<&'a Arc<Peer>> {
    if !qp.context.has_gid(&attrs.attr.ah_attr.dgid) {
        return None;
    }
    let process = qp.context.process;
    let is_current = known
        .as_ref()
        .is_some_and(|peer| process.has(peer, attrs.attr.dest_qp_num));
    if !is_current {
        *known = process.peer_of(attrs.attr.dest_qp_num);
    }
    known.as_ref().filter(|peer| !peer.reach.is_gone())
}

/// The peer, if it takes messages of this queue pair.
fn connected<'a>(qp: &Qp, attrs: &Attrs, own: &Side<'_>, peer: &'a Peer) -> Option<Side<'a>> {
    let endpoint = Endpoint {
        number: qp.number,
        qp_type: qp.qp_type,
        gid: attrs.sgid,
    };
    let (_guard, peer_attrs, side) = Side::lock(own.process, peer, attrs.attr.dest_qp_num)?;
    let qp_type = crate::qp::qp_type(side.record)?;
    let terms = peer_attrs.takes_from(qp_type, &endpoint)?;
    Some(Side { terms, ..side })
}
