// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any requests, in any order: nothing is touched beyond a region (which the memory asserts), what is
//! answered is a packet, and there is an end to it.
#![no_main]

use ferroce_core::responder::Request;
use ferroce_core::ring::Sge;
use ferroce_core::wire::{Packet, Psn};
use ferroce_core_fuzz::front::LKEY;
use ferroce_core_fuzz::memory::BASE;
use ferroce_core_fuzz::{qp, Length, Made, FIRST};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Packet(Made),
    Bytes(Vec<u8>),
    Receive {
        at: u16,
        length: Length,
        wrong_key: bool,
    },
    /// As many response packets as that.
    Respond(u8),
    Flush,
}

/// The longest READ there is memory for is answered by fewer packets than this, and the three that are
/// remembered are.
const MOST_RESPONSES: usize = 3 * 64 + 4;

fuzz_target!(|input: (bool, Vec<Step>)| {
    let (reliable, steps) = input;
    let mut front = qp(reliable);
    let mut expected = Psn::new(FIRST);
    let mut receives = 0;
    for step in steps {
        match step {
            Step::Packet(made) => {
                let bytes = made.bytes(reliable, expected);
                if let Ok(packet) = Packet::parse(&bytes) {
                    let came = front.responder.on_packet(&packet, &front.queues);
                    if came == Request::Taken {
                        expected = packet.bth.psn + 1;
                    }
                }
            }
            Step::Bytes(bytes) => {
                if let Ok(packet) = Packet::parse(&bytes) {
                    front.responder.on_packet(&packet, &front.queues);
                }
            }
            Step::Receive {
                at,
                length,
                wrong_key,
            } => {
                let sge = Sge {
                    addr: BASE + u64::from(at),
                    length: length.bytes(),
                    lkey: LKEY + u32::from(wrong_key),
                };
                let mut entry = [0; 16];
                entry[..8].copy_from_slice(&sge.addr.to_ne_bytes());
                entry[8..12].copy_from_slice(&sge.length.to_ne_bytes());
                entry[12..].copy_from_slice(&sge.lkey.to_ne_bytes());
                front
                    .queues
                    .receives
                    .borrow_mut()
                    .push_back((receives, vec![entry]));
                receives += 1;
            }
            Step::Respond(count) => {
                for _ in 0..count {
                    if front.respond().is_err() {
                        break;
                    }
                }
            }
            Step::Flush => front.responder.flush(&front.queues),
        }
    }
    // A page that is missing now is there the next time.
    let mut responses = 0;
    for _ in 0..MOST_RESPONSES {
        while let Ok(packet) = front.respond() {
            let packet = Packet::parse(packet).expect("what is answered is a packet");
            assert!(packet.bth.opcode.kind().is_response());
            responses += 1;
        }
    }
    assert!(responses <= MOST_RESPONSES);
    assert!(reliable || responses == 0);
    assert!(front.queues.received.borrow().len() as u64 <= receives);
});
