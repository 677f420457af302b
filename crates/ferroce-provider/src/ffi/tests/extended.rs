// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting by the extended verbs.

use core::ffi::c_void;
use core::ptr;

use ferroce_core::ring::{Data, Executor, Idle, Operation, Origin, Remote, SendQueue, SendRequest};
use ferroce_core::verbs::{
    AccessFlags, FlushPlacement, FlushSelectivity, ImmData, QpState, QpType, SendFlags,
};

use super::fake::Driver;
use super::rig::*;
use crate::abi::*;

const ALL: u64 = 0x1bff;
const SIGNALED: u32 = SendFlags::SIGNALED.bits();

/// What the driver finds, with all data that is in the work request itself.
fn fetch(driver: &mut Driver<Executor<SendQueue>>, qp_type: QpType) -> Vec<(SendRequest, Vec<u8>)> {
    let mut found = vec![];
    let mut buffer = [0; 576];
    while let Some(entry) = driver.side.fetch(&mut buffer).unwrap() {
        let (request, data) = SendRequest::decode(entry, qp_type, Origin::User).unwrap();
        let bytes = match data {
            Data::Inline(bytes) => bytes.to_vec(),
            Data::Sges(list) => list.iter().flat_map(|sge| sge.addr.to_ne_bytes()).collect(),
        };
        found.push((request, bytes));
    }
    driver.side.hand_back(u32::MAX);
    found
}

fn begin(qp: *mut IbvQpEx, wr_id: u64) {
    // SAFETY: It has been made, and is this thread's.
    unsafe {
        (*qp).wr_id = wr_id;
        (*qp).wr_flags = SIGNALED;
    }
}

#[test]
fn a_batch_is_posted_at_its_end_and_rings_once() {
    let rig = Rig::new();
    let qp = rig.qp_ex(QpType::Rc, ALL);
    let mut driver = rig.device.sends();
    assert_eq!(driver.side.sleep(), Ok(Idle::Asleep));
    call!(qp, wr_start());
    begin(qp, 1);
    call!(qp, wr_send_imm(u32::from_ne_bytes([1, 2, 3, 4])));
    call!(qp, wr_set_sge(3, 0x1000, 64));
    begin(qp, 2);
    call!(qp, wr_rdma_write(77, 0x9000));
    let mut text = *b"inline";
    call!(qp, wr_set_inline_data(text.as_mut_ptr().cast(), text.len()));
    // It has been copied.
    text.fill(0);
    begin(qp, 3);
    call!(qp, wr_send());
    assert!(fetch(&mut driver, QpType::Rc).is_empty());
    assert_eq!(rig.device.doorbells(), 0);
    assert_eq!(call!(qp, wr_complete()), 0);
    assert_eq!(rig.device.doorbells(), 1);

    let found = fetch(&mut driver, QpType::Rc);
    let request = |wr_id, operation| SendRequest {
        wr_id,
        flags: SendFlags::SIGNALED,
        operation,
        destination: None,
    };
    let remote = Remote {
        addr: 0x9000,
        rkey: 77,
    };
    assert_eq!(
        found,
        [
            (
                request(1, Operation::SendImm(ImmData([1, 2, 3, 4]))),
                0x1000u64.to_ne_bytes().to_vec()
            ),
            (request(2, Operation::RdmaWrite(remote)), b"inline".to_vec()),
            (request(3, Operation::Send), vec![]),
        ]
    );
}

#[test]
fn every_operation_arrives() {
    let rig = Rig::new();
    let mut attr = rig.init_attr(
        QpType::Rc,
        IbvQpCap {
            max_send_wr: 16,
            ..SMALL
        },
    );
    attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
    attr.send_ops_flags = ALL;
    let qp: *mut IbvQpEx = verb!(rig, create_qp_ex(rig.device.context(), &mut attr)).cast();
    rig.modify(qp.cast(), QpState::Rts);
    let mut driver = rig.device.sends();
    // SAFETY: All bytes zero are a valid window, and a valid region.
    let (mut mw, mut mr): (IbvMw, IbvMr) = unsafe { (core::mem::zeroed(), core::mem::zeroed()) };
    mw.rkey = 0x100;
    mr.lkey = 33;
    let info = IbvMwBindInfo {
        mr: &mut mr,
        addr: 0x1000,
        length: 64,
        mw_access_flags: AccessFlags::REMOTE_READ.bits(),
    };
    let mut pieces = *b"two pieces";
    let base: *mut c_void = pieces.as_mut_ptr().cast();
    let list = [
        IbvDataBuf {
            addr: base,
            length: 4,
        },
        IbvDataBuf {
            addr: base.wrapping_byte_add(4),
            length: 6,
        },
    ];
    let sges = [Sge {
        addr: 1,
        length: 8,
        lkey: 2,
    }; 2];

    call!(qp, wr_start());
    call!(qp, wr_rdma_write_imm(1, 2, u32::from_ne_bytes([9; 4])));
    call!(qp, wr_set_inline_data_list(2, list.as_ptr()));
    call!(qp, wr_rdma_read(1, 2));
    call!(qp, wr_set_sge_list(2, sges.as_ptr()));
    call!(qp, wr_atomic_cmp_swp(1, 8, 3, 4));
    call!(qp, wr_set_sge(0, 0, 8));
    call!(qp, wr_atomic_fetch_add(1, 8, 5));
    call!(qp, wr_set_sge(0, 0, 8));
    call!(qp, wr_send_inv(6));
    call!(qp, wr_local_inv(7));
    call!(qp, wr_bind_mw(&mut mw, 0x101, &info));
    // SAFETY: They are there: see `the_newer_functions`.
    unsafe {
        let (atomic_write, flush) = the_newer_functions(qp);
        atomic_write(qp, 1, 8, ptr::from_ref(&[1u8, 2, 3, 4, 5, 6, 7, 8]).cast());
        flush(qp, 1, 2, 3, 1, 0);
    }
    assert_eq!(call!(qp, wr_complete()), 0);
    assert_eq!(mw.rkey, 0x101);

    let found = fetch(&mut driver, QpType::Rc);
    let operations: Vec<_> = found.iter().map(|(request, _)| request.operation).collect();
    let remote = |addr| Remote { addr, rkey: 1 };
    assert_eq!(
        operations,
        [
            Operation::RdmaWriteImm(remote(2), ImmData([9; 4])),
            Operation::RdmaRead(remote(2)),
            Operation::CompareSwap {
                remote: remote(8),
                compare: 3,
                swap: 4
            },
            Operation::FetchAdd {
                remote: remote(8),
                add: 5
            },
            Operation::SendInvalidate { rkey: 6 },
            Operation::LocalInvalidate { rkey: 7 },
            Operation::BindMw(ferroce_core::ring::BindMw {
                addr: 0x1000,
                length: 64,
                mr_lkey: 33,
                mw_rkey: 0x100,
                new_rkey: 0x101,
                access: AccessFlags::REMOTE_READ,
            }),
            Operation::AtomicWrite(remote(8)),
            Operation::Flush {
                remote: remote(2),
                length: 3,
                selectivity: FlushSelectivity::Range,
                placement: FlushPlacement::GLOBAL,
            },
        ]
    );
    assert_eq!(found[0].1, b"two pieces");
    assert_eq!(found[1].1.len(), 16, "two SGEs");
    assert_eq!(found[7].1, [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// The functions that came to `ibv_qp_ex` last, from where a program finds them.
///
/// # Safety
/// The queue pair has been made for these operations.
unsafe fn the_newer_functions(qp: *mut IbvQpEx) -> (WrAtomicWrite, WrFlush) {
    let end = size_of::<IbvQpEx>();
    // SAFETY: By this function's contract; they are the next two fields.
    unsafe {
        (
            qp.byte_add(end).cast::<WrAtomicWrite>().read(),
            qp.byte_add(end + size_of::<usize>())
                .cast::<WrFlush>()
                .read(),
        )
    }
}

#[test]
fn a_datagram_needs_a_destination_before_or_after_its_data() {
    let rig = Rig::new();
    let qp = rig.qp_ex(QpType::Ud, send_ops::SEND);
    let mut driver = rig.device.sends();
    let ah = rig.ah();
    call!(qp, wr_start());
    call!(qp, wr_send());
    call!(qp, wr_set_ud_addr(ah, 17, 18));
    call!(qp, wr_set_sge(1, 2, 3));
    call!(qp, wr_send());
    call!(qp, wr_set_sge(1, 2, 3));
    call!(qp, wr_set_ud_addr(ah, 19, 20));
    assert_eq!(call!(qp, wr_complete()), 0);
    let found = fetch(&mut driver, QpType::Ud);
    let destinations: Vec<_> = found
        .iter()
        .map(|(request, _)| request.destination.unwrap().remote_qpn)
        .collect();
    assert_eq!(destinations, [17, 19]);

    for ah in [None, Some(ptr::null_mut())] {
        call!(qp, wr_start());
        call!(qp, wr_send());
        if let Some(ah) = ah {
            call!(qp, wr_set_ud_addr(ah, 17, 18));
        }
        assert_eq!(call!(qp, wr_complete()), libc::EINVAL);
    }
    assert!(fetch(&mut driver, QpType::Ud).is_empty());
}

#[test]
fn nothing_of_a_batch_is_posted_if_anything_is_wrong_with_it() {
    let rig = Rig::new();
    let qp = rig.qp_ex(QpType::Rc, ALL);
    let mut driver = rig.device.sends();
    type Step = fn(*mut IbvQpEx);
    let wrong: [(Step, i32); 8] = [
        (|qp| call!(qp, wr_set_sge(1, 2, 3)), libc::EINVAL),
        (
            |qp| {
                call!(qp, wr_send());
                call!(qp, wr_set_sge_list(6, [Sge::default(); 6].as_ptr()));
            },
            libc::EINVAL,
        ),
        (
            |qp| {
                call!(qp, wr_send());
                call!(qp, wr_set_sge_list(usize::MAX, [].as_ptr()));
            },
            libc::EINVAL,
        ),
        (
            |qp| {
                call!(qp, wr_send());
                let mut long = [0u8; 65];
                call!(qp, wr_set_inline_data(long.as_mut_ptr().cast(), 65));
            },
            libc::EINVAL,
        ),
        (
            |qp| {
                call!(qp, wr_send());
                let mut longer = [0u8; 600];
                call!(qp, wr_set_inline_data(longer.as_mut_ptr().cast(), 600));
            },
            libc::EINVAL,
        ),
        (
            |qp| {
                call!(qp, wr_send());
                let mut short = [0u8; 600];
                // No object is that long: a program's -1, say.
                let length = usize::MAX;
                call!(qp, wr_set_inline_data(short.as_mut_ptr().cast(), length));
            },
            libc::EINVAL,
        ),
        (
            |qp| {
                // SAFETY: All bytes zero are valid.
                let info: IbvMwBindInfo = unsafe { core::mem::zeroed() };
                call!(qp, wr_bind_mw(ptr::null_mut(), 1, &info));
            },
            libc::EINVAL,
        ),
        (|qp| (0..5).for_each(|_| call!(qp, wr_send())), libc::ENOMEM),
    ];
    for (index, (step, errno)) in wrong.into_iter().enumerate() {
        for before in [false, true] {
            call!(qp, wr_start());
            begin(qp, 1);
            if before {
                call!(qp, wr_send());
                call!(qp, wr_set_sge(1, 2, 3));
                // Only the first is what `wr_set_sge` could belong to.
                call!(qp, wr_local_inv(1));
            }
            if index == 0 && before {
                call!(qp, wr_abort());
                continue;
            }
            step(qp);
            begin(qp, 2);
            call!(qp, wr_local_inv(5));
            assert_eq!(call!(qp, wr_complete()), errno, "number {index}");
            assert!(fetch(&mut driver, QpType::Rc).is_empty(), "number {index}");
        }
    }
    // And the next is good.
    call!(qp, wr_start());
    begin(qp, 3);
    call!(qp, wr_send());
    assert_eq!(call!(qp, wr_complete()), 0);
    assert_eq!(fetch(&mut driver, QpType::Rc).len(), 1);
}

#[test]
fn an_aborted_batch_leaves_nothing_and_frees_the_queue() {
    let rig = Rig::new();
    let qp = rig.qp_ex(QpType::Rc, ALL);
    let mut driver = rig.device.sends();
    call!(qp, wr_start());
    call!(qp, wr_send());
    call!(qp, wr_send());
    call!(qp, wr_abort());
    assert!(fetch(&mut driver, QpType::Rc).is_empty());
    let mut list = [send_wr(1, 2)];
    rig.post_send(qp.cast(), &mut list).unwrap();
    let found = fetch(&mut driver, QpType::Rc);
    assert_eq!((found.len(), found[0].0.wr_id), (1, 1));
}

#[test]
fn a_batch_on_a_queue_pair_that_is_not_ready_is_einval() {
    let rig = Rig::new();
    let qp = rig.qp_ex(QpType::Rc, ALL);
    let mut driver = rig.device.sends();
    rig.modify(qp.cast(), QpState::Reset);
    call!(qp, wr_start());
    call!(qp, wr_send());
    assert_eq!(call!(qp, wr_complete()), libc::EINVAL);
    rig.modify(qp.cast(), QpState::Rts);
    call!(qp, wr_start());
    assert_eq!(call!(qp, wr_complete()), 0);
    assert!(fetch(&mut driver, QpType::Rc).is_empty());
}

/// Where libibverbs looks to see whether a queue pair is an extended one: the releases with this
/// private ABI do not agree.
#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu", not(feature = "abi57")))]
fn every_release_of_libibverbs_finds_that_a_queue_pair_is_an_extended_one() {
    let rig = Rig::new();
    let comp_mask = |qp: *mut IbvQpEx, offset: usize| {
        // SAFETY: It is within `verbs_qp`.
        unsafe { qp.byte_add(offset).cast::<u32>().read() }
    };
    // rdma-core 36 to 43, 44, and 45 to 56
    let plain = rig.qp_ex(QpType::Rc, send_ops::SEND);
    assert_eq!([344, 352, 360].map(|at| comp_mask(plain, at)), [2, 2, 2]);
    // From 44 on programs can ask for one of the functions, from 45 on for both.
    let atomic = rig.qp_ex(QpType::Rc, send_ops::ATOMIC_WRITE);
    assert_eq!([352, 360].map(|at| comp_mask(atomic, at)), [2, 2]);
    let flush = rig.qp_ex(QpType::Rc, ALL);
    assert_eq!(comp_mask(flush, 360), 2);
    let legacy = rig.qp(QpType::Rc).cast();
    assert_eq!([344, 352, 360].map(|at| comp_mask(legacy, at)), [0, 0, 0]);
}
