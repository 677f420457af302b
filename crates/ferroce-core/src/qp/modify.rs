// SPDX-License-Identifier: MIT OR Apache-2.0
//! Modify QP without its effects (IBTA 11.2.5.2).

use core::fmt;

use crate::qp::{rule, AddressVector, AttrMask, DeviceLimits, MaskError, QpAttr, RequestedAttr};
use crate::verbs::limits::{FLOW_LABEL_MASK, PSN_MASK, QPN_MASK};
use crate::verbs::{
    AccessFlags, AckTimeout, Errno, InvalidValue, MigState, Mtu, QpState, QpType, RnrTimer,
};

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
    /// More than 20 bits.
    FlowLabel(u32),
    /// Access flags a QP of this device cannot have.
    AccessFlags(u32),
    /// Larger than the port's active MTU.
    PathMtu {
        /// What was asked for.
        requested: Mtu,
        /// What the port can do.
        active: Mtu,
    },
    /// A PSN of more than 24 bits.
    Psn(u32),
    /// A QP number of more than 24 bits.
    DestQpn(u32),
    /// More than the requester can have under way.
    MaxRdAtomic(u8),
    /// More than the responder can have under way.
    MaxDestRdAtomic(u8),
    /// More than 7 (a three-bit field).
    RetryCnt(u8),
    /// More than 7 (a three-bit field).
    RnrRetry(u8),
    /// Alternate paths and their migration, which RoCE does not have.
    PathMigration,
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
            Self::FlowLabel(label) => write!(f, "flow label {label:#x} has more than 20 bits"),
            Self::AccessFlags(flags) => write!(f, "a QP cannot have the access flags {flags:#x}"),
            Self::PathMtu { requested, active } => write!(
                f,
                "path MTU {} is above the port's active MTU {}",
                requested.bytes(),
                active.bytes()
            ),
            Self::Psn(psn) => write!(f, "PSN {psn:#x} has more than 24 bits"),
            Self::DestQpn(qpn) => write!(f, "QP number {qpn:#x} has more than 24 bits"),
            Self::MaxRdAtomic(n) => write!(f, "max_rd_atomic {n} is above the device's limit"),
            Self::MaxDestRdAtomic(n) => {
                write!(f, "max_dest_rd_atomic {n} is above the device's limit")
            }
            Self::RetryCnt(n) => write!(f, "retry_cnt {n} is above 7"),
            Self::RnrRetry(n) => write!(f, "rnr_retry {n} is above 7"),
            Self::PathMigration => f.write_str("RoCE has no path migration"),
            Self::RateLimit => f.write_str("the device has no rate limit"),
        }
    }
}

impl core::error::Error for ModifyError {}

/// What a QP becomes by a Modify QP, or why it cannot.
///
/// Order: the device's abilities, the transition and its mask, then each attribute named. Nothing
/// is half done. The RDMA core has masked PSNs to 24 bits and resolved the address vector by the
/// time it calls a driver; callers that come another way get an error instead.
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
        let flags = requested.qp_access_flags;
        attr.qp_access_flags = AccessFlags::try_from(flags)
            .ok()
            .filter(|&flags| limits.access_flags.contains(flags))
            .ok_or(ModifyError::AccessFlags(flags))?;
    }
    if named(AttrMask::ALT_PATH) {
        return Err(ModifyError::PathMigration);
    }
    if named(AttrMask::PATH_MIG_STATE)
        && MigState::try_from(requested.path_mig_state)? != MigState::Migrated
    {
        return Err(ModifyError::PathMigration);
    }
    if named(AttrMask::AV) {
        check_address_vector(&requested.ah_attr, attr.port_num, limits)?;
        attr.ah_attr = requested.ah_attr;
    }
    if named(AttrMask::PATH_MTU) {
        let path_mtu = Mtu::try_from(requested.path_mtu)?;
        if path_mtu > limits.active_mtu {
            return Err(ModifyError::PathMtu {
                requested: path_mtu,
                active: limits.active_mtu,
            });
        }
        attr.path_mtu = path_mtu;
    }
    if named(AttrMask::DEST_QPN) {
        if requested.dest_qp_num & !QPN_MASK != 0 {
            return Err(ModifyError::DestQpn(requested.dest_qp_num));
        }
        attr.dest_qp_num = requested.dest_qp_num;
    }
    if named(AttrMask::RQ_PSN) {
        attr.rq_psn = check_psn(requested.rq_psn)?;
    }
    if named(AttrMask::SQ_PSN) {
        attr.sq_psn = check_psn(requested.sq_psn)?;
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
        attr.min_rnr_timer = RnrTimer::try_from(requested.min_rnr_timer)?;
    }
    if named(AttrMask::TIMEOUT) {
        attr.timeout = AckTimeout::try_from(requested.timeout)?;
    }
    if named(AttrMask::RETRY_CNT) {
        if requested.retry_cnt > 7 {
            return Err(ModifyError::RetryCnt(requested.retry_cnt));
        }
        attr.retry_cnt = requested.retry_cnt;
    }
    if named(AttrMask::RNR_RETRY) {
        if requested.rnr_retry > 7 {
            return Err(ModifyError::RnrRetry(requested.rnr_retry));
        }
        attr.rnr_retry = requested.rnr_retry;
    }
    Ok(())
}

fn check_psn(psn: u32) -> Result<u32, ModifyError> {
    if psn & !PSN_MASK == 0 {
        Ok(psn)
    } else {
        Err(ModifyError::Psn(psn))
    }
}

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
    if av.flow_label & !FLOW_LABEL_MASK != 0 {
        return Err(ModifyError::FlowLabel(av.flow_label));
    }
    Ok(())
}
