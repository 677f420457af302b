// SPDX-License-Identifier: MIT OR Apache-2.0
//! Short messages, which lie beside their completions until these are polled: no system call is needed to
//! send one.
//!
//! The sender copies the data to a slot of the completion queue's, together with where they belong, which it
//! has checked as ever. The process that polls the completion puts them there: it reaches its own memory. Of a
//! region that was given up meanwhile nothing is written.

use core::cell::{Cell, RefCell};
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::lock::Owner;

/// Words of a slot.
const WORDS: usize = 30;

/// Words that say where a piece belongs: the address, and the length in bytes with the local key above it.
const PLACE: usize = 2;

/// How many pieces there may be.
const PIECES: usize = 4;

/// Bytes of a message that fits, if it is in one piece.
pub const ROOM: usize = 8 * (WORDS - PLACE);

/// How often to look whether a message that another process is at is in place, before others run.
const SPINS: u32 = 1_000;

/// How often others run before this thread sleeps: that process was stopped.
const YIELDS: u32 = 1_000;

/// How long to sleep before looking again.
const LOOK: Duration = Duration::from_micros(50);

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
    /// A process is about to put it in place, whose serial number is above this.
    pub const TAKEN: u64 = 2;
    /// The bits below that.
    pub const BITS: u32 = 32;
}

/// A message on its way to a slot.
#[derive(Default)]
pub struct Message {
    pieces: RefCell<Pieces>,
    /// Where it is, when it is there.
    place: Cell<Option<Place>>,
}

/// Where a message lies: the number of the completion queue, and the position of the completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The queue.
    pub cq: u32,
    /// The position.
    pub position: u32,
}

struct Pieces {
    count: usize,
    places: [[u64; PLACE]; PIECES],
    /// How many words of data there are.
    length: usize,
    data: [[u8; 8]; WORDS],
}

impl Default for Pieces {
    fn default() -> Self {
        Self {
            count: 0,
            places: [[0; PLACE]; PIECES],
            length: 0,
            data: [[0; 8]; WORDS],
        }
    }
}

impl Message {
    /// Adds a piece for an address of a region, whose bytes `fill` writes. `None` if there is no room.
    pub fn add<R>(
        &self,
        lkey: u32,
        address: u64,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> R,
    ) -> Option<R> {
        let mut pieces = self.pieces.borrow_mut();
        let (count, start) = (pieces.count, pieces.length);
        let end = start.checked_add(length.div_ceil(8))?;
        if end + PLACE * (count + 1) > WORDS {
            return None;
        }
        let place = pieces.places.get_mut(count)?;
        *place = [address, u64::from(lkey) << 32 | length as u64];
        let bytes = pieces.data.get_mut(start..end)?.as_flattened_mut();
        let result = fill(bytes.get_mut(..length)?);
        (pieces.count, pieces.length) = (count + 1, end);
        Some(result)
    }

    /// Forgets it.
    pub fn clear(&mut self) {
        let pieces = self.pieces.get_mut();
        (pieces.count, pieces.length) = (0, 0);
        self.place.set(None);
    }

    /// Where it was written to.
    pub fn place(&self) -> Option<Place> {
        self.place.get()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.pieces.borrow().count == 0
    }

    /// Writes it to a slot, which is its sender's until the completion is written.
    pub fn store(&self, slot: &Slot, place: Place) {
        self.place.set(Some(place));
        let pieces = self.pieces.borrow();
        let (places, data) = slot.words.split_at(PLACE * pieces.count);
        for (to, word) in places.iter().zip(pieces.places.as_flattened()) {
            to.store(*word, Ordering::Relaxed);
        }
        for (to, word) in data.iter().zip(pieces.data.iter().take(pieces.length)) {
            to.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        slot.count.store(pieces.count as u64, Ordering::Relaxed);
        // Release: pairs with `place`.
        slot.state.store(state::FULL, Ordering::Release);
    }
}

impl Slot {
    /// Puts a message where it belongs, unless that is done. `write` is called with the local key of each piece, its
    /// address and its bytes. For the process that polls the completion: when this returns the message is in place.
    pub fn place(&self, owner: &impl Owner, write: impl FnMut(u32, u64, &[u8])) {
        self.place_unless(owner, |_| false, write);
    }

    /// As [`place`](Self::place), for the sender: if the other process is stopped in the middle, it goes on some time.
    pub fn place_for(&self, owner: &impl Owner, write: impl FnMut(u32, u64, &[u8])) {
        self.place_unless(owner, |looks| looks > YIELDS, write);
    }

    fn place_unless(
        &self,
        owner: &impl Owner,
        gives_up: impl Fn(u32) -> bool,
        mut write: impl FnMut(u32, u64, &[u8]),
    ) {
        let taken = state::TAKEN | u64::from(owner.serial()) << state::BITS;
        // Acquire: pairs with `store`, and with the end of another thread's `place`.
        let take = |found| {
            self.state
                .compare_exchange(found, taken, Ordering::Acquire, Ordering::Acquire)
        };
        if let Err(mut found) = take(state::FULL) {
            let mut looks = 0;
            loop {
                // It was put in place (and another one may have come since).
                if found & state::TAKEN == 0 || gives_up(looks) {
                    return;
                }
                wait(looks);
                looks += 1;
                found = self.state.load(Ordering::Acquire);
                let holder = (found >> state::BITS) as u32;
                // Who has ended has written some of it, or nothing.
                let is_taken = found & state::TAKEN != 0;
                if is_taken && !owner.is_alive(holder) && take(found).is_ok() {
                    break;
                }
            }
        }
        let count = (self.count.load(Ordering::Relaxed) as usize).min(PIECES);
        let (places, data) = self.words.split_at(PLACE * count);
        let (places, _) = places.as_chunks::<PLACE>();
        let mut data = data.iter();
        for [address, length] in places {
            let length = length.load(Ordering::Relaxed);
            let (lkey, length) = ((length >> 32) as u32, (length as u32 as usize).min(ROOM));
            let mut bytes = [0; ROOM];
            let (chunks, _) = bytes.as_chunks_mut::<8>();
            for (chunk, word) in chunks
                .iter_mut()
                .zip(data.by_ref().take(length.div_ceil(8)))
            {
                *chunk = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            write(
                lkey,
                address.load(Ordering::Relaxed),
                bytes.get(..length).unwrap_or(&[]),
            );
        }
        self.state.store(state::EMPTY, Ordering::Release);
    }
}

/// Waits a little, for the time of this number.
fn wait(looks: u32) {
    match looks < YIELDS {
        true => {
            (0..SPINS).for_each(|_| spin_loop());
            std::thread::yield_now();
        }
        false => std::thread::sleep(LOOK),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of this serial number. All but the ninth are alive.
    struct Owner(u32);

    impl super::Owner for Owner {
        fn serial(&self) -> u32 {
            self.0
        }

        fn is_alive(&self, serial: u32) -> bool {
            serial != 9
        }
    }

    fn empty() -> Slot {
        // SAFETY: All of it is atomic numbers, for which zero will do.
        unsafe { core::mem::zeroed() }
    }

    #[test]
    fn pieces_come_to_their_places_once() {
        let message = Message::default();
        assert!(message.is_empty());
        for (address, from) in [(1000, &b"012345678"[..]), (2000, b"abc")] {
            let added = message.add(7, address, from.len(), |bytes| bytes.copy_from_slice(from));
            assert_eq!(added, Some(()));
        }
        let slot = empty();
        message.store(&slot, Place { cq: 1, position: 2 });
        assert_eq!(message.place(), Some(Place { cq: 1, position: 2 }));
        let placed = |owner: &Owner| {
            let mut found = Vec::new();
            slot.place(owner, |lkey, address, bytes| {
                found.push((lkey, address, bytes.to_vec()));
            });
            found
        };
        let both = [(7, 1000, b"012345678".to_vec()), (7, 2000, b"abc".to_vec())];
        assert_eq!(placed(&Owner(3)), both);
        assert!(placed(&Owner(3)).is_empty(), "it was put in place");
        // One that a process was at that has ended is put in place by the next.
        slot.state
            .store(state::TAKEN | 9 << state::BITS, Ordering::Relaxed);
        assert_eq!(placed(&Owner(3)), both);
        // The sender does not wait for a process that is stopped.
        slot.state
            .store(state::TAKEN | 8 << state::BITS, Ordering::Relaxed);
        slot.place_for(&Owner(3), |_, _, _| panic!("another process is at it"));
    }

    #[test]
    fn what_is_too_long_or_in_too_many_pieces_does_not_fit() {
        let message = Message::default();
        assert_eq!(message.add(0, 1, ROOM + 1, |_| ()), None);
        assert_eq!(message.add(0, 1, ROOM - 24, |_| ()), Some(()));
        assert_eq!(message.add(0, 1, 9, |_| ()), None);
        assert_eq!(message.add(0, 1, 8, |_| ()), Some(()));
        let message = Message::default();
        for _ in 0..PIECES {
            assert_eq!(message.add(0, 1, 1, |_| ()), Some(()));
        }
        assert_eq!(message.add(0, 1, 1, |_| ()), None);
    }
}
