// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts with a device each, in one thread and in virtual time. Queue pairs of one host deliver to each
//! other from memory to memory ([`local`](crate::local)), those of two hosts by packets
//! ([`wire`](crate::wire)).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ferroce_core::qp::{AddressVector, AttrMask, RequestedAttr};
use ferroce_core::verbs::{AccessFlags, QpState, QpType};
use ferroce_device::attrs::{Attrs, Terms};
use ferroce_device::effects::{Effect, Effects};

use crate::host::{Host, Process, HOSTS};
use crate::network::Network;
use crate::own::Own;
use crate::queue_pair::Qp;
use crate::wire::{Connection, Logged};

pub struct World {
    pub hosts: [Host; HOSTS],
    /// By host and number.
    qps: RefCell<BTreeMap<(usize, u32), Rc<Qp>>>,
    pub now: Cell<u64>,
    pub network: RefCell<Network>,
    /// What has gone by the wire that may be lost, and what has arrived of it, since it was looked at last.
    pub log: RefCell<Vec<Logged>>,
    /// How many messages went that way.
    pub messages: Cell<usize>,
}

/// Who carries out effects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The owner: it waits until the send queue is executed.
    Owner,
    /// Who executes the send queue, and goes on with that.
    Executor,
    /// Anybody else: has it executed later.
    Any,
}

/// The GID of a host.
pub fn gid(host: usize) -> [u8; 16] {
    [host as u8 + 1; 16]
}

pub fn host_of(gid: &[u8; 16]) -> usize {
    usize::from(gid[0]).wrapping_sub(1)
}

/// The Q_Key of a queue pair that takes datagrams: there are two, so that a wrong one is often another's.
pub fn qkey(number: u32) -> u32 {
    0x1111 * (number % 2 + 1)
}

impl World {
    pub fn new(network: Network) -> Self {
        Self {
            hosts: std::array::from_fn(|_| Host::new()),
            qps: RefCell::default(),
            now: Cell::new(0),
            network: RefCell::new(network),
            log: RefCell::default(),
            messages: Cell::new(0),
        }
    }

    pub fn create(&self, of: Process, number: u32, qp_type: QpType, has_srq: bool) -> Rc<Qp> {
        let srq = has_srq.then(|| self.hosts[of.host].srq(of.number));
        let qp = Rc::new(Qp::new(of, number, qp_type, srq));
        self.qps.borrow_mut().insert((of.host, number), qp.clone());
        qp
    }

    /// The queue pair is no member of the group.
    pub fn destroy(&self, qp: &Qp) {
        qp.change(|attrs| attrs.is_gone = true);
        self.qps.borrow_mut().remove(&(qp.process.host, qp.number));
        qp.reset();
    }

    pub fn find(&self, host: usize, number: u32) -> Option<Rc<Qp>> {
        self.qps.borrow().get(&(host, number)).cloned()
    }

    /// Takes a queue pair from RESET to RTS.
    pub fn connect(&self, qp: &Qp, peer: &Qp, psns: (u32, u32)) {
        let is_remote = qp.process.host != peer.process.host;
        let requested = RequestedAttr {
            qp_access_flags: AccessFlags::REMOTE.bits(),
            port_num: 1,
            path_mtu: 1,
            qkey: qkey(qp.number),
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
        for (state, mask) in steps(qp.kind.qp_type) {
            let requested = RequestedAttr {
                qp_state: state.number().into(),
                ..requested
            };
            self.modify(qp, mask, &requested);
        }
        if is_remote && !qp.kind.qp_type.is_datagram() {
            *qp.remote.borrow_mut() = Some(Connection::new(qp, peer.process.host));
        }
    }

    /// To a state for which nothing else is to be said; to SQD with an event to come.
    pub fn modify_to(&self, qp: &Qp, state: QpState) {
        let requested = RequestedAttr {
            qp_state: state.number().into(),
            en_sqd_async_notify: true,
            ..RequestedAttr::default()
        };
        let mask = match state {
            QpState::Sqd => AttrMask::EN_SQD_ASYNC_NOTIFY,
            _ => AttrMask::EMPTY,
        };
        self.modify(qp, mask, &requested);
    }

    fn modify(&self, qp: &Qp, mask: AttrMask, requested: &RequestedAttr) {
        let (own, mask) = (gid(qp.process.host), mask | AttrMask::STATE);
        let modified = qp.change(|attrs| attrs.modify(qp.kind, mask, requested, Some(own)));
        self.carry_out(qp, Caller::Owner, modified.unwrap());
    }

    /// Changes the attributes, and does what that leads to.
    pub fn change(&self, qp: &Qp, caller: Caller, op: impl FnOnce(&mut Attrs) -> Effects) {
        let effects = qp.change(op);
        self.carry_out(qp, caller, effects);
    }

    /// Does what a change of the state leads to.
    pub fn carry_out(&self, qp: &Qp, caller: Caller, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Event(event) => qp.events.borrow_mut().push(event),
                Effect::Configure => {
                    if let Some(connection) = &*qp.remote.borrow() {
                        let attr = qp.attrs.borrow().attr;
                        connection.send.borrow_mut().configure(&attr);
                    }
                }
                // There is one thread, and a connection is made when the peer is known.
                Effect::WaitForPeers | Effect::Respond => {}
                Effect::Reset => qp.reset(),
                Effect::FlushHeldReceive => self.flush_held_receive(qp),
                Effect::FlushReceives => qp.flush_receives(),
                Effect::Execute => match caller {
                    Caller::Owner => self.execute(qp),
                    Caller::Executor => {}
                    Caller::Any => qp.is_rung.set(true),
                },
            }
        }
    }

    fn flush_held_receive(&self, qp: &Qp) {
        if let Some(connection) = &*qp.remote.borrow() {
            let mut responder = connection.responder.borrow_mut();
            responder.flush(&self.own(qp));
        }
    }

    pub fn own<'a>(&'a self, qp: &'a Qp) -> Own<'a> {
        Own {
            world: self,
            qp,
            terms: Terms::of(&qp.attrs.borrow().attr),
        }
    }

    /// Time goes by.
    pub fn wait(&self, nanos: u64) {
        self.now.set(self.now.get() + nanos);
    }

    /// Executes what a queue pair has posted, as far as it goes, if anybody has asked for it. Packets of old
    /// come before.
    pub fn run(&self, qp: &Qp) {
        // Longer than anything waits.
        self.wait(1_000_000_000);
        self.begin();
        if qp.is_rung.take() || qp.has_timer() {
            self.execute(qp);
        }
    }

    /// Executes what a queue pair has posted, as far as it goes.
    pub fn execute(&self, qp: &Qp) {
        self.network.borrow_mut().progress();
        let is_done = match qp.is_remote() {
            true => self.send_all(qp),
            false => {
                while self.step(qp) {}
                self.deliver_all();
                true
            }
        };
        self.network.borrow_mut().end(is_done);
    }
}

/// The way from RESET to RTS.
fn steps(qp_type: QpType) -> [(QpState, AttrMask); 3] {
    let place = AttrMask::PKEY_INDEX | AttrMask::PORT;
    let peer = AttrMask::AV | AttrMask::PATH_MTU | AttrMask::DEST_QPN | AttrMask::RQ_PSN;
    let (init, rtr, rts) = match qp_type {
        QpType::Rc => (
            place | AttrMask::ACCESS_FLAGS,
            peer | AttrMask::MAX_DEST_RD_ATOMIC | AttrMask::MIN_RNR_TIMER,
            AttrMask::TIMEOUT
                | AttrMask::RETRY_CNT
                | AttrMask::RNR_RETRY
                | AttrMask::SQ_PSN
                | AttrMask::MAX_QP_RD_ATOMIC,
        ),
        QpType::Uc => (place | AttrMask::ACCESS_FLAGS, peer, AttrMask::SQ_PSN),
        _ => (place | AttrMask::QKEY, AttrMask::EMPTY, AttrMask::SQ_PSN),
    };
    [
        (QpState::Init, init),
        (QpState::Rtr, rtr),
        (QpState::Rts, rts),
    ]
}
