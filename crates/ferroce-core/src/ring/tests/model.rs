// SPDX-License-Identifier: MIT OR Apache-2.0
//! The two protocols that must not lose a wake-up, as state machines, through every interleaving.
//!
//! A step of a model is one access of the code to the shared header. Stores go into a buffer of
//! their thread and reach memory later, in any order but for two to the same place: what a machine
//! (and the language) may do to relaxed stores, and the reason for the fences. That the models find
//! the lost wake-up once a fence is left out shows that they would find it in the protocol.

use std::collections::HashSet;
use std::vec::Vec;

/// A place in the header.
type Place = usize;

/// Memory as two threads see it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Memory {
    places: [u8; 3],
    /// What each thread has stored and nobody else sees yet.
    buffers: [Vec<(Place, u8)>; 2],
}

impl Memory {
    fn new() -> Self {
        Self {
            places: [0; 3],
            buffers: [Vec::new(), Vec::new()],
        }
    }

    fn store(&mut self, thread: usize, place: Place, value: u8) {
        self.buffers[thread].push((place, value));
    }

    fn load(&self, thread: usize, place: Place) -> u8 {
        let own = self.buffers[thread].iter().rev();
        own.copied()
            .find(|&(p, _)| p == place)
            .map_or(self.places[place], |(_, value)| value)
    }

    /// Whether a fence has done its work: everything stored is seen.
    fn is_flushed(&self, thread: usize) -> bool {
        self.buffers[thread].is_empty()
    }

    /// Every memory in which one store more has arrived.
    fn arrivals(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for thread in 0..2 {
            for (i, &(place, value)) in self.buffers[thread].iter().enumerate() {
                let earlier = &self.buffers[thread][..i];
                if earlier.iter().all(|&(p, _)| p != place) {
                    let mut next = self.clone();
                    next.places[place] = value;
                    next.buffers[thread].remove(i);
                    all.push(next);
                }
            }
        }
        all
    }
}

trait Model: Clone + Eq + std::hash::Hash {
    fn memory(&mut self) -> &mut Memory;
    /// Every state one step of a thread can lead to; none if it waits or is done.
    fn steps(&self, thread: usize) -> Vec<Self>;
    /// Whether a state without any step is one where somebody waits in vain.
    fn is_lost(&self) -> bool;
}

/// Walks through every state. Returns how many there are, and whether one is lost.
fn explore<M: Model>(start: M) -> (usize, bool) {
    let mut seen = HashSet::new();
    let mut stack = std::vec![start];
    let mut lost = false;
    while let Some(mut state) = stack.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let mut next = state.steps(0);
        next.extend(state.steps(1));
        for memory in state.memory().arrivals() {
            let mut arrived = state.clone();
            *arrived.memory() = memory;
            next.push(arrived);
        }
        lost |= next.is_empty() && state.is_lost();
        stack.extend(next);
    }
    (seen.len(), lost)
}

/// What is left out of a protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Without {
    Nothing,
    /// The fence of thread 0 or 1.
    Fence(usize),
    /// The executor's second look, or the poller's poll after arming.
    SecondLook,
    /// The order of `served` before the event.
    ServedFirst,
}

mod doorbell {
    use super::*;

    const PRODUCER: Place = 0;
    const DOORBELL: Place = 1;
    const POSTS: u8 = 3;

    #[derive(Clone, PartialEq, Eq, Hash)]
    enum Post {
        Store,
        Fence,
        Load,
        Done,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    enum Execute {
        /// `fetch`, until there is nothing.
        Look,
        /// `sleep`, step by step.
        Announce,
        Fence,
        LookAgain,
        Asleep,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Doorbell {
        memory: Memory,
        without: Without,
        post: Post,
        posted: u8,
        execute: Execute,
        fetched: u8,
        /// The system call of the doorbell, as the executor's thread finds it.
        rung: bool,
    }

    impl Model for Doorbell {
        fn memory(&mut self) -> &mut Memory {
            &mut self.memory
        }

        fn steps(&self, thread: usize) -> Vec<Self> {
            let mut next = self.clone();
            let memory = &mut next.memory;
            if thread == 0 {
                match self.post {
                    Post::Store => {
                        next.posted += 1;
                        memory.store(0, PRODUCER, next.posted);
                        next.post = Post::Fence;
                    }
                    Post::Fence => {
                        if self.without != Without::Fence(0) && !memory.is_flushed(0) {
                            return Vec::new();
                        }
                        next.post = Post::Load;
                    }
                    Post::Load => {
                        next.rung |= memory.load(0, DOORBELL) == 1;
                        next.post = if self.posted == POSTS {
                            Post::Done
                        } else {
                            Post::Store
                        };
                    }
                    Post::Done => return Vec::new(),
                }
            } else {
                match self.execute {
                    Execute::Look => {
                        let producer = memory.load(1, PRODUCER);
                        if producer == self.fetched {
                            next.execute = Execute::Announce;
                        }
                        next.fetched = producer;
                    }
                    Execute::Announce => {
                        memory.store(1, DOORBELL, 1);
                        next.execute = Execute::Fence;
                    }
                    Execute::Fence => {
                        if self.without != Without::Fence(1) && !memory.is_flushed(1) {
                            return Vec::new();
                        }
                        next.execute = Execute::LookAgain;
                    }
                    Execute::LookAgain => {
                        let is_empty = memory.load(1, PRODUCER) == self.fetched;
                        if is_empty || self.without == Without::SecondLook {
                            next.execute = Execute::Asleep;
                        } else {
                            memory.store(1, DOORBELL, 0);
                            next.execute = Execute::Look;
                        }
                    }
                    Execute::Asleep => {
                        if !self.rung {
                            return Vec::new();
                        }
                        next.rung = false;
                        memory.store(1, DOORBELL, 0);
                        next.execute = Execute::Look;
                    }
                }
            }
            std::vec![next]
        }

        fn is_lost(&self) -> bool {
            self.fetched != POSTS
        }
    }

    fn lost(without: Without) -> bool {
        let (states, lost) = explore(Doorbell {
            memory: Memory::new(),
            without,
            post: Post::Store,
            posted: 0,
            execute: Execute::Look,
            fetched: 0,
            rung: false,
        });
        assert!(states > 100, "{states}");
        lost
    }

    #[test]
    fn no_interleaving_loses_a_doorbell() {
        assert!(!lost(Without::Nothing));
    }

    #[test]
    fn every_part_of_the_protocol_is_needed() {
        assert!(lost(Without::Fence(0)));
        assert!(lost(Without::Fence(1)));
        assert!(lost(Without::SecondLook));
    }
}

mod arming {
    use super::*;

    /// How many completions there are to see: stands for their sequences.
    const COMPLETIONS: Place = 0;
    /// Sequence times four plus kind, as in the ring.
    const ARM: Place = 1;
    const SERVED: Place = 2;
    const SOLICITED: u8 = 1;
    const NEXT: u8 = 2;
    /// Whether each completion is solicited; two come as one batch.
    const BATCHES: [&[bool]; 2] = [&[false], &[true, false]];
    const TOTAL: u8 = 3;
    /// Requests for an event; bounds the model.
    const ARMS: u8 = 4;

    #[derive(Clone, PartialEq, Eq, Hash)]
    enum Produce {
        Store,
        Fence,
        Load,
        /// `served` is stored; the event may be raised once everything stored before is seen, since
        /// the thread that takes the event synchronises with the one that raised it.
        Raise,
        Done,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    enum Consume {
        Arm,
        Fence,
        Poll,
        /// Waits for the event, or asks again.
        Wait,
        Done,
    }

    #[derive(Clone, PartialEq, Eq, Hash)]
    struct Arming {
        memory: Memory,
        without: Without,
        produce: Produce,
        batch: usize,
        produced: u8,
        /// The strongest reason of the batch.
        reason: u8,
        private_served: u8,
        consume: Consume,
        arm: u8,
        arms: u8,
        taken: u8,
        /// What was asked for last, in the caller's view: since the last event, the widest.
        asked: u8,
        /// Raised and not taken.
        events: u8,
    }

    impl Arming {
        fn produce(&self) -> Vec<Self> {
            let mut next = self.clone();
            let memory = &mut next.memory;
            match self.produce {
                Produce::Store => {
                    let Some(batch) = BATCHES.get(self.batch) else {
                        next.produce = Produce::Done;
                        return std::vec![next];
                    };
                    for &solicited in *batch {
                        next.produced += 1;
                        memory.store(0, COMPLETIONS, next.produced);
                        let reason = if solicited { SOLICITED } else { NEXT };
                        next.reason = next.reason.min(reason);
                    }
                    next.batch += 1;
                    next.produce = Produce::Fence;
                }
                Produce::Fence => {
                    if self.without != Without::Fence(0) && !memory.is_flushed(0) {
                        return Vec::new();
                    }
                    next.produce = Produce::Load;
                }
                Produce::Load => {
                    let arm = memory.load(0, ARM);
                    let is_due = arm & !3 != self.private_served
                        && (arm & 3 == NEXT || self.reason == SOLICITED);
                    next.reason = u8::MAX;
                    next.produce = Produce::Store;
                    if is_due {
                        next.private_served = arm & !3;
                        memory.store(0, SERVED, arm & !3);
                        next.produce = Produce::Raise;
                    }
                }
                Produce::Raise => {
                    if self.without != Without::ServedFirst && !memory.is_flushed(0) {
                        return Vec::new();
                    }
                    next.events += 1;
                    next.produce = Produce::Store;
                }
                Produce::Done => return Vec::new(),
            }
            std::vec![next]
        }

        fn consume(&self) -> Vec<Self> {
            let mut next = self.clone();
            let memory = &mut next.memory;
            match self.consume {
                Consume::Arm => {
                    let mut all = Vec::new();
                    for notify in [SOLICITED, NEXT] {
                        let mut next = self.clone();
                        let served = next.memory.load(1, SERVED);
                        let (sequence, outstanding) = if self.arm & !3 == served {
                            ((self.arm & !3) + 4, 0)
                        } else {
                            (self.arm & !3, self.arm & 3)
                        };
                        next.arm = sequence | outstanding.max(notify);
                        next.memory.store(1, ARM, next.arm);
                        next.arms += 1;
                        next.asked = self.asked.max(notify);
                        next.consume = Consume::Fence;
                        all.push(next);
                    }
                    return all;
                }
                Consume::Fence => {
                    if self.without != Without::Fence(1) && !memory.is_flushed(1) {
                        return Vec::new();
                    }
                    next.consume = Consume::Poll;
                }
                Consume::Poll => {
                    if self.without != Without::SecondLook {
                        next.taken = memory.load(1, COMPLETIONS);
                    }
                    next.consume = if next.taken == TOTAL {
                        Consume::Done
                    } else {
                        Consume::Wait
                    };
                }
                Consume::Wait => {
                    let mut all = Vec::new();
                    if self.arms < ARMS {
                        let mut again = self.clone();
                        again.consume = Consume::Arm;
                        all.push(again);
                    }
                    if self.events > 0 {
                        next.events -= 1;
                        next.asked = 0;
                        // A caller that has run out of requests polls until all is there.
                        if self.arms < ARMS {
                            next.consume = Consume::Arm;
                        } else {
                            next.consume = Consume::Done;
                        }
                        all.push(next);
                    }
                    return all;
                }
                Consume::Done => return Vec::new(),
            }
            std::vec![next]
        }
    }

    impl Model for Arming {
        fn memory(&mut self) -> &mut Memory {
            &mut self.memory
        }

        fn steps(&self, thread: usize) -> Vec<Self> {
            if thread == 0 {
                self.produce()
            } else {
                self.consume()
            }
        }

        fn is_lost(&self) -> bool {
            if self.consume != Consume::Wait {
                return false;
            }
            let solicited = BATCHES.concat();
            let missed = &solicited[usize::from(self.taken)..];
            match self.asked {
                NEXT => !missed.is_empty(),
                SOLICITED => missed.contains(&true),
                _ => false,
            }
        }
    }

    fn lost(without: Without) -> bool {
        let (states, lost) = explore(Arming {
            memory: Memory::new(),
            without,
            produce: Produce::Store,
            batch: 0,
            produced: 0,
            reason: u8::MAX,
            private_served: 0,
            consume: Consume::Arm,
            arm: 0,
            arms: 0,
            taken: 0,
            asked: 0,
            events: 0,
        });
        assert!(states > 1000, "{states}");
        lost
    }

    #[test]
    fn no_interleaving_loses_an_event() {
        assert!(!lost(Without::Nothing));
    }

    #[test]
    fn every_part_of_the_protocol_is_needed() {
        assert!(lost(Without::Fence(0)));
        assert!(lost(Without::Fence(1)));
        assert!(lost(Without::SecondLook));
        assert!(lost(Without::ServedFirst));
    }
}
