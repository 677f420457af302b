// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host with a device in one thread: memory, keys, queue pairs that are connected on this host.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ferroce_core::local::{
    self, AccessError, AtomicChange, CopyFault, Fault, LocalMemory, Outcome, Receive, Received,
    Responder, Taken,
};
use ferroce_core::qp::{state, QpAttr};
use ferroce_core::ring::{
    Cqe, Operation, Origin, Payload, PostError, Poster, RecvQueue, RecvRequest, Remote, SendQueue,
    SendRequest, Sge, WqGeometry, MAX_RECV_STRIDE,
};
use ferroce_core::verbs::{
    AccessFlags, AckTimeout, EventType, QpState, QpType, RnrTimer, WcStatus,
};
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::numbers::{Config, Numbers, Slot, Slots};
use ferroce_device::queue::WorkQueue;
use ferroce_device::receive::{self, GivenBack, Looked, ReceiveQueue, Return};
use ferroce_device::region::{Part, Region};
use ferroce_device::send::{self, Attempt, Execution, Next};
use ferroce_device::window::{Bind, Bound, Window};

use crate::rings::Memory;

pub const PD: PdId = PdId::new(1);
/// Entries of each work queue.
pub const DEPTH: u32 = 4;
/// Bytes of memory that a host has for regions.
pub const MEMORY: usize = 1024;

type Bytes = Box<[u8]>;

/// What a key names.
#[derive(Clone)]
pub enum Named {
    Region(Rc<Registered>),
    Window(Rc<RefCell<Window<Rc<Registered>>>>),
}

/// A region, and where in the host's memory it begins.
pub struct Registered {
    region: RefCell<Region>,
    start: usize,
}

pub struct Segments(Vec<Slot<Named>>);

impl Slots<Named> for Segments {
    fn count(&self) -> u32 {
        self.0.len() as u32
    }

    fn get(&self, index: u32) -> Option<&Slot<Named>> {
        self.0.get(index as usize)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Slot<Named>> {
        self.0.get_mut(index as usize)
    }
}

/// All that the queue pairs of a host share.
pub struct Host {
    pub memory: Rc<RefCell<Vec<u8>>>,
    pub keys: RefCell<Numbers<Named, Segments>>,
    pub qps: RefCell<BTreeMap<u32, Rc<Qp>>>,
    pub now: Cell<u64>,
}

/// A queue pair, with its process's side of the rings.
pub struct Qp {
    pub number: u32,
    attr: RefCell<QpAttr>,
    version: Cell<u32>,
    send: RefCell<(Poster<SendQueue>, WorkQueue<SendQueue, Bytes>, Execution)>,
    receive: RefCell<(Poster<RecvQueue>, ReceiveQueue<Bytes>, GivenBack<Bytes>)>,
    /// What has been completed, in its order.
    pub sent: RefCell<VecDeque<Cqe>>,
    pub received: RefCell<VecDeque<Cqe>>,
    pub events: RefCell<Vec<EventType>>,
    /// The rings of the send queue and of the receive queue.
    #[allow(dead_code)] // Not every user writes to them.
    pub rings: [Memory; 2],
}

impl Host {
    pub fn new() -> Self {
        let config = Config {
            first: 0,
            count: 64,
            start: 7,
            reuse_after: 16,
            step: 1,
        };
        let slots = Segments((0..64).map(|_| Slot::Unused).collect());
        Self {
            memory: Rc::new(RefCell::new(vec![0; MEMORY])),
            keys: RefCell::new(Numbers::new(slots, config)),
            qps: RefCell::default(),
            now: Cell::new(0),
        }
    }

    fn reserve_key(&self) -> u32 {
        let reserved = self.keys.borrow_mut().reserve().unwrap();
        key::new(reserved.number, reserved.variant.unwrap_or(0))
    }

    /// Registers bytes of the memory, whose addresses are their places.
    pub fn register(&self, addr: u64, length: u64, access: AccessFlags) -> u32 {
        let key = self.reserve_key();
        let named = Named::Region(Rc::new(Registered {
            region: RefCell::new(Region::registered(key, PD, access, addr, length)),
            start: addr as usize,
        }));
        self.keys.borrow_mut().put(key::number(key), named);
        key
    }

    pub fn deregister(&self, key: u32) -> bool {
        let Some(Named::Region(region)) = self.named(key) else {
            return false;
        };
        // Not another region that has the number by now.
        let mut state = region.region.borrow_mut();
        if state.key() != key || state.deregister().is_err() {
            return false;
        }
        let (number, variant) = (key::number(key), key::variant(key));
        self.keys.borrow_mut().give_up(number, variant);
        true
    }

    pub fn allocate_window(&self, kind: ferroce_device::window::Kind) -> u32 {
        let key = self.reserve_key();
        let named = Named::Window(Rc::new(RefCell::new(Window::new(kind, PD, key))));
        self.keys.borrow_mut().put(key::number(key), named);
        key
    }

    fn named(&self, key: u32) -> Option<Named> {
        self.keys.borrow().get(key::number(key)).cloned()
    }

    /// Makes a pair of queue pairs that are connected to each other, in RTS.
    pub fn connect(&self, first: u32, rnr_retry: u8) -> [Rc<Qp>; 2] {
        [(first, first + 1), (first + 1, first)].map(|(number, peer)| {
            let qp = Rc::new(Qp::new(number, peer, rnr_retry));
            self.qps.borrow_mut().insert(number, qp.clone());
            qp
        })
    }

    /// Executes what a queue pair has posted, as far as it goes.
    pub fn run(&self, qp: &Qp) {
        while self.step(qp) {}
    }

    /// Executes one request. Returns whether there may be another.
    pub fn step(&self, qp: &Qp) -> bool {
        let mut send = qp.send.borrow_mut();
        let (_, queue, execution) = &mut *send;
        let attr = *qp.attr.borrow();
        let next = execution.next(queue, attr.state, true, || self.now.get());
        let Ok(next) = next else {
            // Indexes that make no sense.
            qp.end();
            return false;
        };
        match next {
            Next::Held | Next::Idle | Next::Later => return false,
            Next::Drained => {
                if qp.attr.borrow_mut().drained() {
                    qp.events.borrow_mut().push(EventType::SqDrained);
                }
                return false;
            }
            Next::Flush(wr_id) => {
                let cqe = send::flushed(wr_id, qp.number);
                qp.sent.borrow_mut().push_back(cqe);
                return true;
            }
            Next::Execute => {}
        }
        let (completion, request) = execution.request(queue, QpType::Rc, Origin::User, false);
        let attempt = match request {
            Err(status) => Attempt::Failed(status),
            Ok((request, data)) => {
                let own = Own { host: self, qp };
                let peer = self.qps.borrow().get(&attr.dest_qp_num).cloned();
                let peer = peer.filter(|peer| state::accepts_requests(peer.attr.borrow().state));
                match (request.operation, peer) {
                    (Operation::BindMw(bind), _) => match self.bind(qp, &bind) {
                        Ok(()) => Attempt::Done(0),
                        Err(AccessError) => Attempt::Failed(WcStatus::MwBindErr),
                    },
                    (Operation::LocalInvalidate { rkey }, _) => match own.invalidate_key(rkey) {
                        Ok(()) => Attempt::Done(0),
                        Err(AccessError) => Attempt::Failed(WcStatus::LocQpOpErr),
                    },
                    (_, None) => execution.tries.no_peer(QpType::Rc, &attr, data.length()).0,
                    (_, Some(peer)) => {
                        let progress = execution.tries.progress_with(peer.version.get());
                        let peer = Own {
                            host: self,
                            qp: &peer,
                        };
                        let length = data.length();
                        let outcome = local::execute(
                            &request,
                            data,
                            &own,
                            attr.max_rd_atomic,
                            &peer,
                            true,
                            progress,
                        );
                        assert_ne!(outcome, Outcome::Paused);
                        let now = || self.now.get();
                        execution.tries.outcome(outcome, &attr, length, now).0
                    }
                }
            }
        };
        match attempt {
            Attempt::Done(length) => {
                execution.finish(queue);
                let cqe = completion.done(qp.number, length);
                qp.sent.borrow_mut().extend(cqe);
                true
            }
            Attempt::Failed(status) => {
                execution.finish(queue);
                let cqe = completion.failed(qp.number, status);
                qp.sent.borrow_mut().push_back(cqe);
                let before = qp.attr.borrow().state;
                qp.set_state(state::after_send_error(QpType::Rc, before));
                qp.flush_receives();
                true
            }
            Attempt::Wait(nanos) => {
                execution.wait_until(self.now.get() + nanos);
                false
            }
            Attempt::Stuck | Attempt::OwnMemory | Attempt::Paused => false,
        }
    }

    fn bind(&self, qp: &Qp, request: &ferroce_core::ring::BindMw) -> Result<(), AccessError> {
        let Some(Named::Window(window)) = self.named(request.mw_rkey) else {
            return Err(AccessError);
        };
        let bind = window.borrow().check_bind(PD, request)?;
        let bound = match bind {
            Bind::Nothing => None,
            Bind::To(lkey) => {
                let Some(Named::Region(region)) = self.named(lkey) else {
                    return Err(AccessError);
                };
                region.region.borrow_mut().bind(PD, &Part::from(request))?;
                Some(Bound::new(region, request, qp.number))
            }
        };
        let (result, unbound) = window.borrow_mut().bind(request, bound);
        if let Some(unbound) = unbound {
            unbound.region.region.borrow_mut().unbind();
        }
        result
    }
}

impl Qp {
    fn new(number: u32, peer: u32, rnr_retry: u8) -> Self {
        let sends = WqGeometry::<SendQueue>::new(DEPTH, 1, 0).unwrap();
        let receives = WqGeometry::<RecvQueue>::new(DEPTH, 1).unwrap();
        let memory = [Memory::new(sends.len()), Memory::new(receives.len())];
        let room = GivenBack::<Bytes>::size(QpType::Rc, receives.stride());
        let given_back = GivenBack::new(vec![0; room].into(), receives.stride());
        let attr = QpAttr {
            state: QpState::Rts,
            dest_qp_num: peer,
            qp_access_flags: AccessFlags::REMOTE,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            min_rnr_timer: RnrTimer::from_low_bits(1),
            timeout: AckTimeout::from_low_bits(1),
            rnr_retry,
            ..QpAttr::new()
        };
        Self {
            number,
            attr: RefCell::new(attr),
            version: Cell::new(0),
            send: RefCell::new((
                memory[0].poster(sends),
                memory[0].queue(sends),
                Execution::default(),
            )),
            receive: RefCell::new((
                memory[1].poster(receives),
                ReceiveQueue::new(memory[1].queue(receives)),
                given_back,
            )),
            sent: RefCell::default(),
            received: RefCell::default(),
            events: RefCell::default(),
            rings: memory,
        }
    }

    pub fn state(&self) -> QpState {
        self.attr.borrow().state
    }

    pub fn set_state(&self, state: QpState) {
        self.attr.borrow_mut().state = state;
        self.version.set(self.version.get() + 1);
    }

    pub fn post_send(&self, request: &SendRequest, sges: &[Sge]) -> Result<(), PostError> {
        let (poster, ..) = &mut *self.send.borrow_mut();
        poster.push(request, Payload::Sges(sges))?;
        let _ = poster.publish();
        Ok(())
    }

    pub fn post_receive(&self, wr_id: u64, sge: Sge) -> Result<(), PostError> {
        {
            let (poster, ..) = &mut *self.receive.borrow_mut();
            poster.push(&RecvRequest { wr_id }, &[sge])?;
            let _ = poster.publish();
        }
        self.flush_receives();
        Ok(())
    }

    /// No request is executed any more: what the process has written to its send queue makes no sense.
    fn end(&self) {
        let before = self.state();
        self.set_state(state::after_fatal_error(before));
        if before != self.state() {
            self.events.borrow_mut().push(EventType::QpFatal);
            self.flush_receives();
        }
    }

    /// Begins anew, in RTS, with nothing posted.
    #[allow(dead_code)] // Not every user does.
    pub fn reset(&self) {
        let (_, queue, execution) = &mut *self.send.borrow_mut();
        execution.abandon();
        queue.ring.discard_all();
        let (_, queue, given_back) = &mut *self.receive.borrow_mut();
        queue.reset();
        given_back.forget();
        self.set_state(QpState::Rts);
    }

    /// Completes what is posted as flushed, if the state is such.
    pub fn flush_receives(&self) {
        if state::receive_queue(self.state()) != state::Processing::Flush {
            return;
        }
        let (_, queue, given_back) = &mut *self.receive.borrow_mut();
        while let Some(wr_id) = given_back.flush_one().or_else(|| queue.flush_one()) {
            let cqe = receive::ended(wr_id, self.number, WcStatus::WrFlushErr);
            self.received.borrow_mut().push_back(cqe);
        }
    }
}

/// A queue pair, as its own requests and its peer's see it.
struct Own<'a> {
    host: &'a Host,
    qp: &'a Qp,
}

impl Own<'_> {
    fn range(&self, access: &Access) -> Result<Range, AccessError> {
        let (region, offset) = match self.host.named(access.key).ok_or(AccessError)? {
            Named::Region(region) => {
                let offset = region.region.borrow().check(access)?;
                (region, offset)
            }
            Named::Window(window) => {
                let window = window.borrow();
                let (region, addr) = window.check(access)?;
                let offset = region.region.borrow().offset_of(addr, access.length)?;
                (region.clone(), offset)
            }
        };
        Ok(Range {
            memory: self.host.memory.clone(),
            at: region.start + offset as usize,
        })
    }

    /// Completes a receive that cannot be used, and moves the queue pair to the error state.
    fn complete_failed(&self, entry: &[u8], status: WcStatus) {
        let cqe = receive::ended(RecvRequest::wr_id(entry), self.qp.number, status);
        self.qp.received.borrow_mut().push_back(cqe);
        self.fail(None);
    }

    fn invalidate_key(&self, rkey: u32) -> Result<(), AccessError> {
        match self.host.named(rkey).ok_or(AccessError)? {
            Named::Window(window) => {
                let bound = window.borrow_mut().invalidate(rkey, self.qp.number)?;
                if let Some(bound) = bound {
                    bound.region.region.borrow_mut().unbind();
                }
                Ok(())
            }
            Named::Region(_) => Err(AccessError),
        }
    }
}

impl LocalMemory for Own<'_> {
    type Region = Range;

    fn local(&self, sge: Sge, write: bool) -> Result<Range, AccessError> {
        match self.host.named(sge.lkey) {
            Some(Named::Region(_)) => self.range(&Access::local(PD, self.qp.number, sge, write)),
            _ => Err(AccessError),
        }
    }
}

impl Responder for Own<'_> {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        self.range(&Access::remote(PD, self.qp.number, remote, length, access))
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let remote = Remote { addr: 0, rkey };
        let access = Access::remote(PD, self.qp.number, remote, 0, access);
        match self.host.named(rkey).ok_or(AccessError)? {
            Named::Region(region) => region.region.borrow().check_key(&access),
            Named::Window(window) => window.borrow().check_key(&access),
        }
    }

    fn access(&self) -> AccessFlags {
        self.qp.attr.borrow().qp_access_flags
    }

    fn takes_reads(&self) -> bool {
        self.qp.attr.borrow().max_dest_rd_atomic > 0
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        self.qp.attr.borrow().min_rnr_timer
    }

    fn established(&self) {}

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        let mut copy = [0; MAX_RECV_STRIDE];
        let looked = {
            let (_, queue, given_back) = &mut *self.qp.receive.borrow_mut();
            match given_back.is_empty() {
                true => queue.take_into(&mut copy, accept),
                false => given_back.take_into(&mut copy, accept),
            }
        };
        let entry = match looked {
            Looked::Taken(length) => &copy[..length],
            Looked::Empty => return Taken::Empty,
            Looked::Refused => return Taken::Refused,
        };
        let (request, scatter) = match RecvRequest::decode(entry) {
            Ok(decoded) => decoded,
            Err(error) => {
                self.complete_failed(entry, error.status());
                return Taken::Empty;
            }
        };
        let receive = Receive {
            wr_id: request.wr_id,
            scatter,
        };
        match place(&receive) {
            Some(placed) => Taken::Done(placed),
            None => {
                let (.., given_back) = &mut *self.qp.receive.borrow_mut();
                let returned = given_back.give_back(entry, self.qp.state());
                assert_eq!(returned, Return::Done);
                Taken::Refused
            }
        }
    }

    fn complete(&self, received: &Received) {
        let (cqe, _) = receive::completion(received, self.qp.number);
        self.qp.received.borrow_mut().push_back(cqe);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        self.invalidate_key(rkey)
    }

    fn fail(&self, event: Option<EventType>) {
        let before = self.qp.state();
        self.qp.set_state(state::after_receive_error(before));
        if before != self.qp.state() {
            self.qp.events.borrow_mut().extend(event);
            self.qp.flush_receives();
        }
    }
}

/// Bytes of the host's memory.
struct Range {
    memory: Rc<RefCell<Vec<u8>>>,
    at: usize,
}

impl local::Region for Range {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        let (from, to) = (from.at + from_at as usize, self.at + at as usize);
        let mut memory = self.memory.borrow_mut();
        memory.copy_within(from..from + length as usize, to);
        Ok(())
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        let at = self.at + at as usize;
        self.memory.borrow_mut()[at..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let at = self.at + at as usize;
        bytes.copy_from_slice(&self.memory.borrow()[at..][..bytes.len()]);
        Ok(())
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        let mut memory = self.memory.borrow_mut();
        let word = &mut memory[self.at..][..8];
        let before = u64::from_ne_bytes(word.try_into().unwrap());
        let after = match change {
            AtomicChange::Add(n) => before.wrapping_add(n),
            AtomicChange::CompareSwap { compare, swap } if before == compare => swap,
            AtomicChange::CompareSwap { .. } => before,
            AtomicChange::Store(bytes) => u64::from_ne_bytes(bytes),
        };
        word.copy_from_slice(&after.to_ne_bytes());
        Ok(before)
    }
}
