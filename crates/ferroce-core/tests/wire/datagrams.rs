// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams between several QPs, on some hosts and over random networks: who gets them, and how often.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};

use fastrand::Rng;
use ferroce_core::local::{
    Arrived, Datagram, Delivery, Extra, Fault, Received, RegionList, Source,
};
use ferroce_core::qp::QpAttr;
use ferroce_core::requester::Host;
use ferroce_core::ring::{Destination, Operation, Origin, Payload, SendRequest, Sge};
use ferroce_core::verbs::limits::{datagram_qkey, GRH_LENGTH, QKEY_CONTROLLED};
use ferroce_core::verbs::{ImmData, Mtu, QpType, SendFlags, WcOpcode, WcStatus};
use ferroce_core::wire::{Headers, Packet, Psn, Service, MAX_HEADERS_LEN};

use crate::agenda::Agenda;
use crate::front::{Front, INLINE, LKEY, SEND_ENTRIES};
use crate::layout::{pieces, post_receive, Layout, RECEIVES, UNTOUCHED};
use crate::memory::Memory;
use crate::network::{Conditions, Frame, Path, Time};
use crate::simulator::{over_seeds, panicked, Outcome, REQUESTS};

/// The longest time that passes until a program posts again, or a page is there.
const SOON: Time = 20_000;

/// Two, so that a wrong one is often the right one of somebody else.
const QKEYS: [u32; 2] = [0x1111, 0x2222];

const GRH: usize = GRH_LENGTH as usize;

/// A datagram as it was asked for.
struct Message {
    from: usize,
    to: u32,
    qkey: u32,
    data: Vec<u8>,
    extra: Extra,
    solicited: bool,
    /// How the request has to end.
    status: WcStatus,
}

/// A QP, and what its program still asks for.
struct Endpoint {
    front: Front,
    layout: Layout,
    qkey: u32,
    host: u32,
    left: u32,
    sent: u32,
    /// The messages of requests that are posted and not done.
    under_way: VecDeque<usize>,
}

enum Event {
    /// The program posts, or what could not be sent is tried again.
    Kick,
    PostReceive(usize),
    /// A copy of a message.
    Arrives(Frame, usize),
}

struct World {
    endpoints: Vec<Endpoint>,
    mtu: u32,
    conditions: Conditions,
    paths: BTreeMap<(usize, u32), Path>,
    /// Pages may be missing.
    may_be_later: bool,
    rng: Rng,
    agenda: Agenda<Event>,
    messages: Vec<Message>,
    packets: u64,
}

type Verdict = Result<(), String>;

/// What a receiver finds in front of a datagram: not looked at on the way, and so whatever tells the sender.
fn grh(from: usize) -> [u8; GRH] {
    [0xa0 + from as u8; GRH]
}

impl World {
    fn new(mut rng: Rng, trace: bool) -> Self {
        let mtu = Mtu::ALL[rng.usize(..Mtu::ALL.len())];
        let layout = Layout {
            mtu: mtu.bytes() as usize,
            // There are receives that are too small for some, with an MTU of 4096.
            longest: mtu.bytes() as usize,
        };
        let may_be_later = rng.u32(..4) == 0;
        let count = rng.u32(2..=5);
        let endpoints = (0..count).map(|number| {
            let memory = Memory::new(vec![0; layout.len()], if may_be_later { 61 } else { 0 });
            let mut source = vec![0; layout.area()];
            rng.fill(&mut source);
            memory.put(layout.source(), &source);
            let attr = QpAttr {
                path_mtu: mtu,
                ..QpAttr::new()
            };
            Endpoint {
                front: Front::new(QpType::Ud, &attr, memory),
                layout,
                qkey: QKEYS[rng.usize(..2)],
                host: if rng.bool() { 0 } else { number },
                left: REQUESTS / count,
                sent: 0,
                under_way: VecDeque::new(),
            }
        });
        Self {
            endpoints: endpoints.collect(),
            mtu: mtu.bytes(),
            conditions: Conditions::random(&mut rng),
            paths: BTreeMap::new(),
            may_be_later,
            rng,
            agenda: Agenda::new(trace),
            messages: Vec::new(),
            packets: 0,
        }
    }

    fn soon(&mut self, qp: usize, event: Event) {
        let time = self.agenda.now + self.rng.u64(1..SOON);
        self.agenda.at(time, qp, event);
    }

    fn run(&mut self) -> Verdict {
        for qp in 0..self.endpoints.len() {
            for number in 0..RECEIVES {
                self.agenda.at(0, qp, Event::PostReceive(number));
            }
            self.agenda.at(0, qp, Event::Kick);
        }
        while let Some((qp, event)) = self.agenda.next() {
            let verdict = match event {
                Event::Kick => self.kick(qp),
                Event::PostReceive(number) => {
                    let own = &self.endpoints[qp];
                    post_receive(&own.front, &own.layout, number, &mut self.rng);
                    Ok(())
                }
                Event::Arrives(frame, message) => self.arrives(qp, &frame, message),
            };
            verdict.map_err(|what| format!("qp {qp}: {what}"))?;
        }
        let is_done = |own: &Endpoint| own.left == 0 && own.under_way.is_empty();
        match self.endpoints.iter().position(|own| !is_done(own)) {
            Some(qp) => Err(format!("qp {qp} hangs")),
            None => Ok(()),
        }
    }

    fn kick(&mut self, qp: usize) -> Verdict {
        for _ in 0..self.rng.u32(1..=4) {
            let own = &self.endpoints[qp];
            if own.left > 0 && own.under_way.len() < SEND_ENTRIES as usize {
                self.post(qp);
            }
        }
        while let Some(&message) = self.endpoints[qp].under_way.front() {
            let Some(status) = self.send(qp, message)? else {
                break;
            };
            // The completion: there is one for each request, in order.
            let own = &mut self.endpoints[qp];
            own.under_way.pop_front();
            own.sent += 1;
            let expected = self.messages[message].status;
            if status != expected {
                return Err(format!("{message} ends with {status:?}, not {expected:?}"));
            }
        }
        let own = &self.endpoints[qp];
        if own.left > 0 || !own.under_way.is_empty() {
            self.soon(qp, Event::Kick);
        }
        Ok(())
    }

    fn post(&mut self, qp: usize) {
        let rng = &mut self.rng;
        // To itself, to one that does not exist, and mostly to the others.
        let to = rng.u32(..=self.endpoints.len() as u32);
        let of_the_sender = self.endpoints[qp].qkey;
        let remote_qkey = match rng.u32(..8) {
            // A Q_Key with this bit stands for the sender's own (IBTA 10.2).
            0 => QKEY_CONTROLLED | rng.u32(..),
            1 => QKEYS[rng.usize(..2)],
            _ => self.endpoints.get(to as usize).map_or(0, |peer| peer.qkey),
        };
        let qkey = match remote_qkey >> 31 {
            0 => remote_qkey,
            _ => of_the_sender,
        };
        let own = &mut self.endpoints[qp];
        own.left -= 1;
        let longest = self.mtu as usize;
        let length = match rng.u32(..4) {
            0 => 0,
            1 => rng.usize(..=INLINE as usize),
            2 => longest - rng.usize(..4),
            _ => rng.usize(..=longest),
        };
        let at = own.layout.source() + rng.usize(..=own.layout.area() - length);
        let mut sges = pieces(at, length, rng);
        let data = own.front.queues.memory.get(at, length);
        let imm = rng.bool().then(|| ImmData(rng.u32(..).to_ne_bytes()));
        let solicited = rng.bool();
        let number = self.messages.len();
        let mut status = WcStatus::Success;
        if rng.u32(..32) == 0 {
            let whole = Sge {
                addr: crate::memory::BASE,
                length: self.mtu,
                lkey: LKEY,
            };
            (sges, status) = match rng.bool() {
                true => (vec![whole, Sge { length: 1, ..whole }], WcStatus::LocLenErr),
                false => (vec![Sge { lkey: 0, ..whole }], WcStatus::LocProtErr),
            };
        }
        let request = SendRequest {
            wr_id: number as u64,
            flags: match solicited {
                true => SendFlags::SOLICITED,
                false => SendFlags::EMPTY,
            },
            operation: imm.map_or(Operation::Send, Operation::SendImm),
            destination: Some(Destination {
                ah: 0,
                remote_qpn: to,
                remote_qkey,
                pkey_index: 0,
            }),
        };
        if status == WcStatus::Success && length <= INLINE as usize && rng.bool() {
            own.front.post(&request, Payload::Inline(&[&data]));
        } else {
            own.front.post(&request, Payload::Sges(&sges));
        }
        own.under_way.push_back(number);
        let line = format!("posts {number}: {length} bytes to {to}, Q_Key {qkey:#x}, {status:?}");
        self.messages.push(Message {
            from: qp,
            to,
            qkey,
            data,
            extra: imm.map_or(Extra::None, Extra::Immediate),
            solicited,
            status,
        });
        self.agenda.note(qp, || line);
    }

    /// Sends a message, to the same host or by the network. Returns how the request ended; nothing if it has
    /// to wait for memory.
    fn send(&mut self, qp: usize, number: usize) -> Result<Option<WcStatus>, String> {
        let own = &self.endpoints[qp];
        let queues = &own.front.queues;
        let entry = queues.entry(own.sent % SEND_ENTRIES);
        let (request, data) = SendRequest::decode(entry, QpType::Ud, Origin::User)
            .map_err(|error| format!("{number} cannot be decoded: {error:?}"))?;
        let to = request.destination.ok_or("a datagram to nobody")?;
        let (qkey, source) = (
            datagram_qkey(to.remote_qkey, own.qkey),
            Source {
                qpn: qp as u32,
                grh: grh(qp),
            },
        );
        let mut list = RegionList::new();
        let datagram = match Datagram::new(&request, data, queues, self.mtu, source, &mut list) {
            Ok(datagram) => datagram,
            Err(status) => return Ok(Some(status)),
        };
        let peer = self.endpoints.get(to.remote_qpn as usize);
        if let Some(peer) = peer.filter(|peer| peer.host == own.host && !self.may_be_later) {
            let fits = self.fits(to.remote_qpn as usize, number);
            let delivered =
                qkey == peer.qkey && datagram.deliver(&peer.front.queues) == Delivery::Done;
            return self
                .judge(to.remote_qpn as usize, number, delivered, fits)
                .map(|()| Some(WcStatus::Success));
        }
        let mut buffer = vec![0; MAX_HEADERS_LEN + self.mtu as usize];
        let emitted = datagram.emit(to.remote_qpn, qkey, Psn::new(own.sent), &mut buffer);
        match emitted.map_err(|error| format!("{number} is too long: {error:?}"))? {
            Err(Fault::Later) => return Ok(None),
            Err(fault) => return Err(format!("{number}: {fault:?}")),
            Ok(length) => buffer.truncate(length),
        }
        self.packets += 1;
        let path = self.paths.entry((qp, to.remote_qpn)).or_default();
        let copies = path.send(
            self.agenda.now,
            Frame::new(&buffer),
            &self.conditions,
            &mut self.rng,
        );
        self.agenda.note(qp, || {
            format!("sends {number}: {} copies arrive", copies.len())
        });
        for (arrival, frame) in copies {
            self.agenda.at(
                arrival,
                to.remote_qpn as usize,
                Event::Arrives(frame, number),
            );
        }
        Ok(Some(WcStatus::Success))
    }

    /// Whether there is a receive that a message fits in.
    fn fits(&self, qp: usize, number: usize) -> bool {
        let own = &self.endpoints[qp];
        let is_there = !own.front.queues.receives.borrow().is_empty();
        is_there && GRH + self.messages[number].data.len() <= own.layout.area()
    }

    fn arrives(&mut self, qp: usize, frame: &Frame, number: usize) -> Verdict {
        let Some(own) = self.endpoints.get(qp) else {
            return Ok(());
        };
        let Some(bytes) = frame.packet() else {
            self.agenda
                .note(qp, || format!("drops {number}: its ICRC is wrong"));
            return Ok(());
        };
        let packet = Packet::parse(bytes).map_err(|error| format!("{error:?}"))?;
        let (Headers::Deth(deth) | Headers::DethImm(deth, _)) = packet.headers else {
            return Err(format!("{number} has no DETH: {:?}", packet.headers));
        };
        let bth = &packet.bth;
        if bth.opcode.service() != Service::Ud || bth.dest_qp as usize != qp {
            return Err(format!("{number} came here as {bth:?}"));
        }
        let from = self.messages[number].from;
        let arrived = Arrived::new(&packet, grh(from)).ok_or("no datagram")?;
        let fits = self.fits(qp, number);
        let delivered = deth.qkey == own.qkey && arrived.deliver(&own.front.queues);
        self.judge(qp, number, delivered, fits)
    }

    /// Judges what has come of a message, or of a copy.
    fn judge(&mut self, qp: usize, number: usize, delivered: bool, fits: bool) -> Verdict {
        let (own, message) = (&self.endpoints[qp], &self.messages[number]);
        let received = own.front.queues.received.borrow_mut().pop_front();
        let may = message.to as usize == qp
            && message.qkey == own.qkey
            && message.status == WcStatus::Success
            && fits;
        // It is dropped for a reason alone.
        if delivered != may && !(may && self.may_be_later) {
            return Err(format!("{number}: delivered is {delivered}"));
        }
        let expected = delivered.then(|| Received {
            wr_id: received.map_or(0, |received| received.wr_id),
            status: WcStatus::Success,
            opcode: WcOpcode::Recv,
            byte_len: (GRH + message.data.len()) as u32,
            extra: message.extra,
            solicited: message.solicited,
            source: Some(Source {
                qpn: message.from as u32,
                grh: grh(message.from),
            }),
        });
        if received != expected || own.front.queues.failed.get().is_some() {
            return Err(format!("{number}: {received:?}, not {expected:?}"));
        }
        self.agenda
            .note(qp, || format!("gets {number}: delivered is {delivered}"));
        let Some(received) = received else {
            return Ok(());
        };
        let (own, message) = (&self.endpoints[qp], &self.messages[number]);
        let mut bytes = grh(message.from).to_vec();
        bytes.extend(&message.data);
        if !self.may_be_later {
            // One that was lost half-way may have left something.
            bytes.resize(own.layout.area(), UNTOUCHED);
        }
        let at = own.layout.receive(received.wr_id as usize);
        if !own.front.queues.memory.is(at, &bytes) {
            return Err(format!("{number} is wrong in receive {}", received.wr_id));
        }
        self.soon(qp, Event::PostReceive(received.wr_id as usize));
        Ok(())
    }
}

fn run(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(Rng::with_seed(seed), trace);
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(panicked);
    let result = result.map(|()| (world.messages.len() as u64, world.packets));
    (result, world.agenda.take_trace())
}

#[test]
fn every_datagram_comes_whole_to_whom_it_is_for_or_not_at_all() {
    over_seeds("every_datagram", run);
}
