// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a host is to do, said once more, in the simplest way that comes to mind.

#[path = "model_keys.rs"]
mod keys;
#[path = "messages.rs"]
mod messages;

use std::collections::VecDeque;

use ferroce_core::ring::{Operation, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, EventType, QpType, SendFlags, WcOpcode, WcStatus};

use crate::host::{Process, DEPTH, HOSTS, MEMORY, PROCESSES};
use crate::local;
use crate::wire::Logged;
use keys::Keys;
use messages::{Message, To};

/// A completion: what a program would look at.
pub type Completion = (u64, WcOpcode, WcStatus, Option<u32>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Reset,
    /// Connected to that one; to itself if it takes datagrams.
    Ready(usize),
    Failed,
    Gone,
}

/// What becomes of the send queue of one that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sends {
    Run,
    /// Drained (SQD).
    Held,
    /// Flushed, until it is told to run again (SQE).
    Flushed,
}

pub struct Qp {
    pub process: Process,
    pub qp_type: QpType,
    has_srq: bool,
    pub state: State,
    pub sends_are: Sends,
    sends: VecDeque<(SendRequest, Vec<Sge>)>,
    receives: VecDeque<(u64, Sge)>,
    pub sent: VecDeque<Completion>,
    pub received: VecDeque<Completion>,
    pub events: Vec<EventType>,
}

/// A shared receive queue.
#[derive(Default)]
pub struct Srq {
    receives: VecDeque<(u64, Sge)>,
    limit: usize,
    /// How often the limit was reached.
    pub limits: usize,
}

impl Srq {
    fn tell_limit(&mut self) {
        if self.receives.len() < self.limit {
            self.limit = 0;
            self.limits += 1;
        }
    }
}

pub struct Model {
    pub memory: [Vec<u8>; HOSTS],
    keys: [Keys; HOSTS],
    pub srqs: [[Srq; PROCESSES]; HOSTS],
    /// Places of those that are in the group, by host.
    pub members: [Vec<usize>; HOSTS],
    /// All that have gone by the wire and may be lost.
    messages: Vec<Message>,
    /// How many messages of UC and UD a receive has taken: of the own host, and by the wire.
    pub delivered: [usize; 2],
    /// Those that are gone have their places still.
    pub qps: Vec<Qp>,
}

/// How a request ended: with so many bytes moved.
type Done = Result<u32, WcStatus>;

impl Model {
    pub fn new() -> Self {
        Self {
            memory: std::array::from_fn(|_| vec![0; MEMORY]),
            keys: Default::default(),
            srqs: Default::default(),
            members: Default::default(),
            messages: Vec::new(),
            delivered: [0; 2],
            qps: Vec::new(),
        }
    }

    /// Whether data of a request that is posted goes to a region. By packets its key is looked at when it
    /// begins and when data comes, and not when it is sent again; on one host when it is executed.
    pub fn is_awaited(&self, key: u32) -> bool {
        let goes_there = |(request, sges): &(SendRequest, Vec<Sge>)| {
            request.operation.opcode().gets_data() && sges.iter().any(|sge| sge.lkey == key)
        };
        self.qps.iter().any(|qp| qp.sends.iter().any(goes_there))
    }

    pub fn create(&mut self, process: Process, qp_type: QpType, has_srq: bool) {
        self.qps.push(Qp {
            process,
            qp_type,
            has_srq,
            state: State::Reset,
            sends_are: Sends::Run,
            sends: VecDeque::new(),
            receives: VecDeque::new(),
            sent: VecDeque::new(),
            received: VecDeque::new(),
            events: Vec::new(),
        });
    }

    pub fn connect(&mut self, qp: usize, peer: usize) {
        let peer = match self.qps[qp].qp_type.is_datagram() {
            true => qp,
            false => peer,
        };
        self.qps[qp].state = State::Ready(peer);
    }

    /// To RESET, or gone.
    pub fn forget(&mut self, qp: usize, state: State) {
        let qp = &mut self.qps[qp];
        qp.state = state;
        qp.sends_are = Sends::Run;
        qp.sends.clear();
        qp.receives.clear();
    }

    /// To ERR. Returns whether it was not there.
    pub fn flush(&mut self, qp: usize) -> bool {
        let is_new = self.qps[qp].state != State::Failed;
        self.fail(qp);
        is_new
    }

    /// Whether the send queue can be drained, and nothing is left of it that would be finished first.
    pub fn may_drain(&self, qp: usize) -> bool {
        let qp = &self.qps[qp];
        let is_ready = matches!(qp.state, State::Ready(_)) && qp.sends_are == Sends::Run;
        is_ready && qp.sends.is_empty()
    }

    pub fn drain(&mut self, qp: usize) {
        let qp = &mut self.qps[qp];
        qp.sends_are = Sends::Held;
        qp.events.push(EventType::SqDrained);
    }

    /// Whether the send queue waits to be told to go on.
    pub fn may_resume(&self, qp: usize) -> bool {
        let qp = &self.qps[qp];
        let has_stopped = match qp.sends_are {
            Sends::Run => false,
            Sends::Held => true,
            // What is posted is flushed first.
            Sends::Flushed => qp.sends.is_empty(),
        };
        matches!(qp.state, State::Ready(_)) && has_stopped
    }

    pub fn resume(&mut self, qp: usize) {
        self.qps[qp].sends_are = Sends::Run;
    }

    pub fn post_send(&mut self, qp: usize, request: SendRequest, sges: &[Sge]) -> bool {
        let sends = &mut self.qps[qp].sends;
        let has_room = sends.len() < DEPTH as usize;
        if has_room {
            sends.push_back((request, sges.to_vec()));
        }
        has_room
    }

    fn srq(&mut self, of: Process) -> &mut Srq {
        &mut self.srqs[of.host][of.number]
    }

    /// The queue that a queue pair has its receives from.
    fn receives(&mut self, qp: usize) -> &mut VecDeque<(u64, Sge)> {
        let process = self.qps[qp].process;
        match self.qps[qp].has_srq {
            true => &mut self.srq(process).receives,
            false => &mut self.qps[qp].receives,
        }
    }

    fn take_receive(&mut self, qp: usize) -> Option<(u64, Sge)> {
        let taken = self.receives(qp).pop_front();
        let process = self.qps[qp].process;
        if taken.is_some() && self.qps[qp].has_srq {
            self.srq(process).tell_limit();
        }
        taken
    }

    pub fn set_limit(&mut self, of: Process, limit: usize) {
        let srq = self.srq(of);
        srq.limit = limit;
        srq.tell_limit();
    }

    pub fn post_receive(&mut self, qp: usize, wr_id: u64, sge: Sge) -> bool {
        let receives = self.receives(qp);
        let has_room = receives.len() < DEPTH as usize;
        if has_room {
            receives.push_back((wr_id, sge));
        }
        if self.qps[qp].state == State::Failed {
            self.flush_receives(qp);
        }
        has_room
    }

    /// Executes what can be executed. `log` is what the hosts say of messages that may be lost.
    pub fn run(&mut self, qp: usize, log: &[Logged]) -> Result<(), String> {
        let mut log = log.iter().copied().peekable();
        self.arrive(&mut log);
        while let Some((request, sges)) = self.qps[qp].sends.front().cloned() {
            let opcode = request.operation.opcode().completion();
            let messages = self.messages.len();
            let result = match (self.qps[qp].state, self.qps[qp].sends_are) {
                (State::Failed, _) | (State::Ready(_), Sends::Flushed) => Err(WcStatus::WrFlushErr),
                (State::Ready(peer), Sends::Run) => match self.execute(qp, peer, &request, &sges) {
                    Some(result) => result,
                    None => break,
                },
                (State::Ready(_), Sends::Held) | (State::Reset | State::Gone, _) => break,
            };
            let this = &mut self.qps[qp];
            this.sends.pop_front();
            match result {
                Ok(length) if request.flags.contains(SendFlags::SIGNALED) => {
                    let done = (request.wr_id, opcode, WcStatus::Success, Some(length));
                    this.sent.push_back(done);
                }
                Ok(_) => {}
                Err(WcStatus::WrFlushErr) => {
                    let flushed = (request.wr_id, WcOpcode::Send, WcStatus::WrFlushErr, None);
                    this.sent.push_back(flushed);
                }
                Err(status) => {
                    this.sent.push_back((request.wr_id, opcode, status, None));
                    match this.qp_type {
                        QpType::Rc => self.fail(qp),
                        _ => this.sends_are = Sends::Flushed,
                    }
                }
            }
            for id in messages..self.messages.len() {
                if log.next() != Some(Logged::Sent(id)) {
                    return Err(format!("message {id} is not sent"));
                }
                self.arrive(&mut log);
            }
        }
        match log.next() {
            None => Ok(()),
            Some(more) => Err(format!("{more:?} is more than was asked for")),
        }
    }

    fn write(&mut self, of: Process, addr: u64, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.memory[of.host][addr as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// To the error state.
    fn fail(&mut self, qp: usize) {
        if self.qps[qp].state == State::Failed {
            return;
        }
        self.qps[qp].state = State::Failed;
        self.flush_receives(qp);
        let qp = &mut self.qps[qp];
        if qp.has_srq {
            qp.events.push(EventType::QpLastWqeReached);
        }
    }

    fn flush_receives(&mut self, qp: usize) {
        let qp = &mut self.qps[qp];
        for (wr_id, _) in qp.receives.drain(..) {
            let flushed = (wr_id, WcOpcode::Recv, WcStatus::WrFlushErr, None);
            qp.received.push_back(flushed);
        }
    }

    /// A queue pair refuses a request.
    fn refuse(&mut self, qp: usize, event: EventType, status: WcStatus) -> Option<Done> {
        self.qps[qp].events.push(event);
        self.fail(qp);
        Some(Err(status))
    }

    /// `None` if it has to wait.
    fn execute(
        &mut self,
        qp: usize,
        peer: usize,
        request: &SendRequest,
        sges: &[Sge],
    ) -> Option<Done> {
        let (process, peers) = (self.qps[qp].process, self.qps[peer].process);
        let sge = sges.first().copied();
        let length = sge.map_or(0, |sge| sge.length);
        let takes_data = matches!(
            request.operation,
            Operation::RdmaRead(_) | Operation::FetchAdd { .. }
        );
        match request.operation {
            Operation::BindMw(bind) => {
                let ok = self.bind(qp, &bind);
                return Some(ok.then_some(0).ok_or(WcStatus::MwBindErr));
            }
            Operation::LocalInvalidate { rkey } => {
                let ok = self.invalidate(qp, rkey);
                return Some(ok.then_some(0).ok_or(WcStatus::LocQpOpErr));
            }
            _ => {}
        }
        if sge.is_some_and(|sge| !self.local(process, sge.lkey, sge.addr, sge.length, takes_data)) {
            return Some(Err(WcStatus::LocProtErr));
        }
        match self.qps[qp].qp_type {
            QpType::Ud => {
                let to = request.destination.unwrap();
                let to = match to.ah {
                    local::GROUP => To::Group(to.remote_qkey),
                    host => To::Datagram(host as usize, to.remote_qpn, to.remote_qkey),
                };
                return self.send(qp, request, sge, to);
            }
            QpType::Uc => return self.send(qp, request, sge, To::Connected(peer)),
            _ => {}
        }
        if self.qps[peer].state != State::Ready(qp) || self.qps[peer].qp_type != QpType::Rc {
            return Some(Err(WcStatus::RetryExcErr));
        }
        let from = sge.map_or(0, |sge| sge.addr as usize);
        let done = Some(Ok(length));
        match request.operation {
            Operation::Send | Operation::SendInvalidate { .. } => {
                let (wr_id, into) = self.take_receive(peer)?;
                let (status, answer) = if into.length < length {
                    (WcStatus::LocLenErr, Err(WcStatus::RemInvReqErr))
                } else if length > 0 && !self.local(peers, into.lkey, into.addr, length, true) {
                    (WcStatus::LocProtErr, Err(WcStatus::RemOpErr))
                } else {
                    self.copy((process, from), (peers, into.addr as usize), length);
                    match request.operation {
                        Operation::SendInvalidate { rkey } if !self.invalidate(peer, rkey) => {
                            (WcStatus::LocAccessErr, Err(WcStatus::RemAccessErr))
                        }
                        _ => (WcStatus::Success, Ok(length)),
                    }
                };
                let length = (status == WcStatus::Success).then_some(length);
                let received = (wr_id, WcOpcode::Recv, status, length);
                self.qps[peer].received.push_back(received);
                if answer.is_err() {
                    self.fail(peer);
                }
                Some(answer)
            }
            Operation::RdmaWrite(remote) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_WRITE) {
                    return self.refuse(peer, EventType::QpAccessErr, WcStatus::RemAccessErr);
                }
                self.copy((process, from), (peers, remote.addr as usize), length);
                done
            }
            Operation::RdmaWriteImm(remote, _) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_WRITE) {
                    return self.refuse(peer, EventType::QpAccessErr, WcStatus::RemAccessErr);
                }
                let (wr_id, _) = self.take_receive(peer)?;
                self.copy((process, from), (peers, remote.addr as usize), length);
                let opcode = WcOpcode::RecvRdmaWithImm;
                let received = (wr_id, opcode, WcStatus::Success, Some(length));
                self.qps[peer].received.push_back(received);
                done
            }
            Operation::RdmaRead(remote) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_READ) {
                    return self.refuse(peer, EventType::QpAccessErr, WcStatus::RemAccessErr);
                }
                self.copy((peers, remote.addr as usize), (process, from), length);
                done
            }
            Operation::FetchAdd { remote, add } => {
                if remote.addr % 8 != 0 {
                    return self.refuse(peer, EventType::QpReqErr, WcStatus::RemInvReqErr);
                }
                if !self.remote(peer, remote, 8, AccessFlags::REMOTE_ATOMIC) {
                    return self.refuse(peer, EventType::QpAccessErr, WcStatus::RemAccessErr);
                }
                let at = remote.addr as usize;
                let before: [u8; 8] = self.memory[peers.host][at..][..8].try_into().unwrap();
                let after = u64::from_ne_bytes(before).wrapping_add(add);
                self.memory[peers.host][at..][..8].copy_from_slice(&after.to_ne_bytes());
                self.memory[process.host][from..][..8].copy_from_slice(&before);
                done
            }
            other => panic!("{other:?}"),
        }
    }

    fn copy(&mut self, from: (Process, usize), to: (Process, usize), length: u32) {
        if length > 0 {
            let bytes = self.memory[from.0.host][from.1..][..length as usize].to_vec();
            self.memory[to.0.host][to.1..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
}
