// SPDX-License-Identifier: MIT OR Apache-2.0
//! Short messages, which lie beside their completions until these are polled: no system call is needed to
//! send one.
//!
//! The sender copies the data to a slot of the completion queue's, together with where they belong, which it
//! has checked as ever. Whoever polls the completion puts them there: a process reaches its own memory. If a
//! region is given up before, the data are put in place first.

use core::cell::RefCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};

/// Words of a slot.
const WORDS: usize = 30;

/// Words that say where a piece belongs: the address, and the length in bytes.
const PLACE: usize = 2;

/// How many pieces there may be.
const PIECES: usize = 4;

/// Bytes of a message that fits, if it is in one piece.
pub const ROOM: usize = 8 * (WORDS - PLACE);

/// The place for the data of one completion. A message of a few bytes is in the first cache line.
#[repr(C, align(64))]
pub struct Slot {
    state: AtomicU64,
    /// How many pieces there are.
    count: AtomicU64,
    /// The places of the pieces, and then their data, each from a word on.
    words: [AtomicU64; WORDS],
}

/// The states of a slot.
mod state {
    /// Nothing is there.
    pub const EMPTY: u64 = 0;
    /// A message is.
    pub const FULL: u64 = 1;
    /// A thread is about to put it in place.
    pub const TAKEN: u64 = 2;
}

/// A message on its way to a slot.
#[derive(Default)]
pub struct Message(RefCell<Pieces>);

struct Pieces {
    count: usize,
    places: [[u64; PLACE]; PIECES],
    /// How many words of data there are.
    length: usize,
    data: [u64; WORDS],
}

impl Default for Pieces {
    fn default() -> Self {
        Self {
            count: 0,
            places: [[0; PLACE]; PIECES],
            length: 0,
            data: [0; WORDS],
        }
    }
}

impl Message {
    /// Adds a piece for an address, whose bytes `fill` writes. `None` if there is no room.
    pub fn add<R>(
        &self,
        address: u64,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let mut pieces = self.0.borrow_mut();
        let (count, start) = (pieces.count, pieces.length);
        let end = start.checked_add(length.div_ceil(8))?;
        if end + PLACE * (count + 1) > WORDS {
            return None;
        }
        let place = pieces.places.get_mut(count)?;
        *place = [address, length as u64];
        let mut bytes = [0; ROOM];
        let result = fill(bytes.get_mut(..length)?);
        let (chunks, _) = bytes.as_chunks::<8>();
        for (word, chunk) in pieces.data.get_mut(start..end)?.iter_mut().zip(chunks) {
            *word = u64::from_ne_bytes(*chunk);
        }
        (pieces.count, pieces.length) = (count + 1, end);
        Some(result)
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().count == 0
    }

    /// Writes it to a slot, which is its sender's until the completion is written.
    pub fn store(&self, slot: &Slot) {
        let pieces = self.0.borrow();
        let places = pieces.places.iter().take(pieces.count).flatten();
        let words = places.chain(pieces.data.iter().take(pieces.length));
        for (to, word) in slot.words.iter().zip(words) {
            to.store(*word, Ordering::Relaxed);
        }
        slot.count.store(pieces.count as u64, Ordering::Relaxed);
        // Release: pairs with `place`.
        slot.state.store(state::FULL, Ordering::Release);
    }
}

impl Slot {
    /// Puts a message where it belongs, in this process, unless that is done: by another thread, perhaps.
    ///
    /// # Safety
    /// What is in the slot was put there by a device, for memory that this process has registered to be
    /// written to, and that it has not given up since.
    pub unsafe fn place(&self) {
        // Acquire: pairs with `store`, and with the end of another thread's `place`.
        let found = self.state.compare_exchange(
            state::FULL,
            state::TAKEN,
            Ordering::Acquire,
            Ordering::Acquire,
        );
        match found {
            Ok(_) => {}
            Err(state::TAKEN) => {
                while self.state.load(Ordering::Acquire) == state::TAKEN {
                    spin_loop();
                }
                return;
            }
            Err(_) => return,
        }
        let count = (self.count.load(Ordering::Relaxed) as usize).min(PIECES);
        let (places, data) = self.words.split_at(PLACE * count);
        let (places, _) = places.as_chunks::<PLACE>();
        let mut data = data.iter();
        for [address, length] in places {
            let length = (length.load(Ordering::Relaxed) as usize).min(ROOM);
            let mut bytes = [0; ROOM];
            let (chunks, _) = bytes.as_chunks_mut::<8>();
            for (chunk, word) in chunks
                .iter_mut()
                .zip(data.by_ref().take(length.div_ceil(8)))
            {
                *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            let address = address.load(Ordering::Relaxed) as usize;
            // SAFETY: By this function's contract.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    bytes.as_ptr(),
                    core::ptr::with_exposed_provenance_mut(address),
                    length,
                );
            }
        }
        self.state.store(state::EMPTY, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Slot {
        // SAFETY: All of it is atomic numbers, for which zero will do.
        unsafe { core::mem::zeroed() }
    }

    #[test]
    fn pieces_come_to_their_places_once() {
        let (mut first, mut second) = ([0_u8; 9], [0_u8; 3]);
        let message = Message::default();
        assert!(message.is_empty());
        for (to, from) in [
            (&mut first[..], &b"012345678"[..]),
            (&mut second[..], b"abc"),
        ] {
            let added = message.add(to.as_mut_ptr() as u64, to.len(), |bytes| {
                bytes.copy_from_slice(from);
            });
            assert_eq!(added, Some(()));
        }
        let slot = empty();
        message.store(&slot);
        // SAFETY: The addresses are those of the arrays, which are there.
        unsafe { slot.place() };
        assert_eq!((&first, &second), (b"012345678", b"abc"));
        first.fill(0);
        // SAFETY: As above.
        unsafe { slot.place() };
        assert_eq!(first, [0; 9]);
    }

    #[test]
    fn what_is_too_long_or_in_too_many_pieces_does_not_fit() {
        let message = Message::default();
        assert_eq!(message.add(1, ROOM + 1, |_| ()), None);
        assert_eq!(message.add(1, ROOM - 24, |_| ()), Some(()));
        assert_eq!(message.add(1, 9, |_| ()), None);
        assert_eq!(message.add(1, 8, |_| ()), Some(()));
        let message = Message::default();
        for _ in 0..PIECES {
            assert_eq!(message.add(1, 1, |_| ()), Some(()));
        }
        assert_eq!(message.add(1, 1, |_| ()), None);
    }
}
