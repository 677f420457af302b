// SPDX-License-Identifier: GPL-2.0

//! What a device counts.
//!
//! A count is a handful of numbers, one for each CPU, in cache lines that are that CPU's: threads
//! that execute requests at the same time do not get in each other's way. They are summed up when
//! somebody reads.

use crate::{
    counter::PortCounter,
    rdma::{
        self,
        stats::{counters, CounterDesc},
    },
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{cpu, prelude::*};

counters! {
    /// What programs and the driver have to do with each other.
    pub(crate) HostCounter {
        /// System calls to have a queue looked at.
        Doorbells = c"doorbells",
        /// Requests that were executed without one, on a CPU that had nothing else to do.
        Polled = c"polled_requests",
        /// Queues looked at by a thread of the kernel's: after a wait, or to flush.
        Deferred = c"deferred",
        /// Completion events, each of which wakes the threads that wait.
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

const PORT: usize = PortCounter::NAMES.len();
const HOST: usize = HostCounter::DESCS.len();

/// The counters of a port, for the RDMA core.
pub(crate) static PORT_DESCS: [CounterDesc; PORT] = CounterDesc::of(PortCounter::NAMES);

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
    pub(crate) fn count(&self, what: PortCounter) {
        self.add(what, 1);
    }

    /// Counts something at the port.
    pub(crate) fn add(&self, what: PortCounter, number: u64) {
        add(
            self.this_cpu().and_then(|cpu| cpu.port.get(what as usize)),
            number,
        );
    }

    /// Counts something of the device once.
    pub(crate) fn count_host(&self, what: HostCounter) {
        self.add_host(what, 1);
    }

    /// Counts something of the device.
    pub(crate) fn add_host(&self, what: HostCounter, number: u64) {
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
            .and_then(|cpu| cpu.port.get(PortCounter::RcvdPackets as usize));
        packets.is_some_and(|n| n.load(Ordering::Relaxed) % 7 == 0)
    }

    /// Notes how long something took that began at a time of [`rdma::clock`].
    pub(crate) fn took(&self, what: HostCounter, began: u64) {
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
    pub(crate) fn port(&self, what: PortCounter) -> u64 {
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
        for what in [HostCounter::LongestBottomHalf, HostCounter::LongestTurn] {
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
