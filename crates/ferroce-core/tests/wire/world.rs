// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pairs of QPs and the network between them, in virtual time.

use fastrand::Rng;
use ferroce_core::requester::Transmit;
use ferroce_core::wire::Packet;

use crate::agenda::Agenda;
use crate::front::Front;
use crate::layout::{post_receive, Layout, RECEIVES};
use crate::network::{Conditions, Frame, Path, Time};
use crate::plan::Plan;

/// How long it takes until a page is there, or something of the host's own is done.
const SOON: Time = 20_000;

/// More than this is not patience any more: the two go on for ever.
const MOST_EVENTS: u64 = 20_000_000;

enum Event {
    Arrives(Frame),
    /// A timer, a page, or a program that wants to post.
    Kick,
    Executed(u32),
    PostReceive(usize),
}

/// A QP with what it is asked for.
pub struct Endpoint {
    pub front: Front,
    plan: Plan,
    layout: Layout,
    path: Path,
    conditions: Conditions,
    /// When its timer runs out.
    armed: Option<Time>,
}

impl Endpoint {
    pub fn new(front: Front, plan: Plan, layout: Layout, conditions: Conditions) -> Self {
        Self {
            front,
            plan,
            layout,
            path: Path::default(),
            conditions,
            armed: None,
        }
    }
}

/// All there is. Endpoints 2n and 2n + 1 are connected.
pub struct World {
    pub endpoints: Vec<Endpoint>,
    rng: Rng,
    agenda: Agenda<Event>,
    pub packets: u64,
}

type Verdict = Result<(), String>;

impl World {
    pub fn new(endpoints: Vec<Endpoint>, rng: Rng, trace: bool) -> Self {
        Self {
            endpoints,
            rng,
            agenda: Agenda::new(trace),
            packets: 0,
        }
    }

    /// What has happened, if that was wanted.
    pub fn take_trace(&mut self) -> Vec<String> {
        self.agenda.take_trace()
    }

    /// Runs until all is done, and judges it.
    pub fn run(&mut self) -> Verdict {
        for qp in 0..self.endpoints.len() {
            for number in 0..RECEIVES {
                self.agenda.at(0, qp, Event::PostReceive(number));
            }
            self.agenda.at(0, qp, Event::Kick);
        }
        while let Some((qp, event)) = self.agenda.next() {
            if self.agenda.count > MOST_EVENTS {
                return Err("it does not end".into());
            }
            self.happens(qp, event)
                .map_err(|what| format!("qp {qp}: {what}"))?;
        }
        for qp in 0..self.endpoints.len() {
            let (own, peer) = (&self.endpoints[qp], &self.endpoints[qp ^ 1]);
            if !own.plan.is_done() {
                return Err(format!("qp {qp} hangs: {} to be posted", own.plan.left));
            }
            own.plan
                .finish(&peer.front)
                .map_err(|what| format!("qp {qp}: {what}"))?;
        }
        Ok(())
    }

    fn happens(&mut self, qp: usize, event: Event) -> Verdict {
        match event {
            Event::Arrives(frame) => self.arrives(qp, &frame),
            Event::Kick => {
                let now = self.agenda.now;
                let own = &mut self.endpoints[qp];
                if own.armed.is_some_and(|armed| armed <= now) {
                    own.armed = None;
                }
                if self.rng.bool() {
                    own.front.requester.memory_ready();
                }
                let due = own.front.requester.next_deadline();
                if due.is_some_and(|due| due <= now) {
                    self.agenda.note(qp, || "its time is up".into());
                    let front = &mut self.endpoints[qp].front;
                    // If it gives up, that is judged by the completion.
                    front.requester.on_deadline(now, &front.queues);
                }
            }
            Event::Executed(slot) => {
                let front = &mut self.endpoints[qp].front;
                front.requester.executed(slot, Ok(()), &front.queues);
            }
            Event::PostReceive(number) => {
                let own = &self.endpoints[qp];
                post_receive(&own.front, &own.layout, number, &mut self.rng);
            }
        }
        self.serve(qp)
    }

    fn arrives(&mut self, qp: usize, frame: &Frame) {
        let Some(bytes) = frame.packet() else {
            self.agenda
                .note(qp, || "drops a packet: its ICRC is wrong".into());
            return;
        };
        // An ICRC that is right by chance would be a wonder.
        let packet = Packet::parse(bytes).expect("what was sent is a packet");
        let now = self.agenda.now;
        let verdict = self.endpoints[qp].front.on_packet(now, &packet);
        self.agenda
            .note(qp, || format!("gets {}: {verdict}", describe(&packet)));
    }

    /// Sends what there is to be sent, posts what there is room for, and judges what is complete.
    fn serve(&mut self, qp: usize) -> Verdict {
        loop {
            self.post(qp);
            self.transmit(qp);
            if !self.judge(qp)? {
                break;
            }
        }
        let may_fail = self.endpoints[qp ^ 1].plan.ends_badly();
        let own = &mut self.endpoints[qp];
        if let Some(event) = own.front.queues.failed.get().filter(|_| !may_fail) {
            return Err(format!("the responder failed: {event:?}"));
        }
        let due = own.front.requester.next_deadline();
        if let Some(due) = due.filter(|due| own.armed.is_none_or(|armed| armed > *due)) {
            own.armed = Some(due);
            self.agenda.at(due.max(self.agenda.now), qp, Event::Kick);
        }
        Ok(())
    }

    fn post(&mut self, qp: usize) {
        while self.endpoints[qp].plan.has_room() {
            if self.rng.u32(..8) == 0 {
                let later = self.agenda.now + self.rng.u64(..SOON);
                self.agenda.at(later, qp, Event::Kick);
                return;
            }
            let own = &mut self.endpoints[qp];
            let what = own.plan.post(&mut own.front, &mut self.rng);
            self.agenda.note(qp, || what);
        }
    }

    fn transmit(&mut self, qp: usize) {
        let now = self.agenda.now;
        for is_request in [false, true] {
            loop {
                let own = &mut self.endpoints[qp];
                // A driver does not send for ever: it stops, takes what has come, and goes on.
                if self.rng.u32(..64) == 0 {
                    own.front.requester.end_batch();
                    own.front.responder.end_batch();
                    let soon = now + self.rng.u64(..SOON);
                    self.agenda.at(soon, qp, Event::Kick);
                    break;
                }
                let packet = if is_request {
                    own.front.request(now)
                } else {
                    own.front.respond()
                };
                let packet = match packet {
                    Ok(packet) => packet,
                    Err(Transmit::Local(slot)) => {
                        let soon = now + self.rng.u64(..SOON);
                        self.agenda.at(soon, qp, Event::Executed(slot));
                        break;
                    }
                    Err(Transmit::Later) => {
                        self.agenda.at(now + SOON, qp, Event::Kick);
                        break;
                    }
                    Err(Transmit::NeedsRoom(length)) => panic!("a packet of {length} bytes"),
                    Err(_) => break,
                };
                self.packets += 1;
                let sent = Packet::parse(packet).expect("what is sent is a packet");
                let line = self
                    .agenda
                    .is_traced()
                    .then(|| format!("sends {}", describe(&sent)));
                let frame = Frame::new(packet);
                let conditions = own.conditions;
                let copies = own.path.send(now, frame, &conditions, &mut self.rng);
                if let Some(line) = line {
                    let fate = match copies.len() {
                        0 => " (lost)",
                        1 => "",
                        _ => " (twice)",
                    };
                    self.agenda.note(qp, || line + fate);
                }
                for (arrival, frame) in copies {
                    self.agenda.at(arrival, qp ^ 1, Event::Arrives(frame));
                }
            }
        }
    }

    /// A QP and its peer.
    fn both(&mut self, qp: usize) -> (&mut Endpoint, &mut Endpoint) {
        let (low, high) = self.endpoints.split_at_mut(qp | 1);
        match qp & 1 {
            0 => (&mut low[qp], &mut high[0]),
            _ => (&mut high[0], &mut low[qp - 1]),
        }
    }

    /// Returns whether there was something.
    fn judge(&mut self, qp: usize) -> Result<bool, String> {
        let mut any = false;
        loop {
            let (own, peer) = self.both(qp);
            let completed = own.front.queues.completed.borrow_mut().pop_front();
            let Some(completed) = completed else {
                break;
            };
            own.plan.completed(&own.front, &peer.front, &completed)?;
            any = true;
            let status = completed.status;
            self.agenda
                .note(qp, || format!("completes {}: {status:?}", completed.wr_id));
        }
        loop {
            let (own, peer) = self.both(qp);
            let received = own.front.queues.received.borrow_mut().pop_front();
            let Some(received) = received else {
                break;
            };
            peer.plan.received(&own.front, &received)?;
            self.agenda.note(qp, || {
                format!("received {} bytes: {:?}", received.byte_len, received.extra)
            });
            let again = self.agenda.now
                + if self.rng.bool() {
                    0
                } else {
                    self.rng.u64(..4 * SOON)
                };
            self.agenda
                .at(again, qp, Event::PostReceive(received.wr_id as usize));
        }
        Ok(any)
    }
}

/// A packet in a line.
fn describe(packet: &Packet<'_>) -> String {
    let bth = &packet.bth;
    let ask = if bth.ack_req { " asks" } else { "" };
    format!(
        "{:?} {:?}{ask} {:?} {} bytes",
        bth.psn,
        bth.opcode.kind(),
        packet.headers,
        packet.payload.len()
    )
}
