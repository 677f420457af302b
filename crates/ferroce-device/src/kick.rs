// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who executes a queue that several threads want executed.

use core::sync::atomic::{AtomicBool, Ordering};

/// A request to the holder of a lock: to look once more at what the lock protects.
///
/// A thread that wants a queue executed [requests](Self::request) that and tries the lock. If the lock is
/// taken its holder is to execute it, and the thread need not wait: the holder looks for requests
/// [with the lock held](Self::take), and again [after it has released it](Self::is_requested).
///
/// All accesses are read-modify-writes. So they have one order, in which each is an acquire of all that came
/// before it. Of a request and a look after the release one comes first. If that is the request, the look
/// sees it. If it is the look, the thread that requests sees the lock released. (A store and a load would
/// not do, not even SeqCst: the release of a mutex may come after that load, and an attempt that fails before
/// that store. On x86 they do not.)
#[derive(Debug)]
pub struct Kick(AtomicBool);

impl Kick {
    /// Nothing is requested.
    #[allow(clippy::new_without_default)] // The kernel's code has no use for it.
    pub fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Requests a look. To be called before the lock is tried.
    pub fn request(&self) {
        // Release: pairs with `take`, which thereby sees what is to be executed. Acquire: pairs with
        // `is_requested` of the former holder, whose release of the lock this thread thereby sees.
        self.0.swap(true, Ordering::AcqRel);
    }

    /// Whether a look was requested since the last call. To be called with the lock held, before the look.
    pub fn take(&self) -> bool {
        // Acquire: pairs with `request`.
        self.0.swap(false, Ordering::AcqRel)
    }

    /// Whether a look was requested and not taken. To be called after the lock was released: a thread that
    /// requested it meanwhile has found the lock taken, and has left.
    pub fn is_requested(&self) -> bool {
        // Release: pairs with `request`. A load alone would not be before it.
        self.0.fetch_or(false, Ordering::AcqRel)
    }

    /// Has `look` called, by this thread or by the one that has the lock.
    pub fn run<L>(&self, mut try_lock: impl FnMut() -> Option<L>, mut look: impl FnMut(&mut L)) {
        self.request();
        loop {
            let Some(mut lock) = try_lock() else {
                return;
            };
            while self.take() {
                look(&mut lock);
            }
            drop(lock);
            if !self.is_requested() {
                return;
            }
        }
    }

    /// As [`run`](Self::run), but `look` is called once. Returns whether it was requested once more
    /// meanwhile: somebody has to come for that.
    #[must_use = "another thread may have left its request to this one"]
    pub fn run_once<L>(
        &self,
        try_lock: impl FnOnce() -> Option<L>,
        look: impl FnOnce(&mut L),
    ) -> bool {
        self.request();
        let Some(mut lock) = try_lock() else {
            return false;
        };
        self.take();
        look(&mut lock);
        drop(lock);
        self.is_requested()
    }
}
