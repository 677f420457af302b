// SPDX-License-Identifier: GPL-2.0

//! Enumerations of [`include/rdma/ib_verbs.h`] as Rust types: those of queues, work requests and
//! memory.
//!
//! [`include/rdma/ib_verbs.h`]: srctree/include/rdma/ib_verbs.h

use super::bindings;

c_enum! {
    /// Type of a queue pair.
    QpType: u32 {
        /// For subnet management.
        Smi = ib_qp_type_IB_QPT_SMI,
        /// For connection management.
        Gsi = ib_qp_type_IB_QPT_GSI,
        Rc = ib_qp_type_IB_QPT_RC,
        Uc = ib_qp_type_IB_QPT_UC,
        Ud = ib_qp_type_IB_QPT_UD,
        RawPacket = ib_qp_type_IB_QPT_RAW_PACKET,
        XrcIni = ib_qp_type_IB_QPT_XRC_INI,
        XrcTgt = ib_qp_type_IB_QPT_XRC_TGT,
    }
}

c_enum! {
    /// State of a queue pair.
    QpState: u32 {
        Reset = ib_qp_state_IB_QPS_RESET,
        Init = ib_qp_state_IB_QPS_INIT,
        /// Ready to receive.
        Rtr = ib_qp_state_IB_QPS_RTR,
        /// Ready to send.
        Rts = ib_qp_state_IB_QPS_RTS,
        /// Send queue drained.
        Sqd = ib_qp_state_IB_QPS_SQD,
        /// Send queue error.
        Sqe = ib_qp_state_IB_QPS_SQE,
        Error = ib_qp_state_IB_QPS_ERR,
    }
}

c_enum! {
    /// State of path migration.
    MigState: u32 {
        Migrated = ib_mig_state_IB_MIG_MIGRATED,
        Rearm = ib_mig_state_IB_MIG_REARM,
        Armed = ib_mig_state_IB_MIG_ARMED,
    }
}

c_flags! {
    /// Which attributes of a queue pair are meant.
    QpAttrMask {
        STATE = ib_qp_attr_mask_IB_QP_STATE,
        CUR_STATE = ib_qp_attr_mask_IB_QP_CUR_STATE,
        EN_SQD_ASYNC_NOTIFY = ib_qp_attr_mask_IB_QP_EN_SQD_ASYNC_NOTIFY,
        ACCESS_FLAGS = ib_qp_attr_mask_IB_QP_ACCESS_FLAGS,
        PKEY_INDEX = ib_qp_attr_mask_IB_QP_PKEY_INDEX,
        PORT = ib_qp_attr_mask_IB_QP_PORT,
        QKEY = ib_qp_attr_mask_IB_QP_QKEY,
        AV = ib_qp_attr_mask_IB_QP_AV,
        PATH_MTU = ib_qp_attr_mask_IB_QP_PATH_MTU,
        TIMEOUT = ib_qp_attr_mask_IB_QP_TIMEOUT,
        RETRY_CNT = ib_qp_attr_mask_IB_QP_RETRY_CNT,
        RNR_RETRY = ib_qp_attr_mask_IB_QP_RNR_RETRY,
        RQ_PSN = ib_qp_attr_mask_IB_QP_RQ_PSN,
        MAX_QP_RD_ATOMIC = ib_qp_attr_mask_IB_QP_MAX_QP_RD_ATOMIC,
        ALT_PATH = ib_qp_attr_mask_IB_QP_ALT_PATH,
        MIN_RNR_TIMER = ib_qp_attr_mask_IB_QP_MIN_RNR_TIMER,
        SQ_PSN = ib_qp_attr_mask_IB_QP_SQ_PSN,
        MAX_DEST_RD_ATOMIC = ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC,
        PATH_MIG_STATE = ib_qp_attr_mask_IB_QP_PATH_MIG_STATE,
        CAP = ib_qp_attr_mask_IB_QP_CAP,
        DEST_QPN = ib_qp_attr_mask_IB_QP_DEST_QPN,
        /// All that are common to all drivers.
        STANDARD = ib_qp_attr_mask_IB_QP_ATTR_STANDARD_BITS,
    }
}

impl QpAttrMask {
    /// Whether a queue pair may go from one state to another with these attributes, and these have
    /// all that it takes (IBTA 11.2.5.2, tables 91 and 92).
    pub fn allows(self, qp_type: QpType, from: QpState, to: QpState) -> bool {
        // SAFETY: The function looks the states and the type up in a table, which has all values that
        // these Rust types can have.
        unsafe {
            bindings::ib_modify_qp_is_ok(from.as_raw(), to.as_raw(), qp_type.as_raw(), self.bits())
        }
    }
}

c_flags! {
    /// What a memory region or window may be used for, or what a queue pair lets the other side do.
    AccessFlags {
        LOCAL_WRITE = ib_access_flags_IB_ACCESS_LOCAL_WRITE,
        REMOTE_WRITE = ib_access_flags_IB_ACCESS_REMOTE_WRITE,
        REMOTE_READ = ib_access_flags_IB_ACCESS_REMOTE_READ,
        REMOTE_ATOMIC = ib_access_flags_IB_ACCESS_REMOTE_ATOMIC,
        MW_BIND = ib_access_flags_IB_ACCESS_MW_BIND,
        ZERO_BASED = ib_access_flags_IB_ZERO_BASED,
        ON_DEMAND = ib_access_flags_IB_ACCESS_ON_DEMAND,
        HUGETLB = ib_access_flags_IB_ACCESS_HUGETLB,
        RELAXED_ORDERING = ib_access_flags_IB_ACCESS_RELAXED_ORDERING,
        FLUSH_GLOBAL = ib_access_flags_IB_ACCESS_FLUSH_GLOBAL,
        FLUSH_PERSISTENT = ib_access_flags_IB_ACCESS_FLUSH_PERSISTENT,
        /// Those that a driver may ignore.
        OPTIONAL = ib_access_flags_IB_ACCESS_OPTIONAL,
    }
}

c_enum! {
    /// What `ibv_advise_mr(3)` advises.
    MrAdvice: u32 {
        /// Will be read.
        Prefetch = ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH,
        /// Will be written.
        PrefetchWrite = ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_WRITE,
        /// What is in memory already will be used.
        PrefetchNoFault = ib_uverbs_advise_mr_advice_IB_UVERBS_ADVISE_MR_ADVICE_PREFETCH_NO_FAULT,
    }
}

c_enum! {
    /// Operation of a work request.
    WrOpcode: u32 {
        RdmaWrite = ib_wr_opcode_IB_WR_RDMA_WRITE,
        RdmaWriteWithImm = ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM,
        Send = ib_wr_opcode_IB_WR_SEND,
        SendWithImm = ib_wr_opcode_IB_WR_SEND_WITH_IMM,
        RdmaRead = ib_wr_opcode_IB_WR_RDMA_READ,
        CompareSwap = ib_wr_opcode_IB_WR_ATOMIC_CMP_AND_SWP,
        FetchAdd = ib_wr_opcode_IB_WR_ATOMIC_FETCH_AND_ADD,
        SendWithInv = ib_wr_opcode_IB_WR_SEND_WITH_INV,
        RdmaReadWithInv = ib_wr_opcode_IB_WR_RDMA_READ_WITH_INV,
        LocalInv = ib_wr_opcode_IB_WR_LOCAL_INV,
        BindMw = ib_wr_opcode_IB_WR_BIND_MW,
        AtomicWrite = ib_wr_opcode_IB_WR_ATOMIC_WRITE,
        Flush = ib_wr_opcode_IB_WR_FLUSH,
        /// Only from the kernel: registers memory, see [`mr::Operations::map_start`].
        ///
        /// [`mr::Operations::map_start`]: super::mr::Operations::map_start
        RegMr = ib_wr_opcode_IB_WR_REG_MR,
    }
}

c_flags! {
    /// Flags of a work request.
    SendFlags {
        FENCE = ib_send_flags_IB_SEND_FENCE,
        SIGNALED = ib_send_flags_IB_SEND_SIGNALED,
        SOLICITED = ib_send_flags_IB_SEND_SOLICITED,
        INLINE = ib_send_flags_IB_SEND_INLINE,
    }
}

c_enum! {
    /// How a work request has ended.
    WcStatus: u32 {
        Success = ib_wc_status_IB_WC_SUCCESS,
        LocalLength = ib_wc_status_IB_WC_LOC_LEN_ERR,
        LocalQpOperation = ib_wc_status_IB_WC_LOC_QP_OP_ERR,
        LocalProtection = ib_wc_status_IB_WC_LOC_PROT_ERR,
        Flushed = ib_wc_status_IB_WC_WR_FLUSH_ERR,
        MwBind = ib_wc_status_IB_WC_MW_BIND_ERR,
        BadResponse = ib_wc_status_IB_WC_BAD_RESP_ERR,
        LocalAccess = ib_wc_status_IB_WC_LOC_ACCESS_ERR,
        RemoteInvalidRequest = ib_wc_status_IB_WC_REM_INV_REQ_ERR,
        RemoteAccess = ib_wc_status_IB_WC_REM_ACCESS_ERR,
        RemoteOperation = ib_wc_status_IB_WC_REM_OP_ERR,
        RetryExceeded = ib_wc_status_IB_WC_RETRY_EXC_ERR,
        RnrRetryExceeded = ib_wc_status_IB_WC_RNR_RETRY_EXC_ERR,
        RemoteAborted = ib_wc_status_IB_WC_REM_ABORT_ERR,
        Fatal = ib_wc_status_IB_WC_FATAL_ERR,
        ResponseTimeout = ib_wc_status_IB_WC_RESP_TIMEOUT_ERR,
        General = ib_wc_status_IB_WC_GENERAL_ERR,
    }
}

c_enum! {
    /// Operation of a work request that has ended.
    WcOpcode: u32 {
        Send = ib_wc_opcode_IB_WC_SEND,
        RdmaWrite = ib_wc_opcode_IB_WC_RDMA_WRITE,
        RdmaRead = ib_wc_opcode_IB_WC_RDMA_READ,
        CompareSwap = ib_wc_opcode_IB_WC_COMP_SWAP,
        FetchAdd = ib_wc_opcode_IB_WC_FETCH_ADD,
        BindMw = ib_wc_opcode_IB_WC_BIND_MW,
        LocalInv = ib_wc_opcode_IB_WC_LOCAL_INV,
        RegMr = ib_wc_opcode_IB_WC_REG_MR,
        AtomicWrite = ib_wc_opcode_IB_WC_ATOMIC_WRITE,
        Flush = ib_wc_opcode_IB_WC_FLUSH,
        Recv = ib_wc_opcode_IB_WC_RECV,
        RecvRdmaWithImm = ib_wc_opcode_IB_WC_RECV_RDMA_WITH_IMM,
    }
}

c_flags! {
    /// What the kernel wants to be told of a completion queue.
    NotifyFlags {
        /// The next completion that is solicited, or in error.
        SOLICITED = ib_cq_notify_flags_IB_CQ_SOLICITED,
        /// The next completion.
        NEXT = ib_cq_notify_flags_IB_CQ_NEXT_COMP,
        /// Whether there are completions already.
        REPORT_MISSED = ib_cq_notify_flags_IB_CQ_REPORT_MISSED_EVENTS,
    }
}

c_flags! {
    /// Which attributes of a shared receive queue are meant.
    SrqAttrMask {
        MAX_WR = ib_srq_attr_mask_IB_SRQ_MAX_WR,
        LIMIT = ib_srq_attr_mask_IB_SRQ_LIMIT,
    }
}

c_enum! {
    /// Type of a memory region that the kernel allocates, to register memory with later.
    MrType: u32 {
        MemReg = ib_mr_type_IB_MR_TYPE_MEM_REG,
        SgGaps = ib_mr_type_IB_MR_TYPE_SG_GAPS,
    }
}

c_enum! {
    /// Type of a memory window.
    MwType: u32 {
        Type1 = ib_mw_type_IB_MW_TYPE_1,
        Type2 = ib_mw_type_IB_MW_TYPE_2,
    }
}
