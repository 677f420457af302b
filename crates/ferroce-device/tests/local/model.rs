// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a host is to do, said once more, in the simplest way that comes to mind.

use std::collections::{BTreeMap, VecDeque};

use ferroce_core::ring::{Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, SendFlags, WcOpcode, WcStatus};

use crate::host::{DEPTH, MEMORY};

/// A completion: what a program would look at.
pub type Completion = (u64, WcOpcode, WcStatus, u32);

#[derive(Clone, Copy)]
struct Region {
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
    belongs_to_qp: bool,
    key: u32,
    /// The region's key, the part, and who bound it.
    bound: Option<(u32, Region, u32)>,
}

pub struct Qp {
    number: u32,
    sends: VecDeque<(SendRequest, Vec<Sge>)>,
    receives: VecDeque<(u64, Sge)>,
    pub has_failed: bool,
    pub sent: VecDeque<Completion>,
    pub received: VecDeque<Completion>,
}

pub struct Model {
    pub memory: Vec<u8>,
    regions: BTreeMap<u32, Region>,
    /// By number.
    windows: BTreeMap<u32, Window>,
    pub qps: [Qp; 2],
}

impl Model {
    pub fn new(numbers: [u32; 2]) -> Self {
        Self {
            memory: vec![0; MEMORY],
            regions: BTreeMap::new(),
            windows: BTreeMap::new(),
            qps: numbers.map(|number| Qp {
                number,
                sends: VecDeque::new(),
                receives: VecDeque::new(),
                has_failed: false,
                sent: VecDeque::new(),
                received: VecDeque::new(),
            }),
        }
    }

    pub fn register(&mut self, key: u32, addr: u64, length: u64, access: AccessFlags) {
        let region = Region {
            addr,
            length,
            access,
        };
        self.regions.insert(key, region);
    }

    pub fn deregister(&mut self, key: u32) -> bool {
        let is_bound = |window: &Window| window.bound.is_some_and(|(region, ..)| region == key);
        !self.windows.values().any(is_bound) && self.regions.remove(&key).is_some()
    }

    pub fn allocate_window(&mut self, key: u32, belongs_to_qp: bool) {
        let window = Window {
            belongs_to_qp,
            key,
            bound: None,
        };
        self.windows.insert(key >> 8, window);
    }

    pub fn key_of_window(&self, number: u32) -> u32 {
        self.windows[&number].key
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
        if self.qps[qp].has_failed {
            self.fail(qp);
        }
        has_room
    }

    /// Executes what can be executed.
    pub fn run(&mut self, qp: usize) {
        while let Some((request, sges)) = self.qps[qp].sends.front().cloned() {
            let opcode = request.operation.opcode().completion();
            let result = match self.qps[qp].has_failed {
                true => Err(WcStatus::WrFlushErr),
                false => match self.execute(qp, &request, &sges) {
                    Some(result) => result,
                    None => return,
                },
            };
            let this = &mut self.qps[qp];
            this.sends.pop_front();
            match result {
                Ok(length) if request.flags.contains(SendFlags::SIGNALED) => {
                    let done = (request.wr_id, opcode, WcStatus::Success, length);
                    this.sent.push_back(done);
                }
                Ok(_) => {}
                Err(WcStatus::WrFlushErr) => {
                    let flushed = (request.wr_id, WcOpcode::Send, WcStatus::WrFlushErr, 0);
                    this.sent.push_back(flushed);
                }
                Err(status) => {
                    this.sent.push_back((request.wr_id, opcode, status, 0));
                    self.fail(qp);
                }
            }
        }
    }

    fn fail(&mut self, qp: usize) {
        let qp = &mut self.qps[qp];
        qp.has_failed = true;
        for (wr_id, _) in qp.receives.drain(..) {
            let flushed = (wr_id, WcOpcode::Recv, WcStatus::WrFlushErr, 0);
            qp.received.push_back(flushed);
        }
    }

    /// `None` if it has to wait.
    fn execute(
        &mut self,
        qp: usize,
        request: &SendRequest,
        sges: &[Sge],
    ) -> Option<Result<u32, WcStatus>> {
        let peer = 1 - qp;
        let sge = sges.first().copied();
        let length = sge.map_or(0, |sge| sge.length);
        let takes_data = matches!(
            request.operation,
            Operation::RdmaRead(_) | Operation::FetchAdd { .. }
        );
        match request.operation {
            Operation::BindMw(bind) => {
                let ok = self.bind(self.qps[qp].number, &bind);
                return Some(ok.then_some(0).ok_or(WcStatus::MwBindErr));
            }
            Operation::LocalInvalidate { rkey } => {
                let ok = self.invalidate(rkey, self.qps[qp].number);
                return Some(ok.then_some(0).ok_or(WcStatus::LocQpOpErr));
            }
            _ => {}
        }
        if self.qps[peer].has_failed {
            return Some(Err(WcStatus::RetryExcErr));
        }
        if sge.is_some_and(|sge| !self.local(sge.lkey, sge.addr, sge.length, takes_data)) {
            return Some(Err(WcStatus::LocProtErr));
        }
        let from = sge.map_or(0, |sge| sge.addr as usize);
        let done = Some(Ok(length));
        match request.operation {
            Operation::Send | Operation::SendInvalidate { .. } => {
                let (wr_id, into) = *self.qps[peer].receives.front()?;
                self.qps[peer].receives.pop_front();
                let (status, answer) = if into.length < length {
                    (WcStatus::LocLenErr, Err(WcStatus::RemInvReqErr))
                } else if length > 0 && !self.local(into.lkey, into.addr, length, true) {
                    (WcStatus::LocProtErr, Err(WcStatus::RemOpErr))
                } else {
                    self.copy(from, into.addr as usize, length);
                    match request.operation {
                        Operation::SendInvalidate { rkey }
                            if !self.invalidate(rkey, self.qps[peer].number) =>
                        {
                            (WcStatus::LocAccessErr, Err(WcStatus::RemAccessErr))
                        }
                        _ => (WcStatus::Success, Ok(length)),
                    }
                };
                let received = (wr_id, WcOpcode::Recv, status, length);
                self.qps[peer].received.push_back(received);
                if answer.is_err() {
                    self.fail(peer);
                }
                Some(answer)
            }
            Operation::RdmaWrite(remote) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_WRITE) {
                    self.fail(peer);
                    return Some(Err(WcStatus::RemAccessErr));
                }
                self.copy(from, remote.addr as usize, length);
                done
            }
            Operation::RdmaWriteImm(remote, _) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_WRITE) {
                    self.fail(peer);
                    return Some(Err(WcStatus::RemAccessErr));
                }
                let (wr_id, _) = self.qps[peer].receives.pop_front()?;
                self.copy(from, remote.addr as usize, length);
                let opcode = WcOpcode::RecvRdmaWithImm;
                let received = (wr_id, opcode, WcStatus::Success, length);
                self.qps[peer].received.push_back(received);
                done
            }
            Operation::RdmaRead(remote) => {
                if length > 0 && !self.remote(peer, remote, length, AccessFlags::REMOTE_READ) {
                    self.fail(peer);
                    return Some(Err(WcStatus::RemAccessErr));
                }
                self.copy(remote.addr as usize, from, length);
                done
            }
            Operation::FetchAdd { remote, add } => {
                if remote.addr % 8 != 0 {
                    self.fail(peer);
                    return Some(Err(WcStatus::RemInvReqErr));
                }
                if !self.remote(peer, remote, 8, AccessFlags::REMOTE_ATOMIC) {
                    self.fail(peer);
                    return Some(Err(WcStatus::RemAccessErr));
                }
                let at = remote.addr as usize;
                let before: [u8; 8] = self.memory[at..][..8].try_into().unwrap();
                let after = u64::from_ne_bytes(before).wrapping_add(add);
                self.memory[at..][..8].copy_from_slice(&after.to_ne_bytes());
                self.memory[from..][..8].copy_from_slice(&before);
                done
            }
            other => panic!("{other:?}"),
        }
    }

    fn copy(&mut self, from: usize, to: usize, length: u32) {
        if length > 0 {
            self.memory.copy_within(from..from + length as usize, to);
        }
    }

    fn local(&self, key: u32, addr: u64, length: u32, write: bool) -> bool {
        self.regions.get(&key).is_some_and(|region| {
            region.has(addr, length.into())
                && (!write || region.access.contains(AccessFlags::LOCAL_WRITE))
        })
    }

    fn remote(&self, qp: usize, remote: Remote, length: u32, right: AccessFlags) -> bool {
        let Remote { addr, rkey } = remote;
        if let Some(region) = self.regions.get(&rkey) {
            return region.has(addr, length.into()) && region.access.contains(right);
        }
        let Some(window) = self.windows.get(&(rkey >> 8)) else {
            return false;
        };
        let Some((_, part, binder)) = window.bound else {
            return false;
        };
        window.key == rkey
            && part.has(addr, length.into())
            && part.access.contains(right)
            && (!window.belongs_to_qp || binder == self.qps[qp].number)
    }

    fn bind(&mut self, binder: u32, bind: &ferroce_core::ring::BindMw) -> bool {
        let Some(region) = self.regions.get(&bind.mr_lkey).copied() else {
            return false;
        };
        let writes = AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_ATOMIC);
        let Some(window) = self.windows.get_mut(&(bind.mw_rkey >> 8)) else {
            return false;
        };
        let is_allowed = window.key == bind.mw_rkey
            && (!window.belongs_to_qp || window.bound.is_none())
            && region.access.contains(AccessFlags::MW_BIND)
            && region.has(bind.addr, bind.length)
            && (!bind.access.intersects(writes)
                || region.access.contains(AccessFlags::LOCAL_WRITE));
        if is_allowed {
            let part = Region {
                addr: bind.addr,
                length: bind.length,
                access: bind.access,
            };
            window.bound = Some((bind.mr_lkey, part, binder));
            window.key = window.key & !0xff | bind.new_rkey & 0xff;
        }
        is_allowed
    }

    fn invalidate(&mut self, rkey: u32, owner: u32) -> bool {
        let Some(window) = self.windows.get_mut(&(rkey >> 8)) else {
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
