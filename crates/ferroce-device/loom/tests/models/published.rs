// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups of keys: what is copied without the lock is of one change, with the memory that goes with it.

use ferroce_device_loom::published::Published;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::Arc;
use loom::thread;

/// A region, as `kernel/driver/mr.rs` has it: two words, and which memory is behind it.
struct Region {
    published: Published<2>,
    memory: AtomicU32,
}

impl Region {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            published: Published::new([0; 2]),
            memory: AtomicU32::new(0),
        })
    }

    /// With the host's lock held.
    fn change(&self, to: u32) {
        self.published.change(|| {
            // Relaxed: the order is not to depend on how the host publishes its memory.
            self.memory.store(to, Ordering::Relaxed);
            ([to; 2], ())
        });
    }

    /// Which change it is of, and the number of changes.
    fn read(&self) -> Option<(u32, u32)> {
        let memory = |words| (words, self.memory.load(Ordering::Relaxed));
        let ((words, memory), changes) = self.published.read(memory)?;
        assert_eq!(words, [memory; 2]);
        Some((memory, changes))
    }
}

#[test]
fn words_and_memory_are_of_one_change() {
    model_of(2, |region| {
        if let Some((seen, changes)) = region.read() {
            assert_eq!(changes, 2 * seen);
        }
    });
}

/// What a cache of lookups relies on.
#[test]
fn as_long_as_the_number_is_the_same_so_is_the_region() {
    model_of(1, |region| {
        let Some((seen, changes)) = region.read() else {
            return;
        };
        let again = region.read();
        if region.published.changes() == changes {
            assert_eq!(again, Some((seen, changes)));
        }
    });
}

fn model_of(changes: u32, look: fn(&Region)) {
    crate::model(None, move || {
        let region = Region::new();
        let changing = thread::spawn({
            let region = region.clone();
            move || (1..=changes).for_each(|to| region.change(to))
        });
        look(&region);
        changing.join().unwrap();
        // After a change has returned, nobody finds the one before.
        assert_eq!(region.read(), Some((changes, 2 * changes)));
    });
}
