// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits of the device and of the protocol that several parts have to agree on.

/// Ports of a device, numbered from 1.
pub const PORT_COUNT: u32 = 1;
/// Entries of a port's P_Key table. RoCE has the default key alone (IBTA annex A17).
pub const PKEY_TABLE_LEN: u16 = 1;
/// The one P_Key of a RoCE port: full member of the default partition.
pub const DEFAULT_PKEY: u16 = 0xffff;
/// Entries of a port's GID table; the RDMA core fills it from the netdev's addresses.
pub const GID_TABLE_LEN: u32 = 1024;

/// Entries of a send or receive queue, shared or not. A power of two, as every ring's size.
pub const MAX_QP_WR: u32 = 1 << 15;
/// Gather entries of a send work request.
pub const MAX_SEND_SGE: u32 = 32;
/// Scatter entries of a receive work request.
pub const MAX_RECV_SGE: u32 = 32;
/// Inline data of a send work request, in bytes.
pub const MAX_INLINE_DATA: u32 = 512;
/// Entries of a completion queue. A power of two.
pub const MAX_CQE: u32 = 1 << 18;

/// RDMA READs and atomics a QP may have under way at once, in either role. The same as rdma_rxe's,
/// so that two such QPs agree without negotiation.
pub const MAX_RD_ATOMIC: u8 = 128;

/// Bytes of device memory that may be allocated at a time: several times what cards have on board, and
/// little enough for whole pages of the kernel's.
pub const MAX_DM_SIZE: u64 = 1 << 20;

/// The longest message, in bytes: 2^31 (IBTA 9.4).
pub const MAX_MESSAGE_LENGTH: u32 = 1 << 31;

/// Bytes of an atomic's operand, and of an ATOMIC WRITE's data (IBTA 9.4.5, annex A19).
pub const ATOMIC_LENGTH: u32 = 8;

/// Room that a UD receive buffer gives to the GRH, in bytes (IBTA 11.4.1).
pub const GRH_LENGTH: u32 = 40;

/// QP numbers have 24 bits (IBTA 9.2, the BTH).
pub const QPN_MASK: u32 = 0x00ff_ffff;
/// Packet sequence numbers have 24 bits (IBTA 9.2, the BTH).
pub const PSN_MASK: u32 = 0x00ff_ffff;
/// The general services QP.
pub const GSI_QPN: u32 = 1;
/// The destination QP of a multicast datagram (IBTA 10.5).
pub const MULTICAST_QPN: u32 = 0x00ff_ffff;

/// The Q_Key of QP 1 (`IB_QP1_QKEY`).
pub const GSI_QKEY: u32 = 0x8001_0000;
/// Bytes of a management datagram (IBTA 13.4.2).
pub const MAD_LENGTH: u32 = 256;

/// A work request whose Q_Key has this bit set goes out with its QP's Q_Key instead (IBTA 10.2,
/// "controlled" Q_Keys). Only a privileged process may give a QP such a key: the RDMA core sees to
/// that (`IB_QP_SET_QKEY`).
pub const QKEY_CONTROLLED: u32 = 1 << 31;

/// The Q_Key a datagram carries, from that of its work request and that of its QP.
pub const fn datagram_qkey(work_request: u32, qp: u32) -> u32 {
    if work_request & QKEY_CONTROLLED == 0 {
        work_request
    } else {
        qp
    }
}
