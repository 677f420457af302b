// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a work request asks for, and what a completion says was done.

use crate::verbs::{numbered, QpType};

numbered! {
    /// The operation of a send work request (IBTA 10.8.2; `enum ib_wr_opcode`).
    pub enum SendOpcode, "send opcode" {
        /// RDMA WRITE.
        RdmaWrite = 0,
        /// RDMA WRITE that consumes a receive of the peer and hands it immediate data.
        RdmaWriteImm = 1,
        /// SEND.
        Send = 2,
        /// SEND with immediate data.
        SendImm = 3,
        /// RDMA READ.
        RdmaRead = 4,
        /// Compare and swap, 8 bytes.
        CompareSwap = 5,
        /// Fetch and add, 8 bytes.
        FetchAdd = 6,
        /// Invalidates a key of this host.
        LocalInvalidate = 7,
        /// Binds a type 2 memory window.
        BindMw = 8,
        /// SEND that invalidates a key of the peer.
        SendInvalidate = 9,
        /// FLUSH (IBTA annex A19).
        Flush = 14,
        /// Writes 8 bytes at once (IBTA annex A19).
        AtomicWrite = 15,
        /// Registers a fast-registration region: kernel only (`IB_WR_REG_MR`).
        RegMr = 32,
    }
}

impl SendOpcode {
    /// Whether a QP of this type may be asked for it (IBTA 10.8.2; `ibv_post_send(3)`).
    ///
    /// Send with Invalidate is RC only, though the manual page lists UC: UC has no packet for it
    /// (IBTA table 38, the BTH's opcodes).
    pub const fn permitted_on(self, qp_type: QpType) -> bool {
        match self {
            Self::Send | Self::SendImm => true,
            Self::RdmaWrite
            | Self::RdmaWriteImm
            | Self::LocalInvalidate
            | Self::BindMw
            | Self::RegMr => matches!(qp_type, QpType::Rc | QpType::Uc),
            Self::RdmaRead
            | Self::CompareSwap
            | Self::FetchAdd
            | Self::SendInvalidate
            | Self::Flush
            | Self::AtomicWrite => matches!(qp_type, QpType::Rc),
        }
    }

    /// Whether its data may be inline: only data that leaves this host can be.
    pub const fn permits_inline(self) -> bool {
        matches!(
            self,
            Self::Send
                | Self::SendImm
                | Self::SendInvalidate
                | Self::RdmaWrite
                | Self::RdmaWriteImm
                | Self::AtomicWrite
        )
    }

    /// Whether it has no gather or scatter list at all.
    pub const fn has_no_data(self) -> bool {
        self.is_local() || matches!(self, Self::Flush)
    }

    /// Whether it concerns this host alone: no packet is sent.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::LocalInvalidate | Self::BindMw | Self::RegMr)
    }

    /// Whether it consumes a receive work request of the peer.
    pub const fn consumes_receive(self) -> bool {
        matches!(
            self,
            Self::Send | Self::SendImm | Self::SendInvalidate | Self::RdmaWriteImm
        )
    }

    /// Whether it counts against `max_rd_atomic` (IBTA 9.7.7; FLUSH and ATOMIC WRITE by annex A19).
    pub const fn is_rd_atomic(self) -> bool {
        matches!(
            self,
            Self::RdmaRead | Self::CompareSwap | Self::FetchAdd | Self::Flush | Self::AtomicWrite
        )
    }

    /// Whether its data comes from the peer.
    pub const fn gets_data(self) -> bool {
        matches!(self, Self::RdmaRead | Self::CompareSwap | Self::FetchAdd)
    }

    /// Whether a QP can ever have it under way, by its `max_rd_atomic`. What cannot completes with
    /// [`LocQpOpErr`](crate::verbs::WcStatus::LocQpOpErr).
    pub const fn may_be_under_way(self, max_rd_atomic: u8) -> bool {
        max_rd_atomic > 0 || !self.is_rd_atomic()
    }

    /// The opcode of its completion.
    pub const fn completion(self) -> WcOpcode {
        match self {
            Self::Send | Self::SendImm | Self::SendInvalidate => WcOpcode::Send,
            Self::RdmaWrite | Self::RdmaWriteImm => WcOpcode::RdmaWrite,
            Self::RdmaRead => WcOpcode::RdmaRead,
            Self::CompareSwap => WcOpcode::CompareSwap,
            Self::FetchAdd => WcOpcode::FetchAdd,
            Self::LocalInvalidate => WcOpcode::LocalInvalidate,
            Self::BindMw => WcOpcode::BindMw,
            Self::Flush => WcOpcode::Flush,
            Self::AtomicWrite => WcOpcode::AtomicWrite,
            Self::RegMr => WcOpcode::RegMr,
        }
    }
}

numbered! {
    /// What a completion is of (`enum ib_wc_opcode`). Bit 7 is set in a receive's.
    pub enum WcOpcode, "completion opcode" {
        /// A SEND of any kind.
        Send = 0,
        /// An RDMA WRITE of any kind.
        RdmaWrite = 1,
        /// An RDMA READ.
        RdmaRead = 2,
        /// A compare and swap.
        CompareSwap = 3,
        /// A fetch and add.
        FetchAdd = 4,
        /// A bind of a memory window.
        BindMw = 5,
        /// A local invalidate.
        LocalInvalidate = 6,
        /// A FLUSH.
        Flush = 8,
        /// An ATOMIC WRITE.
        AtomicWrite = 9,
        /// A fast registration. The kernel only: libibverbs has no such completion.
        RegMr = 10,
        /// A receive that a SEND consumed.
        Recv = 128,
        /// A receive that an RDMA WRITE with immediate data consumed.
        RecvRdmaWithImm = 129,
    }
}

impl WcOpcode {
    /// Whether the completion is of a receive.
    pub const fn is_receive(self) -> bool {
        self.number() & 0x80 != 0
    }
}
