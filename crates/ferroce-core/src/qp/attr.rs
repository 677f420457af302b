// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attributes of a QP, as asked for and as held.

use crate::verbs::limits;
use crate::verbs::{bit_flags, AccessFlags, AckTimeout, Mtu, QpState, RnrTimer};

bit_flags! {
    /// Which attributes a Modify QP names (`enum ib_qp_attr_mask`, the same in libibverbs).
    pub struct AttrMask, "set of QP attributes" {
        /// The state to move to.
        STATE = 1 << 0,
        /// The state the caller believes the QP to be in.
        CUR_STATE = 1 << 1,
        /// Whether an event tells that the send queue has drained.
        EN_SQD_ASYNC_NOTIFY = 1 << 2,
        /// What peers may do.
        ACCESS_FLAGS = 1 << 3,
        /// Index into the port's P_Key table.
        PKEY_INDEX = 1 << 4,
        /// The port.
        PORT = 1 << 5,
        /// The Q_Key.
        QKEY = 1 << 6,
        /// The primary path's address vector.
        AV = 1 << 7,
        /// The path MTU.
        PATH_MTU = 1 << 8,
        /// The local ACK timeout.
        TIMEOUT = 1 << 9,
        /// Retries without an answer.
        RETRY_CNT = 1 << 10,
        /// Retries after an RNR NAK.
        RNR_RETRY = 1 << 11,
        /// The PSN expected first.
        RQ_PSN = 1 << 12,
        /// RDMA READs and atomics under way as requester.
        MAX_QP_RD_ATOMIC = 1 << 13,
        /// The alternate path.
        ALT_PATH = 1 << 14,
        /// The time an RNR NAK asks the peer to wait.
        MIN_RNR_TIMER = 1 << 15,
        /// The PSN sent first.
        SQ_PSN = 1 << 16,
        /// RDMA READs and atomics under way as responder.
        MAX_DEST_RD_ATOMIC = 1 << 17,
        /// The state of path migration.
        PATH_MIG_STATE = 1 << 18,
        /// The sizes of the queues.
        CAP = 1 << 19,
        /// The peer's QP number.
        DEST_QPN = 1 << 20,
        /// A limit on the packet rate.
        RATE_LIMIT = 1 << 25,
    }
}

/// Where packets go (IBTA 11.2.2.1, address vector; `struct rdma_ah_attr`). On RoCE the GRH part
/// is always present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AddressVector {
    /// The destination's GID: an IPv6 address, or an IPv4 address mapped into one.
    pub dgid: [u8; 16],
    /// The destination's MAC address, resolved by the RDMA core from the GID.
    pub dmac: [u8; 6],
    /// Index of the source GID in the port's table.
    pub sgid_index: u32,
    /// Flow label, 20 bits; 0 lets the device choose.
    pub flow_label: u32,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: the IP header's DSCP and ECN.
    pub traffic_class: u8,
    /// Service level.
    pub sl: u8,
    /// Port, from 1.
    pub port_num: u32,
}

/// The attributes as a Modify QP brings them: raw, and meaningful only where [`AttrMask`] says so
/// (`struct ib_qp_attr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)] // The fields are those of `QpAttr` and `AttrMask`, unchecked.
pub struct RequestedAttr {
    pub qp_state: u32,
    pub cur_qp_state: u32,
    pub path_mtu: u32,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub qp_access_flags: u32,
    pub ah_attr: AddressVector,
    pub pkey_index: u16,
    pub en_sqd_async_notify: bool,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u32,
    pub port_num: u32,
    pub timeout: u32,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
}

/// The attributes a QP has: checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpAttr {
    /// The state.
    pub state: QpState,
    /// In SQD: the send queue still has requests under way. The completion of the last of
    /// them clears it ([`QpAttr::drained`]).
    pub sq_draining: bool,
    /// In SQD: whether an event is to tell that the send queue has drained.
    pub en_sqd_async_notify: bool,
    /// In RTR, of a connected QP: no request of the peer's has come yet. The taker of the first one calls
    /// [`QpAttr::established`].
    pub awaits_peer: bool,
    /// The path MTU.
    pub path_mtu: Mtu,
    /// The Q_Key a datagram has to carry to be accepted.
    pub qkey: u32,
    /// The PSN expected first, 24 bits.
    pub rq_psn: u32,
    /// The PSN sent first, 24 bits.
    pub sq_psn: u32,
    /// The peer's QP number, 24 bits.
    pub dest_qp_num: u32,
    /// What the peer may do.
    pub qp_access_flags: AccessFlags,
    /// Where packets go.
    pub ah_attr: AddressVector,
    /// Index into the port's P_Key table.
    pub pkey_index: u16,
    /// RDMA READs and atomics under way as requester.
    pub max_rd_atomic: u8,
    /// RDMA READs and atomics under way as responder.
    pub max_dest_rd_atomic: u8,
    /// The time an RNR NAK asks the peer to wait.
    pub min_rnr_timer: RnrTimer,
    /// The port, from 1; 0 before INIT.
    pub port_num: u32,
    /// The local ACK timeout.
    pub timeout: AckTimeout,
    /// Retries without an answer, 0 to 7.
    pub retry_cnt: u8,
    /// Retries after an RNR NAK, 0 to 7;
    /// [`RNR_RETRY_INFINITE`](crate::verbs::RNR_RETRY_INFINITE) is for ever.
    pub rnr_retry: u8,
}

impl QpAttr {
    /// Those of a QP just created.
    pub fn new() -> Self {
        Self {
            state: QpState::Reset,
            sq_draining: false,
            en_sqd_async_notify: false,
            awaits_peer: false,
            path_mtu: Mtu::B256,
            qkey: 0,
            rq_psn: 0,
            sq_psn: 0,
            dest_qp_num: 0,
            qp_access_flags: AccessFlags::EMPTY,
            ah_attr: AddressVector::default(),
            pkey_index: 0,
            max_rd_atomic: 0,
            max_dest_rd_atomic: 0,
            min_rnr_timer: RnrTimer::default(),
            port_num: 0,
            timeout: AckTimeout::default(),
            retry_cnt: 0,
            rnr_retry: 0,
        }
    }

    /// Notes that nothing of the send queue is under way any more. Returns whether the event
    /// [`SqDrained`](crate::verbs::EventType::SqDrained) is due: once for each transition to SQD,
    /// and only if it was asked for.
    pub fn drained(&mut self) -> bool {
        if self.state != QpState::Sqd || !self.sq_draining {
            return false;
        }
        self.sq_draining = false;
        core::mem::take(&mut self.en_sqd_async_notify)
    }

    /// Notes that a request of the peer's has come. Returns whether the event
    /// [`CommEst`](crate::verbs::EventType::CommEst) is due: for the first one, and only in RTR (IBTA
    /// 11.6.3.2). From RTS on the connection manager needs no telling.
    pub fn established(&mut self) -> bool {
        core::mem::take(&mut self.awaits_peer) && self.state == QpState::Rtr
    }
}

impl Default for QpAttr {
    fn default() -> Self {
        Self::new()
    }
}

/// What the device can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Ports.
    pub port_count: u32,
    /// Entries of the port's P_Key table.
    pub pkey_table_len: u16,
    /// Entries of the port's GID table.
    pub gid_table_len: u32,
    /// Largest `max_rd_atomic` (`max_qp_init_rd_atom` of Query Device).
    pub max_rd_atomic: u8,
    /// Largest `max_dest_rd_atomic` (`max_qp_rd_atom` of Query Device).
    pub max_dest_rd_atomic: u8,
}

impl DeviceLimits {
    /// Those of a ferroce device.
    pub const FERROCE: Self = Self {
        port_count: limits::PORT_COUNT,
        pkey_table_len: limits::PKEY_TABLE_LEN,
        gid_table_len: limits::GID_TABLE_LEN,
        max_rd_atomic: limits::MAX_RD_ATOMIC,
        max_dest_rd_atomic: limits::MAX_RD_ATOMIC,
    };

    /// Whether there is such a port.
    pub const fn has_port(&self, port_num: u32) -> bool {
        port_num >= 1 && port_num <= self.port_count
    }
}
