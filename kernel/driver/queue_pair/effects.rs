// SPDX-License-Identifier: GPL-2.0

//! What a change of a queue pair's state leads to is carried out.

use super::{dispatch, execute_now, Qp};
use crate::{
    attrs::Attrs,
    cq,
    effects::{Effect, Effects},
    net,
    rdma::{self, qp::QpEvent},
    receive,
    verbs::{EventType, WcStatus},
};

/// Who carries effects out, and what it may do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The owner, in a call that may sleep.
    Owner,
    /// The thread that executes the send queue, and goes on with that by itself.
    Executor,
    /// Any thread, or a bottom half, with a lock of the connection held perhaps.
    Any,
}

/// Changes the attributes, and carries out what that leads to. Returns whether it leads to anything.
pub(crate) fn change(
    qp: &rdma::Qp<Qp>,
    caller: Caller,
    op: impl FnOnce(&mut Attrs) -> Effects,
) -> bool {
    let effects = qp.change(op);
    carry_out(qp, caller, effects);
    !effects.is_empty()
}

/// Does what a change of the state leads to.
pub(crate) fn carry_out(qp: &rdma::Qp<Qp>, caller: Caller, effects: Effects) {
    for effect in effects {
        match effect {
            Effect::Event(event) => {
                if let Some(event) = qp_event(event) {
                    dispatch(qp, event);
                }
            }
            Effect::Configure => {
                // Without the lock, which is taken inside that of the connection.
                let attr = qp.shared.lock().attr;
                // Takes the locks under which packets are executed: those that were before have been.
                qp.connection.configure(&attr);
            }
            Effect::WaitForPeers => {
                qp.inbound.wait();
                if qp.kind.qp_type.is_datagram() {
                    net::wait_for_bottom_halves();
                }
            }
            Effect::Reset => reset(qp),
            Effect::FlushHeldReceive => qp.connection.flush_receive(qp),
            Effect::FlushReceives if caller == Caller::Owner => flush_all_receives(qp),
            Effect::FlushReceives => flush_receives(qp),
            // Without memory now there may be some when the first packet comes.
            Effect::Respond => qp.connection.prepare(qp).unwrap_or(()),
            Effect::Execute => match caller {
                Caller::Owner => execute_now(qp),
                Caller::Executor => {}
                // Its mutex may be held by a thread that waits for this one's.
                Caller::Any => qp.deferred.queue(),
            },
        }
    }
}

fn reset(qp: &rdma::Qp<Qp>) {
    let mut send = qp.send.lock();
    send.reset();
    qp.connection.reset();
    qp.shared.lock().receives.reset();
    // Nobody could tell what they are of.
    qp.for_each_polling(|polling| polling.disown(qp.number));
}

fn qp_event(event: EventType) -> Option<QpEvent> {
    Some(match event {
        EventType::QpFatal => QpEvent::Fatal,
        EventType::QpReqErr => QpEvent::RequestError,
        EventType::QpAccessErr => QpEvent::AccessError,
        EventType::CommEst => QpEvent::CommEstablished,
        EventType::SqDrained => QpEvent::SqDrained,
        EventType::QpLastWqeReached => QpEvent::LastWqeReached,
        _ => return None,
    })
}

/// How many receives are flushed at once.
const FLUSHED_AT_ONCE: u32 = 64;

/// Completes posted receives as flushed, if the state is such (IBTA 10.3.1, Error): some here, what is
/// left by a thread. The caller may be a bottom half with a spinlock held.
pub(super) fn flush_receives(qp: &rdma::Qp<Qp>) {
    if flush_some_receives(qp) {
        qp.deferred.queue();
    }
}

/// As [`flush_receives`], all that the queue holds: for a call of the owner's, which may sleep.
fn flush_all_receives(qp: &rdma::Qp<Qp>) {
    let entries = qp.caps.layout.recv().map_or(0, |r| r.entries());
    // A process that goes on posting does not keep the thread.
    for _ in 0..entries / FLUSHED_AT_ONCE {
        if !flush_some_receives(qp) {
            return;
        }
        rdma::cond_resched();
    }
    flush_receives(qp);
}

/// Flushes some receives. Returns whether there may be more.
fn flush_some_receives(qp: &rdma::Qp<Qp>) -> bool {
    for _ in 0..FLUSHED_AT_ONCE {
        let wr_id = {
            let mut shared = qp.shared.lock();
            if !shared.flushes_receives() {
                return false;
            }
            shared.receives.flush_one()
        };
        let Some(wr_id) = wr_id else { return false };
        let cqe = receive::ended(wr_id, qp.number, WcStatus::WrFlushErr);
        cq::complete(&qp.recv_cq, &cqe, false);
    }
    true
}
