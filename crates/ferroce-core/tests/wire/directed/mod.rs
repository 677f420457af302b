// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rules of the protocol one by one, between two QPs whose packets go by hand.

mod depth;
mod lengths;
mod order;
mod refusals;
mod responses;
mod retries;
mod rows;
mod unreliable;

use std::collections::VecDeque;

use ferroce_core::local::Extra;
use ferroce_core::qp::QpAttr;
use ferroce_core::requester::{Response, TimedOut, Transmit};
use ferroce_core::responder::Request;
use ferroce_core::ring::{Operation, Payload, Remote, SendRequest, Sge};
use ferroce_core::verbs::limits::{MAX_RD_ATOMIC, PSN_MASK};
use ferroce_core::verbs::{
    AccessFlags, AckTimeout, EventType, FlushPlacement, FlushSelectivity, ImmData, Mtu, QpType,
    RnrTimer, SendFlags, SendOpcode, WcOpcode, WcStatus,
};
use ferroce_core::wire::{Aeth, Bth, Headers, Kind, Nak, Opcode, Packet, Psn, Service, Syndrome};

use crate::front::{bind, Front, LKEY, RKEY, WINDOW};
use crate::layout::bytes_of;
use crate::memory::{Memory, BASE};
use crate::network::Time;

const MTU: u32 = 256;
const SIZE: usize = 128 * 1024;
/// Just before the PSNs wrap around.
const FIRST: u32 = 0x00ff_fffe;

fn attr() -> QpAttr {
    QpAttr {
        path_mtu: Mtu::B256,
        sq_psn: FIRST,
        rq_psn: FIRST,
        dest_qp_num: 5,
        qp_access_flags: AccessFlags::REMOTE,
        max_rd_atomic: 4,
        max_dest_rd_atomic: 4,
        timeout: AckTimeout::from_low_bits(10),
        retry_cnt: 3,
        rnr_retry: 2,
        min_rnr_timer: RnrTimer::try_from(14).unwrap(),
        ..QpAttr::new()
    }
}

/// A packet, with bytes of its own.
#[derive(Clone, Debug)]
struct Sent(Vec<u8>);

impl Sent {
    fn packet(&self) -> Packet<'_> {
        Packet::parse(&self.0).unwrap()
    }

    fn kind(&self) -> Kind {
        self.packet().bth.opcode.kind()
    }

    fn psn(&self) -> Psn {
        self.packet().bth.psn
    }
}

/// A requester and a responder.
struct Pair {
    own: Front,
    peer: Front,
    now: Time,
}

impl Pair {
    fn new(qp_type: QpType, change: impl Fn(&mut QpAttr)) -> Self {
        let mut attr = attr();
        change(&mut attr);
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at * 31 / 8) as u8).collect();
        let front = || Front::new(qp_type, &attr, Memory::new(bytes.clone(), 0));
        Self {
            own: front(),
            peer: front(),
            now: 1_000_000,
        }
    }

    fn rc() -> Self {
        Self::new(QpType::Rc, |_| {})
    }

    fn post_with(&mut self, operation: Operation, sges: &[Sge], flags: SendFlags) {
        let request = SendRequest {
            wr_id: self.own.posted.into(),
            flags: flags | SendFlags::SIGNALED,
            operation,
            destination: None,
        };
        self.own.post(&request, Payload::Sges(sges));
    }

    fn post(&mut self, operation: Operation, length: u32) {
        let sges = [sge(0, length)];
        let sges: &[Sge] = if operation.opcode().has_no_data() {
            &[]
        } else {
            &sges
        };
        self.post_with(operation, sges, SendFlags::EMPTY);
    }

    fn post_receive(&self, length: u32) {
        let entry = bytes_of(&sge(SIZE as u32 / 2, length));
        let mut receives = self.peer.queues.receives.borrow_mut();
        let number = receives.len() as u64;
        receives.push_back((100 + number, vec![entry]));
    }

    /// All requests that can be sent now.
    fn requests(&mut self) -> VecDeque<Sent> {
        let mut sent = VecDeque::new();
        while let Ok(packet) = self.own.request(self.now) {
            sent.push_back(Sent(packet.to_vec()));
        }
        sent
    }

    /// All responses that can be sent now.
    fn responses(&mut self) -> VecDeque<Sent> {
        let mut sent = VecDeque::new();
        while let Ok(packet) = self.peer.respond() {
            sent.push_back(Sent(packet.to_vec()));
        }
        sent
    }

    fn give(&mut self, request: &Sent) -> Request {
        let packet = request.packet();
        self.peer.responder.on_packet(&packet, &self.peer.queues)
    }

    fn answer(&mut self, response: &Packet<'_>) -> Response {
        let own = &mut self.own;
        own.requester.on_packet(self.now, response, &own.queues)
    }

    /// Delivers everything until nothing is said any more.
    fn settle(&mut self) {
        loop {
            let requests = self.requests();
            for request in &requests {
                self.give(request);
            }
            let responses = self.responses();
            for response in &responses {
                self.answer(&response.packet());
            }
            if requests.is_empty() && responses.is_empty() {
                break;
            }
        }
    }

    /// Has the time pass to the next deadline.
    fn wait(&mut self) -> Option<TimedOut> {
        let due = self.own.requester.next_deadline().expect("a deadline");
        assert_eq!(
            self.own.requester.on_deadline(due - 1, &self.own.queues),
            None
        );
        self.now = due;
        self.own.requester.on_deadline(due, &self.own.queues)
    }

    /// The statuses of the requests that are complete.
    fn completed(&self) -> Vec<WcStatus> {
        let mut completed = self.own.queues.completed.borrow_mut();
        completed
            .drain(..)
            .map(|completed| completed.status)
            .collect()
    }
}

fn sge(at: u32, length: u32) -> Sge {
    Sge {
        addr: BASE + u64::from(at),
        length,
        lkey: LKEY,
    }
}

const TARGET: Remote = Remote {
    addr: BASE + 4096,
    rkey: RKEY,
};

const IMM: ImmData = ImmData([1, 2, 3, 4]);

const FETCH_ADD: Operation = Operation::FetchAdd {
    remote: TARGET,
    add: 1,
};

/// An acknowledgement as a peer may send it.
fn acknowledgement(psn: Psn, syndrome: Syndrome) -> Packet<'static> {
    let opcode = Opcode::new(Service::Rc, Kind::Acknowledge).unwrap();
    Packet {
        bth: Bth::new(opcode, 5, psn),
        headers: Headers::Aeth(Aeth { syndrome, msn: 0 }),
        payload: &[],
    }
}

impl Pair {
    /// A request that the other side may make.
    fn own_packet(&mut self, kind: Kind, psn: u32) -> Vec<u8> {
        let mut other = Pair::new(QpType::Rc, |attr| attr.sq_psn = psn & PSN_MASK);
        let operation = match kind {
            Kind::WriteOnly => Operation::RdmaWrite(TARGET),
            Kind::ReadRequest => Operation::RdmaRead(TARGET),
            Kind::FetchAdd => FETCH_ADD,
            Kind::AtomicWrite => Operation::AtomicWrite(TARGET),
            _ => Operation::Send,
        };
        other.post(operation, 8);
        other.requests().pop_front().unwrap().0
    }
}
