// SPDX-License-Identifier: MIT OR Apache-2.0
//! The sets of bits of the verbs.

use crate::verbs::bit_flags;

bit_flags! {
    /// What a key or a QP allows (IBTA 10.6.3; `enum ib_access_flags`).
    pub struct AccessFlags, "set of access flags" {
        /// The device may write to the region on behalf of its own process.
        LOCAL_WRITE = 1 << 0,
        /// A peer may write by RDMA WRITE.
        REMOTE_WRITE = 1 << 1,
        /// A peer may read by RDMA READ.
        REMOTE_READ = 1 << 2,
        /// A peer may use atomics.
        REMOTE_ATOMIC = 1 << 3,
        /// A memory window may be bound to the region.
        MW_BIND = 1 << 4,
        /// Addresses are offsets from the region's start.
        ZERO_BASED = 1 << 5,
        /// Pages are faulted in as they are used.
        ON_DEMAND = 1 << 6,
        /// The region consists of huge pages.
        HUGETLB = 1 << 7,
        /// A peer may FLUSH to global visibility (IBTA annex A19).
        FLUSH_GLOBAL = 1 << 8,
        /// A peer may FLUSH to persistence (IBTA annex A19).
        FLUSH_PERSISTENT = 1 << 9,
        /// Writes may be seen out of order. One of [`OPTIONAL`](Self::OPTIONAL).
        RELAXED_ORDERING = 1 << 20,
        /// Bits 20 to 29: hints a device may ignore, and has to accept
        /// (`IB_UVERBS_ACCESS_OPTIONAL_RANGE`).
        OPTIONAL = 0x3ff0_0000,
    }
}

impl AccessFlags {
    /// Everything that lets a peer in.
    pub const REMOTE: Self = Self::REMOTE_WRITE
        .union(Self::REMOTE_READ)
        .union(Self::REMOTE_ATOMIC)
        .union(Self::FLUSH_GLOBAL)
        .union(Self::FLUSH_PERSISTENT);

    /// What may be asked of a QP's own `qp_access_flags`: the remote rights, and what programs pass
    /// out of habit, as they do for their regions.
    pub const QP: Self = Self::REMOTE
        .union(Self::LOCAL_WRITE)
        .union(Self::MW_BIND)
        .union(Self::ON_DEMAND)
        .union(Self::HUGETLB)
        .union(Self::OPTIONAL);

    /// Whether a region may have this set: a right to write from afar needs the right to write
    /// locally (IBTA 10.6.3; `ib_check_mr_access`).
    pub const fn is_consistent(self) -> bool {
        !self.intersects(Self::REMOTE_WRITE.union(Self::REMOTE_ATOMIC))
            || self.contains(Self::LOCAL_WRITE)
    }
}

bit_flags! {
    /// The properties of a send work request (`enum ib_send_flags`).
    pub struct SendFlags, "set of send flags" {
        /// Starts only when every earlier RDMA READ and atomic is complete (IBTA 10.8.3).
        FENCE = 1 << 0,
        /// Generates a completion even if it succeeds.
        SIGNALED = 1 << 1,
        /// Sets the solicited event bit of the message's last packet.
        SOLICITED = 1 << 2,
        /// The data is in the work request itself.
        INLINE = 1 << 3,
    }
}

bit_flags! {
    /// What else a completion carries (`enum ib_wc_flags` of the kernel; libibverbs numbers
    /// `WITH_INVALIDATE` 1 << 3).
    pub struct WcFlags, "set of completion flags" {
        /// The receive buffer starts with a GRH (UD).
        GRH = 1 << 0,
        /// The completion carries immediate data.
        WITH_IMM = 1 << 1,
        /// The completion carries the rkey the peer invalidated.
        WITH_INVALIDATE = 1 << 2,
        /// The network header type is valid (RoCE UD).
        WITH_NETWORK_HDR_TYPE = 1 << 6,
        /// Ours, of the card in user space alone: the data lie beside the completion, and the process
        /// that polls it puts them where they belong.
        WITH_DATA = 1 << 7,
    }
}

bit_flags! {
    /// How far a FLUSH has to bring the data (IBTA A19.4.1.1; `enum ib_placement_type`).
    pub struct FlushPlacement, "set of flush placement types" {
        /// To where every agent of the peer's host sees it.
        GLOBAL = 1 << 0,
        /// To where it survives a loss of power.
        PERSISTENT = 1 << 1,
    }
}
