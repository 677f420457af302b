// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a host is to do, said once more, in the simplest way that comes to mind.

use std::collections::{BTreeMap, VecDeque};

use ferroce_core::ring::{Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, EventType, SendFlags, WcOpcode, WcStatus};

use crate::host::{Process, DEPTH, HOSTS, MEMORY};

/// A completion: what a program would look at.
pub type Completion = (u64, WcOpcode, WcStatus, Option<u32>);

#[derive(Clone, Copy)]
struct Region {
    process: Process,
    addr: u64,
    length: u64,
    access: AccessFlags,
}

impl Region {
    fn has(&self, addr: u64, length: u64) -> bool {
        addr >= self.addr && addr - self.addr + length <= self.length
    }
}

struct Window {
    process: Process,
    belongs_to_qp: bool,
    key: u32,
    /// The region's key, the part, and who bound it.
    bound: Option<(u32, Region, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Reset,
    /// Connected to that one.
    Ready(usize),
    Failed,
    Gone,
}

pub struct Qp {
    pub process: Process,
    pub state: State,
    sends: VecDeque<(SendRequest, Vec<Sge>)>,
    receives: VecDeque<(u64, Sge)>,
    pub sent: VecDeque<Completion>,
    pub received: VecDeque<Completion>,
    pub events: Vec<EventType>,
}

#[derive(Default)]
struct Keys {
    regions: BTreeMap<u32, Region>,
    /// By number.
    windows: BTreeMap<u32, Window>,
}

pub struct Model {
    pub memory: [Vec<u8>; HOSTS],
    keys: [Keys; HOSTS],
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
            qps: Vec::new(),
        }
    }

    pub fn register(&mut self, of: Process, key: u32, addr: u64, length: u64, access: AccessFlags) {
        let region = Region {
            process: of,
            addr,
            length,
            access,
        };
        self.keys[of.host].regions.insert(key, region);
    }

    /// Whether data of a request that is posted goes to a region. By packets its key is looked at when it
    /// begins and when data comes, and not when it is sent again; on one host when it is executed.
    pub fn is_awaited(&self, key: u32) -> bool {
        let goes_there = |(request, sges): &(SendRequest, Vec<Sge>)| {
            request.operation.opcode().gets_data() && sges.iter().any(|sge| sge.lkey == key)
        };
        self.qps.iter().any(|qp| qp.sends.iter().any(goes_there))
    }

    pub fn deregister(&mut self, host: usize, key: u32) -> bool {
        let keys = &mut self.keys[host];
        let is_bound = |window: &Window| window.bound.is_some_and(|(region, ..)| region == key);
        !keys.windows.values().any(is_bound) && keys.regions.remove(&key).is_some()
    }

    pub fn allocate_window(&mut self, of: Process, key: u32, belongs_to_qp: bool) {
        let window = Window {
            process: of,
            belongs_to_qp,
            key,
            bound: None,
        };
        self.keys[of.host].windows.insert(key >> 8, window);
    }

    pub fn deallocate_window(&mut self, host: usize, number: u32) {
        self.keys[host].windows.remove(&number);
    }

    pub fn key_of_window(&self, host: usize, number: u32) -> u32 {
        self.keys[host].windows[&number].key
    }

    pub fn create(&mut self, process: Process) {
        self.qps.push(Qp {
            process,
            state: State::Reset,
            sends: VecDeque::new(),
            receives: VecDeque::new(),
            sent: VecDeque::new(),
            received: VecDeque::new(),
            events: Vec::new(),
        });
    }

    pub fn connect(&mut self, qp: usize, peer: usize) {
        self.qps[qp].state = State::Ready(peer);
    }

    /// To RESET, or gone.
    pub fn forget(&mut self, qp: usize, state: State) {
        let qp = &mut self.qps[qp];
        qp.state = state;
        qp.sends.clear();
        qp.receives.clear();
    }

    /// To ERR.
    pub fn flush(&mut self, qp: usize) {
        if self.qps[qp].state != State::Failed {
            self.fail(qp);
            self.run(qp);
        }
    }

    pub fn post_send(&mut self, qp: usize, request: SendRequest, sges: &[Sge]) -> bool {
        let sends = &mut self.qps[qp].sends;
        let has_room = sends.len() < DEPTH as usize;
        if has_room {
            sends.push_back((request, sges.to_vec()));
        }
        has_room
    }

    pub fn post_receive(&mut self, qp: usize, wr_id: u64, sge: Sge) -> bool {
        let receives = &mut self.qps[qp].receives;
        let has_room = receives.len() < DEPTH as usize;
        if has_room {
            receives.push_back((wr_id, sge));
        }
        if self.qps[qp].state == State::Failed {
            self.fail(qp);
        }
        has_room
    }

    /// Executes what can be executed.
    pub fn run(&mut self, qp: usize) {
        while let Some((request, sges)) = self.qps[qp].sends.front().cloned() {
            let opcode = request.operation.opcode().completion();
            let result = match self.qps[qp].state {
                State::Failed => Err(WcStatus::WrFlushErr),
                State::Ready(peer) => match self.execute(qp, peer, &request, &sges) {
                    Some(result) => result,
                    None => return,
                },
                State::Reset | State::Gone => return,
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
                    self.fail(qp);
                }
            }
        }
    }

    fn fail(&mut self, qp: usize) {
        let qp = &mut self.qps[qp];
        qp.state = State::Failed;
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
        if self.qps[peer].state != State::Ready(qp) {
            return Some(Err(WcStatus::RetryExcErr));
        }
        let from = sge.map_or(0, |sge| sge.addr as usize);
        let done = Some(Ok(length));
        match request.operation {
            Operation::Send | Operation::SendInvalidate { .. } => {
                let (wr_id, into) = *self.qps[peer].receives.front()?;
                self.qps[peer].receives.pop_front();
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
                let (wr_id, _) = self.qps[peer].receives.pop_front()?;
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

    fn local(&self, of: Process, key: u32, addr: u64, length: u32, write: bool) -> bool {
        self.keys[of.host].regions.get(&key).is_some_and(|region| {
            region.process == of
                && region.has(addr, length.into())
                && (!write || region.access.contains(AccessFlags::LOCAL_WRITE))
        })
    }

    /// Whether a request to that queue pair may have access to memory.
    fn remote(&self, qp: usize, remote: Remote, length: u32, right: AccessFlags) -> bool {
        let Remote { addr, rkey } = remote;
        let process = self.qps[qp].process;
        let keys = &self.keys[process.host];
        if let Some(region) = keys.regions.get(&rkey) {
            return region.process == process
                && region.has(addr, length.into())
                && region.access.contains(right);
        }
        let Some(window) = keys.windows.get(&(rkey >> 8)) else {
            return false;
        };
        let Some((_, part, binder)) = window.bound else {
            return false;
        };
        window.process == process
            && window.key == rkey
            && part.has(addr, length.into())
            && part.access.contains(right)
            && (!window.belongs_to_qp || binder == qp)
    }

    fn bind(&mut self, binder: usize, bind: &ferroce_core::ring::BindMw) -> bool {
        let process = self.qps[binder].process;
        let keys = &mut self.keys[process.host];
        let Some(region) = keys.regions.get(&bind.mr_lkey).copied() else {
            return false;
        };
        let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
        let Some(window) = keys.windows.get_mut(&(bind.mw_rkey >> 8)) else {
            return false;
        };
        let is_allowed = window.process == process
            && region.process == process
            && window.key == bind.mw_rkey
            && (!window.belongs_to_qp || window.bound.is_none())
            && region.access.contains(AccessFlags::MW_BIND)
            && region.has(bind.addr, bind.length)
            && (!bind.access.intersects(writes)
                || region.access.contains(AccessFlags::LOCAL_WRITE));
        if is_allowed {
            let part = Region {
                process,
                addr: bind.addr,
                length: bind.length,
                access: bind.access,
            };
            window.bound = Some((bind.mr_lkey, part, binder));
            window.key = window.key & !0xff | bind.new_rkey & 0xff;
        }
        is_allowed
    }

    /// Ends the access by a window's key, for the queue pair that has bound it.
    fn invalidate(&mut self, owner: usize, rkey: u32) -> bool {
        let host = self.qps[owner].process.host;
        let Some(window) = self.keys[host].windows.get_mut(&(rkey >> 8)) else {
            return false;
        };
        let is_owner = window.bound.is_some_and(|(.., binder)| binder == owner);
        let is_allowed = window.belongs_to_qp && window.key == rkey && is_owner;
        if is_allowed {
            window.bound = None;
        }
        is_allowed
    }
}
