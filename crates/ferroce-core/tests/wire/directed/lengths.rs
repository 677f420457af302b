// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages as long as they can be, and longer, to a peer with memory without end.

use std::cell::{Cell, RefCell};

use ferroce_core::local::{
    self, AccessError, AtomicChange, CopyFault, Fault, LocalMemory, Receive, Received, Region,
    Taken,
};
use ferroce_core::responder::{Resource, Responder};
use ferroce_core::ring::SgeList;
use ferroce_core::verbs::limits::MAX_MESSAGE_LENGTH;
use ferroce_core::wire::{AtomicEth, Reth};

use super::*;

/// A QP all of whose keys name all addresses, with nothing behind them but a counter.
#[derive(Default)]
struct Endless {
    receives: RefCell<VecDeque<Vec<[u8; 16]>>>,
    received: RefCell<Vec<Received>>,
    failed: Cell<Option<Option<EventType>>>,
    /// Bytes written.
    written: Cell<u64>,
    /// What is at every address.
    word: Cell<u64>,
}

/// A range of it.
struct Part<'a>(&'a Endless);

impl Region for Part<'_> {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, _: u32, _: &Self, _: u32, _: u32) -> Result<(), CopyFault> {
        Ok(())
    }

    fn write(&self, _at: u32, bytes: &[u8]) -> Result<(), Fault> {
        self.0
            .written
            .set(self.0.written.get() + bytes.len() as u64);
        Ok(())
    }

    fn read(&self, _at: u32, _bytes: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        let before = self.0.word.get();
        if let AtomicChange::Add(n) = change {
            self.0.word.set(before.wrapping_add(n));
        }
        Ok(before)
    }
}

impl<'a> LocalMemory for &'a Endless {
    type Region = Part<'a>;

    fn local(&self, _sge: Sge, _write: bool) -> Result<Part<'a>, AccessError> {
        Ok(Part(self))
    }
}

impl<'a> local::Responder for &'a Endless {
    fn remote(&self, _: Remote, _length: u32, _: AccessFlags) -> Result<Part<'a>, AccessError> {
        Ok(Part(self))
    }

    fn remote_key(&self, _rkey: u32, _access: AccessFlags) -> Result<(), AccessError> {
        Ok(())
    }

    fn access(&self) -> AccessFlags {
        AccessFlags::REMOTE
    }

    fn takes_reads(&self) -> bool {
        true
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        RnrTimer::default()
    }

    fn established(&self) {}

    fn take_receive<T>(
        &self,
        _accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        match self.receives.borrow_mut().pop_front() {
            None => Taken::Empty,
            Some(entries) => {
                let receive = Receive {
                    wr_id: 0,
                    scatter: SgeList::of(&entries),
                };
                place(&receive).map_or(Taken::Refused, Taken::Done)
            }
        }
    }

    fn complete(&self, received: &Received) {
        self.received.borrow_mut().push(*received);
    }

    fn invalidate(&self, _rkey: u32) -> Result<(), AccessError> {
        Ok(())
    }

    fn fail(&self, event: Option<EventType>) {
        self.failed.set(Some(event));
    }
}

/// A responder with so many resources.
fn responder(qp_type: QpType, mtu: Mtu, depth: u8) -> Responder<Vec<Resource>, Part<'static>> {
    let attr = QpAttr {
        path_mtu: mtu,
        max_dest_rd_atomic: depth,
        ..attr()
    };
    Responder::new(qp_type, &attr, vec![Resource::default(); depth.into()])
}

fn packet(qp_type: QpType, kind: Kind, psn: Psn, headers: Headers, payload: &[u8]) -> Packet<'_> {
    let opcode = Opcode::new(Service::of(qp_type), kind).unwrap();
    Packet {
        bth: Bth::new(opcode, 5, psn),
        headers,
        payload,
    }
}

#[test]
fn a_send_is_no_longer_than_a_message_may_be_however_much_its_receive_takes() {
    let payload = [0; 4096];
    let fit = MAX_MESSAGE_LENGTH / 4096;
    for qp_type in [QpType::Rc, QpType::Uc] {
        let peer: &'static Endless = Box::leak(Box::default());
        // Twelve gigabytes, nearly.
        let entry = bytes_of(&sge(0, u32::MAX));
        peer.receives.borrow_mut().push_back(vec![entry; 3]);
        let mut responder = responder(qp_type, Mtu::B4096, 4);
        let mut psn = Psn::new(FIRST);
        let mut take = |kind| {
            let taken =
                responder.on_packet(&packet(qp_type, kind, psn, Headers::None, &payload), &peer);
            psn = psn + 1;
            taken
        };
        assert_eq!(take(Kind::SendFirst), Request::Taken);
        for _ in 1..fit {
            assert_eq!(take(Kind::SendMiddle), Request::Taken);
        }
        assert_eq!(peer.written.get(), MAX_MESSAGE_LENGTH.into());
        let last = take(Kind::SendLast);
        // Nothing of what is too much has been written.
        assert_eq!(peer.written.get(), MAX_MESSAGE_LENGTH.into());
        let statuses: Vec<_> = peer.received.borrow().iter().map(|r| r.status).collect();
        if qp_type == QpType::Rc {
            assert_eq!(last, Request::Refused(Some(Nak::InvalidRequest)));
            assert_eq!(statuses, [WcStatus::LocLenErr]);
            assert_eq!(peer.failed.get(), Some(None));
        } else {
            assert_eq!(last, Request::Dropped);
            assert_eq!(take(Kind::SendOnly), Request::Taken, "in the same receive");
            assert_eq!(peer.failed.get(), None);
        }
    }
}

#[test]
fn a_repeated_atomic_is_not_taken_for_one_that_had_its_psn_before_they_went_round() {
    let peer: &'static Endless = Box::leak(Box::default());
    let mut responder = responder(QpType::Rc, Mtu::B256, 4);
    let half = 1 << 23;
    let first = Psn::new(FIRST);
    let add = |psn| {
        let atomic = AtomicEth {
            remote: TARGET,
            swap_add: 1,
            compare: 0,
        };
        packet(
            QpType::Rc,
            Kind::FetchAdd,
            psn,
            Headers::Atomic(atomic),
            &[],
        )
    };
    let read = |psn, packets: u32| {
        let reth = Reth {
            remote: TARGET,
            dma_len: packets * 256,
        };
        packet(QpType::Rc, Kind::ReadRequest, psn, Headers::Reth(reth), &[])
    };
    let requests = [
        add(first),
        read(first + 1, half),
        read(first + 1 + half, half - 1),
        // All numbers have been used: the same as that of the first.
        add(first),
    ];
    for request in &requests {
        assert_eq!(responder.on_packet(request, &peer), Request::Taken);
    }
    let mut buffer = [0; 512];
    let mut next = |responder: &mut Responder<_, _>| {
        let Transmit::Packet(length) = responder.poll_transmit(&peer, &mut buffer) else {
            panic!("there are more responses");
        };
        Packet::parse(&buffer[..length]).unwrap().headers
    };
    assert!(matches!(next(&mut responder), Headers::AtomicAck(_, 0)));
    assert_eq!(responder.on_packet(&requests[3], &peer), Request::Duplicate);
    // The first READ is next. The second atomic's turn is after the other one, the first one is done with.
    assert!(matches!(next(&mut responder), Headers::Aeth(_)));
}
