// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a driver is around a requester and a responder, with queues that are vectors.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ptr::NonNull;

use ferroce_core::local::{self, AccessError, LocalMemory, Receive, Received, Taken};
use ferroce_core::qp::QpAttr;
use ferroce_core::requester::{self, Completed, Requester, Slot, Transmit};
use ferroce_core::responder::{Resource, Responder};
use ferroce_core::ring::{
    BindMw, Executor, Operation, Origin, Payload, Poster, Remote, SendQueue, SendRequest, Sge,
    SgeList, WqGeometry,
};
use ferroce_core::verbs::{AccessFlags, EventType, QpType, RnrTimer};
use ferroce_core::wire::{Packet, MAX_HEADERS_LEN};

use crate::memory::{Memory, Range, BASE};

pub const LKEY: u32 = 0x11;
pub const RKEY: u32 = 0x2200;
/// A key that a peer may invalidate.
pub const WINDOW: u32 = 0x3300;

/// Entries of a send queue.
pub const SEND_ENTRIES: u32 = 16;
pub const SEND_SGES: u32 = 4;
pub const INLINE: u32 = 64;

/// A receive as it was posted.
pub type Posted = (u64, Vec<[u8; 16]>);

/// A request of the QP's own host, which never goes by the wire.
pub fn bind() -> Operation {
    Operation::BindMw(BindMw {
        addr: BASE,
        length: 1,
        mr_lkey: LKEY,
        mw_rkey: 1,
        new_rkey: 2,
        access: AccessFlags::REMOTE_READ,
    })
}

/// A QP's queues and memory.
pub struct Queues {
    pub memory: Memory,
    /// The local key, which may change.
    pub lkey: Cell<u32>,
    pub access: AccessFlags,
    /// What the remote key allows.
    pub key_access: AccessFlags,
    pub takes_reads: bool,
    pub rnr_timer: RnrTimer,
    pub entries: RefCell<Vec<Vec<u8>>>,
    pub receives: RefCell<VecDeque<Posted>>,
    pub completed: RefCell<VecDeque<Completed>>,
    pub received: RefCell<VecDeque<Received>>,
    pub failed: Cell<Option<Option<EventType>>>,
    /// Requests that have come in their turn.
    pub requests: Cell<u32>,
}

impl LocalMemory for Queues {
    type Region = Range;

    fn local(&self, sge: Sge, _write: bool) -> Result<Range, AccessError> {
        if sge.lkey != self.lkey.get() {
            return Err(AccessError);
        }
        self.memory.range(sge.addr, sge.length)
    }
}

impl requester::Host for Queues {
    fn entry(&self, slot: u32) -> &[u8] {
        let entries = self.entries.borrow();
        let entry: &[u8] = &entries[slot as usize];
        // SAFETY: An entry is replaced when its slot is posted to, which no call of the requester's does.
        unsafe { std::slice::from_raw_parts(entry.as_ptr(), entry.len()) }
    }

    fn complete(&self, completed: &Completed) {
        self.completed.borrow_mut().push_back(*completed);
    }
}

impl local::Responder for Queues {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        self.remote_key(remote.rkey, access)?;
        self.memory.range(remote.addr, length)
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let allowed = rkey == RKEY && self.key_access.contains(access);
        allowed.then_some(()).ok_or(AccessError)
    }

    fn access(&self) -> AccessFlags {
        self.access
    }

    fn takes_reads(&self) -> bool {
        self.takes_reads
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        self.rnr_timer
    }

    fn established(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        let mut receives = self.receives.borrow_mut();
        let Some((wr_id, entries)) = receives.front() else {
            return Taken::Empty;
        };
        let receive = Receive {
            wr_id: *wr_id,
            scatter: SgeList::of(entries),
        };
        if !accept(&receive) {
            return Taken::Refused;
        }
        let Some(done) = place(&receive) else {
            return Taken::Refused;
        };
        receives.pop_front();
        Taken::Done(done)
    }

    fn complete(&self, received: &Received) {
        self.received.borrow_mut().push_back(*received);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        (rkey == WINDOW).then_some(()).ok_or(AccessError)
    }

    fn fail(&self, event: Option<EventType>) {
        assert_eq!(self.failed.get(), None, "it has failed before");
        self.failed.set(Some(event));
    }
}

/// Makes entries of work requests, by way of a ring.
struct Encoder {
    _memory: Vec<Line>,
    poster: Poster<SendQueue>,
    executor: Executor<SendQueue>,
    buffer: Vec<u8>,
}

#[derive(Clone)]
#[repr(C, align(64))]
struct Line([u64; 8]);

impl Encoder {
    fn new() -> Self {
        let geometry = WqGeometry::<SendQueue>::new(2, SEND_SGES, INLINE).unwrap();
        let mut memory = vec![Line([0; 8]); geometry.len().div_ceil(64)];
        let base = NonNull::new(memory.as_mut_ptr().cast()).unwrap();
        let len = memory.len() * 64;
        Self {
            // SAFETY: The memory is kept as long as they are, and nobody else uses it.
            poster: unsafe { Poster::new(base, len, geometry) }.unwrap(),
            // SAFETY: As above.
            executor: unsafe { Executor::new(base, len, geometry) }.unwrap(),
            _memory: memory,
            buffer: vec![0; geometry.stride()],
        }
    }

    fn encode(&mut self, request: &SendRequest, payload: Payload<'_>) -> Vec<u8> {
        self.poster.push(request, payload).unwrap();
        let _ = self.poster.publish();
        let entry = self.executor.fetch(&mut self.buffer).unwrap().unwrap();
        let entry = entry.to_vec();
        self.executor.hand_back(1);
        entry
    }
}

/// A QP.
pub struct Front {
    pub queues: Queues,
    pub requester: Requester<Vec<Slot>, Range>,
    pub responder: Responder<Vec<Resource>, Range>,
    /// Requests posted.
    pub posted: u32,
    encoder: Encoder,
    buffer: Vec<u8>,
}

impl Front {
    pub fn new(qp_type: QpType, attr: &QpAttr, memory: Memory) -> Self {
        let resources = vec![Resource::default(); attr.max_dest_rd_atomic.into()];
        // Room for all READs that may be under way.
        let entries = usize::from(attr.max_rd_atomic).max(SEND_ENTRIES as usize);
        let slots = vec![Slot::default(); entries];
        Self {
            queues: Queues {
                memory,
                lkey: Cell::new(LKEY),
                access: attr.qp_access_flags,
                key_access: AccessFlags::REMOTE,
                takes_reads: attr.max_dest_rd_atomic > 0,
                rnr_timer: attr.min_rnr_timer,
                entries: RefCell::new(vec![Vec::new(); entries]),
                receives: RefCell::default(),
                completed: RefCell::default(),
                received: RefCell::default(),
                failed: Cell::new(None),
                requests: Cell::new(0),
            },
            requester: Requester::new(qp_type, Origin::User, attr, slots),
            responder: Responder::new(qp_type, attr, resources),
            posted: 0,
            encoder: Encoder::new(),
            buffer: vec![0; MAX_HEADERS_LEN + attr.path_mtu.bytes() as usize],
        }
    }

    pub fn post(&mut self, request: &SendRequest, payload: Payload<'_>) {
        let entry = self.encoder.encode(request, payload);
        self.post_entry(entry);
    }

    pub fn post_entry(&mut self, entry: Vec<u8>) {
        let entries = self.queues.entries.get_mut();
        let slot = self.posted as usize % entries.len();
        entries[slot] = entry;
        self.posted += 1;
        self.requester.posted();
    }

    /// Takes a packet of the peer's. Says what came of it.
    pub fn on_packet(&mut self, now: u64, packet: &Packet<'_>) -> String {
        if packet.bth.opcode.kind().is_response() {
            format!("{:?}", self.requester.on_packet(now, packet, &self.queues))
        } else {
            format!("{:?}", self.responder.on_packet(packet, &self.queues))
        }
    }

    /// The next response packet.
    pub fn respond(&mut self) -> Result<&[u8], Transmit> {
        let has_sent_all = self.responder.has_sent_all();
        match self.responder.poll_transmit(&self.queues, &mut self.buffer) {
            Transmit::Packet(_) if has_sent_all => panic!("a response after all were sent"),
            Transmit::Packet(length) => Ok(&self.buffer[..length]),
            nothing => Err(nothing),
        }
    }

    /// The next request packet.
    pub fn request(&mut self, now: u64) -> Result<&[u8], Transmit> {
        let queues = &self.queues;
        let has_sent_all = self.requester.has_sent_all();
        match self.requester.poll_transmit(now, queues, &mut self.buffer) {
            Transmit::Packet(_) if has_sent_all => panic!("a request after all were sent"),
            Transmit::Packet(length) => Ok(&self.buffer[..length]),
            nothing => Err(nothing),
        }
    }
}
