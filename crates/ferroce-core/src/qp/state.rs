// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a state means: for posting, for the two queues, and after an error (IBTA 10.3.1).

use crate::verbs::{QpState, QpType};

/// What happens to the requests on a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processing {
    /// They stay where they are.
    Hold,
    /// They are executed.
    Run,
    /// Those begun are finished, and no other is begun.
    Drain,
    /// Each completes with [`WrFlushErr`](crate::verbs::WcStatus::WrFlushErr), those posted later
    /// too (IBTA C10-96).
    Flush,
}

/// Whether a send work request may be posted. In the other states posting fails at once with
/// `EINVAL`.
pub const fn may_post_send(state: QpState) -> bool {
    match state {
        QpState::Reset | QpState::Init | QpState::Rtr => false,
        QpState::Rts | QpState::Sqd | QpState::Sqe | QpState::Err => true,
    }
}

/// Whether a receive work request may be posted (IBTA C10-97.2.1). In RESET posting fails at once
/// with `EINVAL`. A shared receive queue has no state and takes one always.
pub const fn may_post_recv(state: QpState) -> bool {
    !matches!(state, QpState::Reset)
}

/// What happens to the send queue.
pub const fn send_queue(state: QpState) -> Processing {
    match state {
        QpState::Reset | QpState::Init | QpState::Rtr => Processing::Hold,
        QpState::Rts => Processing::Run,
        QpState::Sqd => Processing::Drain,
        QpState::Sqe | QpState::Err => Processing::Flush,
    }
}

/// What happens to the receive queue.
///
/// A request on a *shared* receive queue is never flushed: it belongs to no QP until a message
/// takes it (IBTA 10.2.9).
pub const fn receive_queue(state: QpState) -> Processing {
    match state {
        QpState::Reset | QpState::Init => Processing::Hold,
        QpState::Rtr | QpState::Rts | QpState::Sqd | QpState::Sqe => Processing::Run,
        QpState::Err => Processing::Flush,
    }
}

/// Whether request packets of the peer are looked at; in the other states they are dropped without
/// an answer.
pub const fn accepts_requests(state: QpState) -> bool {
    matches!(receive_queue(state), Processing::Run)
}

/// Whether response packets of the peer are looked at.
pub const fn accepts_responses(state: QpState) -> bool {
    matches!(send_queue(state), Processing::Run | Processing::Drain)
}

/// The state after a request of the send queue completed in error.
///
/// Datagram and UC QPs lose the send queue alone, and can be brought back to RTS; an RC QP loses
/// both (IBTA 10.3.1, SQEr and Error).
pub const fn after_send_error(qp_type: QpType, state: QpState) -> QpState {
    match (state, qp_type) {
        (QpState::Rts | QpState::Sqd, QpType::Rc) => QpState::Err,
        (QpState::Rts | QpState::Sqd, QpType::Uc | QpType::Ud | QpType::Gsi) => QpState::Sqe,
        _ => state,
    }
}

/// The state after a request of the receive queue completed in error, or the responder met an error
/// that ends the connection (IBTA 10.3.1, Error).
///
/// A packet that a UD or UC responder drops silently (a wrong Q_Key, a message longer than the
/// buffer on UD) is no such error.
pub const fn after_receive_error(state: QpState) -> QpState {
    match state {
        QpState::Rtr | QpState::Rts | QpState::Sqd | QpState::Sqe => QpState::Err,
        _ => state,
    }
}

/// The state after the QP's completion queue, its ring or the device failed under it
/// ([`QpFatal`](crate::verbs::EventType::QpFatal)).
pub const fn after_fatal_error(state: QpState) -> QpState {
    match state {
        QpState::Reset => QpState::Reset,
        _ => QpState::Err,
    }
}
