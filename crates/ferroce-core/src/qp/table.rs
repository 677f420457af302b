// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which transitions there are, and which attributes each needs and allows.

use core::fmt;

use crate::qp::AttrMask;
use crate::verbs::{QpState, QpType};

/// The attributes of one transition, beside the state itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Have to be named.
    pub required: AttrMask,
    /// May be named.
    pub optional: AttrMask,
}

/// Why a set of attributes does not fit a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskError {
    /// There is no such transition.
    NoTransition {
        /// The QP's state.
        from: QpState,
        /// The state asked for.
        to: QpState,
    },
    /// These attributes are required, and missing.
    Missing(AttrMask),
    /// These attributes are not part of the transition.
    Unexpected(AttrMask),
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTransition { from, to } => write!(f, "no transition from {from:?} to {to:?}"),
            Self::Missing(mask) => write!(f, "the transition needs {mask:?}"),
            Self::Unexpected(mask) => write!(f, "the transition does not take {mask:?}"),
        }
    }
}

impl core::error::Error for MaskError {}

impl Rule {
    const NONE: Self = Self {
        required: AttrMask::EMPTY,
        optional: AttrMask::EMPTY,
    };

    /// Checks a mask against the rule. `STATE` and `RATE_LIMIT` are part of every transition, as in
    /// `ib_modify_qp_is_ok`.
    pub const fn check(&self, mask: AttrMask) -> Result<(), MaskError> {
        let missing = self.required.without(mask);
        if !missing.is_empty() {
            return Err(MaskError::Missing(missing));
        }
        let unexpected = mask
            .without(self.required)
            .without(self.optional)
            .without(AttrMask::STATE)
            .without(AttrMask::RATE_LIMIT);
        if !unexpected.is_empty() {
            return Err(MaskError::Unexpected(unexpected));
        }
        Ok(())
    }
}

/// What gives a QP its place in the partition and on the port: set on leaving RESET, changeable in
/// INIT. A GSI QP belongs to its port from birth.
const fn placement(qp_type: QpType) -> AttrMask {
    match qp_type {
        QpType::Rc | QpType::Uc => AttrMask::PKEY_INDEX
            .union(AttrMask::PORT)
            .union(AttrMask::ACCESS_FLAGS),
        QpType::Ud => AttrMask::PKEY_INDEX
            .union(AttrMask::PORT)
            .union(AttrMask::QKEY),
        QpType::Gsi => AttrMask::PKEY_INDEX.union(AttrMask::QKEY),
    }
}

/// The peer: needed to receive from it.
const fn connection(qp_type: QpType) -> Rule {
    let peer = AttrMask::AV
        .union(AttrMask::PATH_MTU)
        .union(AttrMask::DEST_QPN)
        .union(AttrMask::RQ_PSN);
    let connected = AttrMask::ALT_PATH
        .union(AttrMask::ACCESS_FLAGS)
        .union(AttrMask::PKEY_INDEX);
    match qp_type {
        QpType::Rc => Rule {
            required: peer
                .union(AttrMask::MAX_DEST_RD_ATOMIC)
                .union(AttrMask::MIN_RNR_TIMER),
            optional: connected,
        },
        QpType::Uc => Rule {
            required: peer,
            optional: connected,
        },
        QpType::Ud | QpType::Gsi => Rule {
            required: AttrMask::EMPTY,
            optional: AttrMask::PKEY_INDEX.union(AttrMask::QKEY),
        },
    }
}

/// What the requester needs.
const fn requester(qp_type: QpType) -> AttrMask {
    match qp_type {
        QpType::Rc => AttrMask::TIMEOUT
            .union(AttrMask::RETRY_CNT)
            .union(AttrMask::RNR_RETRY)
            .union(AttrMask::SQ_PSN)
            .union(AttrMask::MAX_QP_RD_ATOMIC),
        QpType::Uc | QpType::Ud | QpType::Gsi => AttrMask::SQ_PSN,
    }
}

/// What may change in a QP that sends, or on the way to sending.
const fn live(qp_type: QpType) -> AttrMask {
    match qp_type {
        QpType::Rc => live(QpType::Uc).union(AttrMask::MIN_RNR_TIMER),
        QpType::Uc => AttrMask::CUR_STATE
            .union(AttrMask::ALT_PATH)
            .union(AttrMask::ACCESS_FLAGS)
            .union(AttrMask::PATH_MIG_STATE),
        QpType::Ud | QpType::Gsi => AttrMask::CUR_STATE.union(AttrMask::QKEY),
    }
}

/// What may change while the send queue is drained: nothing is under way that it could confuse.
const fn drained(qp_type: QpType) -> AttrMask {
    match qp_type {
        QpType::Rc => drained(QpType::Uc)
            .union(AttrMask::PORT)
            .union(AttrMask::TIMEOUT)
            .union(AttrMask::RETRY_CNT)
            .union(AttrMask::RNR_RETRY)
            .union(AttrMask::MAX_QP_RD_ATOMIC)
            .union(AttrMask::MAX_DEST_RD_ATOMIC)
            .union(AttrMask::MIN_RNR_TIMER),
        QpType::Uc => AttrMask::AV
            .union(AttrMask::ALT_PATH)
            .union(AttrMask::ACCESS_FLAGS)
            .union(AttrMask::PKEY_INDEX)
            .union(AttrMask::PATH_MIG_STATE),
        QpType::Ud | QpType::Gsi => AttrMask::PKEY_INDEX.union(AttrMask::QKEY),
    }
}

/// What may change on the way out of SQE.
const fn recovered(qp_type: QpType) -> AttrMask {
    match qp_type {
        // An RC QP never gets into SQE; the table has the transition nevertheless.
        QpType::Rc => AttrMask::EMPTY,
        QpType::Uc => AttrMask::CUR_STATE.union(AttrMask::ACCESS_FLAGS),
        QpType::Ud | QpType::Gsi => AttrMask::CUR_STATE.union(AttrMask::QKEY),
    }
}

/// The rule of a transition, `None` if there is no such transition (IBTA 11.2.5.2; the behaviour is
/// that of `ib_modify_qp_is_ok` in `drivers/infiniband/core/verbs.c`).
///
/// Two things differ between IBTA and Linux, and this follows Linux: RESET to ERR is refused, and a
/// transition from a state to itself exists where some attribute can change in it.
pub const fn rule(qp_type: QpType, from: QpState, to: QpState) -> Option<Rule> {
    use QpState::{Err, Init, Reset, Rtr, Rts, Sqd, Sqe};
    let rule = match (from, to) {
        (_, Reset) => Rule::NONE,
        (Init | Rtr | Rts | Sqd | Sqe | Err, Err) => Rule::NONE,
        (Reset, Init) => Rule {
            required: placement(qp_type),
            optional: AttrMask::EMPTY,
        },
        (Init, Init) => Rule {
            required: AttrMask::EMPTY,
            optional: placement(qp_type),
        },
        (Init, Rtr) => connection(qp_type),
        (Rtr, Rts) => Rule {
            required: requester(qp_type),
            optional: live(qp_type),
        },
        (Rts | Sqd, Rts) => Rule {
            required: AttrMask::EMPTY,
            optional: live(qp_type),
        },
        (Rts, Sqd) => Rule {
            required: AttrMask::EMPTY,
            optional: AttrMask::EN_SQD_ASYNC_NOTIFY,
        },
        (Sqd, Sqd) => Rule {
            required: AttrMask::EMPTY,
            optional: drained(qp_type),
        },
        (Sqe, Rts) => Rule {
            required: AttrMask::EMPTY,
            optional: recovered(qp_type),
        },
        _ => return None,
    };
    Some(rule)
}
