// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a work request ended, and what is reported outside a completion.

use crate::verbs::numbered;

numbered! {
    /// How a work request ended (IBTA 11.6.2; `enum ib_wc_status`, the same in libibverbs).
    pub enum WcStatus, "completion status" {
        /// Done.
        Success = 0,
        /// Local length error: a message longer than the buffer or than the transport carries.
        LocLenErr = 1,
        /// Local QP operation error: the work request itself is inconsistent.
        LocQpOpErr = 2,
        /// Local EE context operation error (RD only).
        LocEecOpErr = 3,
        /// Local protection error: a key of this host does not allow the access.
        LocProtErr = 4,
        /// Flushed: the QP was in error before this request was done.
        WrFlushErr = 5,
        /// Memory window bind error.
        MwBindErr = 6,
        /// The peer's response made no sense.
        BadRespErr = 7,
        /// Local access error: an RDMA WRITE with immediate data met a key that does not allow it.
        LocAccessErr = 8,
        /// The peer found the request invalid.
        RemInvReqErr = 9,
        /// The peer's key does not allow the access.
        RemAccessErr = 10,
        /// The peer could not complete the operation.
        RemOpErr = 11,
        /// The peer did not answer, `retry_cnt` times.
        RetryExcErr = 12,
        /// The peer had no receive posted, `rnr_retry` times.
        RnrRetryExcErr = 13,
        /// Local RDD violation (RD only).
        LocRddViolErr = 14,
        /// Remote invalid RD request (RD only).
        RemInvRdReqErr = 15,
        /// The peer aborted the operation.
        RemAbortErr = 16,
        /// Invalid EE context number (RD only).
        InvEecnErr = 17,
        /// Invalid EE context state (RD only).
        InvEecStateErr = 18,
        /// Something failed that cannot be told of otherwise.
        FatalErr = 19,
        /// The peer's response did not come in time.
        RespTimeoutErr = 20,
        /// None of the others.
        GeneralErr = 21,
    }
}

numbered! {
    /// What is reported outside any completion (IBTA 11.6.3; `enum ib_event_type`, the same in
    /// libibverbs up to `WqFatal`).
    pub enum EventType, "asynchronous event" {
        /// A completion queue overran, or its memory is unusable.
        CqErr = 0,
        /// A QP failed in a way no completion can tell.
        QpFatal = 1,
        /// A QP refused an invalid request of its peer.
        QpReqErr = 2,
        /// A QP refused an access of its peer.
        QpAccessErr = 3,
        /// A packet came for a QP that is still in RTR.
        CommEst = 4,
        /// The send queue has drained after a transition to SQD.
        SqDrained = 5,
        /// The path has migrated.
        PathMig = 6,
        /// The path could not migrate.
        PathMigErr = 7,
        /// The device failed.
        DeviceFatal = 8,
        /// A port came up.
        PortActive = 9,
        /// A port went down.
        PortErr = 10,
        /// A port's LID changed.
        LidChange = 11,
        /// A port's P_Key table changed.
        PkeyChange = 12,
        /// A port's subnet manager changed.
        SmChange = 13,
        /// A shared receive queue failed.
        SrqErr = 14,
        /// A shared receive queue fell below its limit.
        SrqLimitReached = 15,
        /// A QP in error has taken its last receive from its shared receive queue.
        QpLastWqeReached = 16,
        /// The subnet manager asks clients to register again.
        ClientReregister = 17,
        /// A port's GID table changed.
        GidChange = 18,
        /// A work queue failed.
        WqFatal = 19,
        /// A port's speed changed.
        DeviceSpeedChange = 20,
    }
}
