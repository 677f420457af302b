// SPDX-License-Identifier: GPL-2.0

//! Kernel users: the side of the rings that posts and polls.
//!
//! The kernel's own queues are rings like those of processes, in memory that nobody maps. What the
//! plug-in of libibverbs is to a process, this is to a kernel user. It may be called in any context
//! (Documentation/infiniband/core_locking.rst), so it takes its own locks alone, and leaves the
//! execution of what is posted to the queue pair's deferred work. The driver's side of the rings,
//! which executes and completes, is the same as for processes.

mod request;

use super::{
    callback::{Callbacks, HasHandlers},
    device::Ferroce,
    queue_pair::Qp,
    rings::{errno, PollQueue, PostQueue},
    srq::Srq,
};
use crate::{
    qp::state,
    rdma::{
        self,
        lock::IrqSave,
        qp::QpEvent,
        wr::{RecvWrs, SendWrs},
        NotifyFlags, SpinLockIrqSave, SrqEvent, WcBuffer,
    },
    ring::{Doorbell, Notify, RecvQueue, SendQueue},
    verbs::{QpState, QpType},
};
use core::sync::atomic::{AtomicU8, Ordering};
use kernel::{
    alloc::Flags,
    prelude::*,
    rbtree::{RBTree, RBTreeNode},
    sync::{aref::ARef, lock::Guard, static_lock_class, Arc},
};

/// The user's side of a queue pair.
#[pin_data]
pub(crate) struct Posting {
    #[pin]
    send: SpinLockIrqSave<PostQueue<SendQueue>>,
    /// `None` if receives come from a shared receive queue.
    recv: Option<Pin<KBox<Receives>>>,
    /// The state that the last Modify QP led to. That errors move the queue pair on does no harm: in
    /// the states that they lead to everything can be posted, and is flushed.
    state: AtomicU8,
    pub(crate) callbacks: Arc<Callbacks<rdma::Qp<Qp>>>,
}

/// The user's side of a receive queue, shared or not.
#[pin_data]
pub(crate) struct Receives {
    #[pin]
    queue: SpinLockIrqSave<PostQueue<RecvQueue>>,
}

impl Receives {
    pub(crate) fn new(queue: PostQueue<RecvQueue>) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            try_pin_init!(Self {
                queue <- SpinLockIrqSave::new(queue, c"ferroce::Receives", static_lock_class!()),
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Posts to another ring from now on, once `move_all` has moved there what is posted. Nobody posts
    /// meanwhile. Returns the ring before, for the caller to drop with no locks held: that frees pages.
    pub(crate) fn resize(
        &self,
        mut new: PostQueue<RecvQueue>,
        move_all: impl FnOnce() -> Result,
    ) -> Result<PostQueue<RecvQueue>> {
        let mut queue = self.queue.lock();
        move_all()?;
        new.poster.resume(&queue.poster);
        Ok(core::mem::replace(&mut *queue, new))
    }

    /// Posts work requests up to the first that cannot be.
    pub(crate) fn post(&self, wrs: &mut RecvWrs<'_, Ferroce>) -> (Doorbell, Result) {
        let mut queue = self.queue.lock();
        let result = wrs.try_for_each(|wr| request::receive(&mut queue.poster, &wr));
        (queue.poster.publish(), result)
    }
}

impl Posting {
    pub(crate) fn new(
        send: PostQueue<SendQueue>,
        recv: Option<PostQueue<RecvQueue>>,
    ) -> Result<Pin<KBox<Self>>> {
        let recv = recv.map(Receives::new).transpose()?;
        let callbacks = Callbacks::new()?;
        KBox::pin_init(
            try_pin_init!(Self {
                send <- SpinLockIrqSave::new(send, c"ferroce::Posting::send", static_lock_class!()),
                recv,
                state: AtomicU8::new(QpState::Reset.number()),
                callbacks,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Notes what a Modify QP led to.
    pub(crate) fn set_state(&self, state: QpState) {
        // Relaxed: a user that posts in one thread what it has made possible in another tells the one
        // of the other anyway.
        self.state.store(state.number(), Ordering::Relaxed);
    }

    fn check_state(&self, may_post: fn(QpState) -> bool) -> Result {
        let state = self.state.load(Ordering::Relaxed);
        let state = QpState::try_from(u32::from(state)).unwrap_or(QpState::Reset);
        may_post(state).then_some(()).ok_or(EINVAL)
    }

    /// Posts send work requests up to the first that cannot be.
    pub(crate) fn post_send(
        &self,
        qp_type: QpType,
        wrs: &mut SendWrs<'_, Ferroce>,
    ) -> (Doorbell, Result) {
        if let Err(error) = self.check_state(state::may_post_send) {
            return (Doorbell::Skip, Err(error));
        }
        let mut queue = self.send.lock();
        let result = wrs.try_for_each(|wr| request::send(&mut queue.poster, qp_type, &wr));
        (queue.poster.publish(), result)
    }

    /// Posts receive work requests up to the first that cannot be.
    pub(crate) fn post_recv(&self, wrs: &mut RecvWrs<'_, Ferroce>) -> (Doorbell, Result) {
        match (&self.recv, self.check_state(state::may_post_recv)) {
            (Some(recv), Ok(())) => recv.post(wrs),
            (_, result) => (Doorbell::Skip, result.and(Err(EINVAL))),
        }
    }
}

/// The events that a user of a queue pair is told of.
const QP_EVENTS: [QpEvent; 6] = [
    QpEvent::Fatal,
    QpEvent::RequestError,
    QpEvent::AccessError,
    QpEvent::CommEstablished,
    QpEvent::SqDrained,
    QpEvent::LastWqeReached,
];

/// An event's bit for [`Callbacks::raise`].
pub(crate) fn qp_event_bit(event: QpEvent) -> u32 {
    1 << event as u32
}

impl HasHandlers for rdma::Qp<Qp> {
    fn call(&self, events: u32) {
        for event in QP_EVENTS {
            if events & qp_event_bit(event) != 0 {
                self.dispatch(event);
            }
        }
    }
}

impl HasHandlers for rdma::Srq<Srq> {
    fn call(&self, _events: u32) {
        self.dispatch(SrqEvent::LimitReached);
    }
}

/// How many completions are looked at with interrupts off, of the up to 2^18 of a queue.
const DISOWN_AT_ONCE: u32 = 256;

/// The user's side of a completion queue.
#[pin_data]
pub(crate) struct Polling {
    #[pin]
    inner: SpinLockIrqSave<Inner>,
}

struct Inner {
    queue: PollQueue,
    /// The queue pairs that complete here, by their numbers. What is of no other has lost its queue
    /// pair.
    qps: RBTree<u32, ARef<rdma::Qp<Qp>>>,
}

impl Polling {
    pub(crate) fn new(queue: PollQueue) -> impl PinInit<Self, Error> {
        let inner = Inner {
            queue,
            qps: RBTree::new(),
        };
        try_pin_init!(Self {
            inner <- SpinLockIrqSave::new(inner, c"ferroce::Polling", static_lock_class!()),
        }? Error)
    }

    fn lock(&self) -> Guard<'_, Inner, IrqSave> {
        self.inner.lock()
    }

    /// Has completions of a queue pair polled from now on.
    pub(crate) fn add(&self, qp: &rdma::Qp<Qp>, flags: Flags) -> Result {
        let node = RBTreeNode::new(qp.number(), ARef::from(qp), flags)?;
        let before = self.lock().qps.insert(node);
        // One queue can be for both sides of a queue pair. Dropped with the lock released.
        drop(before);
        Ok(())
    }

    /// Passes over completions of a queue pair from now on.
    pub(crate) fn remove(&self, qpn: u32) {
        let before = self.lock().qps.remove(&qpn);
        // Dropped with the lock released.
        drop(before);
    }

    /// Drops the completions that a queue pair has made so far, and makes no more of. It may sleep: interrupts
    /// are off for a piece of the queue at a time.
    pub(crate) fn disown(&self, qpn: u32) {
        let mut disown = self.lock().queue.poller.begin_disown(qpn);
        while self.lock().queue.poller.disown(&mut disown, DISOWN_AT_ONCE) {
            rdma::cond_resched();
        }
    }

    /// Takes completions, as many as there are and there is room for.
    pub(crate) fn poll(&self, completions: &mut WcBuffer<'_, Ferroce>) {
        let mut inner = self.lock();
        let Inner { queue, qps } = &mut *inner;
        while !completions.is_full() {
            let Some(cqe) = queue.poller.poll() else {
                break;
            };
            if let Some(qp) = qps.get(&cqe.qp_num) {
                completions.push(request::completion(qp, &cqe));
            }
        }
        queue.poller.hand_back();
    }

    /// Asks for an event, and returns whether there are completions already.
    pub(crate) fn arm(&self, flags: NotifyFlags) -> bool {
        let mut inner = self.lock();
        let poller = &mut inner.queue.poller;
        if flags.contains(NotifyFlags::NEXT) {
            poller.arm(Notify::Next);
        } else if flags.contains(NotifyFlags::SOLICITED) {
            poller.arm(Notify::Solicited);
        }
        poller.has_completion()
    }
}

/// The errno of a work request that cannot be posted.
fn post_error(error: crate::ring::PostError) -> Error {
    errno(error.errno())
}
