// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work queues: what is posted is executed, by the thread that executes already or by the one
//! that a doorbell wakes.

use ferroce_device_loom::kick::Kick;
use ferroce_device_loom::ring::{Doorbell, Executor, Idle, Poster, RecvQueue, RecvRequest};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

use crate::memory::work_queue;
use crate::model;
use crate::mutex::Mutex;

/// The executing side, and how much it has executed.
struct Queue {
    executor: Executor<RecvQueue>,
    executed: u64,
}

impl Queue {
    /// Executes all that there is, until the next post rings.
    fn drain(&mut self) {
        self.executor.stay_awake();
        let mut buffer = [0; 16];
        loop {
            if let Some(entry) = self.executor.fetch(&mut buffer).unwrap() {
                assert_eq!(RecvRequest::wr_id(entry), self.executed);
                self.executed += 1;
                self.executor.hand_back(1);
            } else if self.executor.sleep().unwrap() == Idle::Asleep {
                return;
            }
        }
    }
}

fn post(poster: &mut Poster<RecvQueue>, wr_id: u64) -> Doorbell {
    poster.push(&RecvRequest { wr_id }, &[]).unwrap();
    poster.publish()
}

fn new_kick() -> Arc<Kick> {
    let kick = Kick::new();
    // Makes its atomic, before there are other threads.
    assert!(!kick.is_requested());
    Arc::new(kick)
}

/// `NEED_DOORBELL`: the executor finds an entry, or its poster rings.
#[test]
fn a_poster_rings_or_is_seen() {
    model(None, || {
        let (memory, mut poster, executor) = work_queue(2);
        let queue = Arc::new(loom::sync::Mutex::new(Queue {
            executor,
            executed: 0,
        }));
        let posting = thread::spawn({
            let queue = queue.clone();
            move || {
                for wr_id in 0..2 {
                    if post(&mut poster, wr_id) == Doorbell::Ring {
                        queue.lock().unwrap().drain();
                    }
                }
            }
        });
        queue.lock().unwrap().drain();
        posting.join().unwrap();
        assert_eq!(queue.lock().unwrap().executed, 2);
        drop(memory);
    });
}

/// The doorbell's system call: a thread that finds the lock taken leaves its request to the holder.
#[test]
fn a_kick_is_left_to_the_holder_or_gets_the_lock() {
    model(Some(4), || {
        let kick = new_kick();
        let posted = Arc::new(AtomicU32::new(0));
        let seen = Arc::new(Mutex::new(0));
        let post = {
            let (kick, posted, seen) = (kick.clone(), posted.clone(), seen.clone());
            move || {
                posted.fetch_add(1, Ordering::Relaxed);
                kick.run(
                    || seen.try_lock(),
                    |seen| **seen = posted.load(Ordering::Relaxed),
                );
            }
        };
        let others = [thread::spawn(post.clone()), thread::spawn(post)];
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(*seen.try_lock().unwrap(), 2);
    });
}

/// The same for a thread that has other things to do: another one comes for what was requested meanwhile.
#[test]
fn a_kick_during_a_turn_is_left_to_whoever_comes_next() {
    model(None, || {
        let kick = new_kick();
        let posted = Arc::new(AtomicU32::new(0));
        let seen = Arc::new(Mutex::new(0));
        let posting = thread::spawn({
            let (kick, posted, seen) = (kick.clone(), posted.clone(), seen.clone());
            move || {
                posted.fetch_add(1, Ordering::Relaxed);
                kick.run(
                    || seen.try_lock(),
                    |seen| **seen = posted.load(Ordering::Relaxed),
                );
            }
        });
        // The work queue runs it again as long as it is queued.
        while kick.run_once(
            || seen.try_lock(),
            |seen| **seen = posted.load(Ordering::Relaxed),
        ) {}
        posting.join().unwrap();
        assert_eq!(*seen.try_lock().unwrap(), 1);
    });
}

/// All of it: a process posts and rings, while another thread executes the queue for another reason (a
/// timer, a change of state).
#[test]
fn a_posted_request_is_executed_whoever_is_at_it() {
    model(None, || {
        let (memory, mut poster, executor) = work_queue(2);
        let kick = new_kick();
        let queue = Arc::new(Mutex::new(Queue {
            executor,
            executed: 0,
        }));
        // Nobody is at it, and who posts rings.
        queue.try_lock().unwrap().drain();
        let posting = thread::spawn({
            let (kick, queue) = (kick.clone(), queue.clone());
            move || {
                if post(&mut poster, 0) == Doorbell::Ring {
                    kick.run(|| queue.try_lock(), |queue| queue.drain());
                }
            }
        });
        kick.run(|| queue.try_lock(), |queue| queue.drain());
        posting.join().unwrap();
        assert_eq!(queue.try_lock().unwrap().executed, 1);
        drop(memory);
    });
}
