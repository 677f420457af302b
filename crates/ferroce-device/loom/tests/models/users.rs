// SPDX-License-Identifier: MIT OR Apache-2.0
//! Giving up an object: who waits for users finds none that has the object as it was before.

use std::sync::Arc;

use ferroce_device_loom::atomic::{AtomicU32, Ordering};
use ferroce_device_loom::users::{self, Counts};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;

use crate::model;

struct Process {
    phase: AtomicU32,
    counts: Vec<Counts>,
    /// Whether there is an object.
    is_there: AtomicBool,
    object: UnsafeCell<u32>,
}

// SAFETY: loom checks it.
unsafe impl Send for Process {}
// SAFETY: As above.
unsafe impl Sync for Process {}

impl Process {
    fn new(peers: usize) -> Arc<Self> {
        let counts = |_| [AtomicU32::new(0), AtomicU32::new(0)];
        Arc::new(Self {
            phase: AtomicU32::new(0),
            counts: (0..peers).map(counts).collect(),
            is_there: AtomicBool::new(true),
            object: UnsafeCell::new(0),
        })
    }

    fn use_object(&self, peer: usize) {
        let phase = users::enter(&self.phase, &self.counts[peer]);
        if self.is_there.load(Ordering::Relaxed) {
            // SAFETY: loom finds out if somebody writes to it.
            self.object.with(|object| assert_eq!(unsafe { *object }, 0));
        }
        users::leave(&self.counts[peer], phase);
    }

    fn wait(&self) {
        users::wait(&self.phase, &self.counts, |_, _| {
            loom::thread::yield_now();
            false
        });
    }

    fn give_up(&self) {
        self.is_there.store(false, Ordering::Relaxed);
        self.wait();
        // SAFETY: As above.
        self.object.with_mut(|object| unsafe { *object = 1 });
    }
}

#[test]
fn an_object_is_given_up() {
    model(Some(3), || {
        let process = Process::new(2);
        let threads = [0, 1].map(|peer| {
            let process = process.clone();
            loom::thread::spawn(move || process.use_object(peer))
        });
        process.give_up();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn after_another_wait() {
    model(Some(3), || {
        let process = Process::new(1);
        let other = process.clone();
        let thread = loom::thread::spawn(move || {
            other.use_object(0);
            other.use_object(0);
        });
        process.wait();
        process.give_up();
        thread.join().unwrap();
    });
}
