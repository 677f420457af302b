// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is refused when queues are made and requests are posted, and who else refuses it.
//!
//! What neither rdma_rxe nor a ConnectX refuses is accepted, unless the kernel would be hurt. The files are
//! those of Linux 7.2 (`drivers/infiniband`) and of rdma-core 65 (`providers`).

use super::{send, Shared};
use crate::ring::*;
use crate::verbs::limits::{MAX_CQE, MAX_INLINE_DATA, MAX_QP_WR, MAX_RECV_SGE, MAX_SEND_SGE};
use crate::verbs::SendOpcode;

#[test]
fn a_size_that_is_refused_is_refused_by_others_too() {
    let send = |max_wr, max_sge, max_inline| {
        WqGeometry::<SendQueue>::new(max_wr, max_sge, max_inline).map(drop)
    };
    let recv = |max_wr, max_sge| WqGeometry::<RecvQueue>::new(max_wr, max_sge).map(drop);
    let cq = |cqe| CqGeometry::new(cqe).map(drop);
    let (wr, cqe) = (MAX_QP_WR + 1, MAX_CQE + 1);
    let (send_sge, recv_sge) = (MAX_SEND_SGE + 1, MAX_RECV_SGE + 1);
    let inline = MAX_INLINE_DATA + 1;
    let table = [
        (
            send(wr, 1, 0),
            GeometryError::Entries(wr),
            "rxe_qp.c rxe_qp_chk_cap(); mlx5/verbs.c mlx5_calc_sq_size()",
        ),
        (
            send(1, send_sge, 0),
            GeometryError::Sge(send_sge),
            "rxe_qp.c rxe_qp_chk_cap(); mlx5/verbs.c mlx5_calc_sq_size()",
        ),
        (
            send(1, 1, inline),
            GeometryError::Inline(inline),
            "rxe_qp.c rxe_qp_chk_cap(); mlx5/verbs.c mlx5_calc_sq_size()",
        ),
        (
            recv(wr, 1),
            GeometryError::Entries(wr),
            "rxe_qp.c rxe_qp_chk_cap(); rxe_srq.c rxe_srq_chk_init(); mlx5/verbs.c \
             mlx5_calc_rq_size(); mlx5/srq.c mlx5_ib_create_srq()",
        ),
        (
            recv(1, recv_sge),
            GeometryError::Sge(recv_sge),
            "rxe_qp.c rxe_qp_chk_cap(); rxe_srq.c rxe_srq_chk_init(); mlx5/verbs.c \
             mlx5_calc_rcv_wqe(); mlx5/srq.c mlx5_ib_create_srq()",
        ),
        (
            cq(cqe),
            GeometryError::Entries(cqe),
            "rxe_verbs.c rxe_create_cq(); mlx5/cq.c mlx5_ib_create_cq()",
        ),
    ];
    for (result, error, by) in table {
        assert_eq!(result, Err(error), "by {by}");
    }
    // rdma_rxe refuses a shared receive queue of none, and mlx5 makes one.
    for result in [send(0, 0, 0), recv(0, 0), cq(0)] {
        assert_eq!(result, Ok(()));
    }
}

#[test]
fn a_request_that_is_refused_is_refused_by_others_too() {
    let geometry = WqGeometry::<SendQueue>::new(4, 2, 64).unwrap();
    let entries = Shared::new(geometry.len());
    let refused = |operation: Operation, payload: Payload<'_>| {
        let request = SendRequest {
            operation,
            ..send(0)
        };
        entries.poster(geometry).push(&request, payload)
    };
    let full = |payload: Payload<'_>| {
        let mut poster = entries.poster(geometry);
        while poster.position() < 4 {
            poster.push(&send(0), Payload::NONE).unwrap();
        }
        poster.push(&send(0), payload)
    };
    let remote = Remote { addr: 0, rkey: 0 };
    let sges = [Sge::default(); 5];
    let inline: Payload<'_> = Payload::Inline(&[&[0; 65]]);
    let bind = Operation::BindMw(BindMw {
        addr: 0,
        length: 0,
        mr_lkey: 0,
        mw_rkey: 0,
        new_rkey: 0,
        access: crate::verbs::AccessFlags::EMPTY,
    });
    let table = [
        (
            full(Payload::NONE),
            PostError::Full,
            "rxe/rxe.c post_one_send(); mlx5/qp.c _mlx5_post_send()",
        ),
        (
            refused(Operation::Send, Payload::Sges(&sges)),
            PostError::TooManySges(5),
            "rxe/rxe.c validate_send_wr(); mlx5/qp.c _mlx5_post_send()",
        ),
        (
            refused(Operation::Send, inline),
            PostError::InlineTooLong(65),
            "rxe/rxe.c validate_send_wr(); mlx5/qp.c set_data_inl_seg()",
        ),
        (
            refused(Operation::RdmaRead(remote), Payload::Inline(&[&[0; 8]])),
            PostError::InlineNotPermitted(SendOpcode::RdmaRead),
            "rxe_verbs.c validate_send_wr(), of kernel users",
        ),
        (
            refused(bind, Payload::Sges(&sges[..1])),
            PostError::UnexpectedData(SendOpcode::BindMw),
            "rxe/rxe.c validate_send_wr()",
        ),
    ];
    for (result, error, by) in table {
        assert_eq!(result, Err(error), "by {by}");
    }

    let geometry = WqGeometry::<RecvQueue>::new(1, 1).unwrap();
    let entries = Shared::new(geometry.len());
    let mut poster = entries.poster(geometry);
    let request = RecvRequest { wr_id: 0 };
    let too_many = poster.push(&request, &sges);
    poster.push(&request, &sges[..1]).unwrap();
    let table = [
        (
            too_many,
            PostError::TooManySges(5),
            "rxe/rxe.c rxe_post_one_recv(); mlx5/qp.c mlx5_post_recv()",
        ),
        (
            poster.push(&request, &[]),
            PostError::Full,
            "rxe/rxe.c rxe_post_one_recv(); mlx5/qp.c mlx5_post_recv()",
        ),
    ];
    for (result, error, by) in table {
        assert_eq!(result, Err(error), "by {by}");
    }
}
