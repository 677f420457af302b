// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only happens after billions of requests, or to very many at once.

use core::cell::Cell;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::local::{AccessError, AtomicChange, CopyFault, Fault};
use crate::ring::Sge;
use crate::verbs::Mtu;
use crate::wire::{Aeth, Bth, Headers, Kind, Opcode, Packet, Syndrome};

/// Memory that is there wherever it is looked for.
struct Anywhere;

impl Region for Anywhere {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, _: u32, _: &Self, _: u32, _: u32) -> Result<(), CopyFault> {
        Ok(())
    }

    fn write(&self, _at: u32, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn read(&self, _at: u32, _bytes: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn update(&self, _change: AtomicChange) -> Result<u64, Fault> {
        Ok(0)
    }
}

/// A QP all of whose requests are the same.
struct Same {
    entry: Vec<u8>,
    slots: u32,
    /// How each ends.
    status: Cell<WcStatus>,
    completed: Cell<u32>,
}

impl LocalMemory for Same {
    type Region = Anywhere;

    fn local(&self, _sge: Sge, _write: bool) -> Result<Anywhere, AccessError> {
        Ok(Anywhere)
    }
}

impl Host for Same {
    fn entry(&self, _slot: u32) -> &[u8] {
        &self.entry
    }

    fn complete(&self, completed: &Completed) {
        assert_eq!(completed.status, self.status.get());
        let number = self.completed.get();
        assert_eq!(completed.slot, number % self.slots, "in their order");
        self.completed.set(number + 1);
    }
}

/// READs of no bytes, and a requester with so many slots.
fn reads(slots: u32) -> (Same, Requester<Vec<Slot>, Anywhere>) {
    // The header of a request without data is all zeros but for its opcode.
    let mut entry = vec![0; crate::ring::SEND_HEADER_LEN];
    entry[8] = SendOpcode::RdmaRead.number();
    let host = Same {
        entry,
        slots,
        status: Cell::new(WcStatus::Success),
        completed: Cell::new(0),
    };
    let attr = QpAttr {
        path_mtu: Mtu::B256,
        max_rd_atomic: 1,
        ..QpAttr::new()
    };
    let slots = vec![Slot::default(); slots as usize];
    (host, Requester::new(QpType::Rc, Origin::User, &attr, slots))
}

#[test]
fn any_number_of_reads_may_come_after_the_last_request_that_asked_for_an_acknowledgement() {
    let (host, mut requester) = reads(4);
    // An hour of them, at a million a second.
    requester.since_ack_req = u32::MAX - 1;
    for number in 0..4 {
        requester.posted();
        let sent = requester.poll_transmit(0, &host, &mut [0; 64]);
        assert!(matches!(sent, Transmit::Packet(_)), "{sent:?}");
        let aeth = Aeth {
            syndrome: Syndrome::UNLIMITED,
            msn: number,
        };
        let response = Packet {
            bth: Bth::new(Opcode::rc(Kind::ReadResponseOnly), 0, Psn::new(number)),
            headers: Headers::Aeth(aeth),
            payload: &[],
        };
        let taken = requester.on_packet(0, &response, &host);
        assert_eq!(taken, Response::Taken);
    }
    assert_eq!(host.completed.get(), 4);
}

#[test]
fn requests_are_flushed_in_order_and_some_at_a_time() {
    let slots = 8 * FLUSHED_AT_ONCE;
    let (host, mut requester) = reads(slots);
    host.status.set(WcStatus::WrFlushErr);
    let posted = 3 * FLUSHED_AT_ONCE + 1;
    (0..posted).for_each(|_| requester.posted());
    // The first is under way.
    let sent = requester.poll_transmit(0, &host, &mut [0; 64]);
    assert!(matches!(sent, Transmit::Packet(_)), "{sent:?}");
    for calls in 1..=3 {
        assert!(requester.flush(&host), "there are more");
        assert_eq!(host.completed.get(), calls * FLUSHED_AT_ONCE);
        // One that is posted meanwhile comes last.
        requester.posted();
        let sent = requester.poll_transmit(0, &host, &mut [0; 64]);
        assert_eq!(sent, Transmit::Nothing, "it has failed");
    }
    assert!(!requester.flush(&host));
    assert_eq!(host.completed.get(), posted + 3);
    assert!(requester.is_empty() && requester.is_drained());
    // As often as is liked.
    assert!(!requester.flush(&host));
    requester.posted();
    assert!(!requester.flush(&host));
    assert_eq!(host.completed.get(), posted + 4);
}
