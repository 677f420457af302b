// SPDX-License-Identifier: MIT OR Apache-2.0
//! As many READs and atomics under way as were agreed on, and one more.

use super::*;

const DEPTHS: [u8; 3] = [1, 4, 16];

/// Both sides agree on a depth.
fn pair(depth: u8) -> Pair {
    Pair::new(QpType::Rc, |attr| {
        attr.max_rd_atomic = depth;
        attr.max_dest_rd_atomic = depth;
    })
}

/// Elsewhere than [`TARGET`], and with other contents.
const OTHER: Remote = Remote {
    addr: BASE + OTHER_AT as u64,
    rkey: RKEY,
};
const OTHER_AT: usize = 14_096;

const LENGTH: u32 = 3 * MTU;

/// What is answered by more than an acknowledgement, and how many bytes go to the requester.
fn operations() -> [(Operation, u32); 4] {
    let flush = Operation::Flush {
        remote: OTHER,
        length: 1,
        selectivity: FlushSelectivity::Range,
        placement: FlushPlacement::GLOBAL,
    };
    let add = Operation::FetchAdd {
        remote: OTHER,
        add: 1,
    };
    [
        (Operation::RdmaRead(OTHER), LENGTH),
        (add, 8),
        (Operation::AtomicWrite(OTHER), 8),
        (flush, 0),
    ]
}

#[test]
fn a_new_request_ends_the_repetition_of_an_old_read() {
    for depth in DEPTHS.into_iter().chain([MAX_RD_ATOMIC]) {
        for (operation, length) in operations() {
            // How many responses are repeated before the new request comes.
            for repeated in 0..=3 {
                let mut pair = pair(depth);
                for _ in 0..depth {
                    pair.post(Operation::RdmaRead(TARGET), LENGTH);
                }
                let mut late = None;
                loop {
                    let requests = pair.requests();
                    let Some(first) = requests.front() else {
                        break;
                    };
                    late.get_or_insert_with(|| first.clone());
                    for request in &requests {
                        assert_eq!(pair.give(request), Request::Taken);
                    }
                    for response in pair.responses() {
                        pair.answer(&response.packet());
                    }
                }
                assert_eq!(pair.completed(), vec![WcStatus::Success; depth.into()]);
                // A copy of the oldest request, which the network has kept until now.
                assert_eq!(pair.give(&late.unwrap()), Request::Duplicate);
                for _ in 0..repeated {
                    let response = Sent(pair.peer.respond().unwrap().to_vec());
                    assert_eq!(pair.answer(&response.packet()), Response::Ignored);
                }
                let there = pair.peer.queues.memory.get(OTHER_AT, length as usize);
                pair.post(operation, length);
                let name = (depth, operation.opcode(), repeated);
                for request in pair.requests() {
                    assert_eq!(pair.give(&request), Request::Taken, "{name:?}");
                }
                pair.settle();
                assert_eq!(pair.completed(), [WcStatus::Success], "{name:?}");
                assert_eq!(pair.peer.queues.failed.get(), None);
                assert!(pair.peer.responder.has_sent_all());
                if matches!(
                    operation,
                    Operation::RdmaRead(_) | Operation::FetchAdd { .. }
                ) {
                    assert!(pair.own.queues.memory.is(0, &there), "{name:?}");
                }
            }
        }
    }
}

#[test]
fn what_has_not_been_answered_yet_counts_even_if_it_comes_again() {
    for depth in DEPTHS {
        for kind in [Kind::ReadRequest, Kind::FetchAdd, Kind::AtomicWrite] {
            let mut pair = pair(depth);
            for _ in 0..depth {
                pair.post(Operation::RdmaRead(TARGET), LENGTH);
            }
            let sent = pair.requests();
            assert_eq!(sent.len(), depth.into());
            for request in &sent {
                assert_eq!(pair.give(request), Request::Taken);
            }
            // Some of the first one's responses.
            for _ in 0..2 {
                assert!(pair.peer.respond().is_ok());
            }
            assert_eq!(pair.give(&sent[0]), Request::Duplicate);
            let before = pair.peer.queues.memory.get(4096, 8);
            let more = Sent(pair.own_packet(kind, FIRST + 3 * u32::from(depth)));
            let refused = Request::Refused(Some(Nak::InvalidRequest));
            assert_eq!(pair.give(&more), refused, "{depth}, {kind:?}");
            // What cannot be remembered is not done.
            assert_eq!(pair.peer.queues.memory.get(4096, 8), before);
            // Those before it are answered still, and then the peer is told.
            assert_eq!(pair.responses().len(), 3 * usize::from(depth) + 1);
        }
    }
}
