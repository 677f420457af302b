// SPDX-License-Identifier: MIT OR Apache-2.0
//! Polling and arming completion queues.

use core::ptr;

use ferroce_core::ring::{Cqe, Producer};
use ferroce_core::verbs::{ImmData, QpState, QpType, WcFlags, WcOpcode, WcStatus};

use super::fake::Trouble;
use super::rig::*;
use crate::abi::*;
use crate::ffi::device::clock_nanos;

fn cqe(wr_id: u64) -> Cqe {
    Cqe::new(wr_id, 0x12, WcOpcode::Send, WcStatus::Success)
}

/// As many completions as there is room for.
fn poll(rig: &Rig, cq: *mut IbvCq, room: usize) -> Vec<IbvWc> {
    let mut list: Vec<IbvWc> = Vec::with_capacity(room);
    let count = verb!(rig, poll_cq(cq, room as i32, list.as_mut_ptr()));
    // SAFETY: So many have been written.
    unsafe { list.set_len(count as usize) };
    list
}

#[test]
fn a_completion_is_what_the_driver_says() {
    let rig = Rig::new();
    let cq = rig.cq(4);
    let mut driver = rig.device.completions();
    let mut received =
        Cqe::new(7, 0x12, WcOpcode::Recv, WcStatus::Success).with_imm(ImmData([1, 2, 3, 4]));
    received.byte_len = 104;
    received.src_qp = 0x34;
    received.sl = 5;
    received.pkey_index = 6;
    received.vendor_err = 8;
    received.flags = received.flags | WcFlags::GRH | WcFlags::WITH_NETWORK_HDR_TYPE;
    driver.side.push(&received, false).unwrap();
    let invalidated = Cqe::new(8, 0x12, WcOpcode::Recv, WcStatus::Success).with_invalidated(0xabcd);
    driver.side.push(&invalidated, false).unwrap();

    let list = poll(&rig, cq, 8);
    assert_eq!(
        list[0],
        IbvWc {
            wr_id: 7,
            status: 0,
            opcode: 128,
            vendor_err: 8,
            byte_len: 104,
            imm_data: u32::from_ne_bytes([1, 2, 3, 4]),
            qp_num: 0x12,
            src_qp: 0x34,
            // IBV_WC_GRH | IBV_WC_WITH_IMM
            wc_flags: 3,
            pkey_index: 6,
            slid: 0,
            sl: 5,
            dlid_path_bits: 0,
        }
    );
    // IBV_WC_WITH_INV is another bit than in the kernel.
    assert_eq!((list[1].wc_flags, list[1].imm_data), (8, 0xabcd));
    assert_eq!(list.len(), 2);
}

#[test]
fn polling_takes_no_more_than_there_is_room_for_and_gives_the_room_back() {
    let rig = Rig::new();
    let cq = rig.cq(4);
    let mut driver = rig.device.completions();
    for id in 0..4 {
        driver.side.push(&cqe(id), false).unwrap();
    }
    let ids = |list: Vec<IbvWc>| list.iter().map(|wc| wc.wr_id).collect::<Vec<_>>();
    assert_eq!(ids(poll(&rig, cq, 0)), []);
    assert_eq!(verb!(rig, poll_cq(cq, -1, ptr::null_mut())), 0);
    assert_eq!(ids(poll(&rig, cq, 3)), [0, 1, 2]);
    for id in 4..7 {
        driver.side.push(&cqe(id), false).unwrap();
    }
    assert_eq!(ids(poll(&rig, cq, 8)), [3, 4, 5, 6]);
    assert_eq!(ids(poll(&rig, cq, 8)), []);
    // All of it without the kernel.
    assert_eq!(rig.device.doorbells(), 0);
}

#[test]
fn arming_an_empty_queue_asks_for_an_event_without_the_kernel() {
    let rig = Rig::new();
    let cq = rig.cq(4);
    let mut driver = rig.device.completions();
    driver.side.push(&cqe(1), false).unwrap();
    assert!(!driver.side.notify());
    assert_eq!(poll(&rig, cq, 8).len(), 1);
    assert_eq!(verb!(rig, req_notify_cq(cq, 1)), 0);
    driver.side.push(&cqe(2), false).unwrap();
    assert!(!driver.side.notify(), "not solicited");
    driver.side.push(&cqe(3), true).unwrap();
    assert!(driver.side.notify());
    assert_eq!(poll(&rig, cq, 8).len(), 2);
    assert_eq!(verb!(rig, req_notify_cq(cq, 0)), 0);
    driver.side.push(&cqe(4), false).unwrap();
    assert!(driver.side.notify());
    assert!(!driver.side.notify());
    assert_eq!((rig.device.doorbells(), rig.device.asked.get()), (0, 0));
}

#[test]
fn arming_a_queue_with_completions_has_the_driver_raise_the_event() {
    let rig = Rig::new();
    let cq = rig.cq(4);
    let mut driver = rig.device.completions();
    for id in 0..2 {
        driver.side.push(&cqe(id), false).unwrap();
    }
    assert_eq!(poll(&rig, cq, 1).len(), 1);
    assert_eq!(verb!(rig, req_notify_cq(cq, 0)), 0);
    assert_eq!(rig.device.asked.get(), 1);
    assert!(driver.side.notify_waiting());
    assert_eq!(poll(&rig, cq, 8).len(), 1);
    assert_eq!(verb!(rig, req_notify_cq(cq, 0)), 0);
    assert_eq!(rig.device.asked.get(), 1);
}

#[test]
fn a_resized_queue_is_polled_and_armed_in_its_new_ring() {
    let rig = Rig::new();
    let cq = rig.cq(2);
    let mut driver = rig.device.completions();
    driver.side.push(&cqe(1), false).unwrap();
    assert_eq!(poll(&rig, cq, 8).len(), 1);
    assert_eq!(verb!(rig, req_notify_cq(cq, 0)), 0);
    assert_eq!(verb!(rig, resize_cq(cq, 7)), 0);
    // SAFETY: It has been made.
    assert_eq!(unsafe { (*cq).cqe }, 8);
    let mut moved = rig.device.completions();
    driver.side.move_to(&mut moved.side).unwrap();
    let mut driver = moved;
    driver.side.push(&cqe(2), false).unwrap();
    assert!(driver.side.notify());
    assert_eq!(poll(&rig, cq, 8)[0].wr_id, 2);

    // The driver refuses: the queue stays as it is.
    rig.device.trouble.set(Trouble::Fail(libc::EINVAL));
    assert_eq!(verb!(rig, resize_cq(cq, 1)), libc::EINVAL);
    driver.side.push(&cqe(3), false).unwrap();
    assert_eq!(poll(&rig, cq, 8)[0].wr_id, 3);
}

#[test]
fn a_queue_pair_that_is_reset_or_destroyed_leaves_no_completions() {
    let rig = Rig::new();
    let (send_cq, recv_cq) = (rig.cq(4), rig.cq(4));
    let mut driver = rig.device.completions();
    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    (attr.send_cq, attr.recv_cq) = (send_cq, recv_cq);
    let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
    // SAFETY: It has been made.
    let qp_num = unsafe { (*qp).qp_num };
    let own = Cqe::new(0, qp_num, WcOpcode::Recv, WcStatus::WrFlushErr);
    let fill = |driver: &mut super::fake::Driver<Producer>| {
        for completion in [own, cqe(1), own, cqe(2)] {
            driver.side.push(&completion, false).unwrap();
        }
    };
    let ids = |room| {
        poll(&rig, recv_cq, room)
            .iter()
            .map(|wc| wc.wr_id)
            .collect::<Vec<_>>()
    };

    fill(&mut driver);
    rig.modify(qp, QpState::Err);
    assert_eq!(ids(1), [0], "they are what the state is about");
    rig.modify(qp, QpState::Reset);
    // What was behind them is still there, in order, and comes before what is new.
    driver.side.push(&cqe(3), false).unwrap();
    assert_eq!(ids(2), [1, 2]);
    assert_eq!(ids(2), [3]);

    fill(&mut driver);
    assert_eq!(verb!(rig, destroy_qp(qp)), 0);
    assert_eq!(ids(8), [1, 2]);
    fill(&mut driver);
    assert_eq!(ids(8), [0, 1, 0, 2], "the ring is empty again");
}

#[test]
fn extended_polling_reads_one_completion_after_the_other() {
    let rig = Rig::new();
    let cq = rig.cq_ex(|attr| attr.wc_flags = 0x87f).unwrap();
    let mut driver = rig.device.completions();
    let none = ptr::null_mut();
    assert_eq!(call!(cq, start_poll(none)), libc::ENOENT);
    // pyverbs does that, though there is nothing to end.
    call!(cq, end_poll());

    let mut first =
        Cqe::new(7, 0x12, WcOpcode::Recv, WcStatus::Success).with_imm(ImmData([1, 2, 3, 4]));
    first.byte_len = 104;
    first.src_qp = 0x34;
    first.sl = 5;
    first.timestamp = clock_nanos(libc::CLOCK_MONOTONIC);
    driver.side.push(&first, false).unwrap();
    let failed = Cqe::new(8, 0x12, WcOpcode::Send, WcStatus::WrFlushErr);
    driver.side.push(&failed, false).unwrap();

    assert_eq!(call!(cq, start_poll(none)), 0);
    // SAFETY: It has been made, and this thread polls it.
    let shown = || unsafe { ((*cq).wr_id, (*cq).status) };
    assert_eq!(shown(), (7, 0));
    assert_eq!(call!(cq, read_opcode()), 128);
    assert_eq!(call!(cq, read_byte_len()), 104);
    assert_eq!(call!(cq, read_imm_data()).to_ne_bytes(), [1, 2, 3, 4]);
    assert_eq!(call!(cq, read_qp_num()), 0x12);
    assert_eq!(call!(cq, read_src_qp()), 0x34);
    assert_eq!(call!(cq, read_wc_flags()), 2);
    assert_eq!(call!(cq, read_sl()), 5);
    assert_eq!(call!(cq, read_slid()), 0);
    assert_eq!(call!(cq, read_dlid_path_bits()), 0);
    assert_eq!(call!(cq, read_completion_ts()), first.timestamp);
    let ago = clock_nanos(libc::CLOCK_REALTIME) - call!(cq, read_completion_wallclock_ns());
    assert!(ago < 60_000_000_000, "{ago} ns ago");

    assert_eq!(call!(cq, next_poll()), 0);
    assert_eq!(shown(), (8, 5));
    // The end, as often as one asks, and the last one stays.
    assert_eq!(call!(cq, next_poll()), libc::ENOENT);
    assert_eq!(call!(cq, next_poll()), libc::ENOENT);
    assert_eq!(call!(cq, read_opcode()), 0);
    driver.side.push(&cqe(9), false).unwrap();
    assert_eq!(call!(cq, next_poll()), 0);
    assert_eq!(shown(), (9, 0));
    call!(cq, end_poll());

    // The lock and the slots are free.
    for id in 0..4 {
        driver.side.push(&cqe(id), false).unwrap();
    }
    assert_eq!(poll(&rig, cq.cast(), 8).len(), 4);
}

#[test]
fn a_loop_that_never_finds_the_queue_empty_gives_its_slots_back() {
    let rig = Rig::new();
    let cq = rig.cq_ex(|_| ()).unwrap();
    let mut driver = rig.device.completions();
    for id in 0..4 {
        driver.side.push(&cqe(id), false).unwrap();
    }
    assert_eq!(call!(cq, start_poll(ptr::null_mut())), 0);
    for id in 4..40 {
        // What is posted between two calls completes at once.
        driver.side.push(&cqe(id), false).unwrap();
        assert_eq!(call!(cq, next_poll()), 0);
        // SAFETY: It has been made, and this thread polls it.
        assert_eq!(unsafe { (*cq).wr_id }, id - 3);
    }
    call!(cq, end_poll());
}

#[test]
fn an_unknown_poll_attribute_is_refused() {
    let rig = Rig::new();
    let cq = rig.cq_ex(|_| ()).unwrap();
    let mut attr = IbvPollCqAttr { comp_mask: 0 };
    assert_eq!(call!(cq, start_poll(&mut attr)), libc::ENOENT);
    attr.comp_mask = 1;
    assert_eq!(call!(cq, start_poll(&mut attr)), libc::EINVAL);
}

#[test]
fn what_completions_do_not_carry_cannot_be_asked_for() {
    let rig = Rig::new();
    // Byte length to DLID path bits, and both timestamps.
    for bit in [0, 1, 2, 3, 4, 5, 6, 7, 11] {
        assert!(rig.cq_ex(|attr| attr.wc_flags = 1 << bit).is_ok(), "{bit}");
    }
    // C-VLAN, flow tag, tag matching
    for bit in [8, 9, 10] {
        let result = rig.cq_ex(|attr| attr.wc_flags = 1 << bit);
        assert_eq!(result, Err(libc::EOPNOTSUPP), "{bit}");
    }
    let single_threaded = rig.cq_ex(|attr| {
        attr.comp_mask = cq_init_attr_mask::FLAGS;
        attr.flags = create_cq_attr_flags::SINGLE_THREADED;
    });
    let cq = single_threaded.unwrap();
    let mut driver = rig.device.completions();
    driver.side.push(&cqe(1), false).unwrap();
    assert_eq!(poll(&rig, cq.cast(), 8).len(), 1);
    // To overrun is an error, always.
    let ignore_overrun = rig.cq_ex(|attr| {
        attr.comp_mask = cq_init_attr_mask::FLAGS;
        attr.flags = 1 << 1;
    });
    assert_eq!(ignore_overrun, Err(libc::EOPNOTSUPP));
}

#[test]
fn threads_share_a_queue() {
    let rig = Rig::new();
    let cq = rig.cq(1002).expose_provenance();
    let mut driver = rig.device.completions();
    let poll_cq = rig.ops.poll_cq.unwrap();
    let mut taken = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(move || {
                    let mut ids = vec![];
                    while ids.last() != Some(&u64::MAX) {
                        let mut wc = core::mem::MaybeUninit::<IbvWc>::uninit();
                        let cq = ptr::with_exposed_provenance_mut(cq);
                        // SAFETY: The queue is there, and so is room for one completion.
                        match unsafe { poll_cq(cq, 1, wc.as_mut_ptr()) } {
                            // SAFETY: It has been written.
                            1 => ids.push(unsafe { wc.assume_init() }.wr_id),
                            _ => std::thread::yield_now(),
                        }
                    }
                    ids.pop();
                    ids
                })
            })
            .collect();
        for id in (0..1000).chain([u64::MAX, u64::MAX]) {
            driver.side.push(&cqe(id), false).unwrap();
        }
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    taken.sort_unstable();
    assert_eq!(taken, (0..1000).collect::<Vec<_>>());
}
