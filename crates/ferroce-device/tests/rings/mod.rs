// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for rings, with the two sides of a work queue in it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ferroce_core::ring::{Executor, Poster, Queue, WqGeometry, HEADER_LEN};
use ferroce_device::queue::WorkQueue;

/// Memory of rings, which keeps its place and is accessed by atomics alone.
#[repr(C, align(64))]
struct Line([AtomicU64; 8]);

pub struct Memory(Vec<Line>);

impl Memory {
    /// At least so many bytes.
    pub fn new(len: usize) -> Self {
        let lines = (0..len.div_ceil(64)).map(|_| Line(Default::default()));
        Self(lines.collect())
    }

    fn base(&self) -> (NonNull<u8>, usize) {
        let base = NonNull::new(self.0.as_ptr().cast_mut().cast()).unwrap();
        (base, 64 * self.0.len())
    }

    /// Overwrites four bytes of the ring's header, or eight of its entries, as a process may at any time.
    /// Those are the sizes that the ring accesses them by: no other would be an atomic access to the same
    /// memory.
    #[allow(dead_code)] // Not every user does.
    pub fn write(&self, at: usize, value: u64) {
        let (base, len) = self.base();
        match at {
            ..HEADER_LEN => {
                // SAFETY: Within the memory, which is accessed by atomics alone; the place is aligned.
                let word = unsafe { AtomicU32::from_ptr(base.add(at & !3).cast().as_ptr()) };
                word.store(value as u32, Ordering::SeqCst);
            }
            _ => self.0[at % len / 64].0[at % 64 / 8].store(value, Ordering::SeqCst),
        }
    }

    /// How long it is, in bytes.
    #[allow(dead_code)] // Not every user asks.
    pub fn len(&self) -> usize {
        self.base().1
    }

    /// The side of the process.
    pub fn poster<Q: Queue>(&self, size: WqGeometry<Q>) -> Poster<Q> {
        let (base, len) = self.base();
        // SAFETY: The tests keep the memory longer than its users.
        unsafe { Poster::new(base, len, size) }.unwrap()
    }

    /// The side of the device.
    pub fn queue<Q: Queue>(&self, size: WqGeometry<Q>) -> WorkQueue<Q, Box<[u8]>> {
        let (base, len) = self.base();
        WorkQueue {
            // SAFETY: As above.
            ring: unsafe { Executor::new(base, len, size) }.unwrap(),
            buffer: vec![0; size.stride()].into_boxed_slice(),
        }
    }
}
