// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the provider refuses without asking the driver, and who else refuses it.
//!
//! What neither rdma_rxe nor a ConnectX refuses is accepted, unless the process would be hurt. The files
//! are those of rdma-core 65 (`providers`) and of Linux 7.2 (`drivers/infiniband`).

use core::ffi::c_int;

use ferroce_core::ring::{Data, Origin, SendRequest};
use ferroce_core::verbs::{AccessFlags, QpState, QpType, SendFlags, SendOpcode};

use super::fake::errno;
use super::rig::*;
use crate::abi::*;

/// Who refuses it too.
#[derive(Debug)]
#[allow(dead_code)] // The names are for people.
enum By {
    /// The functions of other drivers and providers.
    Others(&'static str),
    /// Nobody: others follow a null pointer, or write to memory that is something else.
    WouldCrash,
}

use By::{Others, WouldCrash};

fn create_cq(rig: &Rig, change: impl FnOnce(&mut IbvCqInitAttrEx)) -> c_int {
    rig.cq_ex(change).err().unwrap_or(0)
}

fn create_qp(rig: &Rig, change: impl FnOnce(&mut IbvQpInitAttrEx)) -> c_int {
    let mut attr = rig.init_attr(QpType::Rc, SMALL);
    change(&mut attr);
    match verb!(rig, create_qp_ex(rig.device.context(), &mut attr)).is_null() {
        true => errno(),
        false => 0,
    }
}

#[test]
fn an_object_that_is_refused_is_refused_by_others_too() {
    type Make = fn(&Rig) -> c_int;
    let table: [(Make, By); 9] = [
        (
            |rig| create_cq(rig, |attr| attr.comp_mask = 1 << 5),
            Others("mlx5/verbs.c create_cq()"),
        ),
        (
            |rig| {
                create_cq(rig, |attr| {
                    attr.comp_mask = cq_init_attr_mask::FLAGS;
                    attr.flags = 1 << 5;
                })
            },
            Others("mlx5/verbs.c create_cq(); rxe_verbs.c rxe_create_cq()"),
        ),
        (
            |rig| create_cq(rig, |attr| attr.wc_flags = 1 << 40),
            Others("rxe/rxe.c rxe_create_cq_ex(); mlx5/verbs.c create_cq()"),
        ),
        (
            |rig| create_qp(rig, |attr| attr.qp_type = 0xff),
            Others("rxe_qp.c rxe_qp_chk_init(); mlx5/verbs.c create_qp()"),
        ),
        (
            |rig| create_qp(rig, |attr| attr.qp_type = 1),
            Others("ib_uverbs: queue pair 1 is the kernel's"),
        ),
        (
            |rig| create_qp(rig, |attr| attr.comp_mask |= 1 << 3),
            Others("rxe/rxe.c check_qp_init_attr(); mlx5/verbs.c create_qp()"),
        ),
        (
            |rig| {
                create_qp(rig, |attr| {
                    attr.comp_mask |= qp_init_attr_mask::CREATE_FLAGS;
                    attr.create_flags = 1 << 8;
                })
            },
            Others("rxe/rxe.c check_qp_init_attr()"),
        ),
        (
            |rig| {
                create_qp(rig, |attr| {
                    attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
                    attr.send_ops_flags = 1 << 10;
                })
            },
            Others("rxe/rxe.c check_qp_init_attr()"),
        ),
        (
            |rig| {
                create_qp(rig, |attr| {
                    attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
                    attr.qp_type = QpType::Ud.into();
                    attr.send_ops_flags = send_ops::RDMA_WRITE;
                })
            },
            Others("rxe/rxe.c check_qp_init_attr(); mlx5/qp.c mlx5_qp_fill_wr_pfns()"),
        ),
    ];
    let rig = Rig::new();
    for (make, by) in table {
        assert_eq!(make(&rig), libc::EOPNOTSUPP, "by {by:?}");
    }
}

fn post(rig: &Rig, qp_type: QpType, wr: IbvSendWr) -> c_int {
    let result = rig.post_send(rig.qp(qp_type), &mut [wr]);
    result.map_or_else(|(_, errno)| errno, |()| 0)
}

fn wr(opcode: SendOpcode) -> IbvSendWr {
    send_wr(0, opcode.into())
}

fn post_in(rig: &Rig, state: QpState) -> c_int {
    let qp = rig.qp(QpType::Rc);
    rig.modify(qp, state);
    let result = rig.post_send(qp, &mut [wr(SendOpcode::Send)]);
    result.map_or_else(|(_, errno)| errno, |()| 0)
}

fn bind(rig: &Rig, access: u32) -> c_int {
    let qp = rig.qp(QpType::Rc);
    // SAFETY: All bytes zero are a valid window, and a valid request.
    let (mut mw, mut bind): (IbvMw, IbvMwBind) = unsafe { core::mem::zeroed() };
    bind.bind_info.mw_access_flags = access;
    verb!(rig, bind_mw(qp, &mut mw, &mut bind))
}

#[test]
fn a_request_that_is_refused_is_refused_by_others_too() {
    type Post = fn(&Rig) -> c_int;
    let table: [(Post, By); 13] = [
        (
            |rig| post_in(rig, QpState::Rtr),
            Others("rxe_verbs.c rxe_post_send(); mlx5/verbs.c set_qp_operational_state()"),
        ),
        (
            |rig| {
                let qp = rig.qp(QpType::Rc);
                rig.modify(qp, QpState::Reset);
                let result = rig.post_recv(qp, &mut [recv_wr(0, &mut [])]);
                result.map_or_else(|(_, errno)| errno, |()| 0)
            },
            Others("rxe_verbs.c rxe_post_recv(); mlx5/verbs.c set_qp_operational_state()"),
        ),
        (
            |rig| post(rig, QpType::Rc, send_wr(0, 99)),
            Others("rxe_verbs.c validate_send_wr(); mlx5/qp.c _mlx5_post_send()"),
        ),
        (
            // It has no fields in a list.
            |rig| post(rig, QpType::Rc, wr(SendOpcode::Flush)),
            Others("mlx5/qp.c _mlx5_post_send()"),
        ),
        (
            |rig| post(rig, QpType::Uc, wr(SendOpcode::RdmaRead)),
            Others("rxe_verbs.c validate_send_wr()"),
        ),
        (
            |rig| post(rig, QpType::Ud, wr(SendOpcode::RdmaWrite)),
            Others("rxe_verbs.c validate_send_wr()"),
        ),
        (
            |rig| post(rig, QpType::Ud, wr(SendOpcode::Send)),
            WouldCrash,
        ),
        (
            |rig| {
                let mut wr = wr(SendOpcode::Send);
                wr.num_sge = -1;
                post(rig, QpType::Rc, wr)
            },
            Others("rxe/rxe.c validate_send_wr()"),
        ),
        (
            |rig| {
                let mut wr = wr(SendOpcode::Send);
                wr.num_sge = 1;
                post(rig, QpType::Rc, wr)
            },
            WouldCrash,
        ),
        (
            |rig| post(rig, QpType::Rc, wr(SendOpcode::BindMw)),
            WouldCrash,
        ),
        (
            |rig| bind(rig, AccessFlags::ZERO_BASED.bits()),
            Others("rxe/rxe.c rxe_bind_mw(); mlx5/qp.c mlx5_bind_mw()"),
        ),
        (
            |rig| bind(rig, 1 << 15),
            Others("rxe_mw.c rxe_bind_mw(), when it is executed"),
        ),
        (
            |rig| {
                let qp = rig.qp_ex(QpType::Rc, send_ops::SEND);
                call!(qp, wr_start());
                call!(qp, wr_set_sge(1, 2, 3));
                call!(qp, wr_complete())
            },
            WouldCrash,
        ),
    ];
    let rig = Rig::new();
    for (post, by) in table {
        assert_eq!(post(&rig), libc::EINVAL, "by {by:?}");
    }
}

#[test]
fn what_others_ignore_is_ignored() {
    let rig = Rig::new();
    // IBV_SEND_IP_CSUM, and flags that there are not.
    let odd = SendFlags::SIGNALED.bits() | 0xffff_fff0;
    let qp = rig.qp_ex(QpType::Rc, send_ops::SEND | send_ops::LOCAL_INV);
    let mut driver = rig.device.sends();
    let mut invalidate = with_sges(wr(SendOpcode::LocalInvalidate), &mut [Sge::default()]);
    invalidate.send_flags = odd;
    rig.post_send(qp.cast(), &mut [invalidate]).unwrap();
    // SAFETY: It has been made, and is this thread's.
    unsafe { (*qp).wr_flags = odd };
    call!(qp, wr_start());
    call!(qp, wr_send());
    call!(qp, wr_local_inv(7));
    call!(qp, wr_set_sge(1, 2, 3));
    assert_eq!(call!(qp, wr_complete()), 0);
    // SAFETY: All bytes zero are a valid window, and a valid request.
    let (mut mw, mut bind): (IbvMw, IbvMwBind) = unsafe { core::mem::zeroed() };
    bind.send_flags = odd;
    assert_eq!(verb!(rig, bind_mw(qp.cast(), &mut mw, &mut bind)), 0);

    let mut buffer = [0; 576];
    for _ in 0..4 {
        let entry = driver.side.fetch(&mut buffer).unwrap().unwrap();
        let (request, data) = SendRequest::decode(entry, QpType::Rc, Origin::User).unwrap();
        assert_eq!(request.flags, SendFlags::SIGNALED);
        assert!(matches!(data, Data::Sges(list) if list.iter().next().is_none()));
    }
}
