// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted at a port.

use core::ffi::CStr;

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)*
        }

        impl $name {
            /// Their names, in the order of their numbers.
            pub const NAMES: [&'static CStr; [$($text),*].len()] = [$($text),*];
        }
    };
}

counters! {
    /// What happens at a port. What goes from one device of this host to another is sent by the one
    /// and received by the other.
    ///
    /// The names are those of rdma_rxe (`rxe_hw_counters.c`) and of mlx5 (`hw/mlx5/counters.c`) where
    /// these count the same.
    PortCounter {
        /// Messages: requests that were executed, of any operation with a peer.
        RdmaSends = c"rdma_sends",
        /// Messages that took a receive request.
        RdmaRecvs = c"rdma_recvs",
        /// Bytes of payload that left by the port, in messages and as answers to reads.
        SentBytes = c"sent_bytes",
        /// Bytes of payload that came by it.
        RcvdBytes = c"rcvd_bytes",
        /// The peer had no receive request (RNR NAK received).
        RcvdRnr = c"rcvd_rnr_err",
        /// There was no receive request for a peer's message (RNR NAK sent).
        SentRnr = c"send_rnr_err",
        /// Requests that were given up since the peer never had a receive request.
        RnrRetryExceeded = c"retry_rnr_exceeded_err",
        /// Nobody answered for the time of the local ACK timeout.
        AckTimeout = c"local_ack_timeout_err",
        /// Requests that were given up since nobody ever answered.
        RetryExceeded = c"retry_exceeded_err",
        /// Requests that the peer refused as invalid.
        RequestInvalid = c"req_remote_invalid_request",
        /// Requests that the peer refused for their keys or rights.
        RequestAccess = c"req_remote_access_errors",
        /// A peer's requests that were refused for their keys or rights.
        ResponseAccess = c"resp_remote_access_errors",
        /// Messages of unreliable queue pairs that came and were dropped, for want of a receive
        /// request, or one large enough.
        OutOfBuffer = c"out_of_buffer",
        /// Messages of unreliable queue pairs that were sent to where nobody takes them.
        Undelivered = c"undelivered",
        /// Packets that were sent by the wire.
        SentPackets = c"sent_pkts",
        /// Packets that came by the wire.
        RcvdPackets = c"rcvd_pkts",
        /// Packets that there was no way to send: no route, or the device is down.
        NoRoute = c"send_err",
        /// Packets that the network has changed.
        WrongIcrc = c"rx_icrc_encapsulated",
        /// Packets that are none: too short, or with an opcode that does not exist.
        Malformed = c"rcvd_malformed",
        /// Packets of another partition.
        WrongPkey = c"rcvd_wrong_pkey",
        /// Datagrams with another Q_Key than that of the queue pair.
        WrongQkey = c"rcvd_wrong_qkey",
        /// Packets for queue pairs that do not exist, or are of another transport.
        UnknownQp = c"rcvd_unknown_qp",
        /// Packets of others than the peer of a queue pair.
        WrongSource = c"rcvd_wrong_source",
        /// Packets that were sent on this host, by sockets of programs, or that have one of its addresses as
        /// their source. What the device sends to this host goes from memory to memory.
        FromThisHost = c"rcvd_from_this_host",
        /// Packets for queue pairs that are in no state to take them.
        NotReady = c"rcvd_not_ready",
        /// Requests that came once more.
        Duplicate = c"duplicate_request",
        /// Requests before which some are missing.
        OutOfSequence = c"out_of_seq_request",
        /// Requests that were dropped without a word.
        Dropped = c"dropped_request",
        /// The peer misses packets (NAK received, PSN sequence error).
        RcvdSequenceError = c"rcvd_seq_err",
        /// Responses were lost, and were asked for once more.
        ImpliedNak = c"implied_nak_seq_err",
        /// Responses that are to nothing that was asked.
        Ghosts = c"rcvd_ghost_ack",
    }
}
