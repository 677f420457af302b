// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work requests and completions survive the ring, and what makes no sense is refused.

use std::vec::Vec;

use super::{send, Random, Shared};
use crate::ring::*;
use crate::verbs::*;

fn every_operation() -> Vec<Operation> {
    let remote = Remote {
        addr: 0x1122_3344_5566_7788,
        rkey: 0x99aa_bbcc,
    };
    let imm = ImmData([1, 2, 3, 4]);
    let all = std::vec![
        Operation::Send,
        Operation::SendImm(imm),
        Operation::SendInvalidate { rkey: 7 },
        Operation::RdmaWrite(remote),
        Operation::RdmaWriteImm(remote, imm),
        Operation::RdmaRead(remote),
        Operation::CompareSwap {
            remote,
            compare: u64::MAX - 1,
            swap: 3,
        },
        Operation::FetchAdd {
            remote,
            add: u64::MAX,
        },
        Operation::AtomicWrite(remote),
        Operation::Flush {
            remote,
            length: 12345,
            selectivity: FlushSelectivity::Mr,
            placement: FlushPlacement::GLOBAL | FlushPlacement::PERSISTENT,
        },
        Operation::LocalInvalidate { rkey: 8 },
        Operation::BindMw(BindMw {
            addr: 1 << 63,
            length: 1 << 40,
            mr_lkey: 1,
            mw_rkey: 2,
            new_rkey: 3,
            access: AccessFlags::REMOTE_READ | AccessFlags::ZERO_BASED,
        }),
        Operation::RegMr(RegMr {
            mr: 4,
            key: 5,
            access: AccessFlags::LOCAL_WRITE,
        }),
    ];
    assert_eq!(all.len(), SendOpcode::ALL.len());
    all
}

/// Posts a request, and gives its bytes as the executor copies them out.
fn through_a_ring(request: &SendRequest, payload: Payload<'_>) -> Vec<u8> {
    let geometry = WqGeometry::<SendQueue>::new(1, 32, 512).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    poster.push(request, payload).unwrap();
    let _ = poster.publish();
    let mut buffer = [0xee; MAX_SEND_STRIDE];
    let mut executor = shared.executor(geometry);
    executor.fetch(&mut buffer).unwrap().unwrap().to_vec()
}

#[test]
fn every_operation_survives_the_ring() {
    let sges = [
        Sge {
            addr: 1,
            length: 8,
            lkey: 2,
        },
        Sge {
            addr: u64::MAX,
            length: 0,
            lkey: u32::MAX,
        },
    ];
    for operation in every_operation() {
        let opcode = operation.opcode();
        let request = SendRequest {
            wr_id: 0xfeed_f00d_dead_beef,
            flags: SendFlags::FENCE | SendFlags::SOLICITED,
            operation,
            destination: None,
        };
        let sges: &[Sge] = if opcode.has_no_data() { &[] } else { &sges };
        let entry = through_a_ring(&request, Payload::Sges(sges));
        let (decoded, data) = SendRequest::decode(&entry, QpType::Rc, Origin::Kernel).unwrap();
        assert_eq!(decoded, request);
        let Data::Sges(list) = data else {
            panic!("{opcode:?}")
        };
        assert_eq!(list.iter().collect::<Vec<_>>(), sges);

        if opcode.permits_inline() {
            let entry = through_a_ring(&request, Payload::Inline(&[b"12", b"", b"345678"]));
            let (decoded, data) = SendRequest::decode(&entry, QpType::Rc, Origin::User).unwrap();
            assert_eq!(decoded, request);
            assert_eq!(data, Data::Inline(b"12345678"));
        }
    }
}

#[test]
fn a_datagram_carries_its_destination() {
    let request = SendRequest {
        destination: Some(Destination {
            ah: 1,
            remote_qpn: 2,
            remote_qkey: 3,
            pkey_index: 4,
        }),
        operation: Operation::SendImm(ImmData([9; 4])),
        ..send(1)
    };
    let entry = through_a_ring(&request, Payload::NONE);
    for qp_type in [QpType::Ud, QpType::Gsi] {
        let (decoded, _) = SendRequest::decode(&entry, qp_type, Origin::User).unwrap();
        assert_eq!(decoded, request);
    }
    let (connected, _) = SendRequest::decode(&entry, QpType::Uc, Origin::User).unwrap();
    assert_eq!(connected.destination, None);
}

#[test]
fn inline_data_of_every_length_survives() {
    let bytes: Vec<u8> = (0..512u32).map(|i| (i * 7) as u8).collect();
    let step = if cfg!(miri) { 37 } else { 1 };
    for length in (0..=512).step_by(step) {
        let data = &bytes[..length];
        let (a, b) = data.split_at(length / 3);
        let entry = through_a_ring(&send(1), Payload::Inline(&[a, b]));
        assert_eq!(entry.len(), SEND_HEADER_LEN + length);
        let (_, decoded) = SendRequest::decode(&entry, QpType::Rc, Origin::User).unwrap();
        assert_eq!(decoded, Data::Inline(data));
        assert_eq!(decoded.length(), length as u64);
    }
}

#[test]
fn receives_survive_the_ring() {
    let geometry = WqGeometry::<RecvQueue>::new(2, 32).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    let mut executor = shared.executor(geometry);
    let mut buffer = [0; MAX_RECV_STRIDE];
    let sges: Vec<Sge> = (0..32)
        .map(|i| Sge {
            addr: i,
            length: u32::MAX,
            lkey: 3,
        })
        .collect();
    for count in 0..=32 {
        let request = RecvRequest {
            wr_id: count as u64,
        };
        poster.push(&request, &sges[..count]).unwrap();
        let _ = poster.publish();
        let entry = executor.fetch(&mut buffer).unwrap().unwrap();
        let (decoded, list) = RecvRequest::decode(entry).unwrap();
        assert_eq!(decoded, request);
        assert_eq!(list.iter().collect::<Vec<_>>(), sges[..count]);
        assert_eq!(list.length(), count as u64 * u64::from(u32::MAX));
        executor.hand_back(1);
    }
}

#[test]
fn a_poster_refuses_what_does_not_fit() {
    let geometry = WqGeometry::<SendQueue>::new(4, 4, 0).unwrap();
    let shared = Shared::new(geometry.len());
    let mut poster = shared.poster(geometry);
    let sges = [Sge::default(); 5];
    assert_eq!(
        poster.push(&send(1), Payload::Sges(&sges)),
        Err(PostError::TooManySges(5))
    );
    assert_eq!(
        poster.push(&send(1), Payload::Inline(&[&[0; 64], &[0; 1]])),
        Err(PostError::InlineTooLong(65))
    );
    let local = SendRequest {
        operation: Operation::LocalInvalidate { rkey: 1 },
        ..send(1)
    };
    assert_eq!(
        poster.push(&local, Payload::Sges(&sges[..1])),
        Err(PostError::UnexpectedData(SendOpcode::LocalInvalidate))
    );
    assert_eq!(
        poster.push(&local, Payload::Inline(&[])),
        Err(PostError::InlineNotPermitted(SendOpcode::LocalInvalidate))
    );
    assert_eq!(poster.position(), 0);
}

/// Asserts the answer to an entry after an edit of its bytes.
fn refused(operation: Operation, edit: impl Fn(&mut [u8]), error: WqeError) {
    let request = SendRequest {
        operation,
        ..send(42)
    };
    let sge = [Sge {
        addr: 0,
        length: 8,
        lkey: 1,
    }];
    let sges: &[Sge] = if operation.opcode().has_no_data() {
        &[]
    } else {
        &sge
    };
    let mut entry = through_a_ring(&request, Payload::Sges(sges));
    edit(&mut entry);
    assert_eq!(
        SendRequest::decode(&entry, QpType::Rc, Origin::User),
        Err(error)
    );
    assert_eq!(SendRequest::wr_id(&entry), 42);
}

#[test]
fn an_entry_that_makes_no_sense_is_refused() {
    use SendOpcode::{LocalInvalidate, RdmaRead, Send};
    let value = |what, value| WqeError::Value(InvalidValue { what, value });
    refused(Operation::Send, |e| e[8] = 11, value("send opcode", 11));
    refused(
        Operation::Send,
        |e| e[9] |= 0x10,
        value("set of send flags", 0x12),
    );
    refused(Operation::Send, |e| e[11] = 1, WqeError::Reserved);
    refused(Operation::Send, |e| e[20] = 1, WqeError::Reserved);
    refused(Operation::Send, |e| e[10] = 2, WqeError::TooMuchData);
    refused(Operation::Send, |e| e[10] = 255, WqeError::TooMuchData);
    refused(Operation::Send, |e| e[16] = 1, WqeError::Inline(Send));
    // Inline and SGEs at once.
    refused(Operation::Send, |e| e[9] |= 8, WqeError::Inline(Send));
    let read = Operation::RdmaRead(Remote::default());
    let make_inline = |e: &mut [u8]| {
        e[9] |= 8;
        e[10] = 0;
        e[16] = 8;
    };
    refused(read, make_inline, WqeError::Inline(RdmaRead));
    let too_long = |e: &mut [u8]| {
        make_inline(e);
        e[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
    };
    refused(Operation::Send, too_long, WqeError::TooMuchData);
    // An SGE where there can be none.
    refused(
        Operation::Send,
        |e| e[8] = LocalInvalidate.number(),
        WqeError::UnexpectedData(LocalInvalidate),
    );
    let flush = Operation::Flush {
        remote: Remote::default(),
        length: 0,
        selectivity: FlushSelectivity::Range,
        placement: FlushPlacement::GLOBAL,
    };
    refused(flush, |e| e[40] = 2, value("flush selectivity level", 2));
    refused(
        flush,
        |e| e[44] = 4,
        value("set of flush placement types", 4),
    );
    // The kernel's own operation, from a process.
    let register = Operation::RegMr(RegMr {
        mr: 0,
        key: 0,
        access: AccessFlags::EMPTY,
    });
    refused(register, |_| (), WqeError::NotPermitted(SendOpcode::RegMr));
    // Lengths: the SGE's is at 64 + 8.
    let length = |length: u32| {
        move |e: &mut [u8]| {
            e[72..76].copy_from_slice(&length.to_ne_bytes());
        }
    };
    let add = Operation::FetchAdd {
        remote: Remote::default(),
        add: 1,
    };
    refused(add, length(7), WqeError::AtomicLength(7));
    let write = Operation::AtomicWrite(Remote::default());
    refused(write, length(16), WqeError::AtomicLength(16));
    refused(
        Operation::Send,
        length((1 << 31) + 1),
        WqeError::MessageTooLong((1 << 31) + 1),
    );
    assert_eq!(WqeError::MessageTooLong(0).status(), WcStatus::LocLenErr);
    assert_eq!(WqeError::Reserved.status(), WcStatus::LocQpOpErr);
}

#[test]
fn an_operation_of_another_transport_is_refused() {
    for operation in every_operation() {
        let opcode = operation.opcode();
        let request = SendRequest {
            operation,
            ..send(1)
        };
        let sge = [Sge {
            addr: 0,
            length: 8,
            lkey: 1,
        }];
        let sges: &[Sge] = if opcode.has_no_data() { &[] } else { &sge };
        let entry = through_a_ring(&request, Payload::Sges(sges));
        for &qp_type in QpType::ALL {
            let decoded = SendRequest::decode(&entry, qp_type, Origin::Kernel);
            if opcode.permitted_on(qp_type) {
                assert!(decoded.is_ok(), "{opcode:?} {qp_type:?}");
            } else {
                assert_eq!(decoded, Err(WqeError::NotPermitted(opcode)));
            }
        }
    }
}

#[test]
fn any_bytes_decode_to_something_consistent_or_to_an_error() {
    let mut random = Random::new(1);
    let mut accepted = 0;
    for round in 0..if cfg!(miri) { 60 } else { 300_000 } {
        let length = random.below(MAX_SEND_STRIDE as u64 + 1) as usize;
        let mut entry: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        // Half of them nearly right, or next to none gets past the first check.
        if round % 2 == 0 && length >= SEND_HEADER_LEN {
            entry[8] = random.below(17) as u8;
            entry[9] &= 0xf;
            entry[10] = random.below(33) as u8;
            entry[11] = 0;
            entry[16..24].fill(0);
            if entry[9] & 8 != 0 {
                entry[10] = 0;
                entry[16] = random.next() as u8;
            }
            for sge in entry[SEND_HEADER_LEN..].chunks_exact_mut(16) {
                sge[10..12].fill(0);
            }
        }
        for &qp_type in QpType::ALL {
            if let Ok((request, data)) = SendRequest::decode(&entry, qp_type, Origin::Kernel) {
                accepted += 1;
                assert!(request.operation.opcode().permitted_on(qp_type));
                assert!(!request.flags.contains(SendFlags::INLINE));
                assert_eq!(request.destination.is_some(), qp_type.is_datagram());
                assert!(data.length() <= 1 << 31);
                if let Data::Sges(list) = data {
                    assert!(list.len() <= 32);
                    assert_eq!(list.iter().count(), list.len());
                }
            }
        }
        if let Ok((_, list)) = RecvRequest::decode(&entry) {
            assert!(list.len() * 16 <= length);
        }
        let _ = (SendRequest::wr_id(&entry), RecvRequest::wr_id(&entry));
    }
    assert!(accepted > 5);
}
