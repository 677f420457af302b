// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring's memory: all `unsafe` of the crate is here.
//!
//! Entries are read and written in 64-bit words, by relaxed atomic accesses: on the machines ferroce
//! runs on they cost what plain ones do, and a write that races with them from another address space
//! gives a wrong word at worst.

use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::ring::layout::{get, CQE_LEN, HEADER_LEN, RING_ALIGN};
use crate::ring::GeometryError;

/// The memory of one ring: a header, and entries of one size.
///
/// # Invariants
/// `base` is aligned to [`RING_ALIGN`], and `HEADER_LEN + (mask + 1) * stride` bytes from it are
/// valid for reads and writes, and accessed by atomics alone, as long as this value is in use.
/// `stride` is a multiple of 16, and not 0. `mask + 1` is a power of two.
pub(super) struct Memory {
    base: NonNull<u8>,
    stride: usize,
    mask: u32,
}

// SAFETY: The memory belongs to no thread, and every access to it is atomic.
unsafe impl Send for Memory {}
// SAFETY: As above; shared references give out references to atomics only.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    /// `len` bytes from `base` are valid for reads and writes as long as the value is in use, and
    /// everyone in this address space accesses them by atomics alone. Others may write anything.
    pub(super) unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        entries: u32,
        stride: usize,
    ) -> Result<Self, GeometryError> {
        if base.as_ptr().align_offset(RING_ALIGN) != 0 {
            return Err(GeometryError::Misaligned);
        }
        if !entries.is_power_of_two() || stride == 0 || stride % 16 != 0 {
            return Err(GeometryError::Descriptor);
        }
        let needed = usize::try_from(entries)
            .ok()
            .and_then(|entries| entries.checked_mul(stride))
            .and_then(|entries| entries.checked_add(HEADER_LEN))
            .ok_or(GeometryError::TooLarge)?;
        if len < needed {
            return Err(GeometryError::TooShort { needed, len });
        }
        // INVARIANT: checked above; validity is the caller's promise.
        Ok(Self {
            base,
            stride,
            mask: entries - 1,
        })
    }

    /// The same memory once more.
    ///
    /// # Safety
    /// As [`new`](Self::new): it is valid as long as the new value is in use.
    pub(super) unsafe fn again(&self) -> Self {
        // INVARIANT: as of `self`; validity is the caller's promise.
        Self { ..*self }
    }

    /// The index at `OFFSET` of the header.
    pub(super) fn header<const OFFSET: usize>(&self) -> &AtomicU32 {
        const { assert!(OFFSET % 4 == 0 && OFFSET + 4 <= HEADER_LEN) };
        // SAFETY: By the type's invariants the header is valid and aligned to more than four bytes,
        // and is accessed by atomics alone; the offset is within it, and a multiple of four.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(OFFSET).cast()) }
    }

    /// The words of the entry at a free-running position.
    pub(super) fn entry(&self, position: u32) -> &[AtomicU64] {
        // SAFETY: `start` is within the ring, with `stride` bytes behind it, and a multiple of 16
        // from an aligned base; all of it is accessed by atomics alone. A slice of atomics may be
        // written to by others while it is borrowed.
        unsafe { slice::from_raw_parts(self.start(position).cast().as_ptr(), self.stride / 8) }
    }

    /// The last four bytes of the completion at a free-running position. They are never accessed as
    /// part of a 64-bit word.
    pub(super) fn sequence(&self, position: u32) -> &AtomicU32 {
        debug_assert_eq!(self.stride, CQE_LEN);
        let last = self.stride.wrapping_sub(4);
        // SAFETY: As in `entry`; these four bytes are within the entry, whose length is a
        // multiple of 16 and not 0.
        unsafe { AtomicU32::from_ptr(self.start(position).add(last).cast().as_ptr()) }
    }

    /// The first byte of the entry at a free-running position.
    fn start(&self, position: u32) -> NonNull<u8> {
        // `mask` bounds the slot whatever the position is. The invariants rule out overflow, and
        // kernels built with overflow checks need not test for it on every access.
        let slot = (position & self.mask) as usize;
        let offset = slot.wrapping_mul(self.stride).wrapping_add(HEADER_LEN);
        // SAFETY: `slot` is at most `mask`, so by the type's invariants this stays within the ring.
        unsafe { self.base.add(offset) }
    }
}

/// Copies bytes out of words of a ring, as many as both sides have.
pub(super) fn copy_out(words: &[AtomicU64], into: &mut [u8]) {
    for (chunk, word) in into.chunks_mut(size_of::<u64>()).zip(words) {
        let bytes = word.load(Ordering::Relaxed).to_ne_bytes();
        for (to, from) in chunk.iter_mut().zip(bytes) {
            *to = from;
        }
    }
}

/// Copies words into those of a ring, as many as both sides have.
pub(super) fn copy_in(words: &[AtomicU64], from: &[u64]) {
    for (to, word) in words.iter().zip(from) {
        to.store(*word, Ordering::Relaxed);
    }
}

/// Copies bytes into words of a ring, piece by piece.
pub(super) struct Writer<'a> {
    words: slice::Iter<'a, AtomicU64>,
    /// Bytes that do not fill a word yet.
    pending: [u8; 8],
    pending_len: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(words: &'a [AtomicU64]) -> Self {
        Self {
            words: words.iter(),
            pending: [0; 8],
            pending_len: 0,
        }
    }

    /// What does not fit in the words is dropped; callers have checked that it does.
    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while self.pending_len != 0 {
            let Some((&first, rest)) = bytes.split_first() else {
                return;
            };
            self.push(first);
            bytes = rest;
        }
        let chunks = bytes.chunks_exact(size_of::<u64>());
        let rest = chunks.remainder();
        for (chunk, word) in chunks.zip(&mut self.words) {
            word.store(u64::from_ne_bytes(get(chunk, 0)), Ordering::Relaxed);
        }
        for &byte in rest {
            self.push(byte);
        }
    }

    /// Writes what is left, filled up with zeros to a whole word.
    pub(super) fn finish(mut self) {
        while self.pending_len != 0 {
            self.push(0);
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.pending.get_mut(self.pending_len) {
            *place = byte;
        }
        self.pending_len = self.pending_len.wrapping_add(1);
        if self.pending_len == self.pending.len() {
            self.pending_len = 0;
            if let Some(word) = self.words.next() {
                word.store(u64::from_ne_bytes(self.pending), Ordering::Relaxed);
            }
        }
    }
}
