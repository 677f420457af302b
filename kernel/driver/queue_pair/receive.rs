// SPDX-License-Identifier: GPL-2.0

//! The receiving side: what a peer sees of a queue pair.

use super::{dispatch, fail, send::Extent, Qp};
use crate::{
    counter::PortCounter,
    cq,
    key::Access,
    local::{AccessError, LocalMemory, Receive, Received, Responder, Taken},
    mr::{self, Lookup, Uncached},
    qp::{state, QpAttr},
    rdma::{self, qp::QpEvent},
    receive::{self, Looked, Return},
    ring::{RecvRequest, Remote, Sge, MAX_RECV_STRIDE},
    rings::Buffer,
    srq,
    verbs::{AccessFlags, EventType, QpType, RnrTimer, WcStatus},
};
use kernel::{alloc::Flags, prelude::*};

/// A receive queue as the driver has it.
pub(crate) type ReceiveQueue = receive::ReceiveQueue<Buffer>;

/// Receives of a queue pair that were given back.
pub(crate) type GivenBack = receive::GivenBack<KVec<u8>>;

/// For a queue pair whose receives are `stride` bytes long.
pub(super) fn given_back(qp_type: QpType, stride: usize, flags: Flags) -> Result<GivenBack> {
    let mut entries = KVec::new();
    entries.resize(GivenBack::size(qp_type, stride), 0, flags)?;
    Ok(GivenBack::new(entries, stride))
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

/// On what terms a queue pair takes messages.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    access: AccessFlags,
    takes_reads: bool,
    min_rnr_timer: RnrTimer,
    /// No request of the peer's has come yet, and the queue pair is in RTR.
    awaits_peer: bool,
}

impl Terms {
    fn of(attr: &QpAttr) -> Self {
        Self {
            access: attr.qp_access_flags,
            takes_reads: attr.max_dest_rd_atomic > 0,
            min_rnr_timer: attr.min_rnr_timer,
            awaits_peer: attr.awaits_peer,
        }
    }

    /// If the queue pair takes messages of a connected peer: it is in a state to, and connected to
    /// just that one. With the number of its [changes](Qp::changes) as of which that is so.
    pub(super) fn connected(
        qp: &rdma::Qp<Qp>,
        from: &rdma::Qp<Qp>,
        from_gid: &[u8; 16],
    ) -> Option<(Self, u32)> {
        let shared = qp.shared.lock();
        let takes = !shared.is_gone
            && state::accepts_requests(shared.attr.state)
            && qp.qp_type == from.qp_type
            && shared.attr.dest_qp_num == from.number
            && shared.attr.ah_attr.dgid == *from_gid;
        takes.then(|| (Self::of(&shared.attr), qp.changes()))
    }
}

impl<'a> Peer<'a> {
    /// If the queue pair takes datagrams with this key (IBTA 9.8.3.1, C9-42); otherwise, as what that
    /// counts.
    pub(crate) fn datagram(qp: &'a rdma::Qp<Qp>, qkey: u32) -> Result<Self, PortCounter> {
        if !qp.qp_type.is_datagram() {
            return Err(PortCounter::UnknownQp);
        }
        let shared = qp.shared.lock();
        if shared.is_gone || !state::accepts_requests(shared.attr.state) {
            return Err(PortCounter::NotReady);
        }
        if shared.attr.qkey != qkey {
            return Err(PortCounter::WrongQkey);
        }
        Ok(Self::of(qp, &shared.attr))
    }

    /// For a packet. Whoever has it has checked that the queue pair takes it.
    pub(crate) fn by_packet(qp: &'a rdma::Qp<Qp>) -> Self {
        Self::of(qp, &qp.shared.lock().attr)
    }

    /// With these attributes.
    pub(crate) fn of(qp: &'a rdma::Qp<Qp>, attr: &QpAttr) -> Self {
        Self {
            qp,
            terms: Terms::of(attr),
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
        counters.count(match self.qp.qp_type {
            QpType::Rc => PortCounter::SentRnr,
            _ => PortCounter::OutOfBuffer,
        });
    }

    /// Takes the next receive, by a copy that there is room for.
    fn take_receive_by<T>(
        &self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        let looked = {
            let mut shared = self.qp.shared.lock();
            let (given_back, receives) = shared.receiving();
            match (&self.qp.srq, receives) {
                _ if !given_back.is_empty() => given_back.take_into(copy, accept),
                (None, Some(receives)) => receives.take_into(copy, accept),
                (Some(srq), _) => {
                    drop(shared);
                    srq::take(srq, copy, accept)
                }
                (None, None) => Looked::Empty,
            }
        };
        let entry = match looked {
            Looked::Taken(len) => copy.get(..len).unwrap_or(&[]),
            Looked::Empty => {
                self.count_no_receive();
                return Taken::Empty;
            }
            Looked::Refused => {
                self.count_no_receive();
                return Taken::Refused;
            }
        };
        match RecvRequest::decode(entry) {
            Ok((request, scatter)) => {
                let wr_id = request.wr_id;
                match place(&Receive { wr_id, scatter }) {
                    Some(placed) => Taken::Done(placed),
                    None => {
                        self.give_back(entry);
                        Taken::Refused
                    }
                }
            }
            Err(error) => {
                // A receive that makes no sense: its poster's error (IBTA 10.10.2.2).
                self.complete_failed(entry, error.status());
                Taken::Empty
            }
        }
    }

    /// Makes a receive that was taken the next one again.
    fn give_back(&self, entry: &[u8]) {
        let result = {
            let mut shared = self.qp.shared.lock();
            // Of one that is being destroyed nobody waits for completions.
            if shared.is_gone {
                return;
            }
            let state = shared.attr.state;
            shared.receiving().0.give_back(entry, state)
        };
        match result {
            Return::Done => {}
            Return::Complete(status) => self.complete_failed(entry, status),
        }
    }

    /// Completes a receive that cannot be used, and moves the queue pair to the error state.
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
        if self.terms.awaits_peer && self.qp.change(|attrs| attrs.attr.established()) {
            dispatch(self.qp, QpEvent::CommEstablished);
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
                self.take_receive_by(&mut [0; USUAL_STRIDE], accept, place)
            }
            _ => self.take_receive_by(&mut [0; MAX_RECV_STRIDE], accept, place),
        }
    }

    fn may_go_on(&self) -> bool {
        let Some(turn) = self.turn else {
            return true;
        };
        rdma::cond_resched();
        self.qp.changes() == turn.changes && !turn.extent.is_over()
    }

    fn complete(&self, received: &Received) {
        self.qp.device().counters.count(PortCounter::RdmaRecvs);
        let (cqe, solicited) = receive::completion(received, self.qp.number);
        cq::complete(&self.qp.recv_cq, &cqe, solicited);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        mr::invalidate(&self.qp.device().keys, self.qp.pd, rkey, self.qp.number)
    }

    fn fail(&self, event: Option<EventType>) {
        if event == Some(EventType::QpAccessErr) {
            self.qp.device().counters.count(PortCounter::ResponseAccess);
        }
        fail(self.qp, event);
    }
}
