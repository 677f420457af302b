// SPDX-License-Identifier: MIT OR Apache-2.0
//! What threads copy without a lock while another one may change it.

use core::sync::atomic::{fence, AtomicU32, Ordering};

/// Numbers of a plain type, and a count of their changes: a seqcount, as Linux has it.
///
/// The host has a lock, and changes them [with it held](Self::change). Others copy them
/// [without](Self::read); they take the lock if that fails, so that nobody waits for a thread which does not run.
#[derive(Debug)]
pub struct Published<const N: usize> {
    /// Odd during a change.
    changes: AtomicU32,
    words: [AtomicU32; N],
}

impl<const N: usize> Published<N> {
    /// With these words.
    pub fn new(words: [u32; N]) -> Self {
        Self {
            changes: AtomicU32::new(0),
            words: words.map(AtomicU32::new),
        }
    }

    /// The number of changes. As long as it is the same, so is what was [read](Self::read), and what goes with it.
    pub fn changes(&self) -> u32 {
        // Acquire: pairs with the stores in `change`. After a change has returned, or its `op` has been called, a
        // thread that is told so does not see the number of before.
        self.changes.load(Ordering::Acquire)
    }

    /// Calls `op` with the words, and returns what that has made of them and the number of changes. `None` if
    /// they are just being changed: then what `op` has made is dropped.
    pub fn read<R>(&self, op: impl FnOnce([u32; N]) -> R) -> Option<(R, u32)> {
        let changes = self.changes();
        if changes % 2 == 1 {
            return None;
        }
        let result = op(self
            .words
            .each_ref()
            .map(|word| word.load(Ordering::Relaxed)));
        // Pairs with the fence in `change`: who has read one word of a change, or what `op` of it has left, sees that
        // it has begun.
        fence(Ordering::Acquire);
        (self.changes.load(Ordering::Relaxed) == changes).then_some((result, changes))
    }

    /// Changes the words to those that `op` returns. What goes with the words it changes as well. The host's lock is
    /// held.
    pub fn change<R>(&self, op: impl FnOnce() -> ([u32; N], R)) -> R {
        // Relaxed: nobody else changes it at the same time.
        let changes = self.changes.load(Ordering::Relaxed).wrapping_add(1);
        self.changes.store(changes, Ordering::Relaxed);
        // Pairs with the fence in `read`.
        fence(Ordering::Release);
        let (words, result) = op();
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        // Release: pairs with `changes`.
        self.changes
            .store(changes.wrapping_add(1), Ordering::Release);
        result
    }
}
