// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any work requests, any responses, at any time: requests complete once and in order, nothing is touched
//! beyond a region, and there is an end to what is sent.
#![no_main]

use ferroce_core::requester::Transmit;
use ferroce_core::ring::{Operation, Payload, SendRequest, Sge};
use ferroce_core::verbs::{FlushPlacement, FlushSelectivity, ImmData, SendFlags, WcStatus};
use ferroce_core::wire::{Packet, Psn};
use ferroce_core_fuzz::front::{bind, Front, LKEY, SEND_ENTRIES, WINDOW};
use ferroce_core_fuzz::memory::BASE;
use ferroce_core_fuzz::{qp, Length, Made, Place, FIRST};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Post {
        operation: u8,
        place: Place,
        at: u16,
        length: Length,
        fence: bool,
        wrong_key: bool,
    },
    Entry(Vec<u8>),
    /// A response, its PSN counted from the last request on.
    Response(Made),
    Bytes(Vec<u8>),
    Send(u8),
    Wait(u32),
    Deadline,
    Executed(bool),
    Hold(bool),
    Flush,
}

struct Run {
    front: Front,
    now: u64,
    last: Psn,
    local: Option<u32>,
    completed: u32,
    failed: bool,
}

impl Run {
    fn free(&self) -> bool {
        self.front.posted - self.completed < SEND_ENTRIES
    }

    /// Sends as many packets as that, at most. Returns how many there were.
    fn send(&mut self, count: usize) -> usize {
        for sent in 0..count {
            match self.front.request(self.now) {
                Ok(packet) => {
                    let packet = Packet::parse(packet).expect("what is sent is a packet");
                    assert!(!packet.bth.opcode.kind().is_response());
                    self.last = packet.bth.psn;
                }
                Err(Transmit::Local(slot)) => {
                    assert_eq!(self.local, None);
                    self.local = Some(slot);
                    return sent;
                }
                Err(_) => return sent,
            }
        }
        count
    }

    fn flush(&mut self) {
        while self.front.requester.flush(&self.front.queues) {}
        self.failed |= self.front.queues.completed.borrow().is_empty();
        self.judge();
        assert_eq!(self.completed, self.front.posted);
    }

    fn judge(&mut self) {
        for completed in self.front.queues.completed.borrow_mut().drain(..) {
            assert_eq!(completed.slot, self.completed % SEND_ENTRIES);
            assert!(!self.failed || completed.status == WcStatus::WrFlushErr);
            self.failed |= completed.status != WcStatus::Success;
            self.completed += 1;
        }
        assert!(self.completed <= self.front.posted);
        assert_eq!(self.failed, self.front.requester.has_failed());
    }
}

fn operation(number: u8, place: Place, length: u32) -> Operation {
    let remote = place.remote();
    match number % 12 {
        0 => Operation::Send,
        1 => Operation::SendImm(ImmData([number; 4])),
        2 => Operation::SendInvalidate { rkey: WINDOW },
        3..=4 => Operation::RdmaWrite(remote),
        5 => Operation::RdmaWriteImm(remote, ImmData([number; 4])),
        6..=7 => Operation::RdmaRead(remote),
        8 => Operation::FetchAdd { remote, add: 1 },
        9 => Operation::AtomicWrite(remote),
        10 => Operation::Flush {
            remote,
            length,
            selectivity: FlushSelectivity::Range,
            placement: FlushPlacement::GLOBAL,
        },
        _ => bind(),
    }
}

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (reliable, steps) = input;
    let mut run = Run {
        front: qp(reliable),
        now: 0,
        last: Psn::new(FIRST),
        local: None,
        completed: 0,
        failed: false,
    };
    for step in steps {
        match step {
            Step::Post {
                operation: number,
                place,
                at,
                length,
                fence,
                wrong_key,
            } if run.free() => {
                let operation = operation(number, place, length.bytes());
                let length = match operation {
                    Operation::FetchAdd { .. } | Operation::AtomicWrite(_) => 8,
                    _ => length.bytes(),
                };
                let sge = Sge {
                    addr: BASE + u64::from(at),
                    length,
                    lkey: LKEY + u32::from(wrong_key),
                };
                let flags = if fence {
                    SendFlags::FENCE
                } else {
                    SendFlags::EMPTY
                };
                let request = SendRequest {
                    wr_id: 0,
                    flags,
                    operation,
                    destination: None,
                };
                let payload = match operation.opcode().has_no_data() {
                    true => Payload::NONE,
                    false => Payload::Sges(std::slice::from_ref(&sge)),
                };
                run.front.post(&request, payload);
            }
            Step::Entry(entry) if run.free() => run.front.post_entry(entry),
            Step::Post { .. } | Step::Entry(_) => {}
            Step::Response(made) => {
                let bytes = made.bytes(true, run.last);
                if let Ok(packet) = Packet::parse(&bytes) {
                    let front = &mut run.front;
                    front.requester.on_packet(run.now, &packet, &front.queues);
                }
            }
            Step::Bytes(bytes) => {
                if let Ok(packet) = Packet::parse(&bytes) {
                    let front = &mut run.front;
                    front.requester.on_packet(run.now, &packet, &front.queues);
                }
            }
            Step::Send(count) => {
                run.send(count.into());
            }
            Step::Wait(time) => run.now += u64::from(time),
            Step::Deadline => {
                if let Some(due) = run.front.requester.next_deadline() {
                    run.now = run.now.max(due);
                    let front = &mut run.front;
                    front.requester.on_deadline(run.now, &front.queues);
                }
            }
            Step::Executed(well) => {
                if let Some(slot) = run.local.take() {
                    let result = if well {
                        Ok(())
                    } else {
                        Err(WcStatus::MwBindErr)
                    };
                    let front = &mut run.front;
                    front.requester.executed(slot, result, &front.queues);
                }
            }
            Step::Hold(hold) => run.front.requester.hold(hold),
            Step::Flush => {
                run.local = None;
                run.flush();
            }
        }
        run.judge();
    }
    // A connection waits for acknowledgements; without them, what can go on for ever is a message of UC.
    if reliable {
        assert!(run.send(1000) < 1000);
    }
    run.flush();
});
