// SPDX-License-Identifier: MIT OR Apache-2.0
//! Posting lists of work requests.

use core::ptr;

use ferroce_core::ring::{
    BindMw, Data, Destination, Idle, Operation, Origin, RecvRequest, Remote, SendRequest,
};
use ferroce_core::verbs::{AccessFlags, ImmData, QpState, QpType, SendFlags, SendOpcode};

use super::fake::Trouble;
use super::rig::*;
use crate::abi::*;

const INLINE: u32 = SendFlags::INLINE.bits();
const SIGNALED: u32 = SendFlags::SIGNALED.bits();

fn code(opcode: SendOpcode) -> u32 {
    opcode.into()
}

/// What the driver finds, of a queue pair of this type.
fn fetch(
    driver: &mut super::fake::Driver<ferroce_core::ring::Executor<ferroce_core::ring::SendQueue>>,
    qp_type: QpType,
) -> Option<(SendRequest, Vec<Sge>, Vec<u8>)> {
    let mut buffer = [0; 576];
    let entry = driver.side.fetch(&mut buffer).unwrap()?;
    let (request, data) = SendRequest::decode(entry, qp_type, Origin::User).unwrap();
    let (sges, inline) = match data {
        Data::Sges(list) => (list.iter().collect(), vec![]),
        Data::Inline(bytes) => (vec![], bytes.to_vec()),
    };
    Some((request, sges, inline))
}

#[test]
fn the_driver_reads_what_was_posted() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    let mut sges = [
        Sge {
            addr: 0x1000,
            length: 10,
            lkey: 5,
        },
        Sge {
            addr: 0x2000,
            length: 20,
            lkey: 6,
        },
    ];
    let mut send = with_sges(send_wr(1, code(SendOpcode::SendImm)), &mut sges);
    send.send_flags = SIGNALED;
    send.imm_data = u32::from_ne_bytes([1, 2, 3, 4]);
    let mut text = [sge(b"inline "), sge(b"data")];
    let mut write = with_sges(send_wr(2, code(SendOpcode::RdmaWrite)), &mut text);
    write.send_flags = INLINE;
    write.wr.rdma = IbvRdmaArguments {
        remote_addr: 0x9000,
        rkey: 77,
    };
    let mut swap = with_sges(send_wr(3, code(SendOpcode::CompareSwap)), &mut sges[..1]);
    swap.wr.atomic = IbvAtomicArguments {
        remote_addr: 0x9008,
        compare_add: 1,
        swap: 2,
        rkey: 78,
    };
    let mut invalidate = send_wr(4, code(SendOpcode::LocalInvalidate));
    invalidate.imm_data = 79;
    // Programs pass this flag with all their work requests. There is nothing to be inline here.
    invalidate.send_flags = INLINE;
    rig.post_send(qp, &mut [send, write, swap, invalidate])
        .unwrap();

    let (request, list, _) = fetch(&mut driver, QpType::Rc).unwrap();
    assert_eq!(request.wr_id, 1);
    assert_eq!(request.flags, SendFlags::SIGNALED);
    assert_eq!(request.operation, Operation::SendImm(ImmData([1, 2, 3, 4])));
    assert_eq!(list, sges);
    let (request, _, inline) = fetch(&mut driver, QpType::Rc).unwrap();
    let remote = Remote {
        addr: 0x9000,
        rkey: 77,
    };
    assert_eq!(request.operation, Operation::RdmaWrite(remote));
    assert_eq!(inline, b"inline data");
    let (request, list, _) = fetch(&mut driver, QpType::Rc).unwrap();
    let remote = Remote {
        addr: 0x9008,
        rkey: 78,
    };
    let operation = Operation::CompareSwap {
        remote,
        compare: 1,
        swap: 2,
    };
    assert_eq!((request.operation, list), (operation, vec![sges[0]]));
    let (request, ..) = fetch(&mut driver, QpType::Rc).unwrap();
    assert_eq!(request.operation, Operation::LocalInvalidate { rkey: 79 });
    assert!(fetch(&mut driver, QpType::Rc).is_none());
}

#[test]
fn a_datagram_names_its_address_handle_by_the_drivers_number() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Ud);
    let mut driver = rig.device.sends();
    let ah = rig.ah();
    let mut wr = send_wr(1, code(SendOpcode::Send));
    wr.wr.ud = IbvUdArguments {
        ah,
        remote_qpn: 17,
        remote_qkey: 18,
    };
    rig.post_send(qp, &mut [wr]).unwrap();
    let (request, ..) = fetch(&mut driver, QpType::Ud).unwrap();
    // SAFETY: It has been made.
    let number = unsafe { (*ah).handle } + 5000;
    assert_eq!(
        request.destination,
        Some(Destination {
            ah: number,
            remote_qpn: 17,
            remote_qkey: 18,
            pkey_index: 0,
        })
    );

    let mut wr = send_wr(1, code(SendOpcode::Send));
    wr.wr.ud.ah = ptr::null_mut();
    assert_eq!(rig.post_send(qp, &mut [wr]), Err((0, libc::EINVAL)));
}

#[test]
fn a_queue_pair_takes_sends_from_rts_on_and_receives_from_init_on() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    for (state, send, recv) in [
        (QpState::Reset, false, false),
        (QpState::Init, false, true),
        (QpState::Rtr, false, true),
        (QpState::Rts, true, true),
        (QpState::Sqd, true, true),
        (QpState::Err, true, true),
    ] {
        rig.modify(qp, state);
        let expected = |taken| {
            if taken {
                Ok(())
            } else {
                Err((0, libc::EINVAL))
            }
        };
        let mut sends = [send_wr(1, code(SendOpcode::Send))];
        assert_eq!(rig.post_send(qp, &mut sends), expected(send), "{state:?}");
        let mut receives = [recv_wr(1, &mut [])];
        // The queue has four entries, and nobody takes them.
        let posted = rig.post_recv(qp, &mut receives);
        if posted != Err((0, libc::ENOMEM)) {
            assert_eq!(posted, expected(recv), "{state:?}");
        }
    }
}

#[test]
fn a_query_that_finds_another_state_is_believed() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    rig.device.state.set(QpState::Reset.into());
    // SAFETY: All bytes zero are valid attributes.
    let (mut attr, mut init): (IbvQpAttr, IbvQpInitAttr) =
        unsafe { (core::mem::zeroed(), core::mem::zeroed()) };
    let result = verb!(rig, query_qp(qp, &mut attr, IBV_QP_STATE, &mut init));
    assert_eq!(result, 0);
    let mut sends = [send_wr(1, code(SendOpcode::Send))];
    assert_eq!(rig.post_send(qp, &mut sends), Err((0, libc::EINVAL)));
}

#[test]
fn a_full_queue_takes_what_comes_before_the_bad_one() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    let mut sends: Vec<_> = (0..6)
        .map(|id| send_wr(id, code(SendOpcode::Send)))
        .collect();
    assert_eq!(rig.post_send(qp, &mut sends), Err((4, libc::ENOMEM)));
    for id in 0..4 {
        assert_eq!(fetch(&mut driver, QpType::Rc).unwrap().0.wr_id, id);
    }
    assert!(fetch(&mut driver, QpType::Rc).is_none());
    driver.side.hand_back(1);
    rig.post_send(qp, &mut sends[..1]).unwrap();
    assert_eq!(rig.post_send(qp, &mut sends[..1]), Err((0, libc::ENOMEM)));

    let mut receives: Vec<_> = (0..5).map(|id| recv_wr(id, &mut [])).collect();
    assert_eq!(rig.post_recv(qp, &mut receives), Err((4, libc::ENOMEM)));
}

#[test]
fn what_is_wrong_with_a_work_request_is_einval() {
    let rig = Rig::new();
    let rc = rig.qp(QpType::Rc);
    let long = [0; 65];
    let mut wrong = vec![
        // TSO, and no opcode at all
        send_wr(0, 10),
        send_wr(0, 99),
        // Not by a list, and not by a process
        send_wr(0, code(SendOpcode::Flush)),
        send_wr(0, code(SendOpcode::RegMr)),
        with_sges(send_wr(0, code(SendOpcode::Send)), &mut [Sge::default(); 5]),
        with_sges(
            send_wr(0, code(SendOpcode::Send)),
            &mut [Sge::default(); 33],
        ),
        with_sges(
            send_wr(0, code(SendOpcode::LocalInvalidate)),
            &mut [Sge::default(); 33],
        ),
        // A bind without window
        send_wr(0, code(SendOpcode::BindMw)),
    ];
    let mut wr = send_wr(0, code(SendOpcode::Send));
    wr.num_sge = -1;
    wrong.push(wr);
    let mut wr = send_wr(0, code(SendOpcode::Send));
    wr.num_sge = 1;
    wrong.push(wr);
    let mut inline = [sge(&long)];
    for opcode in [SendOpcode::Send, SendOpcode::RdmaRead] {
        let mut wr = with_sges(send_wr(0, code(opcode)), &mut inline);
        wr.send_flags = INLINE;
        wrong.push(wr);
    }
    for (index, wr) in wrong.into_iter().enumerate() {
        let mut good = send_wr(1, code(SendOpcode::Send));
        good.wr_id = 1;
        let result = rig.post_send(rc, &mut [wr, good]);
        assert_eq!(result, Err((0, libc::EINVAL)), "number {index}");
    }
    // What is between the address handle and a transport that has none is never looked at.
    let ud = rig.qp(QpType::Ud);
    let mut wr = send_wr(0, code(SendOpcode::RdmaWrite));
    wr.wr.rdma.remote_addr = 0x1234;
    assert_eq!(rig.post_send(ud, &mut [wr]), Err((0, libc::EINVAL)));
    let uc = rig.qp(QpType::Uc);
    let mut read = [send_wr(0, code(SendOpcode::RdmaRead))];
    assert_eq!(rig.post_send(uc, &mut read), Err((0, libc::EINVAL)));

    let mut receives = [recv_wr(0, &mut [Sge::default(); 3])];
    assert_eq!(rig.post_recv(rc, &mut receives), Err((0, libc::EINVAL)));
}

#[test]
fn the_doorbell_rings_once_for_a_list_and_only_if_the_driver_sleeps() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    let mut one = [send_wr(1, code(SendOpcode::Send))];
    rig.post_send(qp, &mut one).unwrap();
    assert_eq!(rig.device.doorbells(), 0);
    assert_eq!(driver.side.sleep(), Ok(Idle::Work));
    fetch(&mut driver, QpType::Rc).unwrap();
    driver.side.hand_back(1);
    assert_eq!(driver.side.sleep(), Ok(Idle::Asleep));

    let mut two = [
        send_wr(2, code(SendOpcode::Send)),
        send_wr(3, code(SendOpcode::Send)),
    ];
    rig.post_send(qp, &mut two).unwrap();
    assert_eq!(rig.device.doorbells(), 1);
    let command = rig.device.doorbell(0);
    // SAFETY: It has been made.
    let handle = unsafe { (*qp).handle };
    assert_eq!((command.command, command.handle), (28, handle));
    assert_eq!((command.in_words, command.out_words), (8, 1));
    assert_eq!((command.wr_count, command.sge_count), (0, 0));
    assert_eq!(command.wqe_size, 56);

    // Nothing posted, nothing to tell.
    let mut bad = [send_wr(2, 99)];
    assert!(rig.post_send(qp, &mut bad).is_err());
    assert_eq!(rig.device.doorbells(), 1);
}

#[test]
fn receives_are_the_drivers_to_find_unless_it_asks() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.receives();
    let mut sges = [Sge {
        addr: 0x1000,
        length: 4096,
        lkey: 3,
    }];
    rig.post_recv(qp, &mut [recv_wr(8, &mut sges), recv_wr(9, &mut [])])
        .unwrap();
    assert_eq!(rig.device.doorbells(), 0);
    let mut buffer = [0; 528];
    let entry = driver.side.fetch(&mut buffer).unwrap().unwrap();
    let (request, list) = RecvRequest::decode(entry).unwrap();
    assert_eq!(request, RecvRequest { wr_id: 8 });
    assert_eq!(list.iter().collect::<Vec<_>>(), sges);
    driver.side.fetch(&mut buffer).unwrap().unwrap();

    // As a queue pair in error does, to flush what is still posted.
    assert_eq!(driver.side.sleep(), Ok(Idle::Asleep));
    rig.post_recv(qp, &mut [recv_wr(10, &mut [])]).unwrap();
    assert_eq!(rig.device.doorbells(), 1);
    assert_eq!(rig.device.doorbell(0).command, 29);
    assert_eq!(rig.device.doorbell(0).wqe_size, 16);
}

/// A shared receive queue of so many entries.
fn shared_receive_queue(rig: &Rig, max_wr: u32) -> *mut IbvSrq {
    let mut attr = IbvSrqInitAttr {
        srq_context: ptr::null_mut(),
        attr: IbvSrqAttr {
            max_wr,
            max_sge: 1,
            srq_limit: 0,
        },
    };
    let srq = verb!(rig, create_srq(rig.pd, &mut attr));
    assert!(!srq.is_null());
    srq
}

#[test]
fn a_shared_receive_queue_is_posted_to_directly() {
    let rig = Rig::new();
    let srq = shared_receive_queue(&rig, 2);
    let mut driver = rig.device.shared_receives();
    let mut list = [
        recv_wr(1, &mut []),
        recv_wr(2, &mut []),
        recv_wr(3, &mut []),
    ];
    assert_eq!(rig.post_srq_recv(srq, &mut list), Err((2, libc::ENOMEM)));
    assert_eq!(driver.side.available(), Ok(2));
    let mut buffer = [0; 528];
    let entry = driver.side.fetch(&mut buffer).unwrap().unwrap();
    assert_eq!(RecvRequest::wr_id(entry), 1);
    driver.side.fetch(&mut buffer).unwrap().unwrap();
    driver.side.hand_back(2);
    assert_eq!(driver.side.sleep(), Ok(Idle::Asleep));
    rig.post_srq_recv(srq, &mut list[..1]).unwrap();
    assert_eq!(rig.device.doorbell(0).command, 36);

    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    attr.srq = srq;
    let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
    rig.modify(qp, QpState::Rts);
    let mut receives = [recv_wr(1, &mut [])];
    assert_eq!(rig.post_recv(qp, &mut receives), Err((0, libc::EINVAL)));
    assert_eq!(verb!(rig, destroy_qp(qp)), 0);
    assert_eq!(verb!(rig, destroy_srq(srq)), 0);
}

fn resize_srq(rig: &Rig, srq: *mut IbvSrq, max_wr: u32) -> i32 {
    let mut attr = IbvSrqAttr {
        max_wr,
        ..IbvSrqAttr::default()
    };
    verb!(rig, modify_srq(srq, &mut attr, srq_attr_mask::MAX_WR))
}

#[test]
fn a_resized_shared_receive_queue_goes_on_in_its_new_ring() {
    let rig = Rig::new();
    let srq = shared_receive_queue(&rig, 2);
    let mut driver = rig.device.shared_receives();
    let mut receives = [1, 2, 3, 4, 5].map(|wr_id| recv_wr(wr_id, &mut []));
    rig.post_srq_recv(srq, &mut receives[..2]).unwrap();
    let mut buffer = [0; 528];
    driver.side.fetch(&mut buffer).unwrap().unwrap();
    driver.side.hand_back(1);

    assert_eq!(resize_srq(&rig, srq, 3), 0);
    let mut moved = rig.device.shared_receives();
    driver.side.move_to(&mut moved.side).unwrap();
    let mut driver = moved;
    assert_eq!(driver.side.geometry().entries(), 4);
    assert_eq!(
        rig.post_srq_recv(srq, &mut receives[1..]),
        Err((3, libc::ENOMEM))
    );
    for wr_id in [2, 2, 3, 4] {
        let entry = driver.side.fetch(&mut buffer).unwrap().unwrap();
        assert_eq!(RecvRequest::wr_id(entry), wr_id);
    }
    assert!(driver.side.fetch(&mut buffer).unwrap().is_none());

    let mut attr = IbvSrqAttr::default();
    assert_eq!(verb!(rig, modify_srq(srq, &mut attr, 1 << 1)), 0);
    assert_eq!(verb!(rig, destroy_srq(srq)), 0);
}

#[test]
fn a_shared_receive_queue_that_cannot_be_resized_stays_as_it_is() {
    let rig = Rig::new();
    let srq = shared_receive_queue(&rig, 2);
    let mut driver = rig.device.shared_receives();
    let mut buffer = [0; 528];
    for (trouble, errno) in [
        (Trouble::Fail(libc::EINVAL), libc::EINVAL),
        // The new ring cannot be mapped.
        (Trouble::Nonsense, libc::EPROTO),
        (Trouble::FailLater(libc::EINVAL), libc::EINVAL),
    ] {
        rig.device.trouble.set(trouble);
        assert_eq!(resize_srq(&rig, srq, 8), errno);
        rig.device.trouble.set(Trouble::None);
        for wr_id in 0..3 {
            let mut receives = [recv_wr(wr_id, &mut [])];
            rig.post_srq_recv(srq, &mut receives).unwrap();
            let entry = driver.side.fetch(&mut buffer).unwrap().unwrap();
            assert_eq!(RecvRequest::wr_id(entry), wr_id);
            driver.side.hand_back(1);
        }
    }
}

#[test]
fn binding_a_type_1_window_counts_its_key_up() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    // SAFETY: All bytes zero are a valid window, and a valid region.
    let (mut mw, mut mr): (IbvMw, IbvMr) = unsafe { (core::mem::zeroed(), core::mem::zeroed()) };
    mw.rkey = 0x5ff;
    mr.lkey = 33;
    let mut bind = IbvMwBind {
        wr_id: 1,
        send_flags: SIGNALED,
        bind_info: IbvMwBindInfo {
            mr: &mut mr,
            addr: 0x1000,
            length: 64,
            mw_access_flags: AccessFlags::REMOTE_WRITE.bits(),
        },
    };
    assert_eq!(verb!(rig, bind_mw(qp, &mut mw, &mut bind)), 0);
    assert_eq!(mw.rkey, 0x500);
    let (request, ..) = fetch(&mut driver, QpType::Rc).unwrap();
    assert_eq!(
        request.operation,
        Operation::BindMw(BindMw {
            addr: 0x1000,
            length: 64,
            mr_lkey: 33,
            mw_rkey: 0x5ff,
            new_rkey: 0x500,
            access: AccessFlags::REMOTE_WRITE,
        })
    );

    // Unbound: no region, no length.
    bind.bind_info.mr = ptr::null_mut();
    bind.bind_info.length = 0;
    assert_eq!(verb!(rig, bind_mw(qp, &mut mw, &mut bind)), 0);
    assert_eq!(mw.rkey, 0x501);
    bind.bind_info.mw_access_flags = AccessFlags::ZERO_BASED.bits();
    assert_eq!(verb!(rig, bind_mw(qp, &mut mw, &mut bind)), libc::EINVAL);
    assert_eq!(mw.rkey, 0x501);
}

#[test]
fn after_a_reset_the_queue_goes_on_where_it_was() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    let mut sends: Vec<_> = (0..3)
        .map(|id| send_wr(id, code(SendOpcode::Send)))
        .collect();
    rig.post_send(qp, &mut sends).unwrap();
    driver.side.discard_all();
    rig.modify(qp, QpState::Reset);
    rig.modify(qp, QpState::Rts);
    rig.post_send(qp, &mut [send_wr(9, code(SendOpcode::Send))])
        .unwrap();
    assert_eq!(fetch(&mut driver, QpType::Rc).unwrap().0.wr_id, 9);
}
