// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans are carried out, by the hosts and by the model, which have to agree after each step.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::rc::Rc;

use ferroce_core::ring::{Cqe, Destination, Sge};
use ferroce_core::verbs::{limits, QpState, QpType, WcStatus};
use ferroce_device::window::Kind;

use crate::host::{Process, HOSTS, MEMORY, PROCESSES};
use crate::local::GROUP;
use crate::model::{Completion, Model, Sends, State};
use crate::network::Network;
use crate::plan::{self, Pick, Plan, Step};
use crate::queue_pair::Qp;
use crate::world::{qkey, World};

/// How many queue pairs there are at most, and how many keys of a process.
const MOST_QPS: usize = 16;
const MOST_KEYS: usize = 12;

/// What a plan comes to, so that it can be seen that plans come to something.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code)] // Not every user looks at it.
pub struct Outcome {
    pub local: usize,
    pub remote: usize,
    pub failed: usize,
    /// Messages of UC and UD that a receive has taken, of the own host and by the wire.
    pub unreliable: [usize; 2],
}

impl Outcome {
    pub fn add(&mut self, other: &Self) {
        self.local += other.local;
        self.remote += other.remote;
        self.failed += other.failed;
        let [local, remote] = &mut self.unreliable;
        *local += other.unreliable[0];
        *remote += other.unreliable[1];
    }
}

/// What a process has.
#[derive(Default)]
struct Owned {
    regions: Vec<u32>,
    /// Numbers of windows.
    windows: Vec<u32>,
    /// Keys that were good for something once.
    stale: Vec<u32>,
}

impl Owned {
    fn has_room(&self) -> bool {
        self.regions.len() + self.windows.len() < MOST_KEYS
    }
}

struct Simulation {
    world: World,
    model: Model,
    /// By their places in the model; those that are gone too.
    qps: Vec<Rc<Qp>>,
    owned: [[Owned; PROCESSES]; HOSTS],
    psn: u32,
    outcome: Outcome,
}

fn processes() -> impl Iterator<Item = Process> {
    (0..HOSTS).flat_map(|host| (0..PROCESSES).map(move |number| Process { host, number }))
}

impl Simulation {
    fn new(plan: &Plan) -> Self {
        let rng = fastrand::Rng::with_seed(plan.seed);
        let mut simulation = Self {
            world: World::new(Network::new(plan.conditions, rng)),
            model: Model::new(),
            qps: Vec::new(),
            owned: Default::default(),
            psn: 0,
            outcome: Outcome::default(),
        };
        // Different bytes everywhere.
        for (number, host) in simulation.world.hosts.iter().enumerate() {
            let memory = &mut simulation.model.memory[number];
            for (at, byte) in memory.iter_mut().enumerate() {
                *byte = (at ^ at >> 8 ^ (0x55 * number)) as u8;
            }
            host.memory.borrow_mut().copy_from_slice(memory);
        }
        simulation
    }

    /// What there is from the beginning: in each process a region that allows everything and a window of
    /// each type, and queue pairs that are connected on one host and between the two.
    fn prologue(&mut self) -> Result<(), String> {
        let range = plan::Range {
            addr: 0,
            length: 900,
        };
        for of in processes() {
            let access = plan::all_rights();
            self.take(0, &Step::Register { of, range, access })?;
            for belongs_to_qp in [false, true] {
                self.take(0, &Step::AllocateWindow { of, belongs_to_qp })?;
            }
        }
        // On one host, and between the two, the second one of a pair with a shared receive queue.
        let [one, other] = [0, 1].map(|host| Process { host, number: 0 });
        let beside = Process { host: 0, number: 1 };
        for qp_type in [QpType::Rc, QpType::Uc, QpType::Ud] {
            for (of, peer) in [(one, beside), (one, other)] {
                self.create(of, qp_type, false);
                self.create(peer, qp_type, true);
                let places = self.qps.len();
                self.connect(places - 2, places - 1);
            }
        }
        for place in 8..self.qps.len() {
            self.attach(place);
        }
        // Nobody waits for those: what comes without one is lost.
        for place in 4..self.qps.len() {
            for number in [0, 1] {
                let addr = 128 * (2 * (place as u64 % 4) + number);
                let range = plan::Range { addr, length: 128 };
                let sge = range.sge(self.pick_key(self.qps[place].process, Pick(0)));
                self.post_receive(place, 1000 + number, sge)?;
            }
        }
        Ok(())
    }

    fn owned(&mut self, of: Process) -> &mut Owned {
        &mut self.owned[of.host][of.number]
    }

    /// The places of the queue pairs that exist.
    fn places(&self) -> Vec<usize> {
        let is_there = |place: &usize| self.model.qps[*place].state != State::Gone;
        (0..self.qps.len()).filter(is_there).collect()
    }

    fn pick_qp(&self, pick: Pick) -> Option<usize> {
        let places = self.places();
        (!places.is_empty()).then(|| pick.of(&places))
    }

    /// A key of a region of that process, now and then a stale one.
    fn pick_key(&self, of: Process, pick: Pick) -> u32 {
        let owned = &self.owned[of.host][of.number];
        match owned.regions.as_slice() {
            _ if !owned.stale.is_empty() && pick.index(16) == 0 => pick.rest().of(&owned.stale),
            [] => 0x7700,
            keys => pick.of(keys),
        }
    }

    /// Where a datagram goes: to a queue pair, with its Q_Key or another, or to the group.
    fn destination(&self, send: &plan::Send) -> Destination {
        let place = self.pick_qp(send.to).unwrap_or(0);
        let remote_qpn = plan::number(place);
        let remote_qkey = qkey(remote_qpn + u32::from(send.addr % 8 == 0));
        match send.to_group {
            true => Destination {
                ah: GROUP,
                remote_qpn: limits::MULTICAST_QPN,
                remote_qkey,
                pkey_index: 0,
            },
            false => Destination {
                ah: self.qps[place].process.host as u32,
                remote_qpn,
                remote_qkey,
                pkey_index: 0,
            },
        }
    }

    fn pick_window(&self, of: Process, pick: Pick) -> u32 {
        match self.owned[of.host][of.number].windows.as_slice() {
            [] => 0x7700,
            windows => self.model.key_of_window(of.host, pick.of(windows)),
        }
    }

    fn create(&mut self, of: Process, qp_type: QpType, has_srq: bool) {
        if self.places().len() < MOST_QPS {
            let number = plan::number(self.qps.len());
            let qp = self.world.create(of, number, qp_type, has_srq);
            self.qps.push(qp);
            self.model.create(of, qp_type, has_srq);
        }
    }

    fn attach(&mut self, place: usize) {
        let host = self.qps[place].process.host;
        self.world.hosts[host].attach(self.qps[place].number);
        if !self.model.members[host].contains(&place) {
            self.model.members[host].push(place);
        }
    }

    fn detach(&mut self, place: usize) {
        let host = self.qps[place].process.host;
        self.world.hosts[host].detach_all(self.qps[place].number);
        self.model.members[host].retain(|other| *other != place);
    }

    fn post_receive(&mut self, place: usize, wr_id: u64, sge: Sge) -> Result<(), String> {
        let posted = self.qps[place].post_receive(wr_id, sge).is_ok();
        let expected = self.model.post_receive(place, wr_id, sge);
        agree("receive", &posted, &expected)
    }

    /// Has the model do what the hosts have done.
    fn run_model(&mut self, place: usize) -> Result<(), String> {
        let log = std::mem::take(&mut *self.world.log.borrow_mut());
        self.model.run(place, &log)
    }

    fn reset(&mut self, place: usize) {
        self.world.modify_to(&self.qps[place], QpState::Reset);
        self.model.forget(place, State::Reset);
    }

    fn connect(&mut self, one: usize, other: usize) {
        self.reset(one);
        self.reset(other);
        // What is still under way of former connections has other PSNs.
        self.psn += 0x1000;
        let psns = (self.psn, self.psn + 0x800);
        self.world.connect(&self.qps[one], &self.qps[other], psns);
        self.world
            .connect(&self.qps[other], &self.qps[one], (psns.1, psns.0));
        self.model.connect(one, other);
        self.model.connect(other, one);
    }

    fn destroy(&mut self, place: usize) {
        self.detach(place);
        self.world.destroy(&self.qps[place]);
        self.model.forget(place, State::Gone);
    }

    /// A process ends: all that it has goes, as the kernel has it go.
    fn die(&mut self, of: Process) {
        for place in self.places() {
            if self.qps[place].process == of {
                self.destroy(place);
            }
        }
        self.world.hosts[of.host].renew_srq(of.number);
        self.model.srqs[of.host][of.number] = Default::default();
        let owned = std::mem::take(self.owned(of));
        for number in owned.windows {
            self.world.hosts[of.host].deallocate_window(number);
            self.model.deallocate_window(of.host, number);
        }
        for key in owned.regions {
            assert!(self.world.hosts[of.host].deregister(key));
            assert!(self.model.deregister(of.host, key));
            self.owned(of).stale.push(key);
        }
    }

    fn take(&mut self, number: u64, step: &Step) -> Result<(), String> {
        match step {
            Step::Register { of, range, access } => {
                if self.owned(*of).has_room() {
                    let (addr, length) = (range.addr, range.length.into());
                    let host = &self.world.hosts[of.host];
                    let key = host.register(*of, addr, length, *access);
                    self.model.register(*of, key, addr, length, *access);
                    self.owned(*of).regions.push(key);
                }
            }
            Step::Deregister { of, key } => {
                let key = self.pick_key(*of, *key);
                if self.model.is_awaited(key) {
                    return Ok(());
                }
                let is_gone = self.model.deregister(of.host, key);
                let host = &self.world.hosts[of.host];
                agree("deregister", &host.deregister(key), &is_gone)?;
                if is_gone {
                    let owned = self.owned(*of);
                    owned.regions.retain(|other| *other != key);
                    owned.stale.push(key);
                }
            }
            Step::AllocateWindow { of, belongs_to_qp } => {
                if self.owned(*of).has_room() {
                    let kind = match belongs_to_qp {
                        true => Kind::Type2,
                        false => Kind::Type1,
                    };
                    let key = self.world.hosts[of.host].allocate_window(*of, kind);
                    self.model.allocate_window(*of, key, *belongs_to_qp);
                    self.owned(*of).windows.push(key >> 8);
                }
            }
            Step::Create {
                of,
                qp_type,
                has_srq,
            } => self.create(*of, *qp_type, *has_srq),
            Step::Drain(qp) => {
                let may_drain = |place: &usize| self.model.may_drain(*place);
                if let Some(place) = self.pick_qp(*qp).filter(may_drain) {
                    self.world.modify_to(&self.qps[place], QpState::Sqd);
                    self.model.drain(place);
                    self.run_model(place)?;
                }
            }
            Step::Resume(qp) => {
                let may_resume = |place: &usize| self.model.may_resume(*place);
                if let Some(place) = self.pick_qp(*qp).filter(may_resume) {
                    self.world.modify_to(&self.qps[place], QpState::Rts);
                    self.model.resume(place);
                    self.run_model(place)?;
                }
            }
            Step::Limit(of, limit) => {
                let srq = self.world.hosts[of.host].srq(of.number);
                srq.with(|srq| ((), srq.set_limit(*limit).unwrap()));
                self.model.set_limit(*of, *limit as usize);
            }
            Step::Attach(qp) => {
                let is_datagram = |place: &usize| self.model.qps[*place].qp_type == QpType::Ud;
                if let Some(place) = self.pick_qp(*qp).filter(is_datagram) {
                    self.attach(place);
                }
            }
            Step::Detach(qp) => {
                if let Some(place) = self.pick_qp(*qp) {
                    self.detach(place);
                }
            }
            Step::Connect(one, other) => match (self.pick_qp(*one), self.pick_qp(*other)) {
                (Some(one), Some(other)) if one != other => self.connect(one, other),
                _ => {}
            },
            Step::Reset(qp) => {
                if let Some(place) = self.pick_qp(*qp) {
                    self.reset(place);
                }
            }
            Step::Flush(qp) => {
                let is_up = |place: &usize| self.model.qps[*place].state != State::Reset;
                if let Some(place) = self.pick_qp(*qp).filter(is_up) {
                    self.world.modify_to(&self.qps[place], QpState::Err);
                    if self.model.flush(place) {
                        self.run_model(place)?;
                    }
                }
            }
            Step::Destroy(qp) => {
                if let Some(place) = self.pick_qp(*qp) {
                    self.destroy(place);
                }
            }
            Step::Die(of) => self.die(*of),
            Step::Receive { qp, key, range } => {
                let Some(place) = self.pick_qp(*qp) else {
                    return Ok(());
                };
                if self.model.qps[place].state != State::Reset {
                    let qp = &self.qps[place];
                    let mut sge = range.sge(self.pick_key(qp.process, *key));
                    if self.model.qps[place].qp_type == QpType::Ud {
                        // There is to be room for what precedes a datagram.
                        sge.length *= 2;
                        sge.addr = sge.addr.min(MEMORY as u64 - 128);
                    }
                    self.post_receive(place, number, sge)?;
                }
            }
            Step::Send { qp, send } => {
                let Some(place) = self.pick_qp(*qp) else {
                    return Ok(());
                };
                let own = self.qps[place].process;
                let peer = match self.model.qps[place].state {
                    State::Ready(peer) => self.qps[peer].process,
                    State::Failed => own,
                    State::Reset | State::Gone => return Ok(()),
                };
                let keys = plan::Keys {
                    own: self.pick_key(own, send.own),
                    remote: self.pick_key(peer, send.other),
                    own_window: self.pick_window(own, send.other),
                    remote_window: self.pick_window(peer, send.other),
                };
                let qp_type = self.qps[place].kind.qp_type;
                let destination = qp_type.is_datagram().then(|| self.destination(send));
                let (request, sge) = send.request(number, qp_type, &keys, destination);
                let sges = sge.as_slice();
                let posted = self.qps[place].post_send(&request, sges).is_ok();
                agree("send", &posted, &self.model.post_send(place, request, sges))?;
                self.owned(own).stale.push(keys.own_window);
            }
            Step::Run(qp) => {
                if let Some(place) = self.pick_qp(*qp) {
                    self.world.run(&self.qps[place]);
                    self.run_model(place)?;
                }
            }
        }
        self.compare()
    }

    /// Compares the devices with the model.
    fn compare(&mut self) -> Result<(), String> {
        for (qp, model) in self.qps.iter().zip(&mut self.model.qps) {
            let expected = match model.state {
                State::Gone => {
                    model.sent.clear();
                    model.received.clear();
                    continue;
                }
                State::Reset => QpState::Reset,
                State::Ready(_) => match model.sends_are {
                    Sends::Run => QpState::Rts,
                    Sends::Held => QpState::Sqd,
                    Sends::Flushed => QpState::Sqe,
                },
                State::Failed => QpState::Err,
            };
            agree("state", &qp.state(), &expected)?;
            let sent = compare(qp, &qp.sent, &mut model.sent)?;
            let received = compare(qp, &qp.received, &mut model.received)?;
            match qp.is_remote() {
                true => self.outcome.remote += sent + received,
                false => self.outcome.local += sent + received,
            }
            agree("events", &*qp.events.borrow(), &model.events)?;
        }
        for (host, srqs) in self.world.hosts.iter().zip(&self.model.srqs) {
            for (number, srq) in srqs.iter().enumerate() {
                agree("limit", &host.srq(number).limits.get(), &srq.limits)?;
            }
        }
        for (host, memory) in self.world.hosts.iter().zip(&self.model.memory) {
            agree("memory", &*host.memory.borrow(), memory)?;
        }
        Ok(())
    }
}

/// Says where hosts and model differ.
fn agree<T: PartialEq + Debug>(what: &str, found: &T, expected: &T) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, expected {expected:?}")),
    }
}

/// Takes the completions of a queue pair, which are to be those of the model. Returns how many there were.
fn compare(
    qp: &Qp,
    found: &RefCell<VecDeque<Cqe>>,
    expected: &mut VecDeque<Completion>,
) -> Result<usize, String> {
    let found = found.borrow_mut().drain(..).collect::<Vec<_>>();
    assert!(found.iter().all(|cqe| cqe.qp_num == qp.number));
    // Of a request that failed the length means nothing.
    let of = |cqe: &Cqe| {
        let is_good = cqe.status == WcStatus::Success;
        let length = is_good.then_some(cqe.byte_len);
        (cqe.wr_id, cqe.opcode, cqe.status, length)
    };
    let found: Vec<_> = found.iter().map(of).collect();
    let expected: Vec<_> = expected.drain(..).collect();
    agree("completions", &found, &expected)?;
    Ok(found.len())
}

/// Carries a plan out. On an error, hosts and model do not agree.
pub fn execute(plan: &Plan) -> Result<Outcome, String> {
    let mut simulation = Simulation::new(plan);
    simulation.prologue()?;
    for (step, number) in plan.steps.iter().zip(1..) {
        let taken = simulation.take(number, step);
        taken.map_err(|differs| format!("step {number}, {differs}"))?;
    }
    let failed = |qp: &&crate::model::Qp| qp.state == State::Failed;
    simulation.outcome.failed = simulation.model.qps.iter().filter(failed).count();
    simulation.outcome.unreliable = simulation.model.delivered;
    // Nothing is left over.
    for process in processes() {
        simulation.die(process);
    }
    simulation.compare()?;
    for host in 0..HOSTS {
        assert!(
            simulation.world.hosts[host].is_empty(),
            "something is left on host {host}"
        );
    }
    Ok(simulation.outcome)
}
