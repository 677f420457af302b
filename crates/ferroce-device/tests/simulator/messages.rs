// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of UC and UD: whom they get to, and what comes of them there.

use ferroce_core::ring::{Operation, SendRequest, Sge};
use ferroce_core::verbs::limits::GRH_LENGTH;
use ferroce_core::verbs::{AccessFlags, QpType, WcOpcode, WcStatus};

use super::{Done, Model, State};
use crate::plan::number;
use crate::wire::Logged;
use crate::world;

/// A message that its sender does not ask about any more.
pub struct Message {
    from: usize,
    operation: Operation,
    to: To,
    payload: Vec<u8>,
}

#[derive(Clone, Copy)]
pub enum To {
    /// The queue pair at that place.
    Connected(usize),
    /// That of a number on a host, if it has the Q_Key.
    Datagram(usize, u32, u32),
    /// All of the group but one, if they have the Q_Key.
    Group(u32),
}

/// What a datagram is preceded by, which is the header of IPv6.
fn header(from: usize, to: [u8; 16], length: u32) -> Vec<u8> {
    /// UDP, BTH, DETH, ICRC.
    const HEADERS: u32 = 8 + 12 + 8 + 4;
    let [high, low] = ((length + HEADERS) as u16).to_be_bytes();
    let mut header = vec![0x60, 0, 0, 0, high, low, 17, 0];
    header.extend_from_slice(&world::gid(from));
    header.extend_from_slice(&to);
    header
}

impl Model {
    /// What the log says to have arrived before anything else is sent has its effect.
    pub(super) fn arrive(&mut self, log: &mut std::iter::Peekable<impl Iterator<Item = Logged>>) {
        while let Some(Logged::Arrived(id, host)) = log.peek().copied() {
            log.next();
            let message = &self.messages[id];
            let (payload, from) = (message.payload.clone(), message.from);
            let (operation, to) = (message.operation, message.to);
            for qp in self.receivers(from, to, host) {
                let taken = self.deliver(qp, operation, &mut |_| payload.clone());
                self.delivered[1] += usize::from(taken);
            }
        }
    }

    /// Who gets a message on a host.
    fn receivers(&self, from: usize, to: To, host: usize) -> Vec<usize> {
        let sender = self.qps[from].process.host;
        let takes_datagrams = |place: &usize, qkey| {
            let qp = &self.qps[*place];
            let is_ready = matches!(qp.state, State::Ready(_));
            qp.qp_type == QpType::Ud && is_ready && world::qkey(number(*place)) == qkey
        };
        let candidates = match to {
            To::Connected(place) => vec![place],
            To::Datagram(_, number_to, _) => vec![(number_to - number(0)) as usize],
            To::Group(_) => self.members[host].clone(),
        };
        let takes = |place: &usize| {
            let Some(qp) = self.qps.get(*place).filter(|qp| qp.process.host == host) else {
                return false;
            };
            match to {
                To::Group(qkey) => *place != from && takes_datagrams(place, qkey),
                To::Datagram(_, _, qkey) => takes_datagrams(place, qkey),
                // By the wire a packet from the host's address is taken for the peer's.
                To::Connected(_) => match qp.state {
                    State::Ready(peer) if sender == host => {
                        qp.qp_type == QpType::Uc && peer == from
                    }
                    State::Ready(peer) => {
                        qp.qp_type == QpType::Uc && self.qps[peer].process.host == sender
                    }
                    _ => false,
                },
            }
        };
        candidates.into_iter().filter(takes).collect()
    }

    /// An unreliable message comes to a queue pair that takes it. `payload` is asked for when all before it
    /// is written. Returns whether it has arrived, and a receive was taken for it.
    fn deliver(
        &mut self,
        qp: usize,
        operation: Operation,
        payload: &mut dyn FnMut(&Self) -> Vec<u8>,
    ) -> bool {
        let (process, is_datagram) = (self.qps[qp].process, self.qps[qp].qp_type == QpType::Ud);
        // The payload of a datagram includes what it is preceded by.
        let length = payload(self).len() as u32;
        match operation {
            Operation::RdmaWrite(remote) | Operation::RdmaWriteImm(remote, _) => {
                if length > 0 && !self.remote(qp, remote, length, AccessFlags::REMOTE_WRITE) {
                    return false;
                }
                let takes_receive = matches!(operation, Operation::RdmaWriteImm(..));
                let taken = match takes_receive {
                    true => match self.take_receive(qp) {
                        Some(receive) => Some(receive),
                        None => return false,
                    },
                    false => None,
                };
                let bytes = payload(self);
                self.write(process, remote.addr, &bytes);
                if let Some((wr_id, _)) = taken {
                    let opcode = WcOpcode::RecvRdmaWithImm;
                    let received = (wr_id, opcode, WcStatus::Success, Some(length));
                    self.qps[qp].received.push_back(received);
                }
                takes_receive
            }
            _ => {
                let Some((_, into)) = self.receives(qp).front().copied() else {
                    return false;
                };
                if into.length < length {
                    return false;
                }
                let (wr_id, _) = self.take_receive(qp).unwrap();
                let allows = |model: &Self, at: u32, length: u32| {
                    let addr = into.addr + u64::from(at);
                    length == 0 || model.local(process, into.lkey, addr, length, true)
                };
                let header = if is_datagram { GRH_LENGTH } else { 0 };
                let mut is_good = allows(self, 0, header);
                if is_good {
                    let bytes = payload(self);
                    self.write(process, into.addr, &bytes[..header as usize]);
                    is_good = allows(self, header, length - header);
                }
                if is_good {
                    let bytes = payload(self);
                    let addr = into.addr + u64::from(header);
                    self.write(process, addr, &bytes[header as usize..]);
                }
                let (status, length) = match is_good {
                    true => (WcStatus::Success, Some(length)),
                    false => (WcStatus::LocProtErr, None),
                };
                let received = (wr_id, WcOpcode::Recv, status, length);
                self.qps[qp].received.push_back(received);
                if !is_good {
                    self.fail(qp);
                }
                is_good
            }
        }
    }

    /// Sends an unreliable message, which is as good as done then.
    pub(super) fn send(
        &mut self,
        qp: usize,
        request: &SendRequest,
        sge: Option<Sge>,
        to: To,
    ) -> Option<Done> {
        let process = self.qps[qp].process;
        let length = sge.map_or(0, |sge| sge.length);
        let preceding = match to {
            To::Connected(_) => Vec::new(),
            To::Datagram(host, ..) => header(process.host, world::gid(host), length),
            To::Group(_) => header(process.host, [0xff; 16], length),
        };
        let bytes = move |model: &Self| {
            let mut bytes = preceding.clone();
            if let Some(sge) = sge.filter(|sge| sge.length > 0) {
                let from = &model.memory[process.host][sge.addr as usize..];
                bytes.extend_from_slice(&from[..sge.length as usize]);
            }
            bytes
        };
        for receiver in self.receivers(qp, to, process.host) {
            let taken = self.deliver(receiver, request.operation, &mut |model| bytes(model));
            self.delivered[0] += usize::from(taken);
        }
        let is_remote = match to {
            To::Connected(peer) => self.qps[peer].process.host != process.host,
            To::Datagram(host, ..) => host != process.host,
            To::Group(_) => true,
        };
        if is_remote {
            let payload = bytes(self);
            self.messages.push(Message {
                from: qp,
                operation: request.operation,
                to,
                payload,
            });
        }
        Some(Ok(length))
    }
}
