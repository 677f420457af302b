// SPDX-License-Identifier: GPL-2.0

//! The receiving side: what a peer sees of a queue pair.

use super::{dispatch, fail, Qp};
use crate::{
    address,
    counters::Port,
    cq,
    local::{AccessError, Extra, LocalMemory, Receive, Received, Responder, Taken},
    memory::{self, Anew, Lookup, Wanted},
    qp::{state, QpAttr},
    rdma::{self, qp::QpEvent},
    ring::{Cqe, Idle, RecvQueue, RecvRequest, Remote, Sge, WqPositions, MAX_RECV_STRIDE},
    rings::WorkQueue,
    srq,
    verbs::{AccessFlags, EventType, QpType, RnrTimer, WcFlags, WcOpcode, WcStatus},
};

/// A receive queue as the driver has it.
pub(crate) struct ReceiveQueue {
    queue: WorkQueue<RecvQueue>,
    /// How many bytes of the buffer are an entry that was looked at and left.
    held: Option<usize>,
}

/// What a look at a receive queue comes to.
pub(crate) enum Looked {
    /// This many bytes were copied out.
    Taken(usize),
    Empty,
    Refused,
}

impl ReceiveQueue {
    pub(crate) fn new(queue: WorkQueue<RecvQueue>) -> Self {
        Self { queue, held: None }
    }

    /// Forgets all that was posted.
    pub(super) fn reset(&mut self) {
        self.held = None;
        self.queue.executor.discard_all();
    }

    /// The next entry, which stays the next until it is taken.
    fn peek(&mut self) -> Option<&[u8]> {
        if self.held.is_none() {
            let entry = self.queue.executor.fetch(&mut self.queue.buffer);
            // An index that makes no sense: to the peer there is nothing posted.
            self.held = Some(entry.ok().flatten()?.len());
        }
        self.queue.buffer.get(..self.held?)
    }

    fn take(&mut self) {
        self.held = None;
        self.queue.executor.hand_back(1);
    }

    /// Where the two sides are.
    pub(crate) fn positions(&self) -> WqPositions {
        self.queue.executor.positions()
    }

    /// How many requests are posted.
    pub(crate) fn available(&mut self) -> u32 {
        let held = u32::from(self.held.is_some());
        self.queue.executor.available().unwrap_or(0) + held
    }

    /// Takes the next entry, unless `accept` refuses it. One that makes no sense is taken, and found
    /// out by whoever reads the copy.
    pub(crate) fn take_into(
        &mut self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
    ) -> Looked {
        let Some(entry) = self.peek() else {
            return Looked::Empty;
        };
        let len = entry.len();
        let Some(copy) = copy.get_mut(..len) else {
            return Looked::Empty;
        };
        copy.copy_from_slice(entry);
        if let Ok((request, scatter)) = RecvRequest::decode(copy) {
            let wr_id = request.wr_id;
            if !accept(&Receive { wr_id, scatter }) {
                return Looked::Refused;
            }
        }
        self.take();
        Looked::Taken(len)
    }

    /// Takes the next entry to be flushed; once there is none, whoever posts another one tells.
    pub(super) fn flush_one(&mut self) -> Option<u64> {
        loop {
            if let Some(wr_id) = self.peek().map(RecvRequest::wr_id) {
                self.take();
                return Some(wr_id);
            }
            match self.queue.executor.sleep() {
                Ok(Idle::Work) => {}
                Ok(Idle::Asleep) | Err(_) => return None,
            }
        }
    }
}

/// A queue pair as its peer sees it. `L` says how its keys are looked up.
pub(crate) struct Peer<'a, L = Anew> {
    pub(super) qp: &'a rdma::Qp<Qp>,
    pub(super) terms: Terms,
    pub(super) lookup: L,
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
    pub(crate) fn datagram(qp: &'a rdma::Qp<Qp>, qkey: u32) -> Result<Self, Port> {
        if !qp.qp_type.is_datagram() {
            return Err(Port::UnknownQp);
        }
        let shared = qp.shared.lock();
        if shared.is_gone || !state::accepts_requests(shared.attr.state) {
            return Err(Port::NotReady);
        }
        if shared.attr.qkey != qkey {
            return Err(Port::WrongQkey);
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
            lookup: Anew,
        }
    }
}

/// The memory that a queue pair's own work requests name, and how it is looked up.
pub(crate) struct Own<'a, L = Anew>(pub(crate) &'a rdma::Qp<Qp>, pub(crate) L);

impl<L: Lookup> LocalMemory for Own<'_, L> {
    type Region = L::Region;

    fn local(&self, sge: Sge, write: bool) -> Result<L::Region, AccessError> {
        let wanted = Wanted::local(self.0.pd, self.0.number, sge, write);
        self.1.local(&self.0.device().keys, &wanted)
    }
}

/// Room for an entry with a few places: to clear that for many takes longer than the rest.
const USUAL_STRIDE: usize = 64;

impl<L> Peer<'_, L> {
    fn count_no_receive(&self) {
        let counters = &self.qp.device().counters;
        counters.count(match self.qp.qp_type {
            QpType::Rc => Port::SentRnr,
            _ => Port::OutOfBuffer,
        });
    }

    /// Takes the next receive, by a copy that there is room for.
    fn take_receive_by<T>(
        &self,
        copy: &mut [u8],
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> T,
    ) -> Taken<T> {
        let looked = match &self.qp.srq {
            Some(srq) => srq::take(srq, copy, accept),
            None => match &mut self.qp.shared.lock().receives {
                Some(receives) => receives.take_into(copy, accept),
                None => Looked::Empty,
            },
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
            Ok((request, scatter)) => Taken::Done(place(&Receive {
                wr_id: request.wr_id,
                scatter,
            })),
            Err(error) => {
                // A receive that makes no sense: its poster's error (IBTA 10.10.2.2).
                let wr_id = RecvRequest::wr_id(entry);
                let cqe = Cqe::new(wr_id, self.qp.number, WcOpcode::Recv, error.status());
                cq::complete(&self.qp.recv_cq, &cqe, false);
                fail(self.qp, None);
                Taken::Empty
            }
        }
    }
}

impl<L: Lookup> LocalMemory for Peer<'_, L> {
    type Region = L::Region;

    fn local(&self, sge: Sge, write: bool) -> Result<L::Region, AccessError> {
        let wanted = Wanted::local(self.qp.pd, self.qp.number, sge, write);
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
        let wanted = Wanted::remote(self.qp.pd, self.qp.number, remote, length, access);
        self.lookup.remote(&self.qp.device().keys, &wanted)
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let remote = Remote { addr: 0, rkey };
        let wanted = Wanted::remote(self.qp.pd, self.qp.number, remote, 0, access);
        memory::check_key(&self.qp.device().keys, &wanted)
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
        if self.terms.awaits_peer && self.qp.change(|facts| facts.attr.established()) {
            dispatch(self.qp, QpEvent::CommEstablished);
        }
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> T,
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

    fn complete(&self, received: &Received) {
        self.qp.device().counters.count(Port::RdmaRecvs);
        let mut cqe = Cqe::new(
            received.wr_id,
            self.qp.number,
            received.opcode,
            received.status,
        );
        cqe.byte_len = received.byte_len;
        cqe = match received.extra {
            Extra::None => cqe,
            Extra::Immediate(data) => cqe.with_imm(data),
            Extra::Invalidated(rkey) => cqe.with_invalidated(rkey),
        };
        if let Some(source) = &received.source {
            cqe.src_qp = source.qpn;
            cqe.network_hdr_type = address::network_type(&source.grh) as u8;
            cqe.flags = cqe.flags.union(WcFlags::GRH);
        }
        let solicited = received.solicited || received.status != WcStatus::Success;
        cq::complete(&self.qp.recv_cq, &cqe, solicited);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        memory::invalidate(&self.qp.device().keys, self.qp.pd, rkey, self.qp.number)
    }

    fn fail(&self, event: Option<EventType>) {
        if event == Some(EventType::QpAccessErr) {
            self.qp.device().counters.count(Port::ResponseAccess);
        }
        fail(self.qp, event);
    }
}
