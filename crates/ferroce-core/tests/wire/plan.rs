// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a QP is asked for, and what has to come of it.

use std::collections::VecDeque;

use fastrand::Rng;
use ferroce_core::local::{Extra, Received};
use ferroce_core::requester::Completed;
use ferroce_core::ring::{Operation, Payload, Remote, SendRequest, Sge};
use ferroce_core::verbs::{
    FlushPlacement, FlushSelectivity, ImmData, QpType, SendFlags, SendOpcode, WcOpcode, WcStatus,
};

use crate::front::{bind, Front, INLINE, LKEY, RKEY, SEND_ENTRIES, WINDOW};
use crate::layout::{pieces, Layout, UNTOUCHED};
use crate::memory::BASE;

/// What has to have come of a request of a QP's own.
struct Expected {
    wr_id: u64,
    opcode: SendOpcode,
    length: u32,
    /// Bytes that are in its own memory afterwards, at these places.
    result: Vec<(usize, Vec<u8>)>,
    status: WcStatus,
}

/// What has to come of a receive of the peer's.
struct Message {
    data: Vec<u8>,
    byte_len: u32,
    extra: Extra,
    opcode: WcOpcode,
    solicited: bool,
}

/// One QP's requests, and a model of what they do to the peer.
pub struct Plan {
    layout: Layout,
    qp_type: QpType,
    pub left: u32,
    next: u64,
    under_way: VecDeque<Expected>,
    messages: VecDeque<Message>,
    /// What the peer's target has to be when all is done.
    model: Vec<u8>,
    /// The peer's source.
    source: Vec<u8>,
    /// A READ of the target may be under way: a change to it waits for that (IBTA 10.8.3.3).
    reads_target: bool,
    /// Whether the last request is one that has to fail.
    ends_badly: bool,
    failed: bool,
}

type Verdict = Result<(), String>;

impl Plan {
    pub fn new(
        layout: Layout,
        qp_type: QpType,
        left: u32,
        ends_badly: bool,
        peer_source: Vec<u8>,
    ) -> Self {
        Self {
            ends_badly,
            failed: false,
            layout,
            qp_type,
            left,
            next: 0,
            under_way: VecDeque::new(),
            messages: VecDeque::new(),
            model: vec![0; layout.area()],
            source: peer_source,
            reads_target: false,
        }
    }

    /// Whether one more request may be posted.
    pub fn has_room(&self) -> bool {
        !self.failed && self.left > 0 && self.under_way.len() < SEND_ENTRIES as usize
    }

    /// Whether the peer may fail.
    pub fn ends_badly(&self) -> bool {
        self.ends_badly
    }

    /// Whether what is asked for is what comes of it.
    pub fn is_reliable(&self) -> bool {
        self.qp_type == QpType::Rc
    }

    pub fn is_done(&self) -> bool {
        self.failed || (self.left == 0 && self.under_way.is_empty())
    }

    fn length(&self, rng: &mut Rng) -> usize {
        let Layout { mtu, longest } = self.layout;
        let length = match rng.u32(..8) {
            0 => 0,
            1..=3 => rng.usize(1..=64),
            4 => mtu * rng.usize(1..=3),
            5 => (mtu * rng.usize(1..=2) + rng.usize(..4)).saturating_sub(2),
            _ => rng.usize(..=longest),
        };
        length.min(longest)
    }

    /// Posts one more request.
    pub fn post(&mut self, front: &mut Front, rng: &mut Rng) -> String {
        let slot = front.posted % SEND_ENTRIES;
        let wr_id = self.next;
        self.next += 1;
        self.left -= 1;
        if self.left == 0 && self.ends_badly {
            return self.post_bad(front, wr_id, rng);
        }
        let rc = self.qp_type == QpType::Rc;
        let imm = ImmData(rng.u32(..).to_ne_bytes());
        let length = self.length(rng);
        let at = rng.usize(..=self.layout.area() - length);
        let word = rng.usize(..8) * 8;
        let remote = |at: usize| Remote {
            addr: BASE + at as u64,
            rkey: RKEY,
        };
        let target = remote(self.layout.target() + at);
        let cell = remote(self.layout.target() + word);
        let operation = match rng.u32(..if rc { 20 } else { 9 }) {
            0..=2 => Operation::Send,
            3 => Operation::SendImm(imm),
            4..=5 => Operation::RdmaWrite(target),
            6..=7 => Operation::RdmaWriteImm(target, imm),
            8 => bind(),
            9 => Operation::SendInvalidate { rkey: WINDOW },
            10..=11 => Operation::RdmaRead(target),
            12..=13 => Operation::RdmaRead(remote(self.layout.source() + at)),
            14 => Operation::CompareSwap {
                remote: cell,
                compare: if rng.bool() {
                    self.cell(word)
                } else {
                    rng.u64(..)
                },
                swap: rng.u64(..),
            },
            15..=16 => Operation::FetchAdd {
                remote: cell,
                add: rng.u64(..),
            },
            17 => Operation::AtomicWrite(cell),
            18 => Operation::Flush {
                remote: target,
                length: length as u32,
                selectivity: FlushSelectivity::Range,
                placement: FlushPlacement::GLOBAL,
            },
            _ => Operation::RdmaWrite(target),
        };
        let opcode = operation.opcode();
        let length = match opcode {
            SendOpcode::CompareSwap | SendOpcode::FetchAdd | SendOpcode::AtomicWrite => 8,
            _ if opcode.has_no_data() => 0,
            _ => length,
        };
        let mut flags = SendFlags::SIGNALED;
        let solicited = rng.bool();
        if solicited {
            flags |= SendFlags::SOLICITED;
        }
        let changes = matches!(
            opcode,
            SendOpcode::RdmaWrite
                | SendOpcode::RdmaWriteImm
                | SendOpcode::CompareSwap
                | SendOpcode::FetchAdd
                | SendOpcode::AtomicWrite
        );
        if (changes && self.reads_target) || rng.u32(..16) == 0 {
            flags |= SendFlags::FENCE;
            self.reads_target = false;
        }
        let request = SendRequest {
            wr_id,
            flags,
            operation,
            destination: None,
        };
        let mut expected = Expected {
            wr_id,
            opcode,
            length: length as u32,
            result: Vec::new(),
            status: WcStatus::Success,
        };
        match opcode {
            SendOpcode::RdmaRead | SendOpcode::CompareSwap | SendOpcode::FetchAdd => {
                let result = self.layout.result(slot);
                let bytes = self.read(&operation, at, length, word);
                front.queues.memory.fill(result, length, UNTOUCHED);
                let sges = pieces(result, length, rng);
                expected.result.push((result, bytes));
                front.post(&request, Payload::Sges(&sges));
            }
            _ if opcode.has_no_data() => front.post(&request, Payload::NONE),
            _ => {
                let (data, sges) = self.gather(front, length, rng);
                self.deliver(&operation, at, word, data.clone(), solicited);
                if length <= INLINE as usize && rng.bool() {
                    let pieces = data.split_at(data.len() / 2);
                    front.post(&request, Payload::Inline(&[pieces.0, pieces.1]));
                } else {
                    front.post(&request, Payload::Sges(&sges));
                }
            }
        }
        self.under_way.push_back(expected);
        format!("posts {wr_id}: {operation:?}, {length} bytes, {flags:?}")
    }

    /// Posts a request that cannot be carried out.
    fn post_bad(&mut self, front: &mut Front, wr_id: u64, rng: &mut Rng) -> String {
        let target = BASE + self.layout.target() as u64;
        let remote = |addr, rkey| Remote { addr, rkey };
        let fine = Sge {
            addr: BASE,
            length: 8,
            lkey: LKEY,
        };
        let (operation, sges, status) = match rng.u32(..5) {
            0 => {
                let wrong_key = Operation::RdmaWrite(remote(target, RKEY + 1));
                (wrong_key, vec![fine], WcStatus::RemAccessErr)
            }
            1 => {
                let beyond = remote(BASE + self.layout.len() as u64 - 4, RKEY);
                (
                    Operation::RdmaRead(beyond),
                    vec![fine],
                    WcStatus::RemAccessErr,
                )
            }
            2 => {
                let misaligned = Operation::FetchAdd {
                    remote: remote(target + 1, RKEY),
                    add: 1,
                };
                (misaligned, vec![fine], WcStatus::RemInvReqErr)
            }
            3 => {
                let wrong_key = Sge { lkey: 0, ..fine };
                (Operation::Send, vec![wrong_key], WcStatus::LocProtErr)
            }
            _ => {
                let longer_than_any_receive = Sge {
                    length: self.layout.area() as u32,
                    ..fine
                };
                let sges = vec![longer_than_any_receive, fine];
                (Operation::Send, sges, WcStatus::RemInvReqErr)
            }
        };
        let request = SendRequest {
            wr_id,
            flags: SendFlags::EMPTY,
            operation,
            destination: None,
        };
        front.post(&request, Payload::Sges(&sges));
        self.under_way.push_back(Expected {
            wr_id,
            opcode: operation.opcode(),
            length: sges.iter().map(|sge| sge.length).sum(),
            result: Vec::new(),
            status,
        });
        format!("posts {wr_id}, which has to fail: {operation:?}, {sges:?}")
    }

    fn cell(&self, word: usize) -> u64 {
        u64::from_ne_bytes(self.model[word..word + 8].try_into().unwrap())
    }

    /// What a request brings back, and what it does to the model.
    fn read(&mut self, operation: &Operation, at: usize, length: usize, word: usize) -> Vec<u8> {
        let before = self.cell(word);
        let mut store = |value: u64| {
            self.model[word..word + 8].copy_from_slice(&value.to_ne_bytes());
        };
        match *operation {
            Operation::RdmaRead(remote) => {
                let is_source = remote.addr < BASE + self.layout.target() as u64;
                let from = if is_source { &self.source } else { &self.model };
                self.reads_target |= !is_source;
                return from[at..at + length].to_vec();
            }
            Operation::CompareSwap { compare, swap, .. } if compare == before => store(swap),
            Operation::FetchAdd { add, .. } => store(before.wrapping_add(add)),
            _ => {}
        }
        before.to_ne_bytes().to_vec()
    }

    /// Data of the QP's source, in pieces.
    fn gather(&self, front: &Front, length: usize, rng: &mut Rng) -> (Vec<u8>, Vec<Sge>) {
        let at = self.layout.source() + rng.usize(..=self.layout.area() - length);
        let sges = pieces(at, length, rng);
        (front.queues.memory.get(at, length), sges)
    }

    /// What data does to the peer.
    fn deliver(
        &mut self,
        operation: &Operation,
        at: usize,
        word: usize,
        data: Vec<u8>,
        solicited: bool,
    ) {
        let (extra, opcode) = match *operation {
            Operation::RdmaWrite(_) => {
                self.model[at..at + data.len()].copy_from_slice(&data);
                return;
            }
            Operation::AtomicWrite(_) => {
                self.model[word..word + 8].copy_from_slice(&data);
                return;
            }
            Operation::RdmaWriteImm(_, imm) => {
                self.model[at..at + data.len()].copy_from_slice(&data);
                (Extra::Immediate(imm), WcOpcode::RecvRdmaWithImm)
            }
            Operation::SendImm(imm) => (Extra::Immediate(imm), WcOpcode::Recv),
            Operation::SendInvalidate { rkey } => (Extra::Invalidated(rkey), WcOpcode::Recv),
            _ => (Extra::None, WcOpcode::Recv),
        };
        let byte_len = data.len() as u32;
        let in_receive = opcode == WcOpcode::Recv;
        self.messages.push_back(Message {
            data: if in_receive { data } else { Vec::new() },
            byte_len,
            extra,
            opcode,
            solicited,
        });
    }

    /// Judges a completion of the QP's own.
    pub fn completed(&mut self, front: &Front, peer: &Front, completed: &Completed) -> Verdict {
        let expected = self.under_way.pop_front();
        let expected = expected.ok_or_else(|| format!("{completed:?} of nothing"))?;
        if self.failed {
            return Err(format!("{completed:?} after a failure"));
        }
        self.failed = completed.status != WcStatus::Success;
        // A peer that has failed, and whose last words were lost, does not answer any more.
        let silent =
            completed.status == WcStatus::RetryExcErr && peer.queues.failed.get().is_some();
        let as_expected = completed.wr_id == expected.wr_id
            && completed.opcode == expected.opcode
            && completed.length == expected.length
            && (completed.status == expected.status || silent);
        if !as_expected {
            return Err(format!(
                "{completed:?} instead of {} ({:?}, {} bytes, {:?})",
                expected.wr_id, expected.opcode, expected.length, expected.status
            ));
        }
        if self.failed {
            return Ok(());
        }
        for (at, bytes) in expected.result {
            if !front.queues.memory.is(at, &bytes) {
                return Err(format!("the data of {} is wrong", expected.wr_id));
            }
        }
        Ok(())
    }

    /// Judges a receive of the peer's.
    pub fn received(&mut self, peer: &Front, received: &Received) -> Verdict {
        if self.qp_type == QpType::Uc {
            // Messages get lost, and come in another order, or twice: a first packet begins a message
            // whatever its PSN (IBTA 9.8.2.2.1).
            let mut messages = self.messages.iter();
            let was_sent = messages.any(|sent| self.is_message(peer, received, sent).is_ok());
            return was_sent
                .then_some(())
                .ok_or_else(|| format!("{received:?} was never sent"));
        }
        if self.ends_badly && received.status != WcStatus::Success {
            return Ok(());
        }
        let message = self.messages.pop_front();
        let message = message.ok_or_else(|| format!("{received:?} of nothing"))?;
        self.is_message(peer, received, &message)
    }

    fn is_message(&self, peer: &Front, received: &Received, message: &Message) -> Verdict {
        let as_expected = received.status == WcStatus::Success
            && received.opcode == message.opcode
            && received.byte_len == message.byte_len
            && received.extra == message.extra
            && received.solicited == message.solicited;
        if !as_expected {
            return Err(format!(
                "{received:?} instead of {:?}, {} bytes, {:?}",
                message.opcode, message.byte_len, message.extra
            ));
        }
        let at = self.layout.receive(received.wr_id as usize);
        if !peer.queues.memory.is(at, &message.data) {
            return Err(format!(
                "the message of receive {} is wrong",
                received.wr_id
            ));
        }
        let behind = at + message.data.len();
        let rest = vec![UNTOUCHED; self.layout.area() - message.data.len()];
        if received.status == WcStatus::Success
            && self.qp_type == QpType::Rc
            && !peer.queues.memory.is(behind, &rest)
        {
            return Err(format!(
                "receive {} was written to beyond its message",
                received.wr_id
            ));
        }
        Ok(())
    }

    /// Judges what is left when all is done.
    pub fn finish(&self, peer: &Front) -> Verdict {
        if !self.is_reliable() {
            return Ok(());
        }
        if !self.messages.is_empty() {
            return Err(format!("{} messages did not arrive", self.messages.len()));
        }
        if !peer.queues.memory.is(self.layout.target(), &self.model) {
            return Err("what was written is not what is there".into());
        }
        Ok(())
    }
}
