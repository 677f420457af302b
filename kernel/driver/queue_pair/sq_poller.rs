// SPDX-License-Identifier: GPL-2.0

//! Busy send queues are looked at all the time, by a thread of the kernel's that has a CPU for itself.
//!
//! A program that posts one request after another would ring a doorbell for each, and a system call
//! takes longer than most requests. So after a number of doorbells in a short time the queue is
//! [offered](doorbell) to its device's SQ poller, and while that is at work, each queue that rings. If
//! there is a CPU with nothing else to do, the SQ poller executes what is posted from then on, and the
//! programs need not ring: until they pause, or anybody else wants the CPU. If there is none, the
//! offer comes to nothing, and is repeated less and less often.
//!
//! The thread runs only where the programs that it works for may run themselves, and not on CPUs that the
//! administrator has set apart ([`thread::may_work_on`]). With `insmod ferroce.ko poll=0` it never does.

use super::{
    send::{drain, Extent, Stopped, BATCH},
    take_turn, Qp, QpRef,
};
use crate::{
    counters::HostCounter,
    mr::Cache,
    rdma::{
        self,
        thread::{self, Run, Thread},
    },
};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use kernel::{
    cpu::CpuId,
    new_mutex,
    prelude::*,
    processor::cpu_relax,
    sync::{aref::ARef, Mutex},
    time::{Delta, Instant, Monotonic},
};

/// What a device's SQ poller is about to look after.
#[pin_data]
pub(crate) struct SqPoller {
    #[pin]
    offered: Mutex<KVec<QpRef>>,
    offer_rate: OfferRate,
    /// Whose queues it looks after at the moment.
    polls_for: AtomicU64,
    /// The number of the CPU that it is to run on.
    cpu: AtomicU32,
}

/// To whom it attends when it sleeps. No protection domain has that number.
const NOBODY: u64 = 0;

/// How often a device's programs ring. Doorbells that two threads ring at once may count as one.
#[derive(Default)]
struct OfferRate {
    /// The tick of the kernel's clock that the doorbells are counted in.
    tick: AtomicUsize,
    doorbells: AtomicUsize,
    /// For how many ticks no further offer is made.
    backoff: AtomicUsize,
}

impl OfferRate {
    /// So many in a second are worth an offer. They are counted in one tick of 1 to 10 ms. A doorbell
    /// takes 10 to 60 µs in User-Mode Linux.
    const MANY: usize = 8_000;

    const LONGEST_BACKOFF: usize = 64;

    /// Counts a doorbell. Returns whether there are many.
    fn rung(&self) -> bool {
        let now = thread::jiffies();
        let since = now.wrapping_sub(self.tick.load(Relaxed)) as isize;
        let doorbells = match since {
            ..0 => return false,
            0 => self.doorbells.load(Relaxed) + 1,
            _ => 1,
        };
        self.tick.store(now, Relaxed);
        self.doorbells.store(doorbells, Relaxed);
        if doorbells != Self::MANY / thread::jiffies_per_second() {
            return false;
        }
        let backoff = self.backoff.load(Relaxed);
        self.tick.store(now.wrapping_add(backoff), Relaxed);
        let backoff = (2 * backoff).clamp(1, Self::LONGEST_BACKOFF);
        self.backoff.store(backoff, Relaxed);
        true
    }

    /// How many offers in a row were made to no avail, more or less.
    fn offers(&self) -> usize {
        self.backoff.load(Relaxed).checked_ilog2().unwrap_or(0) as usize
    }

    /// The offer was of use: the next one may come soon.
    fn served(&self) {
        self.backoff.store(0, Relaxed);
        self.doorbells.store(0, Relaxed);
    }
}

/// A queue that the SQ poller looks after.
struct Polled {
    qp: QpRef,
    /// When something was found there for the last time.
    busy_at: Instant<Monotonic>,
    /// How many [changes](Qp::changes) it had seen when it was executed last.
    changes: Option<u32>,
}

/// How long all queues may be empty before the CPU is given up. A host may let a guest's thread wait
/// that long for a CPU.
const PAUSE: Delta = Delta::from_millis(5);

/// How long one queue may be empty, while others are not, before its program has to ring again. A
/// program with a thousand queues may come back to each several times a second only.
const LONG_PAUSE: Delta = Delta::from_millis(200);

/// For how long the thread goes on without a pause. Then the programs have to ring again, and the
/// CPUs that they may run on are looked up again: they can change at any time.
const LONGEST: Delta = Delta::from_millis(1000);

impl SqPoller {
    /// Makes a device's poller.
    pub(crate) fn start() -> Result<Thread<Self>> {
        Thread::new(
            c"ferroce_sqpoll",
            try_pin_init!(Self {
                offered <- new_mutex!(KVec::new(), "ferroce::SqPoller::offered"),
                offer_rate: OfferRate::default(),
                polls_for: AtomicU64::new(NOBODY),
                cpu: AtomicU32::new(0),
            }? Error),
        )
    }

    /// Takes an offer back: the queue pair goes.
    pub(super) fn forget(&self, qp: &rdma::Qp<Qp>) {
        let mut offered = self.offered.lock();
        let at = offered.iter().position(|other| core::ptr::eq(&**other, qp));
        let gone = at.and_then(|at| offered.remove(at).ok());
        drop(offered);
        drop(gone);
    }

    /// Moves the queues that were offered to those that are polled. Returns whether there were any.
    fn accept(&self, polled: &mut KVec<Polled>, now: Instant<Monotonic>) -> bool {
        let offered = core::mem::take(&mut *self.offered.lock());
        let any = !offered.is_empty();
        for qp in offered {
            let queue = Polled {
                qp,
                busy_at: now,
                changes: None,
            };
            // One protection domain's at a time: a request may wait for memory that is had on demand
            // from who knows where, and meanwhile nobody attends to the others. They are their
            // owner's own.
            let first = polled.first();
            if first.is_none_or(|first| first.qp.pd == queue.qp.pd) {
                // Without memory it is as if it had not been offered.
                let _ = polled.push(queue, GFP_KERNEL);
            }
        }
        any
    }
}

/// Takes note of a doorbell that has been answered, and perhaps offers the queue to the poller.
pub(super) fn doorbell(qp: &rdma::Qp<Qp>) {
    if rdma::compat::parameter::<u8, _>(crate::module_parameters::poll.value()) == 0
        || qp.polled.load(Relaxed)
    {
        return;
    }
    let poller = &qp.device().sq_poller;
    let comes_soon = match poller.polls_for.load(Relaxed) {
        NOBODY if poller.offer_rate.rung() => false,
        owner if owner == qp.pd.number() => true,
        _ => return,
    };
    let cpu = match comes_soon {
        false => thread::another_cpu(poller.offer_rate.offers()),
        // It stays where it is, for a thread of the same process, which may have an affinity of its own.
        true => CpuId::from_u32(poller.cpu.load(Relaxed)).filter(|cpu| thread::may_work_on(*cpu)),
    };
    let Some(cpu) = cpu else {
        return;
    };
    if qp.polled.swap(true, Relaxed) {
        return;
    }
    if comes_soon {
        // What is posted from now on is found without a doorbell. Before the queue is offered: after that
        // it may have been let go again. The thread that holds the mutex asks for a doorbell in the end, and
        // the poller serves a thread that has left a note meanwhile.
        let send = qp.send.try_lock();
        let _ = send.map(|mut send| send.stay_awake());
    }
    // Before the queue is offered. If the thread runs on another CPU at the moment, it stops.
    poller.cpu.store(cpu.as_u32(), Relaxed);
    match poller.offered.lock().push(ARef::from(qp), GFP_KERNEL) {
        Ok(()) => poller.wake_on(cpu),
        // Without memory there are doorbells, as before.
        Err(_) => let_go(qp),
    }
}

/// The SQ poller does not look after a queue, or no longer: its program rings again.
fn let_go(qp: &rdma::Qp<Qp>) {
    qp.polled.store(false, Relaxed);
    // Who holds the mutex sees the note, and asks for the doorbell. A program that goes on posting does not
    // keep this thread on the CPU.
    take_turn(qp);
}

impl Run for SqPoller {
    fn run(&self) {
        let mut polled = KVec::new();
        let begin = Instant::<Monotonic>::now();
        let mut busy_at = begin;
        loop {
            let now = Instant::now();
            if self.accept(&mut polled, now) {
                busy_at = now;
            }
            // The programs of those that are dropped ring again.
            let Some(first) = polled.first().filter(|_| now - busy_at <= PAUSE) else {
                break;
            };
            // It is on another CPU than it should be if that has gone offline, or if a queue was offered for
            // another one while the thread was running.
            let cpu = CpuId::current().as_u32();
            if now - begin > LONGEST || cpu != self.cpu.load(Relaxed) {
                break;
            }
            let owner = first.qp.pd.number();
            if !thread::has_cpu_to_itself() {
                // Others before this one. Meanwhile the programs ring.
                self.polls_for.store(NOBODY, Relaxed);
                polled.iter().for_each(|queue| take_turn(&queue.qp));
                thread::give_way();
                // A thread that wants the CPU for long gets it.
                if !thread::has_cpu_to_itself() {
                    break;
                }
            }
            self.polls_for.store(owner, Relaxed);
            let mut executed = 0;
            // The queues of a program often share a few regions.
            let (mut cache, mut uses) = (Cache::new(), 0);
            polled.retain(|queue| {
                if uses >= BATCH {
                    (cache, uses) = (Cache::new(), 0);
                }
                match queue.look(&cache) {
                    Stopped::After(0) => now - queue.busy_at < LONG_PAUSE,
                    Stopped::After(requests) => {
                        uses += requests;
                        executed += requests;
                        queue.busy_at = now;
                        // There may be many of them.
                        rdma::cond_resched();
                        true
                    }
                    Stopped::Waiting => false,
                }
            });
            if executed > 0 {
                self.offer_rate.served();
                // With many queues that was a while.
                busy_at = Instant::now();
            }
            cpu_relax();
            rdma::cond_resched();
        }
        self.polls_for.store(NOBODY, Relaxed);
    }
}

impl Polled {
    /// Executes a batch of what is posted.
    fn look(&mut self, cache: &Cache) -> Stopped {
        let qp = &*self.qp;
        let Some(mut send) = qp.send.try_lock() else {
            // Somebody else executes it at the moment.
            return Stopped::After(0);
        };
        // Of a thousand queues most are empty at a time.
        let changes = Some(qp.changes());
        if core::mem::replace(&mut self.changes, changes) == changes && send.is_idle(qp) {
            return Stopped::After(0);
        }
        let stopped = drain(qp, &mut send, Extent::Batch, cache);
        if let Stopped::After(requests @ 1..) = stopped {
            let counters = &qp.device().counters;
            counters.add_host(HostCounter::Polled, requests.into());
        }
        stopped
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        let_go(&self.qp);
    }
}
