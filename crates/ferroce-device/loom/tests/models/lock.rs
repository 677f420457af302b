// SPDX-License-Identifier: MIT OR Apache-2.0
//! The lock between processes: one has it at a time, and one inherits it from each that ends with it.

use std::sync::Arc;

use ferroce_device_loom::atomic::{AtomicU32, Ordering};
use ferroce_device_loom::lock::{Lock, Owner};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;

use crate::model;

/// The process that ends.
const MORTAL: u32 = 9;

struct Shared {
    lock: Lock,
    /// How often the lock was had.
    count: UnsafeCell<u32>,
    is_alive: AtomicBool,
    inherited: AtomicU32,
}

// SAFETY: loom checks it.
unsafe impl Send for Shared {}
// SAFETY: As above.
unsafe impl Sync for Shared {}

struct Process<'a>(u32, &'a Shared);

impl Owner for Process<'_> {
    fn serial(&self) -> u32 {
        self.0
    }

    fn is_alive(&self, serial: u32) -> bool {
        serial != MORTAL || self.1.is_alive.load(Ordering::Acquire)
    }
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            lock: Lock(AtomicU32::new(0)),
            count: UnsafeCell::new(0),
            is_alive: AtomicBool::new(true),
            inherited: AtomicU32::new(0),
        })
    }

    fn have(&self, serial: u32) {
        let guard = loop {
            match self.lock.look(&Process(serial, self)) {
                Some(guard) => break guard,
                None => loom::thread::yield_now(),
            }
        };
        if let Some(dead) = guard.dead_holder {
            assert_eq!(dead, MORTAL);
            self.inherited.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: The lock is held; loom finds out if another thread is here.
        self.count.with_mut(|count| unsafe { *count += 1 });
    }
}

#[test]
fn one_at_a_time() {
    model(Some(2), || {
        let shared = Shared::new();
        let other = shared.clone();
        let thread = loom::thread::spawn(move || other.have(1));
        shared.have(3);
        thread.join().unwrap();
        // SAFETY: All other threads have ended.
        assert_eq!(shared.count.with(|count| unsafe { *count }), 2);
        assert_eq!(shared.inherited.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn one_inherits() {
    model(Some(4), || {
        let shared = Shared::new();
        // A process has ended with it.
        shared.lock.0.store(MORTAL, Ordering::Relaxed);
        shared.is_alive.store(false, Ordering::Release);
        let other = shared.clone();
        let thread = loom::thread::spawn(move || other.have(1));
        shared.have(2);
        thread.join().unwrap();
        // SAFETY: The other thread has ended.
        assert_eq!(shared.count.with(|count| unsafe { *count }), 2);
        assert_eq!(shared.inherited.load(Ordering::Relaxed), 1);
    });
}
