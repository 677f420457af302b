// SPDX-License-Identifier: GPL-2.0

//! What was tried of a request, and how long to wait before it is tried again.

use super::send::NO_MEMORY;
use crate::{local::Progress, verbs::RnrTimer};
use kernel::time::{Delta, Instant, Monotonic};

/// How often the current entry was tried in vain, and how far it is.
#[derive(Clone, Copy, Default)]
pub(super) struct Tries {
    pub(super) not_ready: u8,
    pub(super) no_answer: u8,
    /// How often memory of an unreliable connection's peer was not there.
    no_memory: u8,
    /// Since when there has been no receive, or no memory.
    waits_since: Option<Instant<Monotonic>>,
    progress: Progress,
    /// The [changes](Qp::changes) of the peer as of which that is so.
    peer: u32,
}

impl Tries {
    /// The next entry is to be tried for the first time.
    pub(super) fn forget(&mut self) {
        if self.not_ready | self.no_answer | self.no_memory != 0 || self.waits_since.is_some() {
            *self = Self::default();
        }
        self.progress = Progress::default();
    }

    /// How far the entry is with a peer as of so many changes.
    pub(super) fn progress_with(&mut self, changes: u32) -> &mut Progress {
        if self.peer != changes {
            self.peer = changes;
            self.progress = Progress::default();
        }
        &mut self.progress
    }

    /// How long to wait for memory of an unreliable peer; `None` if that has been too often.
    pub(super) fn wait_for_memory(&mut self) -> Option<Delta> {
        if self.no_memory == UNRELIABLE_TRIES {
            return None;
        }
        self.no_memory += 1;
        Some(NO_MEMORY)
    }

    /// How long to wait for a peer that is not ready: as long as it says, and the longer the longer that
    /// has been in vain. A peer that never gets ready costs little, and one that does loses little.
    pub(super) fn backoff(&mut self, timer: RnrTimer) -> Delta {
        let now = Instant::<Monotonic>::now();
        let waited = now - *self.waits_since.get_or_insert(now);
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(0);
        Delta::from_nanos(timer.backoff_nanos(waited) as i64)
    }
}

/// How often a message of an unreliable connection is tried again because memory of its peer is not there
/// yet, before it is taken for lost.
const UNRELIABLE_TRIES: u8 = 100;
