// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of rings, as the other tests have it, of loom's atomics.

use std::ptr::NonNull;

use ferroce_device_loom::atomic::{AtomicU32, AtomicU64};
use ferroce_device_loom::ring::{
    CqGeometry, Executor, Poller, Poster, Producer, RecvQueue, WqGeometry, CQE_LEN, HEADER_LEN,
};

const LINE: usize = 64;

#[repr(C, align(64))]
struct Line([u8; LINE]);

pub struct Memory(Vec<Line>);

impl Memory {
    /// All zero. Of a completion the last word is two of 32 bits.
    fn new(len: usize, sequences: bool) -> Self {
        let mut memory = Self((0..len.div_ceil(LINE)).map(|_| Line([0; LINE])).collect());
        // The first of each line are the indexes. Behind the third of a completion queue is another one.
        for at in [0, 64, 128, 132] {
            memory.put(at, AtomicU32::new(0));
        }
        for at in (HEADER_LEN..len).step_by(8) {
            match sequences && at % CQE_LEN == CQE_LEN - 8 {
                true => memory.put(at + 4, AtomicU32::new(0)),
                false => memory.put(at, AtomicU64::new(0)),
            }
        }
        memory
    }

    fn put<A>(&mut self, at: usize, atomic: A) {
        let line = &mut self.0[at / LINE].0[at % LINE..];
        assert!(size_of::<A>() <= line.len());
        // SAFETY: There is room, as was checked, and lines are aligned to more than atomics.
        unsafe { line.as_mut_ptr().cast::<A>().write(atomic) };
    }

    fn base(&self) -> (NonNull<u8>, usize) {
        let base = NonNull::new(self.0.as_ptr().cast_mut().cast()).unwrap();
        (base, LINE * self.0.len())
    }
}

/// A receive queue, whose sides are those of any work queue. The memory is to be kept as long as they are.
pub fn work_queue(entries: u32) -> (Memory, Poster<RecvQueue>, Executor<RecvQueue>) {
    let size = WqGeometry::<RecvQueue>::new(entries, 0).unwrap();
    let memory = Memory::new(size.len(), false);
    let (base, len) = memory.base();
    // SAFETY: It is kept as long as they are.
    let poster = unsafe { Poster::new(base, len, size) };
    // SAFETY: As above.
    let executor = unsafe { Executor::new(base, len, size) };
    (memory, poster.unwrap(), executor.unwrap())
}

/// A completion queue.
pub fn completion_queue(entries: u32) -> (Memory, Producer, Poller) {
    let size = CqGeometry::new(entries).unwrap();
    let memory = Memory::new(size.len(), true);
    let (base, len) = memory.base();
    // SAFETY: As above.
    let producer = unsafe { Producer::new(base, len, size) };
    // SAFETY: As above.
    let poller = unsafe { Poller::new(base, len, size) };
    (memory, producer.unwrap(), poller.unwrap())
}
