// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making and destroying objects.

use core::ptr;

use ferroce_core::verbs::{limits, QpType};

use super::fake::{errno, Trouble};
use super::rig::*;
use crate::abi::*;
use crate::ffi::device::clock_nanos;

#[test]
fn what_is_made_can_be_destroyed() {
    let rig = Rig::new();
    let before = rig.device.objects.get();
    let (qp, cq, ah) = (rig.qp(QpType::Uc), rig.cq(1), rig.ah());
    assert_eq!(rig.device.objects.get(), before + 3);
    assert_eq!(verb!(rig, destroy_qp(qp)), 0);
    assert_eq!(verb!(rig, destroy_cq(cq)), 0);
    assert_eq!(verb!(rig, destroy_ah(ah)), 0);
    assert_eq!(rig.device.objects.get(), before);
    assert_eq!(verb!(rig, dealloc_pd(rig.pd)), 0);
}

#[test]
fn what_the_kernel_refuses_to_destroy_stays() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    rig.device.trouble.set(Trouble::Fail(libc::EBUSY));
    assert_eq!(verb!(rig, destroy_qp(qp)), libc::EBUSY);
    assert_eq!(verb!(rig, dealloc_pd(rig.pd)), libc::EBUSY);
    rig.device.trouble.set(Trouble::None);
    rig.post_send(qp, &mut [send_wr(1, 2)]).unwrap();
    assert_eq!(verb!(rig, destroy_qp(qp)), 0);
}

#[test]
fn an_error_of_the_kernel_is_errno() {
    let rig = Rig::new();
    rig.device.trouble.set(Trouble::Fail(libc::ENOSPC));
    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
    assert_eq!((qp.is_null(), errno()), (true, libc::ENOSPC));
    assert_eq!(rig.cq_ex(|_| ()), Err(libc::ENOSPC));
    assert_eq!((rig.ah().is_null(), errno()), (true, libc::ENOSPC));
}

#[test]
fn an_answer_that_makes_no_sense_is_eproto_and_leaves_nothing() {
    let rig = Rig::new();
    let before = rig.device.objects.get();
    rig.device.trouble.set(Trouble::Nonsense);
    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
    assert_eq!((qp.is_null(), errno()), (true, libc::EPROTO));
    assert_eq!(rig.cq_ex(|_| ()), Err(libc::EPROTO));
    let mut attr = IbvSrqInitAttr {
        srq_context: ptr::null_mut(),
        attr: IbvSrqAttr::default(),
    };
    let srq = verb!(rig, create_srq(rig.pd, &mut attr));
    assert_eq!((srq.is_null(), errno()), (true, libc::EPROTO));
    assert_eq!(rig.device.objects.get(), before);
}

#[test]
fn a_queue_pair_says_what_it_has_room_for() {
    let rig = Rig::new();
    let mut attr = IbvQpInitAttr {
        qp_context: ptr::null_mut(),
        send_cq: ptr::null_mut(),
        recv_cq: ptr::null_mut(),
        srq: ptr::null_mut(),
        cap: SMALL,
        qp_type: QpType::Rc.into(),
        sq_sig_all: 0,
    };
    assert!(!verb!(rig, create_qp(rig.pd, &mut attr)).is_null());
    assert_eq!(attr.cap.max_send_wr, 4);
    assert_eq!((attr.cap.max_send_sge, attr.cap.max_inline_data), (4, 64));

    let largest = IbvQpCap {
        max_send_wr: limits::MAX_QP_WR,
        max_recv_wr: limits::MAX_QP_WR,
        max_send_sge: limits::MAX_SEND_SGE,
        max_recv_sge: limits::MAX_RECV_SGE,
        max_inline_data: limits::MAX_INLINE_DATA,
    };
    attr.cap = largest;
    let qp = verb!(rig, create_qp(rig.pd, &mut attr));
    assert!(!qp.is_null());
    assert_eq!(attr.cap, largest);
}

#[test]
fn queue_pairs_that_the_device_does_not_have_are_not_supported() {
    let rig = Rig::new();
    let refused = |change: fn(&mut IbvQpInitAttrEx)| {
        let mut attr = rig.init_attr(QpType::Rc, SMALL);
        change(&mut attr);
        let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
        assert_eq!((qp.is_null(), errno()), (true, libc::EOPNOTSUPP));
    };
    // SMI, GSI, raw packet, both of XRC, driver's own
    refused(|attr| attr.qp_type = 0);
    refused(|attr| attr.qp_type = 1);
    refused(|attr| attr.qp_type = 8);
    refused(|attr| attr.qp_type = 9);
    refused(|attr| attr.qp_type = 10);
    refused(|attr| attr.qp_type = 0xff);
    // XRC domain, TSO header, indirection table, receive hash
    for bit in [1, 3, 4, 5, 7] {
        let mut attr = rig.init_attr(QpType::Rc, SMALL);
        attr.comp_mask |= 1 << bit;
        let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
        assert_eq!((qp.is_null(), errno()), (true, libc::EOPNOTSUPP), "{bit}");
    }
    // IBV_QP_CREATE_BLOCK_SELF_MCAST_LB
    refused(|attr| {
        attr.comp_mask |= qp_init_attr_mask::CREATE_FLAGS;
        attr.create_flags = 1 << 1;
    });
    // IBV_QP_EX_WITH_TSO, and what the transport does not have
    refused(|attr| {
        attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
        attr.send_ops_flags = 1 << 10;
    });
    refused(|attr| {
        attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
        attr.qp_type = QpType::Uc.into();
        attr.send_ops_flags = send_ops::RDMA_READ;
    });
    // No flags is a set of flags.
    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    attr.comp_mask |= qp_init_attr_mask::CREATE_FLAGS;
    let qp = verb!(rig, create_qp_ex(rig.device.context(), &mut attr));
    assert!(!qp.is_null());
}

#[test]
fn a_parent_domain_is_its_protection_domain_under_another_pointer() {
    let rig = Rig::new();
    let context = rig.device.context();
    let mut td_attr = IbvTdInitAttr { comp_mask: 0 };
    let td = verb!(rig, alloc_td(context, &mut td_attr));
    assert!(!td.is_null());
    td_attr.comp_mask = 1;
    assert!(verb!(rig, alloc_td(context, &mut td_attr)).is_null());
    assert_eq!(errno(), libc::EOPNOTSUPP);

    // SAFETY: All bytes zero are valid attributes.
    let mut attr: IbvParentDomainInitAttr = unsafe { core::mem::zeroed() };
    assert!(verb!(rig, alloc_parent_domain(context, &mut attr)).is_null());
    assert_eq!(errno(), libc::EINVAL);
    attr.pd = rig.pd;
    attr.td = td;
    attr.comp_mask = parent_domain_mask::ALLOCATORS | parent_domain_mask::PD_CONTEXT;
    let parent = verb!(rig, alloc_parent_domain(context, &mut attr));
    // SAFETY: Both have been made.
    unsafe {
        assert_eq!((*parent).handle, (*rig.pd).handle);
        assert_eq!((*parent).context, (*rig.pd).context);
    }
    let mut qp_attr = rig.init_attr(QpType::Rc, SMALL);
    qp_attr.pd = parent;
    let qp = verb!(rig, create_qp_ex(context, &mut qp_attr));
    rig.modify(qp, ferroce_core::verbs::QpState::Rts);
    rig.post_send(qp, &mut [send_wr(1, 2)]).unwrap();
    assert_eq!(verb!(rig, destroy_qp(qp)), 0);

    attr.pd = parent;
    attr.td = ptr::null_mut();
    let grandparent = verb!(rig, alloc_parent_domain(context, &mut attr));
    assert!(!grandparent.is_null());
    for _ in 0..2 {
        assert_eq!(verb!(rig, dealloc_pd(rig.pd)), libc::EBUSY);
        assert_eq!(verb!(rig, dealloc_td(td)), libc::EBUSY);
    }
    assert_eq!(verb!(rig, dealloc_pd(parent)), 0);
    assert_eq!(verb!(rig, dealloc_pd(rig.pd)), libc::EBUSY);
    assert_eq!(verb!(rig, dealloc_pd(grandparent)), 0);
    assert_eq!(verb!(rig, dealloc_td(td)), 0);
    assert_eq!(verb!(rig, dealloc_pd(rig.pd)), 0);
}

#[test]
fn the_devices_clock_is_the_monotonic_one() {
    let rig = Rig::new();
    let mut values = IbvValuesEx {
        comp_mask: IBV_VALUES_MASK_RAW_CLOCK,
        raw_clock: libc::timespec {
            tv_sec: 1,
            tv_nsec: 1,
        },
    };
    let before = clock_nanos(libc::CLOCK_MONOTONIC);
    let context = rig.device.context();
    assert_eq!(verb!(rig, query_rt_values(context, &mut values)), 0);
    assert_eq!(values.raw_clock.tv_sec, 0);
    let clock = values.raw_clock.tv_nsec.cast_unsigned();
    assert!((before..=clock_nanos(libc::CLOCK_MONOTONIC)).contains(&clock));
    values.comp_mask = 1 << 1;
    let result = verb!(rig, query_rt_values(context, &mut values));
    assert_eq!(result, libc::EOPNOTSUPP);
}

#[test]
fn a_memory_region_is_the_kernels() {
    let rig = Rig::new();
    let before = rig.device.objects.get();
    let address = ptr::without_provenance_mut(0x1000);
    let mr = verb!(rig, reg_mr(rig.pd, address, 64, 0x2000, 7));
    assert!(!mr.is_null());
    // SAFETY: It has been made.
    assert_eq!(unsafe { (*mr.cast::<VerbsMr>()).access }, 7);
    assert_eq!(rig.device.objects.get(), before + 1);
    assert_eq!(verb!(rig, dereg_mr(mr.cast())), 0);
    assert_eq!(rig.device.objects.get(), before);
}

#[test]
fn a_window_is_of_type_1_or_2() {
    let rig = Rig::new();
    assert!(verb!(rig, alloc_mw(rig.pd, 3)).is_null());
    assert_eq!(errno(), libc::EINVAL);
}

#[test]
fn a_doorbell_that_the_kernel_refuses_is_an_error_of_the_list() {
    let rig = Rig::new();
    let qp = rig.qp(QpType::Rc);
    let mut driver = rig.device.sends();
    assert_eq!(driver.side.sleep(), Ok(ferroce_core::ring::Idle::Asleep));
    rig.device.disconnect();
    let mut list = [send_wr(1, 2), send_wr(2, 2)];
    assert_eq!(rig.post_send(qp, &mut list), Err((0, libc::EBADF)));
}
