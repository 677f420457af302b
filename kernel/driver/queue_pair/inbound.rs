// SPDX-License-Identifier: GPL-2.0

//! Threads that execute requests of peers on a queue pair.

use super::{FoundQp, Qp};
use crate::in_use::InUse;
use core::ops::Deref;
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{CondVar, Mutex},
};

/// Counts the threads that execute requests of peers on a queue pair: that write to its memory, and take
/// its receives. Who moves it out of the states in which it takes requests waits for them.
#[pin_data]
pub(super) struct Inbound {
    threads: InUse,
    #[pin]
    lock: Mutex<()>,
    #[pin]
    left: CondVar,
}

impl Inbound {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            threads: InUse::new(),
            lock <- new_mutex!((), "ferroce::Inbound::lock"),
            left <- new_condvar!("ferroce::Inbound::left"),
        })
    }

    /// Waits for the threads that have found the queue pair in the state of before. They look at its state
    /// before each request, and before each part of a long one.
    pub(super) fn wait(&self) {
        self.threads.begin_wait();
        let mut guard = self.lock.lock();
        while self.threads.is_used() {
            self.left.wait(&mut guard);
        }
        drop(guard);
        self.threads.end_wait();
    }
}

/// A queue pair on which a thread executes requests of a peer. It must not wait for anything that takes
/// long meanwhile, in particular not for memory that is had on demand.
pub(super) struct Entered(FoundQp);

impl Entered {
    /// To be called before the state is looked at.
    pub(super) fn new(qp: FoundQp) -> Self {
        // The state is read and changed under the lock of `Shared`.
        qp.inbound.threads.enter();
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
        if inbound.threads.leave() {
            // With the lock held, so that it is not between a look at the count and going to sleep.
            let _guard = inbound.lock.lock();
            inbound.left.notify_all();
        }
    }
}
