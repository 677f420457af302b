// SPDX-License-Identifier: MIT OR Apache-2.0
//! The send queue's lock of the device in user space: one thread at a time has it, and what was posted when a
//! thread found it taken is seen.

use ferroce_device_loom::turn::{run, was_requested, Turn};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

use crate::model;

struct Queue {
    posted: AtomicU32,
    /// How much was seen. loom sees two that have it at the same time.
    seen: Turn<UnsafeCell<u32>>,
}

impl Queue {
    fn new() -> Arc<Self> {
        let queue = Self {
            posted: AtomicU32::new(0),
            seen: Turn::new(UnsafeCell::new(0)),
        };
        // Makes the lock's atomics.
        drop(queue.seen.lock());
        assert!(!was_requested(&queue.seen));
        Arc::new(queue)
    }

    fn look(&self, seen: &mut UnsafeCell<u32>) {
        // SAFETY: loom checks it.
        seen.with_mut(|seen| unsafe { *seen = self.posted.load(Ordering::Relaxed) });
    }

    /// As `post` of `ferroce-user/src/send.rs` does.
    fn post(&self) {
        self.posted.fetch_add(1, Ordering::Relaxed);
        run(&self.seen, |seen| self.look(seen));
    }

    /// As a Modify QP does, which waits for the lock.
    fn modify(&self) {
        drop(self.seen.lock());
        if was_requested(&self.seen) {
            run(&self.seen, |seen| self.look(seen));
        }
    }

    fn seen(&self) -> u32 {
        // SAFETY: As above.
        self.seen.lock().with(|seen| unsafe { *seen })
    }
}

#[test]
fn a_post_is_seen_by_its_thread_or_by_the_holder() {
    model(Some(3), || {
        let queue = Queue::new();
        let others = [(); 2].map(|()| {
            let queue = queue.clone();
            thread::spawn(move || queue.post())
        });
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(queue.seen(), 2);
    });
}

#[test]
fn a_post_is_seen_by_a_thread_that_waits_for_the_lock() {
    model(None, || {
        let queue = Queue::new();
        let posting = thread::spawn({
            let queue = queue.clone();
            move || queue.post()
        });
        queue.modify();
        posting.join().unwrap();
        assert_eq!(queue.seen(), 1);
    });
}
