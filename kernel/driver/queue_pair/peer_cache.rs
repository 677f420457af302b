// SPDX-License-Identifier: GPL-2.0

//! Where the peer of a queue pair is, on this host, and what is known of it.

use super::{
    inbound::Entered,
    receive::{connected, Peer, Turn},
    send::Extent,
    shared::LocalHint,
    FoundQp, Qp,
};
use crate::{
    attrs::{Attrs, Terms},
    counter::PortCounter,
    device::Ferroce,
    mr::Cache,
    rdma::{self, Device, Gid, GidType},
    ring::Operation,
    roce,
};

/// What is known of a queue pair and of its peer, for a batch: destroying the peer waits for the end of it.
pub(super) struct PeerCache<'a> {
    qp: &'a rdma::Qp<Qp>,
    /// How far the thread goes.
    extent: Extent,
    /// As of so many changes.
    pub(super) own: Attrs,
    changes: u32,
    peer: Option<CachedPeer>,
    /// What was done with that peer.
    pub(super) counts: BatchCounts,
}

struct CachedPeer {
    qp: Entered,
    /// As of so many changes.
    terms: Terms,
    changes: u32,
}

/// What is yet to be counted.
#[derive(Default)]
pub(super) struct BatchCounts {
    messages: u64,
    /// Bytes to the peer, and from it.
    sent: u64,
    received: u64,
}

impl BatchCounts {
    pub(super) fn add(&mut self, operation: &Operation, length: u32) {
        self.messages += 1;
        match operation.opcode().gets_data() {
            true => self.received += u64::from(length),
            false => self.sent += u64::from(length),
        }
    }
}

impl<'a> PeerCache<'a> {
    pub(super) fn of(qp: &'a rdma::Qp<Qp>, extent: Extent) -> Self {
        let shared = qp.shared.lock();
        Self {
            qp,
            extent,
            own: **shared,
            changes: qp.changes(),
            peer: None,
            counts: BatchCounts::default(),
        }
    }

    /// Looks again, if anything has changed.
    pub(super) fn refresh(&mut self) {
        if self.qp.changes() != self.changes {
            *self = Self::of(self.qp, self.extent);
        }
    }

    /// The peer, if it takes messages of this queue pair, and the number of its changes.
    pub(super) fn peer<'b>(&'b mut self, cache: &'b Cache) -> Option<(Peer<'b, &'b Cache>, u32)> {
        let is_current = |peer: &CachedPeer| peer.qp.changes() == peer.changes;
        if !self.peer.as_ref().is_some_and(is_current) {
            self.add_counts();
            let (qp, own) = (self.qp, &self.own);
            // Before another one is looked for, which may be the same.
            self.peer = None;
            self.peer = self.find().and_then(|peer| {
                let peer = Entered::new(peer);
                let (terms, changes) = connected(&peer, qp, &own.sgid)?;
                Some(CachedPeer {
                    qp: peer,
                    terms,
                    changes,
                })
            });
        }
        let CachedPeer { qp, terms, changes } = self.peer.as_ref()?;
        let turn = Turn {
            extent: self.extent,
            changes: *changes,
        };
        let peer = Peer {
            qp,
            terms: *terms,
            lookup: cache,
            turn: Some(turn),
        };
        Some((peer, *changes))
    }

    /// The queue pair that this one is connected to, if it is on this host.
    fn find(&self) -> Option<FoundQp> {
        let (qp, attr) = (self.qp, &self.own.attr);
        let device = qp.device();
        // Taken down before it is looked for.
        let as_of = LocalHint::as_of(self.changes, device.gids_removed());
        if qp.local_hint.is(as_of) && reaches(device) {
            return device.qps.get(attr.dest_qp_num);
        }
        at(device, Gid(attr.ah_attr.dgid), |peer| {
            if core::ptr::eq(peer, device) {
                qp.local_hint.set(as_of);
            }
            peer.qps.get(attr.dest_qp_num)
        })
    }

    /// Counts what was done.
    pub(super) fn add_counts(&mut self) {
        let counts = core::mem::take(&mut self.counts);
        let Some(peer) = self.peer.as_ref().filter(|_| counts.messages > 0) else {
            return;
        };
        let (mine, theirs) = (&self.qp.device().counters, &peer.qp.device().counters);
        mine.add(PortCounter::RdmaSends, counts.messages);
        for (from, to, length) in [(mine, theirs, counts.sent), (theirs, mine, counts.received)] {
            if length > 0 {
                from.add(PortCounter::SentBytes, length);
                to.add(PortCounter::RcvdBytes, length);
            }
        }
    }
}

impl Drop for PeerCache<'_> {
    fn drop(&mut self) {
        self.add_counts();
    }
}

/// Whether a device reaches others of this host, and itself, without the wire.
fn reaches(device: &Device<Ferroce>) -> bool {
    !device.netns_mismatch() && roce::delivers_locally()
}

/// Looks for something on the device at an address, if that is where IP would deliver locally: an address
/// of this host, in the network namespace of `device`.
pub(super) fn at<R>(
    device: &Device<Ferroce>,
    gid: Gid,
    look: impl FnOnce(&Device<Ferroce>) -> Option<R>,
) -> Option<R> {
    if !reaches(device) {
        return None;
    }
    let has_gid = |device: &Device<Ferroce>| device.find_gid(&gid, GidType::RoceV2, 1).is_some();
    if has_gid(device) {
        return look(device);
    }
    let netdev = device.netdev(1)?.with_address(gid.ip())?;
    // The address can be that of a VLAN or a bridge, which a device below has as one of its own.
    let peer = Device::<Ferroce>::from_netdev(&netdev).or_else(|| {
        netdev.find_below(|lower| Device::<Ferroce>::from_netdev(lower).filter(|d| has_gid(d)))
    })?;
    (!peer.netns_mismatch()).then(|| look(&peer))?
}
