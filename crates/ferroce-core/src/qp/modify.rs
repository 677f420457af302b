// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modify QP without its effects (IBTA 11.2.5.2).

use core::fmt;

use crate::qp::{rule, AddressVector, AttrMask, DeviceLimits, MaskError, QpAttr, RequestedAttr};
use crate::verbs::limits::{PSN_MASK, QPN_MASK};
use crate::verbs::{AccessFlags, AckTimeout, Errno, InvalidValue, Mtu, QpState, QpType, RnrTimer};

/// What a Modify QP has made of a QP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modified {
    /// All attributes from now on.
    pub attr: QpAttr,
    /// What the caller has to see to.
    pub transition: Transition,
}

/// The effect of a Modify QP beyond its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// None: the attributes count from now on.
    Attributes,
    /// To RESET: both queues are emptied without completions, and the protocol's state forgotten.
    Reset,
    /// To INIT: receives may be posted.
    Init,
    /// To RTR: the responder starts at `rq_psn`.
    StartReceiving,
    /// From RTR to RTS: the requester starts at `sq_psn`.
    StartSending,
    /// To SQD: no further request is begun; [`QpAttr::drained`] once none is under way, which may
    /// be at once.
    Drain,
    /// From SQD or SQE to RTS: the send queue goes on.
    ResumeSending,
    /// To ERR: both queues are flushed.
    Flush,
}

/// Why a Modify QP is refused. The QP stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModifyError {
    /// The attributes do not fit the transition.
    Mask(MaskError),
    /// A number stands for nothing.
    Value(InvalidValue),
    /// The QP is not in the state the caller believes.
    CurrentState {
        /// The state it is in.
        actual: QpState,
        /// The state the caller believes.
        assumed: QpState,
    },
    /// The send queue is still draining (IBTA 10.3.1, SQD): only RESET and ERR are open.
    Draining,
    /// There is no such port.
    Port(u32),
    /// The address vector's port is not the QP's.
    AddressVectorPort {
        /// The QP's.
        qp: u32,
        /// The address vector's.
        address_vector: u32,
    },
    /// Beyond the P_Key table.
    PkeyIndex(u16),
    /// Beyond the GID table.
    SgidIndex(u32),
    /// More than the requester can have under way.
    MaxRdAtomic(u8),
    /// More than the responder can have under way.
    MaxDestRdAtomic(u8),
    /// An alternate path, which RoCE does not have.
    AlternatePath,
    /// A limit on the packet rate.
    RateLimit,
}

impl ModifyError {
    /// The class of errno this turns into.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::RateLimit => Errno::NotSupported,
            _ => Errno::Invalid,
        }
    }
}

impl From<MaskError> for ModifyError {
    fn from(error: MaskError) -> Self {
        Self::Mask(error)
    }
}

impl From<InvalidValue> for ModifyError {
    fn from(error: InvalidValue) -> Self {
        Self::Value(error)
    }
}

impl fmt::Display for ModifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mask(error) => error.fmt(f),
            Self::Value(error) => error.fmt(f),
            Self::CurrentState { actual, assumed } => {
                write!(f, "the QP is in {actual:?}, not in {assumed:?}")
            }
            Self::Draining => f.write_str("the send queue is still draining"),
            Self::Port(port) => write!(f, "there is no port {port}"),
            Self::AddressVectorPort { qp, address_vector } => write!(
                f,
                "the address vector is of port {address_vector}, the QP of port {qp}"
            ),
            Self::PkeyIndex(index) => write!(f, "there is no P_Key at index {index}"),
            Self::SgidIndex(index) => write!(f, "there is no GID at index {index}"),
            Self::MaxRdAtomic(n) => write!(f, "max_rd_atomic {n} is above the device's limit"),
            Self::MaxDestRdAtomic(n) => {
                write!(f, "max_dest_rd_atomic {n} is above the device's limit")
            }
            Self::AlternatePath => f.write_str("RoCE has no alternate path"),
            Self::RateLimit => f.write_str("the device has no rate limit"),
        }
    }
}

impl core::error::Error for ModifyError {}

/// What a QP becomes by a Modify QP, or why it cannot.
///
/// Order: the device's abilities, the transition and its mask, then each attribute named. Nothing
/// is half done.
///
/// What rdma_rxe or a ConnectX accepts is accepted: a number of more bits than its field has counts by
/// its low bits, as a ConnectX takes it, and access rights that a queue pair does not have are ignored
/// (mlx5's `set_qpc_atomic_flags()`). The path MTU can be above the port's active MTU, as with rdma_rxe:
/// that is no limit within a host, and by the wire such packets are lost. What is refused nevertheless is
/// in the table of `qp/tests/modify.rs`, each with who refuses it too.
pub fn modify(
    qp_type: QpType,
    current: &QpAttr,
    mask: AttrMask,
    requested: &RequestedAttr,
    limits: &DeviceLimits,
) -> Result<Modified, ModifyError> {
    // As in rdma_rxe: an attribute of another device's is "not supported" before it is "wrong".
    if mask.contains(AttrMask::RATE_LIMIT) {
        return Err(ModifyError::RateLimit);
    }

    let from = current.state;
    if mask.contains(AttrMask::CUR_STATE) {
        let assumed = QpState::try_from(requested.cur_qp_state)?;
        if assumed != from {
            return Err(ModifyError::CurrentState {
                actual: from,
                assumed,
            });
        }
    }
    let to = if mask.contains(AttrMask::STATE) {
        QpState::try_from(requested.qp_state)?
    } else {
        from
    };
    rule(qp_type, from, to)
        .ok_or(MaskError::NoTransition { from, to })?
        .check(mask)?;

    if from == QpState::Sqd
        && current.sq_draining
        && !matches!(to, QpState::Reset | QpState::Err)
        && !mask.without(AttrMask::CUR_STATE).is_empty()
    {
        return Err(ModifyError::Draining);
    }

    if to == QpState::Reset {
        // IBTA 10.3.1, Reset: the attributes are as after creation.
        return Ok(Modified {
            attr: QpAttr::new(),
            transition: Transition::Reset,
        });
    }

    let mut attr = *current;
    attr.state = to;
    apply(&mut attr, mask, requested, limits)?;

    let transition = match (from, to) {
        (QpState::Err, QpState::Err) => Transition::Attributes,
        (_, QpState::Err) => Transition::Flush,
        (QpState::Reset, QpState::Init) => Transition::Init,
        (QpState::Init, QpState::Rtr) => Transition::StartReceiving,
        (QpState::Rtr, QpState::Rts) => Transition::StartSending,
        (QpState::Sqd | QpState::Sqe, QpState::Rts) => Transition::ResumeSending,
        (QpState::Rts, QpState::Sqd) => Transition::Drain,
        _ => Transition::Attributes,
    };
    // Of a datagram QP nobody is the peer.
    attr.awaits_peer = match transition {
        Transition::StartReceiving => !qp_type.is_datagram(),
        _ => attr.awaits_peer && to == QpState::Rtr,
    };
    match transition {
        Transition::Drain => {
            attr.sq_draining = true;
            attr.en_sqd_async_notify =
                mask.contains(AttrMask::EN_SQD_ASYNC_NOTIFY) && requested.en_sqd_async_notify;
        }
        Transition::Flush => {
            attr.sq_draining = false;
            attr.en_sqd_async_notify = false;
        }
        _ => {}
    }
    Ok(Modified { attr, transition })
}

/// Checks each attribute named, and sets it.
fn apply(
    attr: &mut QpAttr,
    mask: AttrMask,
    requested: &RequestedAttr,
    limits: &DeviceLimits,
) -> Result<(), ModifyError> {
    let named = |bit| mask.contains(bit);

    if named(AttrMask::PKEY_INDEX) {
        if requested.pkey_index >= limits.pkey_table_len {
            return Err(ModifyError::PkeyIndex(requested.pkey_index));
        }
        attr.pkey_index = requested.pkey_index;
    }
    if named(AttrMask::PORT) {
        if !limits.has_port(requested.port_num) {
            return Err(ModifyError::Port(requested.port_num));
        }
        attr.port_num = requested.port_num;
    }
    if named(AttrMask::QKEY) {
        attr.qkey = requested.qkey;
    }
    if named(AttrMask::ACCESS_FLAGS) {
        attr.qp_access_flags =
            AccessFlags::from_bits_retain(requested.qp_access_flags & AccessFlags::QP.bits());
    }
    if named(AttrMask::ALT_PATH) {
        return Err(ModifyError::AlternatePath);
    }
    if named(AttrMask::AV) {
        check_address_vector(&requested.ah_attr, attr.port_num, limits)?;
        attr.ah_attr = requested.ah_attr;
    }
    if named(AttrMask::PATH_MTU) {
        attr.path_mtu = Mtu::try_from(requested.path_mtu)?;
    }
    if named(AttrMask::DEST_QPN) {
        attr.dest_qp_num = requested.dest_qp_num & QPN_MASK;
    }
    if named(AttrMask::RQ_PSN) {
        attr.rq_psn = requested.rq_psn & PSN_MASK;
    }
    if named(AttrMask::SQ_PSN) {
        attr.sq_psn = requested.sq_psn & PSN_MASK;
    }
    if named(AttrMask::MAX_QP_RD_ATOMIC) {
        if requested.max_rd_atomic > limits.max_rd_atomic {
            return Err(ModifyError::MaxRdAtomic(requested.max_rd_atomic));
        }
        attr.max_rd_atomic = requested.max_rd_atomic;
    }
    if named(AttrMask::MAX_DEST_RD_ATOMIC) {
        if requested.max_dest_rd_atomic > limits.max_dest_rd_atomic {
            return Err(ModifyError::MaxDestRdAtomic(requested.max_dest_rd_atomic));
        }
        attr.max_dest_rd_atomic = requested.max_dest_rd_atomic;
    }
    if named(AttrMask::MIN_RNR_TIMER) {
        attr.min_rnr_timer = RnrTimer::from_low_bits(requested.min_rnr_timer);
    }
    if named(AttrMask::TIMEOUT) {
        attr.timeout = AckTimeout::from_low_bits(requested.timeout);
    }
    if named(AttrMask::RETRY_CNT) {
        attr.retry_cnt = requested.retry_cnt & RETRY_MASK;
    }
    if named(AttrMask::RNR_RETRY) {
        attr.rnr_retry = requested.rnr_retry & RETRY_MASK;
    }
    Ok(())
}

/// `retry_cnt` and `rnr_retry` have three bits (IBTA 11.2.5.2).
const RETRY_MASK: u8 = 7;

fn check_address_vector(
    av: &AddressVector,
    qp_port: u32,
    limits: &DeviceLimits,
) -> Result<(), ModifyError> {
    if !limits.has_port(av.port_num) {
        return Err(ModifyError::Port(av.port_num));
    }
    if av.port_num != qp_port {
        return Err(ModifyError::AddressVectorPort {
            qp: qp_port,
            address_vector: av.port_num,
        });
    }
    if av.sgid_index >= limits.gid_table_len {
        return Err(ModifyError::SgidIndex(av.sgid_index));
    }
    Ok(())
}
