// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs, with their processes' side of the rings.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use ferroce_core::ring::{
    Cqe, Doorbell, Payload, PostError, Poster, RecvQueue, RecvRequest, SendQueue, SendRequest, Sge,
    WqGeometry,
};
use ferroce_core::verbs::{EventType, QpState, QpType, WcStatus};
use ferroce_device::attrs::{Attrs, QpKind};
use ferroce_device::queue::WorkQueue;
use ferroce_device::receive::{self, GivenBack, ReceiveQueue, Receives};
use ferroce_device::send::Execution;

use crate::host::{Bytes, Process, Srq, DEPTH};
use crate::rings::Memory;
use crate::wire::Connection;

pub struct Qp {
    pub process: Process,
    pub number: u32,
    pub kind: QpKind,
    pub attrs: RefCell<Attrs>,
    pub version: Cell<u32>,
    pub send: RefCell<(Poster<SendQueue>, WorkQueue<SendQueue, Bytes>, Execution)>,
    pub receive: RefCell<(Poster<RecvQueue>, Receives<Bytes, Bytes>)>,
    pub srq: Option<Rc<Srq>>,
    /// If the peer is on another host.
    pub remote: RefCell<Option<Connection>>,
    /// Somebody has asked for the send queue to be executed: by a doorbell, or as effect of a failure.
    pub is_rung: Cell<bool>,
    /// What has been completed, in its order.
    pub sent: RefCell<VecDeque<Cqe>>,
    pub received: RefCell<VecDeque<Cqe>>,
    pub events: RefCell<Vec<EventType>>,
    /// How often the peer had no receive.
    pub not_ready: Cell<u32>,
    /// The rings of the send queue and of the receive queue.
    #[allow(dead_code)] // Not every user writes to them.
    pub rings: [Memory; 2],
}

impl Qp {
    pub fn new(process: Process, number: u32, qp_type: QpType, srq: Option<Rc<Srq>>) -> Self {
        let sends = WqGeometry::<SendQueue>::new(DEPTH, 1, 0).unwrap();
        let receives = WqGeometry::<RecvQueue>::new(DEPTH, 1).unwrap();
        let memory = [Memory::new(sends.len()), Memory::new(receives.len())];
        let room = GivenBack::<Bytes>::size(qp_type, receives.stride());
        let given_back = GivenBack::new(vec![0; room].into(), receives.stride());
        let has_srq = srq.is_some();
        let queue = (!has_srq).then(|| ReceiveQueue::new(memory[1].queue(receives)));
        Self {
            process,
            number,
            kind: QpKind { qp_type, has_srq },
            attrs: RefCell::new(Attrs::new()),
            version: Cell::new(0),
            send: RefCell::new((
                memory[0].poster(sends),
                memory[0].queue(sends),
                Execution::default(),
            )),
            receive: RefCell::new((memory[1].poster(receives), Receives::new(queue, given_back))),
            srq,
            remote: RefCell::default(),
            is_rung: Cell::new(false),
            sent: RefCell::default(),
            received: RefCell::default(),
            events: RefCell::default(),
            not_ready: Cell::new(0),
            rings: memory,
        }
    }

    /// Whether its peer is on another host.
    pub fn is_remote(&self) -> bool {
        self.remote.borrow().is_some()
    }

    pub fn state(&self) -> QpState {
        self.attrs.borrow().attr.state
    }

    pub fn change<R>(&self, op: impl FnOnce(&mut Attrs) -> R) -> R {
        self.version.set(self.version.get() + 1);
        op(&mut self.attrs.borrow_mut())
    }

    /// Forgets all that was posted, and the peer.
    pub fn reset(&self) {
        *self.remote.borrow_mut() = None;
        let (_, queue, execution) = &mut *self.send.borrow_mut();
        execution.abandon();
        queue.ring.discard_all();
        self.receive.borrow_mut().1.reset();
    }

    pub fn post_send(&self, request: &SendRequest, sges: &[Sge]) -> Result<(), PostError> {
        let (poster, ..) = &mut *self.send.borrow_mut();
        poster.push(request, Payload::Sges(sges))?;
        if poster.publish() == Doorbell::Ring {
            self.is_rung.set(true);
        }
        Ok(())
    }

    pub fn post_receive(&self, wr_id: u64, sge: Sge) -> Result<(), PostError> {
        if let Some(srq) = &self.srq {
            return srq.post(wr_id, sge);
        }
        {
            let (poster, _) = &mut *self.receive.borrow_mut();
            poster.push(&RecvRequest { wr_id }, &[sge])?;
            let _ = poster.publish();
        }
        self.flush_receives();
        Ok(())
    }

    pub fn complete(&self, cqe: Cqe) {
        self.sent.borrow_mut().push_back(cqe);
    }

    /// How many completions wait to be looked at.
    pub fn completed(&self) -> usize {
        self.sent.borrow().len()
    }

    /// Completes what is posted as flushed, if the state is such.
    pub fn flush_receives(&self) {
        if !self.attrs.borrow().flushes_receives() {
            return;
        }
        let (_, receives) = &mut *self.receive.borrow_mut();
        while let Some(wr_id) = receives.flush_one() {
            let cqe = receive::ended(wr_id, self.number, WcStatus::WrFlushErr);
            self.received.borrow_mut().push_back(cqe);
        }
    }

    /// Has a timer that is to execute the send queue.
    pub fn has_timer(&self) -> bool {
        let (_, _, execution) = &*self.send.borrow();
        let remote = self.remote.borrow();
        let deadline = remote
            .as_ref()
            .and_then(|connection| connection.send.borrow().next_deadline());
        execution.is_waiting() || deadline.is_some()
    }
}
