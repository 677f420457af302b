// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs whose peer is on another host, and packets that arrive.

use std::cell::{Cell, RefCell};

use ferroce_core::local::Arrived;
use ferroce_core::requester::Slot as SendSlot;
use ferroce_core::responder::{Resource, Responder};
use ferroce_core::ring::{Idle, Origin, Returner};
use ferroce_core::verbs::{QpState, QpType};
use ferroce_core::wire::{Kind, Packet};
use ferroce_device::arrival::{self, Arrival};
use ferroce_device::attrs::Attrs;
use ferroce_device::counter::PortCounter;
use ferroce_device::remote::{Identity, Next, RemoteSend};
use ferroce_device::transmit::{self, Batch, Flow, Stopped};

use crate::host::{Bytes, DEPTH};
use crate::network;
use crate::own::{Own, Range};
use crate::queue_pair::Qp;
use crate::world::{gid, Caller, World};

pub struct Connection {
    peer_host: usize,
    pub send: RefCell<RemoteSend<Box<[SendSlot]>, Bytes, Range>>,
    pub returner: RefCell<Returner>,
    pub responder: RefCell<Responder<Box<[Resource]>, Range>>,
    /// The last visit was told of a request of this host's alone, and has left it to the next one.
    has_left_local: Cell<bool>,
}

/// What happens to messages that may be lost, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// The message was sent.
    Sent(usize),
    /// It has arrived at a host: as often as it was duplicated, and in any order.
    Arrived(usize, usize),
}

impl Connection {
    pub fn new(qp: &Qp, peer_host: usize) -> Self {
        let attr = qp.attrs.borrow().attr;
        let (_, queue, _) = &*qp.send.borrow();
        let size = queue.ring.geometry();
        let qp_type = qp.kind.qp_type;
        let identity = Identity {
            number: qp.number,
            qp_type,
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
            responder: RefCell::new(Responder::new(qp_type, &attr, resources)),
            has_left_local: Cell::new(false),
        }
    }
}

impl World {
    /// A message goes by the wire that may be lost. Returns its number.
    pub fn emitted(&self) -> usize {
        let id = self.messages.get();
        self.messages.set(id + 1);
        self.log.borrow_mut().push(Logged::Sent(id));
        id
    }

    /// A queue pair begins to send. Some packets of old come before.
    pub fn begin(&self) {
        let late = self.network.borrow_mut().begin();
        for packet in late {
            self.deliver(&packet);
        }
    }

    /// Delivers what is under way.
    pub fn deliver_all(&self) {
        loop {
            let arrived = self.network.borrow_mut().receive();
            match arrived {
                Some(packet) => self.deliver(&packet),
                None => return,
            }
        }
    }

    /// Sends what a queue pair has posted. Returns whether all is answered: otherwise the peer has no receive.
    pub fn send_all(&self, qp: &Qp) -> bool {
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
                self.follow(qp, connection);
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
        let mut link = self.link(qp, connection);
        let next = send.visit(self.now.get(), state, &own, &mut link);
        went_on |= link.went_on || matches!(next, Next::More | Next::Busy);
        match next {
            // As a bottom half does, which cannot execute it.
            Next::Local(..) if !connection.has_left_local.replace(true) => went_on = true,
            Next::Local(slot, operation) => {
                connection.has_left_local.set(false);
                let result = self.execute_alone(qp, &operation).unwrap();
                send.executed(slot, result, &own);
                went_on = true;
            }
            Next::Later => panic!("no memory is missing here"),
            Next::Idle | Next::More | Next::Busy => {}
        }
        if send.has_drained(state) {
            self.change(qp, Caller::Executor, Attrs::drained);
        }
        if !went_on {
            let returned = connection.returner.borrow().position();
            went_on = send.sleep(queue, returned).unwrap() == Idle::Work;
        }
        drop(send);
        self.follow(qp, connection) || went_on
    }

    /// Does what follows if a request has failed. Returns whether one has.
    fn follow(&self, qp: &Qp, connection: &Connection) -> bool {
        let effects = connection.send.borrow_mut().take_effects();
        self.carry_out(qp, Caller::Executor, effects);
        !effects.is_empty()
    }

    fn send(&self, qp: &Qp, peer_host: usize, bytes: &[u8]) {
        let kind = Packet::parse(bytes).unwrap().bth.opcode.kind();
        // All messages are short: one packet each.
        let message = (qp.kind.qp_type == QpType::Uc).then(|| self.emitted());
        self.network.borrow_mut().send(network::Packet {
            from: qp.process.host,
            to: peer_host,
            bytes: bytes.to_vec(),
            // What a queue pair says that goes to ERR by it. If that is lost, its peer tries in vain.
            is_final: qp.state() == QpState::Err,
            // The key of a READ that comes again is checked again, and may be another one's by then.
            is_short_lived: kind == Kind::ReadRequest,
            message,
            grh: None,
        });
    }

    /// A packet has arrived.
    fn deliver(&self, arrived: &network::Packet) {
        if let Some(id) = arrived.message {
            let here = Logged::Arrived(id, arrived.to);
            self.log.borrow_mut().push(here);
        }
        // Why one is dropped is not looked at: it has come to nothing.
        let _ = self.take(arrived);
    }

    fn take(&self, arrived: &network::Packet) -> Result<(), PortCounter> {
        let (packet, arrival) = Arrival::of(&arrived.bytes)?;
        let find = |number| {
            let found = self.find(arrived.to, number);
            found.ok_or(PortCounter::UnknownQp)
        };
        match arrival {
            Arrival::Nobody => Ok(()),
            Arrival::Connected(number) => {
                let qp = find(number)?;
                arrival::check_transport(qp.kind.qp_type, &packet.bth)?;
                self.take_connected(&qp, arrived, &packet)
            }
            Arrival::Datagram { qpn, qkey } => {
                self.take_datagram(&*find(qpn)?, arrived, &packet, qkey)
            }
            Arrival::Group { qkey } => {
                for member in self.hosts[arrived.to].members() {
                    // Who has another Q_Key is none of the group.
                    let _ = self.take_datagram(&*find(member)?, arrived, &packet, qkey);
                }
                Ok(())
            }
        }
    }

    fn take_datagram(
        &self,
        qp: &Qp,
        arrived: &network::Packet,
        packet: &Packet<'_>,
        qkey: u32,
    ) -> Result<(), PortCounter> {
        let terms = qp.attrs.borrow().takes_datagram(qp.kind.qp_type, qkey)?;
        let grh = arrived.grh.ok_or(PortCounter::Malformed)?;
        let datagram = Arrived::new(packet, grh).ok_or(PortCounter::Malformed)?;
        datagram.deliver(&Own {
            world: self,
            qp,
            terms,
        });
        Ok(())
    }

    fn take_connected(
        &self,
        qp: &Qp,
        arrived: &network::Packet,
        packet: &Packet<'_>,
    ) -> Result<(), PortCounter> {
        let is_response = packet.bth.opcode.kind().is_response();
        let terms = qp.attrs.borrow().takes_packet(is_response, |peer, own| {
            *peer == gid(arrived.from) && *own == gid(arrived.to)
        })?;
        let connection = qp.remote.borrow();
        let connection = connection.as_ref().ok_or(PortCounter::Ghosts)?;
        let own = Own {
            world: self,
            qp,
            terms,
        };
        if is_response {
            let mut send = connection.send.borrow_mut();
            send.take(self.now.get(), packet, &own);
            send.end_batch();
            drop(send);
            self.follow(qp, connection);
            return Ok(());
        }
        let mut responder = connection.responder.borrow_mut();
        responder.on_packet(packet, &own);
        loop {
            let mut link = self.link(qp, connection);
            let stopped = transmit::respond(qp.kind.qp_type, &mut responder, &own, &mut link);
            match stopped {
                Stopped::Idle => return Ok(()),
                Stopped::More | Stopped::Busy => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn link<'a>(&'a self, qp: &'a Qp, connection: &Connection) -> Link<'a> {
        Link {
            world: self,
            qp,
            peer_host: connection.peer_host,
            went_on: false,
        }
    }
}

/// The way from a queue pair to its peer's host.
struct Link<'a> {
    world: &'a World,
    qp: &'a Qp,
    peer_host: usize,
    /// Something was sent.
    went_on: bool,
}

/// Packets that go as one.
struct Together<'a, 'b> {
    link: &'a mut Link<'b>,
    length: usize,
    most: usize,
    packets: Vec<Vec<u8>>,
}

/// How many go as one at most.
const BATCH: usize = 2;

impl<'b> Flow for Link<'b> {
    type Batch<'a>
        = Together<'a, 'b>
    where
        Self: 'a;

    fn keeps_order(&mut self) -> bool {
        !self.world.network.borrow_mut().is_busy()
    }

    fn is_full(&self) -> bool {
        false
    }

    fn begin(&mut self, length: usize, count: u32) -> Option<Together<'_, 'b>> {
        // What nobody repeats is not lost before it is sent.
        let is_repeated = self.qp.kind.qp_type == QpType::Rc && self.qp.state() != QpState::Err;
        if is_repeated && self.world.network.borrow_mut().has_no_memory() {
            return None;
        }
        Some(Together {
            link: self,
            length,
            most: BATCH.min(count as usize),
            packets: Vec::new(),
        })
    }
}

impl Batch for Together<'_, '_> {
    fn count(&self) -> u32 {
        self.packets.len() as u32
    }

    fn has_room(&self) -> bool {
        let is_complete = self
            .packets
            .last()
            .is_some_and(|last| last.len() < self.length);
        !is_complete && self.packets.len() < self.most
    }

    fn add<R>(&mut self, fill: impl FnOnce(&mut [u8]) -> (Option<usize>, R)) -> R {
        let mut room = vec![0; self.length];
        let (length, result) = fill(&mut room);
        if let Some(length) = length {
            room.truncate(length);
            self.packets.push(room);
        }
        result
    }

    fn send(self) {
        self.link.went_on = true;
        for packet in self.packets {
            self.link
                .world
                .send(self.link.qp, self.link.peer_host, &packet);
        }
    }
}
