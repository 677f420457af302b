// SPDX-License-Identifier: GPL-2.0

//! What peers look at of a queue pair.

use super::{receive::Receives, Qp};
use crate::{attrs::Attrs, rdma::ah::AddressVector};
use core::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering},
};

/// The part of a queue pair that peers look at, with its lock held.
///
/// [`Attrs`] can be read here. To change them there is [`Qp::change`].
pub(crate) struct Shared {
    pub(super) attrs: Attrs,
    /// The address vector, to be queried.
    pub(super) av: Option<AddressVector>,
    pub(super) receives: Receives,
}

impl Shared {
    pub(super) fn new(receives: Receives) -> Self {
        Self {
            attrs: Attrs::new(),
            av: None,
            receives,
        }
    }
}

impl Deref for Shared {
    type Target = Attrs;

    fn deref(&self) -> &Attrs {
        &self.attrs
    }
}

impl Qp {
    /// Changes the attributes.
    pub(crate) fn change<R>(&self, op: impl FnOnce(&mut Attrs) -> R) -> R {
        self.change_shared(|shared| op(&mut shared.attrs))
    }

    /// Changes the attributes, and what belongs to them.
    pub(super) fn change_shared<R>(&self, op: impl FnOnce(&mut Shared) -> R) -> R {
        let mut shared = self.shared.lock();
        let result = op(&mut shared);
        // Nobody else changes it at the same time. Pairs with the load in `changes`: a thread that sees this
        // number, and takes the lock, finds the change.
        let changes = self.changes.load(Ordering::Relaxed).wrapping_add(1);
        self.changes.store(changes, Ordering::Release);
        result
    }

    /// How often the attrs have changed: as long as this is the same, so are they, and nobody has to look
    /// at them again. After a change has returned, it is counted.
    pub(crate) fn changes(&self) -> u32 {
        self.changes.load(Ordering::Acquire)
    }
}

/// A note that the address which a queue pair is connected to is one of its own device, as that of most
/// peers on this host is.
pub(super) struct LocalHint(AtomicU64);

/// As of when that is so.
#[derive(Clone, Copy)]
pub(super) struct AsOf(u64);

impl LocalHint {
    pub(super) const fn unknown() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }

    /// As of so many [changes](Qp::changes) of the queue pair, and so many [addresses that the device has
    /// lost](crate::device::Ferroce::gids_removed).
    pub(super) const fn as_of(changes: u32, gids_removed: u32) -> AsOf {
        AsOf((changes as u64) << 32 | gids_removed as u64)
    }

    pub(super) fn is(&self, AsOf(now): AsOf) -> bool {
        self.0.load(Ordering::Relaxed) == now
    }

    pub(super) fn set(&self, AsOf(now): AsOf) {
        self.0.store(now, Ordering::Relaxed);
    }
}
