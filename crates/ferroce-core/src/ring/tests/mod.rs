// SPDX-License-Identifier: MIT OR Apache-2.0
mod codec;
mod cq;
mod geometry;
mod hostile;
// No memory of the ring's in it, and too many states for Miri.
#[cfg(not(miri))]
mod model;
mod queue;
mod refused;
mod threads;

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use crate::ring::*;

#[repr(C, align(64))]
struct Line([AtomicU64; 8]);

/// Words of the memory before and behind a ring that nothing may touch.
const GUARD_LINES: usize = 16;
const CANARY: u64 = 0xdead_beef_0bad_cafe;

/// A ring's memory as two address spaces see it, with guards around it.
struct Shared {
    lines: Vec<Line>,
    len: usize,
}

impl Shared {
    fn new(len: usize) -> Self {
        let total = len.div_ceil(64) + 2 * GUARD_LINES;
        let shared = Self {
            lines: (0..total).map(|_| Line(Default::default())).collect(),
            len,
        };
        for word in shared.guards() {
            word.store(CANARY, Ordering::Relaxed);
        }
        shared
    }

    fn base(&self) -> NonNull<u8> {
        let first = self.lines[GUARD_LINES..].as_ptr();
        NonNull::new(first.cast_mut().cast()).unwrap()
    }

    fn guards(&self) -> impl Iterator<Item = &AtomicU64> {
        let behind = self.lines.len() - GUARD_LINES;
        let lines = self.lines[..GUARD_LINES]
            .iter()
            .chain(&self.lines[behind..]);
        lines.flat_map(|line| &line.0)
    }

    fn poster<Q: Queue>(&self, geometry: WqGeometry<Q>) -> Poster<Q> {
        // SAFETY: The tests keep the memory longer than its users, and access it by atomics alone.
        unsafe { Poster::new(self.base(), self.len, geometry) }.unwrap()
    }

    fn executor<Q: Queue>(&self, geometry: WqGeometry<Q>) -> Executor<Q> {
        // SAFETY: As above.
        unsafe { Executor::new(self.base(), self.len, geometry) }.unwrap()
    }

    fn producer(&self, geometry: CqGeometry) -> Producer {
        // SAFETY: As above.
        unsafe { Producer::new(self.base(), self.len, geometry) }.unwrap()
    }

    fn poller(&self, geometry: CqGeometry) -> Poller {
        // SAFETY: As above.
        unsafe { Poller::new(self.base(), self.len, geometry) }.unwrap()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for word in self.guards() {
                assert_eq!(
                    word.load(Ordering::Relaxed),
                    CANARY,
                    "a guard is overwritten"
                );
            }
        }
    }
}

/// xorshift64: the tests' only source of chance, so that a failure repeats.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A send work request that `decode` gives back unchanged.
fn send(wr_id: u64) -> SendRequest {
    SendRequest {
        wr_id,
        flags: crate::verbs::SendFlags::SIGNALED,
        operation: Operation::Send,
        destination: None,
    }
}
