// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that poll until something comes, with more of them than there are processors.
//!
//! With a card of hardware a completion comes whoever runs. Here it comes from a program, which may be the one
//! that has no processor since the other polls: then it waits until the scheduler ends the other's turn, for
//! milliseconds. So a thread that has polled in vain for some time lets others run. Where there are none that
//! is a short system call, and what completes sooner does not come to it.

use core::cell::Cell;

/// How many polls in vain there are before others run: they take some microseconds.
const PATIENCE: u32 = 256;

thread_local! {
    /// How many polls of this thread have found nothing, one after the other: of whichever queue, for a program
    /// has some that are seldom used.
    static VAIN: Cell<u32> = const { Cell::new(0) };
}

/// This thread has polled, and found something or not. It may let others run, and is not to hold a lock.
pub fn polled(found: bool) {
    if VAIN.with(|vain| is_enough(vain, found)) {
        std::thread::yield_now();
    }
}

fn is_enough(vain: &Cell<u32>, found: bool) -> bool {
    let count = if found { 0 } else { vain.get() + 1 };
    vain.set(count % PATIENCE);
    count == PATIENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_run_after_many_polls_in_vain_one_after_the_other() {
        let vain = Cell::new(0);
        let in_vain = |count| (0..count).filter(|_| is_enough(&vain, false)).count();
        assert_eq!(in_vain(PATIENCE - 1), 0);
        assert_eq!(in_vain(3 * PATIENCE), 3);
        assert!(!is_enough(&vain, true));
        assert_eq!(in_vain(PATIENCE - 1), 0);
        assert_eq!(in_vain(1), 1);
    }
}
