// SPDX-License-Identifier: GPL-2.0

//! The receiving side: what a peer sees of a queue pair.

use super::{
    effects::{self, Caller},
    fail,
    send::Extent,
    Qp,
};
use crate::{
    attrs::{Attrs, Endpoint, Terms},
    counter::PortCounter,
    cq,
    key::Access,
    local::{AccessError, LocalMemory, Receive, Received, Responder, Taken},
    mr::{self, Lookup, Uncached},
    rdma,
    receive::{self, GivenBack, Looked, Return},
    ring::{RecvRequest, Remote, Sge, MAX_RECV_STRIDE},
    rings::Buffer,
    srq,
    verbs::{AccessFlags, EventType, QpType, RnrTimer, WcStatus},
};
use kernel::{alloc::Flags, prelude::*};

/// A receive queue as the driver has it.
pub(crate) type ReceiveQueue = receive::ReceiveQueue<Buffer>;

/// The receives of a queue pair.
pub(super) type Receives = receive::Receives<Buffer, KVec<u8>>;

/// Those of a queue, or of a shared one. They are `stride` bytes long.
pub(super) fn receives(
    queue: Option<ReceiveQueue>,
    qp_type: QpType,
    stride: usize,
    flags: Flags,
) -> Result<Receives> {
    let mut entries = KVec::new();
    entries.resize(GivenBack::<KVec<u8>>::size(qp_type, stride), 0, flags)?;
    Ok(Receives::new(queue, GivenBack::new(entries, stride)))
}

/// A queue pair as its peer sees it. `L` says how its keys are looked up.
pub(crate) struct Peer<'a, L = Uncached> {
    pub(super) qp: &'a rdma::Qp<Qp>,
    pub(super) terms: Terms,
    pub(super) lookup: L,
    /// Of a message that is executed by a thread.
    pub(super) turn: Option<Turn>,
}

/// For how long a thread may execute a message.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    pub(super) extent: Extent,
    /// As of so many [changes](Qp::changes) of the peer.
    pub(super) changes: u32,
}

/// How a queue pair takes messages of another one, if it does. With the number of its
/// [changes](Qp::changes) as of which that is so.
pub(super) fn connected(
    qp: &rdma::Qp<Qp>,
    from: &rdma::Qp<Qp>,
    from_gid: &[u8; 16],
) -> Option<(Terms, u32)> {
    let endpoint = Endpoint {
        number: from.number,
        qp_type: from.kind.qp_type,
        gid: *from_gid,
    };
    let shared = qp.shared.lock();
    let terms = shared.takes_from(qp.kind.qp_type, &endpoint)?;
    Some((terms, qp.changes()))
}

impl<'a> Peer<'a> {
    /// For a datagram with this Q_Key, or what counts it if it is not taken.
    pub(crate) fn datagram(qp: &'a rdma::Qp<Qp>, qkey: u32) -> Result<Self, PortCounter> {
        let terms = qp.shared.lock().takes_datagram(qp.kind.qp_type, qkey)?;
        Ok(Self::on(qp, terms))
    }

    /// For a packet. The caller has checked that the queue pair takes it.
    pub(crate) fn by_packet(qp: &'a rdma::Qp<Qp>) -> Self {
        Self::on(qp, Terms::of(&qp.shared.lock().attr))
    }

    /// On these terms.
    pub(crate) fn on(qp: &'a rdma::Qp<Qp>, terms: Terms) -> Self {
        Self {
            qp,
            terms,
            lookup: Uncached,
            turn: None,
        }
    }
}

/// The memory that a queue pair's own work requests name, and how it is looked up.
pub(crate) struct Own<'a, L = Uncached>(pub(crate) &'a rdma::Qp<Qp>, pub(crate) L);

impl<L: Lookup> LocalMemory for Own<'_, L> {
    type Region = L::Region;

    fn local(&self, sge: Sge, write: bool) -> Result<L::Region, AccessError> {
        let wanted = Access::local(self.0.pd, self.0.number, sge, write);
        self.1.local(&self.0.device().keys, &wanted)
    }
}

/// Room for an entry with a few places: to clear that for many takes longer than the rest.
const USUAL_STRIDE: usize = 64;

impl<L> Peer<'_, L> {
    fn count_no_receive(&self) {
        let counters = &self.qp.device().counters;
        counters.count(match self.qp.kind.qp_type {
            QpType::Rc => PortCounter::SentRnr,
            _ => PortCounter::OutOfBuffer,
        });
    }
}

impl<L> receive::Source for Peer<'_, L> {
    fn take_into(&self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked {
        let taken = self.qp.shared.lock().receives.take_into(copy, accept);
        let looked = match (taken, &self.qp.srq) {
            (Ok(looked), _) => looked,
            (Err(accept), Some(srq)) => srq::take(srq, copy, accept),
            (Err(_), None) => Looked::Empty,
        };
        if !matches!(looked, Looked::Taken(_)) {
            self.count_no_receive();
        }
        looked
    }

    fn give_back(&self, entry: &[u8]) {
        let result = {
            let mut shared = self.qp.shared.lock();
            // Of one that is being destroyed nobody waits for completions.
            if shared.is_gone {
                return;
            }
            let state = shared.attr.state;
            shared.receives.give_back(entry, state)
        };
        match result {
            Return::Done => {}
            Return::Complete(status) => self.complete_failed(entry, status),
        }
    }

    fn complete_failed(&self, entry: &[u8], status: WcStatus) {
        let cqe = receive::ended(RecvRequest::wr_id(entry), self.qp.number, status);
        cq::complete(&self.qp.recv_cq, &cqe, false);
        fail(self.qp, None);
    }
}

impl<L: Lookup> LocalMemory for Peer<'_, L> {
    type Region = L::Region;

    fn local(&self, sge: Sge, write: bool) -> Result<L::Region, AccessError> {
        let wanted = Access::local(self.qp.pd, self.qp.number, sge, write);
        self.lookup.local(&self.qp.device().keys, &wanted)
    }
}

impl<L: Lookup> Responder for Peer<'_, L> {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<L::Region, AccessError> {
        let wanted = Access::remote(self.qp.pd, self.qp.number, remote, length, access);
        self.lookup.remote(&self.qp.device().keys, &wanted)
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let remote = Remote { addr: 0, rkey };
        let wanted = Access::remote(self.qp.pd, self.qp.number, remote, 0, access);
        mr::check_key(&self.qp.device().keys, &wanted)
    }

    fn access(&self) -> AccessFlags {
        self.terms.access
    }

    fn takes_reads(&self) -> bool {
        self.terms.takes_reads
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        self.terms.min_rnr_timer
    }

    fn established(&self) {
        // What was read under the lock is a guess by now: the change has the last word.
        if self.terms.awaits_peer {
            effects::change(self.qp, Caller::Any, Attrs::established);
        }
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        let stride = match &self.qp.srq {
            Some(srq) => Some(srq.stride()),
            None => self.qp.caps.layout.recv().map(|size| size.stride()),
        };
        match stride {
            None | Some(..=USUAL_STRIDE) => {
                receive::take(self, &mut [0; USUAL_STRIDE], accept, place)
            }
            _ => receive::take(self, &mut [0; MAX_RECV_STRIDE], accept, place),
        }
    }

    fn may_go_on(&self) -> bool {
        let Some(turn) = self.turn else {
            return true;
        };
        rdma::cond_resched();
        self.qp.changes() == turn.changes && !turn.extent.is_over(self.qp)
    }

    fn complete(&self, received: &Received) {
        self.qp.device().counters.count(PortCounter::RdmaRecvs);
        let (cqe, solicited) = receive::completion(received, self.qp.number);
        cq::complete(&self.qp.recv_cq, &cqe, solicited);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        // Nobody has to be waited for: by a window of a queue pair's its peer alone reaches memory, whose
        // requests come one after the other.
        let keys = &self.qp.device().keys;
        mr::invalidate(keys, self.qp.pd, rkey, self.qp.number).map(drop)
    }

    fn fail(&self, event: Option<EventType>) {
        if event == Some(EventType::QpAccessErr) {
            self.qp.device().counters.count(PortCounter::ResponseAccess);
        }
        fail(self.qp, event);
    }
}
