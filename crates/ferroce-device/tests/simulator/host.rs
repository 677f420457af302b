// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts with a device each, in one thread and in virtual time: memory, keys, queue pairs, and a network.
//! Queue pairs of one host deliver to each other from memory to memory, those of two hosts by packets.

#[path = "own.rs"]
mod own;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use ferroce_core::local::{
    self, AccessError, AtomicChange, CopyFault, Fault, LocalMemory, Outcome, Receive, Received,
    Responder as _, Taken,
};
use ferroce_core::qp::{AddressVector, AttrMask, RequestedAttr, Transition};
use ferroce_core::requester::{Slot as SendSlot, Transmit};
use ferroce_core::responder::{Resource, Responder};
use ferroce_core::ring::{
    BindMw, Cqe, Operation, Origin, Payload, PostError, Poster, RecvQueue, RecvRequest, Remote,
    Returner, SendQueue, SendRequest, Sge, WqGeometry, MAX_RECV_STRIDE,
};
use ferroce_core::verbs::{limits, AccessFlags, EventType, QpState, QpType, RnrTimer, WcStatus};
use ferroce_core::wire::{Kind as WireKind, Packet};
use ferroce_device::attrs::{Attrs, Endpoint, Terms};
use ferroce_device::counter::PortCounter;
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::numbers::{Config, Numbers, Slot, Slots};
use ferroce_device::queue::WorkQueue;
use ferroce_device::receive::{self, GivenBack, Looked, ReceiveQueue, Receives, Return};
use ferroce_device::region::{Part, Region};
use ferroce_device::remote::{Failed, Identity, Owner, RemoteSend, Turn};
use ferroce_device::send::{self, Attempt, Execution, Next};
use ferroce_device::window::{Bind, Bound, Kind, Window};

use crate::network::{self, Network};
use crate::rings::Memory;
use own::{Own, Range};

/// Entries of each work queue.
pub const DEPTH: u32 = 4;
/// Bytes of memory that a host has for regions.
pub const MEMORY: usize = 1024;
/// How many hosts there are, and how many processes each has.
pub const HOSTS: usize = 2;
pub const PROCESSES: usize = 2;

type Bytes = Box<[u8]>;

/// What a key names.
#[derive(Clone)]
enum Named {
    Region(Rc<Registered>),
    Window(Rc<RefCell<Window<Rc<Registered>>>>),
}

/// A region, and where in the host's memory it begins.
struct Registered {
    region: RefCell<Region>,
    start: usize,
}

struct Segments(Vec<Slot<Named>>);

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

/// Where a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub host: usize,
    pub number: usize,
}

impl Process {
    /// Its protection domain.
    fn pd(self) -> PdId {
        PdId::new(self.number as u64 + 1)
    }
}

/// All that the queue pairs of a host share.
pub struct Host {
    pub memory: Rc<RefCell<Vec<u8>>>,
    keys: RefCell<Numbers<Named, Segments>>,
}

pub struct World {
    pub hosts: [Host; HOSTS],
    /// By host and number.
    qps: RefCell<BTreeMap<(usize, u32), Rc<Qp>>>,
    now: Cell<u64>,
    network: RefCell<Network>,
}

/// A queue pair, with its process's side of the rings.
pub struct Qp {
    pub process: Process,
    pub number: u32,
    pub attrs: RefCell<Attrs>,
    version: Cell<u32>,
    send: RefCell<(Poster<SendQueue>, WorkQueue<SendQueue, Bytes>, Execution)>,
    receive: RefCell<(Poster<RecvQueue>, Receives<Bytes, Bytes>)>,
    /// If the peer is on another host.
    remote: RefCell<Option<Connection>>,
    /// What has been completed, in its order.
    pub sent: RefCell<VecDeque<Cqe>>,
    pub received: RefCell<VecDeque<Cqe>>,
    pub events: RefCell<Vec<EventType>>,
    /// How often the peer had no receive, and how many completions there were.
    not_ready: Cell<u32>,
    /// The rings of the send queue and of the receive queue.
    #[allow(dead_code)] // Not every user writes to them.
    pub rings: [Memory; 2],
}

struct Connection {
    peer_host: usize,
    send: RefCell<RemoteSend<Box<[SendSlot]>, Bytes, Range>>,
    returner: RefCell<Returner>,
    responder: RefCell<Responder<Box<[Resource]>, Range>>,
}

fn gid(host: usize) -> [u8; 16] {
    [host as u8 + 1; 16]
}

fn host_of(gid: &[u8; 16]) -> usize {
    usize::from(gid[0]).wrapping_sub(1)
}

impl Host {
    fn new() -> Self {
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
        }
    }

    fn reserve_key(&self) -> u32 {
        let reserved = self.keys.borrow_mut().reserve().unwrap();
        key::new(reserved.number, reserved.variant.unwrap_or(0))
    }

    fn put(&self, key: u32, named: Named) {
        self.keys.borrow_mut().put(key::number(key), named);
    }

    fn named(&self, key: u32) -> Option<Named> {
        self.keys.borrow().get(key::number(key)).cloned()
    }

    fn give_up(&self, key: u32) {
        let (number, variant) = (key::number(key), key::variant(key));
        self.keys.borrow_mut().give_up(number, variant);
    }
}

fn unbind(bound: Option<Bound<Rc<Registered>>>) {
    if let Some(bound) = bound {
        bound.region.region.borrow_mut().unbind();
    }
}

/// The verbs.
impl World {
    pub fn new(network: Network) -> Self {
        Self {
            hosts: std::array::from_fn(|_| Host::new()),
            qps: RefCell::default(),
            now: Cell::new(0),
            network: RefCell::new(network),
        }
    }

    /// Registers bytes of the host's memory, whose addresses are their places.
    pub fn register(&self, of: Process, addr: u64, length: u64, access: AccessFlags) -> u32 {
        let host = &self.hosts[of.host];
        let key = host.reserve_key();
        let region = Region::registered(key, of.pd(), access, addr, length);
        let registered = Registered {
            region: RefCell::new(region),
            start: addr as usize,
        };
        host.put(key, Named::Region(Rc::new(registered)));
        key
    }

    /// Returns whether the region is gone: it is not if windows are bound to it.
    pub fn deregister(&self, host: usize, key: u32) -> bool {
        let host = &self.hosts[host];
        let Some(Named::Region(region)) = host.named(key) else {
            return false;
        };
        // Not another region that has the number by now.
        let is_gone = {
            let mut region = region.region.borrow_mut();
            region.key() == key && region.deregister().is_ok()
        };
        if is_gone {
            host.give_up(key);
        }
        is_gone
    }

    pub fn allocate_window(&self, of: Process, kind: Kind) -> u32 {
        let host = &self.hosts[of.host];
        let key = host.reserve_key();
        let window = Window::new(kind, of.pd(), key);
        host.put(key, Named::Window(Rc::new(RefCell::new(window))));
        key
    }

    /// Whether nothing is registered, and no memory is in use.
    pub fn is_empty(&self, host: usize) -> bool {
        let host = &self.hosts[host];
        let keys = host.keys.borrow();
        let has_none = (0..64).all(|number| keys.get(number).is_none());
        has_none && Rc::strong_count(&host.memory) == 1
    }

    /// By its number, as its key changes.
    pub fn deallocate_window(&self, host: usize, number: u32) {
        let host = &self.hosts[host];
        let Some(Named::Window(window)) = host.named(key::new(number, 0)) else {
            panic!("no window {number}");
        };
        let bound = window.borrow_mut().deallocate();
        unbind(bound);
        let key = window.borrow().key();
        host.give_up(key);
    }

    pub fn create(&self, of: Process, number: u32) -> Rc<Qp> {
        let qp = Rc::new(Qp::new(of, number));
        self.qps.borrow_mut().insert((of.host, number), qp.clone());
        qp
    }

    pub fn destroy(&self, qp: &Qp) {
        qp.change(|attrs| attrs.is_gone = true);
        self.qps.borrow_mut().remove(&(qp.process.host, qp.number));
        *qp.remote.borrow_mut() = None;
    }

    /// Takes a queue pair from RESET to RTS.
    pub fn connect(&self, qp: &Qp, peer: &Qp, psns: (u32, u32)) {
        let is_remote = qp.process.host != peer.process.host;
        let requested = RequestedAttr {
            qp_access_flags: AccessFlags::REMOTE.bits(),
            port_num: 1,
            path_mtu: 1,
            dest_qp_num: peer.number,
            rq_psn: psns.1,
            sq_psn: psns.0,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            min_rnr_timer: 1,
            ah_attr: AddressVector {
                dgid: gid(peer.process.host),
                port_num: 1,
                ..AddressVector::default()
            },
            timeout: 1,
            // On one host nothing is lost, and nobody is asked twice.
            retry_cnt: if is_remote { 7 } else { 0 },
            rnr_retry: 7,
            ..RequestedAttr::default()
        };
        let init = AttrMask::PKEY_INDEX | AttrMask::PORT | AttrMask::ACCESS_FLAGS;
        let rtr = AttrMask::AV
            | AttrMask::PATH_MTU
            | AttrMask::DEST_QPN
            | AttrMask::RQ_PSN
            | AttrMask::MAX_DEST_RD_ATOMIC
            | AttrMask::MIN_RNR_TIMER;
        let rts = AttrMask::TIMEOUT
            | AttrMask::RETRY_CNT
            | AttrMask::RNR_RETRY
            | AttrMask::SQ_PSN
            | AttrMask::MAX_QP_RD_ATOMIC;
        for (state, mask) in [
            (QpState::Init, init),
            (QpState::Rtr, rtr),
            (QpState::Rts, rts),
        ] {
            let requested = RequestedAttr {
                qp_state: state.number().into(),
                ..requested
            };
            self.modify(qp, mask, &requested);
        }
        if is_remote {
            *qp.remote.borrow_mut() = Some(Connection::new(qp, peer.process.host));
        }
    }

    /// To RESET or ERR.
    pub fn modify_to(&self, qp: &Qp, state: QpState) {
        let requested = RequestedAttr {
            qp_state: state.number().into(),
            ..RequestedAttr::default()
        };
        self.modify(qp, AttrMask::EMPTY, &requested);
    }

    fn modify(&self, qp: &Qp, mask: AttrMask, requested: &RequestedAttr) {
        let (own, mask) = (gid(qp.process.host), mask | AttrMask::STATE);
        let modified = qp.change(|attrs| attrs.modify(QpType::Rc, mask, requested, Some(own)));
        match modified.unwrap() {
            Transition::Reset => {
                *qp.remote.borrow_mut() = None;
                let (_, queue, execution) = &mut *qp.send.borrow_mut();
                execution.abandon();
                queue.ring.discard_all();
                qp.receive.borrow_mut().1.reset();
            }
            Transition::Flush => {
                self.flush_held_receive(qp);
                qp.flush_receives();
                self.run(qp);
            }
            _ => {}
        }
    }

    fn flush_held_receive(&self, qp: &Qp) {
        if let Some(connection) = &*qp.remote.borrow() {
            // The responder may be at work, and then does that itself.
            if let Ok(mut responder) = connection.responder.try_borrow_mut() {
                responder.flush(&self.own(qp));
            }
        }
    }

    fn own<'a>(&'a self, qp: &'a Qp) -> Own<'a> {
        Own {
            world: self,
            qp,
            terms: Terms::of(&qp.attrs.borrow().attr),
        }
    }

    fn find(&self, host: usize, number: u32) -> Option<Rc<Qp>> {
        self.qps.borrow().get(&(host, number)).cloned()
    }
}

/// Execution.
impl World {
    /// Executes what a queue pair has posted, as far as it goes.
    pub fn run(&self, qp: &Qp) {
        // Longer than anything waits.
        self.wait(1_000_000_000);
        if qp.remote.borrow().is_some() {
            self.run_remote(qp);
        } else {
            while self.step(qp) {}
        }
    }

    /// Time goes by.
    pub fn wait(&self, nanos: u64) {
        self.now.set(self.now.get() + nanos);
    }

    /// Executes one request whose peer is on this host. Returns whether there may be another.
    pub fn step(&self, qp: &Qp) -> bool {
        let mut send = qp.send.borrow_mut();
        let (_, queue, execution) = &mut *send;
        let (attr, sgid) = {
            let attrs = qp.attrs.borrow();
            (attrs.attr, attrs.sgid)
        };
        let next = execution.next(queue, attr.state, true, || self.now.get());
        let Ok(next) = next else {
            // Indexes that make no sense.
            if qp.change(Attrs::fail_fatally) {
                qp.events.borrow_mut().push(EventType::QpFatal);
                qp.flush_receives();
            }
            return false;
        };
        match next {
            Next::Held | Next::Drained | Next::Idle | Next::Later => return false,
            Next::Flush(wr_id) => {
                qp.complete(send::flushed(wr_id, qp.number));
                return true;
            }
            Next::Execute => {}
        }
        let (completion, request) = execution.request(queue, QpType::Rc, Origin::User, false);
        let attempt = match request {
            Err(status) => Attempt::Failed(status),
            Ok((request, data)) => match self.execute_alone(qp, &request.operation) {
                Some(Ok(())) => Attempt::Done(0),
                Some(Err(status)) => Attempt::Failed(status),
                None => {
                    let endpoint = Endpoint {
                        number: qp.number,
                        qp_type: QpType::Rc,
                        gid: sgid,
                    };
                    let peer = self.find(host_of(&attr.ah_attr.dgid), attr.dest_qp_num);
                    let peer = peer.and_then(|peer| {
                        let terms = peer.attrs.borrow().takes_from(QpType::Rc, &endpoint)?;
                        Some((peer, terms))
                    });
                    let length = data.length();
                    let most = attr.max_rd_atomic;
                    match &peer {
                        None => match local::check(&request, data, &self.own(qp), most) {
                            Ok(()) => execution.tries.no_peer(QpType::Rc, &attr, length).0,
                            Err(status) => Attempt::Failed(status),
                        },
                        Some((peer, terms)) => {
                            let progress = execution.tries.progress_with(peer.version.get());
                            let (own, peer) = (
                                self.own(qp),
                                Own {
                                    world: self,
                                    qp: peer,
                                    terms: *terms,
                                },
                            );
                            let outcome =
                                local::execute(&request, data, &own, most, &peer, true, progress);
                            assert_ne!(outcome, Outcome::Paused);
                            let now = || self.now.get();
                            execution.tries.outcome(outcome, &attr, length, now).0
                        }
                    }
                }
            },
        };
        match attempt {
            Attempt::Done(length) => {
                execution.finish(queue);
                if let Some(cqe) = completion.done(qp.number, length) {
                    qp.complete(cqe);
                }
                true
            }
            Attempt::Failed(status) => {
                execution.finish(queue);
                qp.complete(completion.failed(qp.number, status));
                if qp.change(|attrs| attrs.fail_send(QpType::Rc)) {
                    qp.flush_receives();
                }
                true
            }
            Attempt::Wait(nanos) => {
                execution.wait_until(self.now.get() + nanos);
                false
            }
            Attempt::Stuck | Attempt::OwnMemory | Attempt::Paused => false,
        }
    }

    /// Executes what concerns the host of a queue pair alone.
    fn execute_alone(&self, qp: &Qp, operation: &Operation) -> Option<Result<(), WcStatus>> {
        let (result, status) = match operation {
            Operation::BindMw(bind) => (self.bind(qp, bind), WcStatus::MwBindErr),
            Operation::LocalInvalidate { rkey } => {
                (self.own(qp).invalidate(*rkey), WcStatus::LocQpOpErr)
            }
            _ => return None,
        };
        Some(result.map_err(|AccessError| status))
    }

    fn bind(&self, qp: &Qp, request: &BindMw) -> Result<(), AccessError> {
        let (host, pd) = (&self.hosts[qp.process.host], qp.process.pd());
        let Some(Named::Window(window)) = host.named(request.mw_rkey) else {
            return Err(AccessError);
        };
        let bind = window.borrow().check_bind(pd, request)?;
        let bound = match bind {
            Bind::Nothing => None,
            Bind::To(lkey) => {
                let Some(Named::Region(region)) = host.named(lkey) else {
                    return Err(AccessError);
                };
                region.region.borrow_mut().bind(pd, &Part::from(request))?;
                Some(Bound::new(region, request, qp.number))
            }
        };
        let (result, unbound) = window.borrow_mut().bind(request, bound);
        unbind(unbound);
        result
    }

    /// Sends what a queue pair has posted, as far as it goes.
    fn run_remote(&self, qp: &Qp) {
        self.network.borrow_mut().begin();
        let is_done = self.send_all(qp);
        self.network.borrow_mut().end(is_done);
    }

    /// Sends what a queue pair has posted. Returns whether all is answered: otherwise the peer has no receive.
    fn send_all(&self, qp: &Qp) -> bool {
        let mut not_ready = qp.not_ready.get();
        let mut completed = qp.completed();
        for _ in 0..100_000 {
            let went_on = self.transmit(qp);
            let arrived = self.network.borrow_mut().receive();
            if let Some(packet) = arrived {
                self.deliver(&packet);
            } else if !went_on {
                if qp.not_ready.get() != not_ready {
                    // It waits for a receive, which nobody posts meanwhile.
                    return false;
                }
                let connection = qp.remote.borrow();
                let Some(connection) = &*connection else {
                    return true;
                };
                let mut send = connection.send.borrow_mut();
                let Some(deadline) = send.next_deadline() else {
                    return true;
                };
                self.now.set(self.now.get().max(deadline));
                send.expired(self.now.get(), &self.own(qp));
                drop(send);
                self.flush_failed(qp, connection);
            }
            if qp.completed() != completed {
                completed = qp.completed();
                not_ready = qp.not_ready.get();
                self.network.borrow_mut().progress();
            }
        }
        panic!("it goes on for ever");
    }

    /// Sends what there is to be sent. Returns whether there was anything to be done.
    fn transmit(&self, qp: &Qp) -> bool {
        let connection = qp.remote.borrow();
        let Some(connection) = &*connection else {
            return false;
        };
        let (_, queue, _) = &mut *qp.send.borrow_mut();
        let mut send = connection.send.borrow_mut();
        let own = self.own(qp);
        let returned = connection.returner.borrow().position();
        let mut went_on = send.fetch(queue, returned, DEPTH).unwrap() > 0;
        let state = qp.attrs.borrow().state();
        match send.begin(state, &own) {
            Turn::Hold => {}
            Turn::Flushed => went_on = true,
            Turn::Send => loop {
                let mut room = [0; 512];
                match send.poll_transmit(self.now.get(), &own, &mut room) {
                    Transmit::Packet(length) => {
                        self.send(qp, connection, &room[..length]);
                    }
                    Transmit::Local(slot) => {
                        let operation = send.local(slot).unwrap();
                        let result = self.execute_alone(qp, &operation).unwrap();
                        send.executed(slot, result, &own);
                    }
                    Transmit::Nothing => break,
                    other => panic!("{other:?}"),
                }
                went_on = true;
            },
        }
        send.end_batch();
        drop(send);
        self.flush_failed(qp, connection) || went_on
    }

    /// Flushes what is received, if a request has failed that has brought the queue pair to ERR. Returns
    /// whether one has failed.
    fn flush_failed(&self, qp: &Qp, connection: &Connection) -> bool {
        let failed = connection.send.borrow_mut().take_failed();
        if failed == Some(Failed::All) {
            self.flush_held_receive(qp);
            qp.flush_receives();
        }
        failed.is_some()
    }

    fn send(&self, qp: &Qp, connection: &Connection, bytes: &[u8]) {
        let kind = Packet::parse(bytes).unwrap().bth.opcode.kind();
        self.network.borrow_mut().send(network::Packet {
            from: qp.process.host,
            to: connection.peer_host,
            bytes: bytes.to_vec(),
            // What a queue pair says that goes to ERR by it. If that is lost, its peer tries in vain.
            is_final: qp.state() == QpState::Err,
            // The key of a READ that comes again is checked again, and may be another one's by then.
            is_short_lived: kind == WireKind::ReadRequest,
        });
    }

    /// A packet has arrived.
    fn deliver(&self, arrived: &network::Packet) {
        let packet = Packet::parse(&arrived.bytes).unwrap();
        let Some(qp) = self.find(arrived.to, packet.bth.dest_qp) else {
            return;
        };
        let is_response = packet.bth.opcode.kind().is_response();
        let terms = qp.attrs.borrow().takes_packet(is_response, |peer, own| {
            *peer == gid(arrived.from) && *own == gid(arrived.to)
        });
        let (Ok(terms), connection) = (terms, qp.remote.borrow()) else {
            return;
        };
        let Some(connection) = &*connection else {
            return;
        };
        let own = Own {
            world: self,
            qp: &qp,
            terms,
        };
        if is_response {
            let mut send = connection.send.borrow_mut();
            send.take(self.now.get(), &packet, &own);
            send.end_batch();
            drop(send);
            self.flush_failed(&qp, connection);
            return;
        }
        let mut responder = connection.responder.borrow_mut();
        responder.on_packet(&packet, &own);
        loop {
            let mut room = [0; 512];
            match responder.poll_transmit(&own, &mut room) {
                Transmit::Packet(length) => self.send(&qp, connection, &room[..length]),
                Transmit::Nothing => break,
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Connection {
    fn new(qp: &Qp, peer_host: usize) -> Self {
        let attr = qp.attrs.borrow().attr;
        let (_, queue, _) = &*qp.send.borrow();
        let size = queue.ring.geometry();
        let identity = Identity {
            number: qp.number,
            qp_type: QpType::Rc,
            origin: Origin::User,
            signal_all: false,
        };
        let slots = vec![SendSlot::default(); DEPTH as usize].into_boxed_slice();
        let entries = RemoteSend::<Box<[SendSlot]>, Bytes, Range>::entries_len(size);
        let entries = vec![0; entries].into_boxed_slice();
        let resources = vec![Resource::default(); 1].into_boxed_slice();
        Self {
            peer_host,
            send: RefCell::new(RemoteSend::new(identity, &attr, size, None, slots, entries)),
            // SAFETY: A queue pair has its connection no longer than its rings.
            returner: RefCell::new(unsafe { queue.ring.returner() }),
            responder: RefCell::new(Responder::new(QpType::Rc, &attr, resources)),
        }
    }
}

impl Qp {
    fn new(process: Process, number: u32) -> Self {
        let sends = WqGeometry::<SendQueue>::new(DEPTH, 1, 0).unwrap();
        let receives = WqGeometry::<RecvQueue>::new(DEPTH, 1).unwrap();
        let memory = [Memory::new(sends.len()), Memory::new(receives.len())];
        let room = GivenBack::<Bytes>::size(QpType::Rc, receives.stride());
        let given_back = GivenBack::new(vec![0; room].into(), receives.stride());
        let queue = ReceiveQueue::new(memory[1].queue(receives));
        Self {
            process,
            number,
            attrs: RefCell::new(Attrs::new()),
            version: Cell::new(0),
            send: RefCell::new((
                memory[0].poster(sends),
                memory[0].queue(sends),
                Execution::default(),
            )),
            receive: RefCell::new((
                memory[1].poster(receives),
                Receives::new(Some(queue), given_back),
            )),
            remote: RefCell::default(),
            sent: RefCell::default(),
            received: RefCell::default(),
            events: RefCell::default(),
            not_ready: Cell::new(0),
            rings: memory,
        }
    }

    /// Whether its peer is on another host.
    pub fn is_remote(&self) -> bool {
        self.remote.borrow().is_some()
    }

    pub fn state(&self) -> QpState {
        self.attrs.borrow().attr.state
    }

    fn change<R>(&self, op: impl FnOnce(&mut Attrs) -> R) -> R {
        self.version.set(self.version.get() + 1);
        op(&mut self.attrs.borrow_mut())
    }

    pub fn post_send(&self, request: &SendRequest, sges: &[Sge]) -> Result<(), PostError> {
        let (poster, ..) = &mut *self.send.borrow_mut();
        poster.push(request, Payload::Sges(sges))?;
        let _ = poster.publish();
        Ok(())
    }

    pub fn post_receive(&self, wr_id: u64, sge: Sge) -> Result<(), PostError> {
        {
            let (poster, _) = &mut *self.receive.borrow_mut();
            poster.push(&RecvRequest { wr_id }, &[sge])?;
            let _ = poster.publish();
        }
        self.flush_receives();
        Ok(())
    }

    fn complete(&self, cqe: Cqe) {
        self.sent.borrow_mut().push_back(cqe);
    }

    /// How many completions wait to be looked at.
    fn completed(&self) -> usize {
        self.sent.borrow().len()
    }

    /// Completes what is posted as flushed, if the state is such.
    pub fn flush_receives(&self) {
        if !self.attrs.borrow().flushes_receives() {
            return;
        }
        let (_, receives) = &mut *self.receive.borrow_mut();
        while let Some(wr_id) = receives.flush_one() {
            let cqe = receive::ended(wr_id, self.number, WcStatus::WrFlushErr);
            self.received.borrow_mut().push_back(cqe);
        }
    }
}
