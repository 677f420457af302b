// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections: the messages of the communication manager (IBTA 12), from id to id.

use std::time::Duration;

use super::abi::{event, qp_type, rej, room, sidr};
use super::events::Told;
use super::id::{Cm, Id, IdRef, Message, PrivateData, Request, State, Terms};
use super::{Manager, Timer};
use crate::{Errno, Result};

/// How long a message is repeated before nobody is thought to be there: 16 times, each as long as Linux waits
/// for an answer over RoCE (`CMA_CM_RESPONSE_TIMEOUT`, `CMA_IBOE_PACKET_LIFETIME`).
const UNANSWERED: Duration = Duration::from_millis(16 * (4096 + 2 * 256));

/// `RDMA_UDP_QKEY`.
pub const UDP_QKEY: u32 = 0x0123_4567;

/// A time of InfiniBand's, 4.096 µs · 2^n, as Linux rounds it.
fn time(exponent: u8) -> Duration {
    Duration::from_millis(1 << exponent.saturating_sub(8).min(31))
}

impl PrivateData {
    /// What a program passes, of a message that has room for this much.
    pub fn new(data: &[u8; 256], length: u8, room: usize) -> Result<Self> {
        let data = data.get(..length.into()).filter(|data| data.len() <= room);
        let data = data.ok_or(Errno(libc::EINVAL))?;
        Ok(Self(data.to_vec()))
    }
}

impl Id {
    /// Whether requests of this one's go to another queue pair's owner at once, with no connection.
    fn is_datagram(&self) -> bool {
        self.qp_type == qp_type::UD
    }

    /// The room for a program's private data in a request.
    pub fn request_room(&self, room: usize) -> usize {
        match self.src {
            Some(super::address::Address::Ib(_)) => room,
            _ => room - room::ADDRESSES,
        }
    }

    /// The local ACK timeout (IBTA 12.7.34).
    pub fn ack_timeout(&self) -> u8 {
        let of_path = self.path.map_or(0, |path| path.packet_life_time + 1);
        self.ack_timeout.unwrap_or(of_path).min(31)
    }
}

impl Manager {
    fn post(&mut self, to: Option<IdRef>, message: Message) {
        if let Some(to) = to {
            self.mail.push_back((to, message));
        }
    }

    /// Has all messages arrive. Each is answered by few, and the answers by none: that ends.
    pub(super) fn deliver(&mut self) {
        while let Some((to, message)) = self.mail.pop_front() {
            // A sender to an id that has gone has been told of its end already.
            if self.id_at(to).is_some() {
                self.receive(to.number, message);
            }
        }
    }

    /// Connect, of a connection.
    pub(super) fn connect(&mut self, number: usize, data: PrivateData) -> Result<()> {
        let from = self.reference(number);
        let id = &mut self.ids[number];
        let is_datagram = id.is_datagram();
        if !is_datagram && ![qp_type::RC, qp_type::UC].contains(&id.qp_type) {
            return Err(Errno(libc::EINVAL));
        }
        let (Some(src), Some(dst), Some(path)) = (id.src, id.dst, id.path) else {
            return Err(Errno(libc::EINVAL));
        };
        id.cm = Some(match is_datagram {
            true => Cm::SidrReqSent,
            false => Cm::ReqSent,
        });
        let request = Request {
            from,
            ps: id.ps,
            qp_type: id.qp_type,
            src,
            dst,
            path,
            qp_num: id.qp_num,
            psn: id.psn,
            terms: Terms {
                srq: id.srq,
                ..id.terms
            },
            private_data: data,
            ece: id.ece,
        };
        self.request(request);
        Ok(())
    }

    /// Whether the id of a request still waits for an answer to it.
    fn is_asking(&mut self, request: &Request) -> bool {
        let id = self.id_at(request.from);
        id.is_some_and(|id| matches!(id.cm, Some(Cm::ReqSent | Cm::SidrReqSent)))
    }

    /// A request looks for a listener.
    pub(super) fn request(&mut self, request: Request) {
        if !self.is_asking(&request) {
            return;
        }
        let owners = self.ports.owners(request.ps, request.dst.port()).to_vec();
        let listens = |id: &Id| id.state == State::Listen;
        let mut listeners = owners.iter().filter(|number| listens(&self.ids[**number]));
        if listeners.clone().next().is_none() {
            return self.refuse(&request, rej::INVALID_SERVICE_ID, sidr::UNSUPPORTED);
        }
        let matching = listeners.find(|number| is_meant(&self.ids[**number], &request));
        let Some(&listener) = matching else {
            return self.refuse(&request, rej::CONSUMER_DEFINED, sidr::REJECT);
        };
        let id = &mut self.ids[listener];
        if id.qp_type != request.qp_type && id.qp_type != 0 {
            return self.refuse(&request, rej::CONSUMER_DEFINED, sidr::REJECT);
        }
        if id.backlog == 0 {
            if request.qp_type == qp_type::UD {
                return self.refuse(&request, rej::CONSUMER_DEFINED, sidr::REJECT);
            }
            // It would be repeated, until there is room for it.
            let from = request.from.number;
            id.waiting.push_back(request);
            return self.set_timer(from, UNANSWERED, Timer::Request);
        }
        self.take_request(listener, request);
    }

    fn refuse(&mut self, request: &Request, reason: u8, status: u32) {
        let message = match request.qp_type {
            qp_type::UD => Message::SidrRep {
                status,
                qp_num: 0,
                qkey: 0,
                private_data: PrivateData::default(),
            },
            _ => Message::Rej {
                reason,
                private_data: PrivateData::default(),
            },
        };
        self.post(Some(request.from), message);
    }

    /// The program has taken a request: there is room for another.
    pub(super) fn take_waiting(&mut self, listener: usize) {
        while let Some(id) = self.ids.get_mut(listener).filter(|id| id.backlog > 0) {
            let Some(request) = id.waiting.pop_front() else {
                return;
            };
            if self.is_asking(&request) {
                self.take_request(listener, request);
            }
        }
    }

    /// Makes an id of a request.
    fn take_request(&mut self, listener: usize, request: Request) {
        let (channel, ps) = (self.ids[listener].channel, self.ids[listener].ps);
        let own = request.dst;
        let link = own.link().unwrap_or_default();
        let file = self.files.get(&channel);
        let found = file.and_then(|file| file.devices.find(&own, link));
        // A program that does not have the address.
        let Some(device) = found else {
            return self.refuse(&request, rej::CONSUMER_DEFINED, sidr::REJECT);
        };
        let Ok(number) = self.create(channel, 0, ps, request.qp_type) else {
            return self.refuse(&request, rej::CONSUMER_DEFINED, sidr::REJECT);
        };
        let reference = self.reference(number);
        let is_datagram = request.qp_type == qp_type::UD;
        let id = &mut self.ids[number];
        id.state = State::Connect;
        id.cm = Some(match is_datagram {
            true => Cm::SidrReqRcvd,
            false => Cm::ReqRcvd,
        });
        (id.src, id.dst) = (Some(own), Some(request.src));
        id.device = Some(device);
        id.peer = Some(request.from);
        if !is_datagram {
            id.path = Some(request.path.reversed());
            id.remote_qpn = request.qp_num;
            id.remote_psn = request.psn;
            id.terms = request.terms.of_peer();
        }
        self.ids[listener].backlog -= 1;
        if let Some(from) = self.id_at(request.from) {
            from.peer = Some(reference);
        }
        let data = &request.private_data.0;
        let room = |room| self.ids[listener].request_room(room);
        let told = match is_datagram {
            true => Told::datagrams(super::abi::zeroed(), 0, 0, data, room(room::SIDR_REQ)),
            false => {
                let terms = request.terms.of_peer();
                Told::connection(terms, request.qp_num, data, room(room::REQ))
            }
        };
        let ece = if is_datagram {
            super::abi::zeroed()
        } else {
            request.ece
        };
        self.raise_request(listener, number, Told { ece, ..told });
    }

    /// Accept, of a request: REP.
    pub(super) fn reply(&mut self, number: usize, terms: Terms, data: PrivateData) -> Result<()> {
        let from = self.reference(number);
        let id = &mut self.ids[number];
        if id.cm != Some(Cm::ReqRcvd) {
            return Err(Errno(libc::EINVAL));
        }
        id.cm = Some(Cm::RepSent);
        id.terms = Terms {
            responder_resources: terms.responder_resources,
            initiator_depth: terms.initiator_depth,
            ..id.terms
        };
        let (to, message) = (
            id.peer,
            Message::Rep {
                from,
                qp_num: id.qp_num,
                psn: id.psn,
                terms: Terms {
                    srq: id.srq,
                    ..terms
                },
                private_data: data,
                ece: id.ece,
            },
        );
        self.post(to, message);
        Ok(())
    }

    /// Accept, of a reply: RTU.
    pub(super) fn ready(&mut self, number: usize) -> Result<()> {
        let id = &mut self.ids[number];
        if id.cm != Some(Cm::RepRcvd) {
            return Err(Errno(libc::EINVAL));
        }
        id.cm = Some(Cm::Established);
        let to = id.peer;
        self.post(to, Message::Rtu);
        Ok(())
    }

    /// Accept, of a request for a queue pair, or Reject: SIDR_REP.
    pub(super) fn reply_sidr(
        &mut self,
        number: usize,
        status: u32,
        qkey: u32,
        data: PrivateData,
    ) -> Result<()> {
        let id = &mut self.ids[number];
        if status == sidr::SUCCESS {
            if qkey != 0 && id.qkey != 0 && id.qkey != qkey {
                return Err(Errno(libc::EINVAL));
            }
            id.qkey = if qkey != 0 { qkey } else { UDP_QKEY };
        }
        if id.cm != Some(Cm::SidrReqRcvd) {
            return Err(Errno(libc::EINVAL));
        }
        id.cm = Some(Cm::Idle);
        let is_given = status == sidr::SUCCESS;
        let (to, message) = (
            id.peer,
            Message::SidrRep {
                status,
                qp_num: if is_given { id.qp_num } else { 0 },
                qkey: if is_given { id.qkey } else { 0 },
                private_data: data,
            },
        );
        self.post(to, message);
        Ok(())
    }

    /// Reject: REJ.
    pub(super) fn reject(&mut self, number: usize, reason: u8, data: PrivateData) -> Result<()> {
        let id = &mut self.ids[number];
        match id.cm {
            Some(Cm::ReqSent | Cm::ReqRcvd | Cm::RepRcvd) => id.cm = Some(Cm::Idle),
            Some(Cm::RepSent) => self.enter_timewait(number),
            _ => return Err(Errno(libc::EINVAL)),
        }
        let to = self.ids[number].peer;
        let private_data = data;
        self.post(
            to,
            Message::Rej {
                reason,
                private_data,
            },
        );
        Ok(())
    }

    /// Disconnect: DREQ, or DREP to the peer's.
    pub(super) fn disconnect(&mut self, number: usize) {
        let id = &mut self.ids[number];
        let to = id.peer;
        match id.cm {
            Some(Cm::Established) => {
                id.cm = Some(Cm::DreqSent);
                self.set_timer(number, UNANSWERED, Timer::Disconnect);
                self.post(to, Message::Dreq);
                if to.is_none_or(|to| self.id_at(to).is_none()) {
                    // An end that knows nothing of a connection confirms that it has ended.
                    let own = self.reference(number);
                    self.post(Some(own), Message::Drep);
                }
            }
            Some(Cm::DreqRcvd) => {
                self.enter_timewait(number);
                self.post(to, Message::Drep);
            }
            _ => {}
        }
    }

    /// Notify: the queue pair has had a message, so RTU has been sent.
    pub(super) fn establish(&mut self, number: usize) -> Result<()> {
        let id = &mut self.ids[number];
        match id.cm {
            Some(Cm::RepSent) => {
                id.cm = Some(Cm::Established);
                if id.state == State::Connect {
                    self.raise(number, event::ESTABLISHED, Told::nothing());
                }
                Ok(())
            }
            Some(Cm::Established) => Err(Errno(libc::EISCONN)),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// An id goes: its peer is told.
    pub(super) fn end_connection(&mut self, number: usize) {
        let id = &self.ids[number];
        let (cm, peer) = (id.cm, id.peer);
        let rejected = |reason| Message::Rej {
            reason,
            private_data: PrivateData::default(),
        };
        match cm {
            Some(Cm::ReqSent) => self.post(peer, rejected(rej::TIMEOUT)),
            Some(Cm::ReqRcvd | Cm::RepSent | Cm::RepRcvd) => {
                self.post(peer, rejected(rej::CONSUMER_DEFINED));
            }
            Some(Cm::Established) => self.post(peer, Message::Dreq),
            Some(Cm::DreqRcvd) => self.post(peer, Message::Drep),
            Some(Cm::SidrReqRcvd) => {
                // It fails if another has answered, and then there is nobody to tell.
                let _ = self.reply_sidr(number, sidr::REJECT, 0, PrivateData::default());
            }
            _ => {}
        }
    }

    fn enter_timewait(&mut self, number: usize) {
        let id = &mut self.ids[number];
        id.cm = Some(Cm::Timewait);
        let time = time(id.path.map_or(0, |path| path.packet_life_time + 1));
        self.set_timer(number, time, Timer::Timewait);
    }

    fn end(&mut self, number: usize, status: i32) {
        let id = &mut self.ids[number];
        if id.state == State::Connect {
            id.state = State::Disconnect;
            self.raise(number, event::DISCONNECTED, Told::status(status));
        }
    }

    /// A message has come to an id.
    fn receive(&mut self, number: usize, message: Message) {
        let id = &mut self.ids[number];
        let cm = id.cm;
        match (message, cm) {
            (
                Message::Rep {
                    from,
                    qp_num,
                    psn,
                    terms,
                    private_data,
                    ece,
                },
                Some(Cm::ReqSent),
            ) => {
                id.cm = Some(Cm::RepRcvd);
                id.peer = Some(from);
                id.remote_qpn = qp_num;
                id.remote_psn = psn;
                let terms = terms.of_peer();
                id.terms = Terms {
                    retry_count: id.terms.retry_count,
                    ..terms
                };
                let data = &private_data.0;
                // A reply does not have it.
                let terms = Terms {
                    retry_count: 0,
                    ..terms
                };
                let told = Told::connection(terms, qp_num, data, room::REP);
                self.raise(number, event::CONNECT_RESPONSE, Told { ece, ..told });
            }
            (Message::Rtu, Some(Cm::RepSent)) => {
                id.cm = Some(Cm::Established);
                self.raise(number, event::ESTABLISHED, Told::nothing());
            }
            (
                Message::Rej {
                    reason,
                    private_data,
                },
                Some(cm),
            ) => {
                self.receive_rejection(number, cm, reason, &private_data);
            }
            (Message::Dreq, Some(Cm::RepSent | Cm::Established | Cm::DreqSent)) => {
                id.cm = Some(Cm::DreqRcvd);
                self.end(number, 0);
            }
            (Message::Drep, Some(Cm::DreqSent | Cm::DreqRcvd)) => {
                self.enter_timewait(number);
                self.end(number, 0);
            }
            (
                Message::SidrRep {
                    status,
                    qp_num,
                    qkey,
                    private_data,
                },
                Some(Cm::SidrReqSent),
            ) => {
                id.cm = Some(Cm::Idle);
                let data = &private_data.0;
                let path = id.path.filter(|_| status == sidr::SUCCESS);
                let (Some(path), Some((_, index))) = (path, &id.device) else {
                    let told = Told::datagrams(super::abi::zeroed(), 0, 0, data, room::SIDR_REP);
                    let status = status.cast_signed();
                    return self.raise(number, event::UNREACHABLE, Told { status, ..told });
                };
                if qkey == 0 || id.qkey != 0 && id.qkey != qkey {
                    let told = Told::status(-libc::EINVAL);
                    return self.raise(number, event::ADDR_ERROR, told);
                }
                let ah_attr = path.ah_attr(*index);
                id.qkey = qkey;
                let told = Told::datagrams(ah_attr, qp_num, qkey, data, room::SIDR_REP);
                self.raise(number, event::ESTABLISHED, told);
            }
            // One that has come too late.
            _ => {}
        }
    }

    fn receive_rejection(&mut self, number: usize, cm: Cm, reason: u8, data: &PrivateData) {
        let id = &mut self.ids[number];
        match cm {
            Cm::ReqSent | Cm::RepSent | Cm::ReqRcvd => id.cm = Some(Cm::Idle),
            Cm::DreqSent | Cm::RepRcvd | Cm::Established => self.enter_timewait(number),
            _ => return,
        }
        if self.ids[number].state == State::Connect {
            let told = Told::connection(Terms::default(), 0, &data.0, room::REJ);
            let status = reason.into();
            self.raise(number, event::REJECTED, Told { status, ..told });
        }
    }

    /// A time has come.
    pub(super) fn expire(&mut self, number: usize, timer: Timer) {
        let id = &mut self.ids[number];
        match timer {
            Timer::Address => self.address_timed_out(number),
            // As long as nobody has taken the request it has no peer.
            Timer::Request if id.cm == Some(Cm::ReqSent) && id.peer.is_none() => {
                id.cm = Some(Cm::Idle);
                self.raise(number, event::UNREACHABLE, Told::status(-libc::ETIMEDOUT));
            }
            Timer::Disconnect if id.cm == Some(Cm::DreqSent) => {
                self.enter_timewait(number);
                self.end(number, -libc::ETIMEDOUT);
            }
            Timer::Timewait if id.cm == Some(Cm::Timewait) => {
                id.cm = Some(Cm::Idle);
                if id.state == State::Disconnect {
                    self.raise(number, event::TIMEWAIT_EXIT, Told::nothing());
                }
            }
            _ => {}
        }
    }
}

/// Whether a listener's address is the one that a request is for.
fn is_meant(listener: &Id, request: &Request) -> bool {
    let Some(src) = listener.src else {
        return false;
    };
    match src {
        super::address::Address::Ib(_) => true,
        _ if src.is_any() && !listener.afonly => true,
        _ if !src.is_like(&request.dst) => false,
        _ => src.is_any() || src.is_same_host(&request.dst),
    }
}
