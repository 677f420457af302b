// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues: a program that asks for an event, and then finds no completion, gets it.

use ferroce_device_loom::ring::{Cqe, Notify, Poller, Producer};
use ferroce_device_loom::verbs::{WcOpcode, WcStatus};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::memory::completion_queue;
use crate::model;

/// A completion channel.
#[derive(Default)]
struct Events {
    raised: Mutex<u32>,
    changed: Condvar,
}

impl Events {
    fn raise(&self) {
        *self.raised.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    /// Waits for an event. If none ever comes, loom says that all threads wait.
    fn take(&self) {
        let mut raised = self.raised.lock().unwrap();
        while *raised == 0 {
            raised = self.changed.wait(raised).unwrap();
        }
        *raised -= 1;
    }
}

fn complete(producer: &mut Producer, wr_id: u64, solicited: bool) {
    let cqe = Cqe::new(wr_id, 1, WcOpcode::Recv, WcStatus::Success);
    producer.push(&cqe, solicited).unwrap();
}

/// Takes all completions that there are.
fn take(poller: &mut Poller, taken: &mut u64) {
    while let Some(cqe) = poller.poll() {
        assert_eq!(cqe.wr_id, *taken);
        *taken += 1;
    }
    poller.hand_back();
}

#[test]
fn no_completion_is_waited_for_in_vain() {
    model(None, || {
        let (memory, mut producer, mut poller) = completion_queue(2);
        let events = Arc::new(Events::default());
        let producing = thread::spawn({
            let events = events.clone();
            move || {
                for wr_id in 0..2 {
                    complete(&mut producer, wr_id, false);
                    if producer.notify() {
                        events.raise();
                    }
                }
            }
        });
        let mut taken = 0;
        loop {
            poller.arm(Notify::Next);
            take(&mut poller, &mut taken);
            if taken == 2 {
                break;
            }
            events.take();
        }
        producing.join().unwrap();
        drop(memory);
    });
}

/// One event for several completions, of which the last one is solicited.
#[test]
fn no_solicited_completion_is_waited_for_in_vain() {
    model(None, || {
        let (memory, mut producer, mut poller) = completion_queue(2);
        let events = Arc::new(Events::default());
        let producing = thread::spawn({
            let events = events.clone();
            move || {
                for (wr_id, solicited) in [(0, false), (1, true)] {
                    complete(&mut producer, wr_id, solicited);
                    if producer.notify() {
                        events.raise();
                    }
                }
            }
        });
        let mut taken = 0;
        loop {
            poller.arm(Notify::Solicited);
            take(&mut poller, &mut taken);
            if taken == 2 {
                break;
            }
            events.take();
        }
        producing.join().unwrap();
        drop(memory);
    });
}

/// A program that asks again, for more, while it may have been served.
#[test]
fn asking_again_loses_no_event() {
    model(None, || {
        let (memory, mut producer, mut poller) = completion_queue(1);
        let events = Arc::new(Events::default());
        let producing = thread::spawn({
            let events = events.clone();
            move || {
                complete(&mut producer, 0, false);
                if producer.notify() {
                    events.raise();
                }
            }
        });
        let mut taken = 0;
        poller.arm(Notify::Solicited);
        poller.arm(Notify::Next);
        take(&mut poller, &mut taken);
        if taken == 0 {
            events.take();
            take(&mut poller, &mut taken);
        }
        assert_eq!(taken, 1);
        producing.join().unwrap();
        drop(memory);
    });
}
