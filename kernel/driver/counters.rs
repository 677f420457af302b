// SPDX-License-Identifier: GPL-2.0

//! What a device counts.
//!
//! A count is a handful of numbers, one for each CPU, in cache lines that are that CPU's: threads
//! that execute requests at the same time do not get in each other's way. They are summed up when
//! somebody reads.

use crate::rdma::{self, stats::counters};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{cpu, prelude::*};

counters! {
    /// What happens at a port. What goes from one device of this host to another is sent by the one
    /// and received by the other.
    ///
    /// The names are those of rdma_rxe (`rxe_hw_counters.c`) and of mlx5 (`hw/mlx5/counters.c`) where
    /// these count the same.
    pub(crate) Port {
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

counters! {
    /// What programs and the driver have to do with each other.
    pub(crate) Host {
        /// System calls to have a queue looked at.
        Doorbells = c"doorbells",
        /// Requests that were executed without one, on a CPU that had nothing else to do.
        Drained = c"drained_requests",
        /// Queues looked at by a thread of the kernel's: after a wait, or to flush.
        Deferred = c"deferred",
        /// Completion events: whoever waits is woken.
        CompletionEvents = c"completion_events",
        /// Completions that were lost, since there was no room.
        CqOverflow = c"cq_overflow",
        /// The longest time that what one packet or timer led to kept a CPU, in µs, of those that were
        /// [timed](Counters::is_timed). (A host may stop a guest's CPU in the meantime.)
        LongestBottomHalf = c"longest_bh_us",
        /// The longest time that a thread of the work queue has executed requests of a queue pair before
        /// others had their turn, with all that preempted it, in µs.
        LongestTurn = c"longest_turn_us",
    }
}

const PORT: usize = Port::DESCS.len();
const HOST: usize = Host::DESCS.len();

/// The counts of one CPU. 64 bytes are a cache line on most machines.
#[repr(align(64))]
#[derive(Default)]
struct Cpu {
    port: [AtomicU64; PORT],
    host: [AtomicU64; HOST],
}

/// The counts of a device and its port.
pub(crate) struct Counters {
    cpus: KVVec<Cpu>,
}

impl Counters {
    pub(crate) fn new() -> Result<Self> {
        let count = cpu::nr_cpu_ids() as usize;
        let mut cpus = KVVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            cpus.push(Cpu::default(), GFP_KERNEL)?;
        }
        Ok(Self { cpus })
    }

    /// Counts something at the port once.
    pub(crate) fn count(&self, what: Port) {
        self.add(what, 1);
    }

    /// Counts something at the port.
    pub(crate) fn add(&self, what: Port, number: u64) {
        add(
            self.this_cpu().and_then(|cpu| cpu.port.get(what as usize)),
            number,
        );
    }

    /// Counts something of the device once.
    pub(crate) fn count_host(&self, what: Host) {
        self.add_host(what, 1);
    }

    /// Counts something of the device.
    pub(crate) fn add_host(&self, what: Host, number: u64) {
        add(
            self.this_cpu().and_then(|cpu| cpu.host.get(what as usize)),
            number,
        );
    }

    /// Whether the next packets are timed: one in seven is, since in User-Mode Linux to look at the clock
    /// takes about as long as to take a packet.
    pub(crate) fn is_timed(&self) -> bool {
        let packets = self
            .this_cpu()
            .and_then(|cpu| cpu.port.get(Port::RcvdPackets as usize));
        packets.is_some_and(|n| n.load(Ordering::Relaxed).is_multiple_of(7))
    }

    /// Notes how long something took that began at a time of [`rdma::clock`].
    pub(crate) fn took(&self, what: Host, began: u64) {
        let micros = rdma::clock().saturating_sub(began) / 1000;
        let longest = self.this_cpu().and_then(|cpu| cpu.host.get(what as usize));
        if let Some(longest) = longest.filter(|n| n.load(Ordering::Relaxed) < micros) {
            longest.fetch_max(micros, Ordering::Relaxed);
        }
    }

    fn this_cpu(&self) -> Option<&Cpu> {
        // The thread may be on another CPU a moment later; that is why the counts are atomic.
        self.cpus.get(cpu::CpuId::current().as_u32() as usize)
    }

    /// The sum of one of the port's.
    pub(crate) fn port(&self, what: Port) -> u64 {
        let of_cpu = |cpu: &Cpu| {
            cpu.port
                .get(what as usize)
                .map(|n| n.load(Ordering::Relaxed))
        };
        self.cpus.iter().filter_map(of_cpu).sum()
    }

    /// Sums up the counts of the port.
    pub(crate) fn read_port(&self, values: &mut [u64]) {
        self.read(values, |cpu| &cpu.port);
    }

    /// Sums up those of the device, but for times, of which it is the longest.
    pub(crate) fn read_host(&self, values: &mut [u64]) {
        self.read(values, |cpu| &cpu.host);
        for what in [Host::LongestBottomHalf, Host::LongestTurn] {
            let of_cpu = |cpu: &Cpu| Some(cpu.host.get(what as usize)?.load(Ordering::Relaxed));
            let longest = self.cpus.iter().filter_map(of_cpu).max();
            if let (Some(value), Some(longest)) = (values.get_mut(what as usize), longest) {
                *value = longest;
            }
        }
    }

    fn read(&self, values: &mut [u64], of: impl Fn(&Cpu) -> &[AtomicU64]) {
        values.fill(0);
        for cpu in &self.cpus {
            for (value, count) in values.iter_mut().zip(of(cpu)) {
                *value += count.load(Ordering::Relaxed);
            }
        }
    }
}

fn add(count: Option<&AtomicU64>, number: u64) {
    if let Some(count) = count {
        count.fetch_add(number, Ordering::Relaxed);
    }
}
