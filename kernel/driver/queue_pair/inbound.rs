// SPDX-License-Identifier: GPL-2.0

//! Threads that execute requests of peers on a queue pair.

use super::{Qp, QpRef};
use core::{
    ops::Deref,
    sync::atomic::{AtomicU32, Ordering},
};
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{CondVar, Mutex},
};

/// Counts the threads that execute requests of peers on a queue pair: that write to its memory, and take
/// its receives. Who moves it out of the states in which it takes requests waits for them.
#[pin_data]
pub(super) struct Inbound {
    count: AtomicU32,
    waiting: AtomicU32,
    #[pin]
    lock: Mutex<()>,
    #[pin]
    left: CondVar,
}

impl Inbound {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            count: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            lock <- new_mutex!((), "ferroce::Inbound::lock"),
            left <- new_condvar!("ferroce::Inbound::left"),
        })
    }

    /// Waits for the threads that have found the queue pair in the state of before. They look at its state
    /// before each request, and before each part of a long one.
    pub(super) fn wait(&self) {
        // Pairs with the two accesses in `drop`: either this thread sees that the count is zero, or that
        // one sees that somebody waits.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock.lock();
        while self.count.load(Ordering::SeqCst) > 0 {
            self.left.wait(&mut guard);
        }
        drop(guard);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A queue pair on which a thread executes requests of a peer. It must not wait for anything that takes
/// long meanwhile, in particular not for memory that is had on demand.
pub(super) struct Entered(QpRef);

impl Entered {
    /// To be called before the state is looked at.
    pub(super) fn new(qp: QpRef) -> Self {
        // Who looks at the state takes the lock of `Shared` after this. Who changes the state takes it
        // before `wait`, and so sees the count if this thread has seen the state of before.
        qp.inbound.count.fetch_add(1, Ordering::Relaxed);
        Self(qp)
    }
}

impl Deref for Entered {
    type Target = crate::rdma::Qp<Qp>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let inbound = &self.0.inbound;
        let is_last = inbound.count.fetch_sub(1, Ordering::SeqCst) == 1;
        if is_last && inbound.waiting.load(Ordering::SeqCst) > 0 {
            // With the lock held, so that it is not between a look at the count and going to sleep.
            let _guard = inbound.lock.lock();
            inbound.left.notify_all();
        }
    }
}
