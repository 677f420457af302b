// SPDX-License-Identifier: GPL-2.0

//! The receiving side: what a peer sees of a queue pair.

use super::{dispatch, fail, send::Extent, Qp};
use crate::{
    address,
    counter::PortCounter,
    cq,
    key::Access,
    local::{AccessError, Extra, LocalMemory, Receive, Received, Responder, Taken},
    mr::{self, Lookup, Uncached},
    qp::{state, QpAttr},
    rdma::{self, qp::QpEvent},
    ring::{
        Cqe, Idle, RecvQueue, RecvRequest, Remote, Sge, WqGeometry, WqPositions, MAX_RECV_STRIDE,
    },
    rings::WorkQueue,
    srq,
    verbs::{AccessFlags, EventType, QpState, QpType, RnrTimer, WcFlags, WcOpcode, WcStatus},
};
use kernel::{alloc::Flags, prelude::*};

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

    /// The ring's size.
    pub(crate) fn size(&self) -> WqGeometry<RecvQueue> {
        self.queue.executor.geometry()
    }

    /// Moves all that is posted to another queue. If it does not fit there, this one stays as it is.
    pub(crate) fn move_to(&mut self, to: &mut Self) -> Result {
        // An entry that was looked at and left has not been handed back, and is moved with the others.
        let moved = self.queue.executor.move_to(&mut to.queue.executor);
        moved.map_err(|_| EINVAL)
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
        let looked = copy_accepted(self.peek(), copy, accept);
        if let Looked::Taken(_) = looked {
            self.take();
        }
        looked
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

/// Copies an entry, if there is one, unless `accept` refuses it.
fn copy_accepted(
    entry: Option<&[u8]>,
    copy: &mut [u8],
    accept: impl FnOnce(&Receive<'_>) -> bool,
) -> Looked {
    let Some(entry) = entry else {
        return Looked::Empty;
    };
    let Some(copy) = copy.get_mut(..entry.len()) else {
        return Looked::Empty;
    };
    copy.copy_from_slice(entry);
    if let Ok((request, scatter)) = RecvRequest::decode(copy) {
        let wr_id = request.wr_id;
        if !accept(&Receive { wr_id, scatter }) {
            return Looked::Refused;
        }
    }
    Looked::Taken(entry.len())
}

/// Receives that were taken for messages whose memory is not there yet, or that are not all copied yet, and
/// given back: they are the next ones.
pub(crate) struct GivenBack {
    /// Room for so many of them, each as long as an entry of the queue that they are of.
    entries: KVec<u8>,
    stride: usize,
    /// How many bytes of each are a receive.
    lens: [usize; MOST_GIVEN_BACK],
    /// The place of the first one.
    first: usize,
    count: usize,
}

/// How many receives of a UD queue pair can be given back at the same time: by so many threads and bottom
/// halves that deliver to it. A connected one has one sender.
const MOST_GIVEN_BACK: usize = 16;

impl GivenBack {
    /// For a queue pair whose receives are `stride` bytes long.
    pub(super) fn new(qp_type: QpType, stride: usize, flags: Flags) -> Result<Self> {
        let room = match qp_type.is_datagram() {
            true => MOST_GIVEN_BACK,
            false => 1,
        };
        let mut entries = KVec::new();
        entries.resize(room * stride, 0, flags)?;
        Ok(Self {
            entries,
            stride,
            lens: [0; MOST_GIVEN_BACK],
            first: 0,
            count: 0,
        })
    }

    /// Where the next one is.
    fn get(&self) -> Option<&[u8]> {
        if self.count == 0 {
            return None;
        }
        let len = *self.lens.get(self.first)?;
        self.entries.get(self.first * self.stride..)?.get(..len)
    }

    /// Takes the next one, unless `accept` refuses it.
    fn take_into(&mut self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked {
        let looked = copy_accepted(self.get(), copy, accept);
        if let Looked::Taken(_) = looked {
            self.drop_first();
        }
        looked
    }

    /// Gives a receive back, if there is room.
    fn put(&mut self, entry: &[u8]) -> bool {
        let room = match self.entries.len().checked_div(self.stride) {
            Some(room) if self.count < room => room,
            _ => return false,
        };
        let at = (self.first + self.count) % room;
        let place = self.entries.get_mut(at * self.stride..);
        let place = place.and_then(|rest| rest.get_mut(..entry.len()));
        let (Some(place), Some(len)) = (place, self.lens.get_mut(at)) else {
            return false;
        };
        place.copy_from_slice(entry);
        *len = entry.len();
        self.count += 1;
        true
    }

    fn drop_first(&mut self) {
        let room = self.entries.len() / self.stride.max(1);
        self.first = (self.first + 1) % room.max(1);
        self.count = self.count.saturating_sub(1);
    }

    /// Takes all away.
    pub(super) fn forget(&mut self) {
        self.count = 0;
    }

    /// Takes the next one to be flushed.
    pub(super) fn flush(&mut self) -> Option<u64> {
        let wr_id = self.get().map(RecvRequest::wr_id)?;
        self.drop_first();
        Some(wr_id)
    }
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
            match (given_back.get(), &self.qp.srq, receives) {
                (Some(_), ..) => given_back.take_into(copy, accept),
                (None, None, Some(receives)) => receives.take_into(copy, accept),
                (None, Some(srq), _) => {
                    drop(shared);
                    srq::take(srq, copy, accept)
                }
                (None, None, None) => Looked::Empty,
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
        let state = {
            let mut shared = self.qp.shared.lock();
            let state = shared.attr.state;
            let takes = state::accepts_requests(state);
            // Of one that is being destroyed nobody waits for completions.
            if shared.is_gone || takes && shared.receiving().0.put(entry) {
                return;
            }
            state
        };
        match state {
            // It has been flushed with the others meanwhile, or would have been.
            QpState::Reset | QpState::Init => {}
            QpState::Err => {
                let cqe = Cqe::new(
                    RecvRequest::wr_id(entry),
                    self.qp.number,
                    WcOpcode::Recv,
                    WcStatus::WrFlushErr,
                );
                cq::complete(&self.qp.recv_cq, &cqe, false);
            }
            // So many datagrams have given theirs back at the same time that there is no room.
            _ => self.complete_failed(entry, WcStatus::LocProtErr),
        }
    }

    /// Completes a receive that cannot be used, and moves the queue pair to the error state.
    fn complete_failed(&self, entry: &[u8], status: WcStatus) {
        let wr_id = RecvRequest::wr_id(entry);
        let cqe = Cqe::new(wr_id, self.qp.number, WcOpcode::Recv, status);
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
        if self.terms.awaits_peer && self.qp.change(|facts| facts.attr.established()) {
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
            let network_type = address::network_type(&source.grh);
            cqe.network_hdr_type = network_type as u8;
            cqe.sl = address::l3_type(network_type);
            cqe.flags = cqe.flags.union(WcFlags::GRH);
        }
        let solicited = received.solicited || received.status != WcStatus::Success;
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
