// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modify to ERR or RESET, and destroy: after it nothing is written for a peer any more.

use ferroce_device_loom::in_use::InUse;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::model;

/// A queue pair, as `kernel/driver/queue_pair/inbound.rs` has it.
struct Qp {
    takes_requests: Mutex<bool>,
    in_use: InUse,
    lock: Mutex<()>,
    left: Condvar,
    /// The memory that peers write to. loom sees two that have it at the same time.
    memory: UnsafeCell<u32>,
}

impl Qp {
    fn new() -> Self {
        Self {
            takes_requests: Mutex::new(true),
            in_use: InUse::new(),
            lock: Mutex::new(()),
            left: Condvar::new(),
            memory: UnsafeCell::new(0),
        }
    }

    /// As `Entered` does: a thread executes a request of a peer.
    fn write(&self, from: u32) {
        self.in_use.enter();
        let takes_requests = *self.takes_requests.lock().unwrap();
        if takes_requests {
            // SAFETY: loom checks it.
            self.memory.with_mut(|memory| unsafe { *memory = from });
        }
        if self.in_use.leave() {
            let _guard = self.lock.lock().unwrap();
            self.left.notify_all();
        }
    }

    /// As `Inbound::wait`.
    fn wait(&self) {
        self.in_use.begin_wait();
        let mut guard = self.lock.lock().unwrap();
        while self.in_use.is_used() {
            guard = self.left.wait(guard).unwrap();
        }
        drop(guard);
        self.in_use.end_wait();
    }

    /// The owner has the memory for itself after this.
    fn end(&self) {
        *self.takes_requests.lock().unwrap() = false;
        self.wait();
        // SAFETY: As above.
        self.memory.with_mut(|memory| unsafe { *memory = 0 });
    }
}

// SAFETY: As above.
unsafe impl Sync for Qp {}
// SAFETY: As above.
unsafe impl Send for Qp {}

#[test]
fn nothing_is_written_after_the_end() {
    model(None, || {
        let qp = Arc::new(Qp::new());
        let writing = thread::spawn({
            let qp = qp.clone();
            move || qp.write(1)
        });
        qp.end();
        writing.join().unwrap();
    });
}

/// Each in its turn, as two threads of peers hold a lock of their own.
#[test]
fn the_last_of_several_wakes_the_waiter() {
    model(Some(3), || {
        let qp = Arc::new(Qp::new());
        let peers = Arc::new(Mutex::new(()));
        let writing = [1, 2].map(|from| {
            let (qp, peers) = (qp.clone(), peers.clone());
            thread::spawn(move || {
                qp.in_use.enter();
                {
                    let _one_at_a_time = peers.lock().unwrap();
                    qp.write(from);
                }
                if qp.in_use.leave() {
                    let _guard = qp.lock.lock().unwrap();
                    qp.left.notify_all();
                }
            })
        });
        qp.end();
        for thread in writing {
            thread.join().unwrap();
        }
    });
}
