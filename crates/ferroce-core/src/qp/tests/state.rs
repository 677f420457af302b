// SPDX-License-Identifier: MIT OR Apache-2.0
use crate::qp::state::*;
use crate::verbs::{QpState, QpType};

#[test]
fn each_state_means_what_the_specification_says() {
    use Processing::{Drain, Flush, Hold, Run};
    // State, post send, post receive, send queue, receive queue (IBTA 10.3.1).
    let table = [
        (QpState::Reset, false, false, Hold, Hold),
        (QpState::Init, false, true, Hold, Hold),
        (QpState::Rtr, false, true, Hold, Run),
        (QpState::Rts, true, true, Run, Run),
        (QpState::Sqd, true, true, Drain, Run),
        (QpState::Sqe, true, true, Flush, Run),
        (QpState::Err, true, true, Flush, Flush),
    ];
    for (state, send, recv, sq, rq) in table {
        assert_eq!(may_post_send(state), send, "{state:?}");
        assert_eq!(may_post_recv(state), recv, "{state:?}");
        assert_eq!(send_queue(state), sq, "{state:?}");
        assert_eq!(receive_queue(state), rq, "{state:?}");
    }
    // An answer to what was sent still counts while the queue drains.
    assert!(accepts_responses(QpState::Sqd));
    assert!(!accepts_responses(QpState::Sqe));
    assert!(accepts_requests(QpState::Sqe));
    assert!(!accepts_requests(QpState::Init));
}

#[test]
fn only_rc_loses_both_queues_to_a_send_error() {
    for state in [QpState::Rts, QpState::Sqd] {
        assert_eq!(after_send_error(QpType::Rc, state), QpState::Err);
        for qp_type in [QpType::Uc, QpType::Ud, QpType::Gsi] {
            assert_eq!(after_send_error(qp_type, state), QpState::Sqe);
        }
    }
}

#[test]
fn an_error_never_brings_a_queue_back() {
    for &state in QpState::ALL {
        for &qp_type in QpType::ALL {
            for after in [
                after_send_error(qp_type, state),
                after_receive_error(state),
                after_fatal_error(state),
            ] {
                // The states are numbered in the order of decline from RTS on.
                assert!(after.number() >= state.number(), "{qp_type:?} {state:?}");
                if receive_queue(state) == Processing::Flush {
                    assert_eq!(after, state);
                }
            }
        }
    }
    assert_eq!(after_receive_error(QpState::Sqe), QpState::Err);
    assert_eq!(after_fatal_error(QpState::Init), QpState::Err);
    assert_eq!(after_fatal_error(QpState::Reset), QpState::Reset);
}
