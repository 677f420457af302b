// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queue pairs.

use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use ferroce_core::qp::{AttrMask, QpAttr, RequestedAttr};
use ferroce_core::ring::{Executor, QpLayout};
use ferroce_core::uapi;
use ferroce_core::verbs::{EventType, Mtu, QpType};
use ferroce_device::attrs::{Attrs, QpKind};
use ferroce_device::effects::{Effect, Effects};
use ferroce_device::queue::WorkQueue;

use crate::batch;
use crate::cq::{self, Cq};
use crate::defer::Deferral;
use crate::device::{Context, Gid};
use crate::groups;
use crate::helper::mark;
use crate::keys::{Cache, Pd};
use crate::lock::Owner;
use crate::peer::Entered;
use crate::process::Process;
use crate::rings::Rings;
use crate::segment::{taking, QpRecord, QPS};
use crate::send::{self, SendSide};
use crate::side::{self, Side};
use crate::srq::{self, Srq};
use crate::table::{self, Uses};
use crate::turn::{self, Turn};
use crate::{taken, Errno, Result};

/// The longest request that may be [left](Qp::posted) to be executed with others, in bytes.
pub const LONGEST_LEFT: u64 = batch::LONGEST;

/// A queue pair of this process.
pub struct Qp {
    pub(crate) context: Arc<Context>,
    /// Its number.
    pub number: u32,
    pub(crate) qp_type: QpType,
    pub(crate) pd: Arc<Pd>,
    pub(crate) send_cq: Arc<Cq>,
    pub(crate) recv_cq: Arc<Cq>,
    srq: Option<Arc<Srq>>,
    layout: QpLayout,
    pub(crate) signal_all: bool,
    user_handle: u64,
    pub(crate) send: Turn<SendSide>,
    pub(crate) deferral: Deferral,
    /// How many events were told.
    told: AtomicU32,
    _rings: Rings,
}

/// What a queue pair is to be.
pub struct Init {
    /// The transport.
    pub qp_type: QpType,
    /// The protection domain.
    pub pd: Arc<Pd>,
    /// Where requests are completed.
    pub send_cq: Arc<Cq>,
    /// Where receives are.
    pub recv_cq: Arc<Cq>,
    /// Where receives come from, if not from a queue of its own.
    pub srq: Option<Arc<Srq>>,
    /// The capacities.
    pub caps: Caps,
    /// Every request has a completion.
    pub signal_all: bool,
    /// What the program's events name it by.
    pub user_handle: u64,
}

/// The capacities of a queue pair.
pub use ferroce_core::ring::QpCaps as Caps;

/// The place in the segment of the queue pair of a number.
pub(crate) const fn index(number: u32) -> u32 {
    number % QPS as u32
}

/// What a queue pair of whichever process is. A type that makes no sense is taken for one that nobody sends to.
pub(crate) fn kind(record: &QpRecord) -> QpKind {
    QpKind {
        qp_type: qp_type(record).unwrap_or(QpType::Gsi),
        has_srq: record.srq.load(Ordering::Relaxed) != 0,
    }
}

/// The transport of a queue pair of whichever process.
pub(crate) fn qp_type(record: &QpRecord) -> Option<QpType> {
    QpType::try_from(record.qp_type.load(Ordering::Relaxed)).ok()
}

impl Qp {
    /// Makes a queue pair.
    pub fn create(context: &Arc<Context>, init: Init) -> Result<(Arc<Self>, uapi::QpResponse)> {
        let process = context.process;
        process.check_current()?;
        let layout = QpLayout::with_caps(&init.caps, init.srq.is_some())
            .map_err(|error| Errno::from(error.errno()))?;
        let rings = Rings::new(process, layout.len())?;
        let send = layout.send();
        let base = process.own.segment.ring(rings.offset as u64, send.len());
        let base = base.ok_or(Errno(libc::ENOMEM))?;
        // SAFETY: The ring is within the segment, which is there as long as the process. It is a ring's
        // alone.
        let ring = unsafe { Executor::new(base, send.len(), send) };
        let ring = ring.map_err(|error| Errno::from(error.errno()))?;
        let buffer = vec![0; send.stride()].into_boxed_slice();
        let (number, _) = table::reserve(&mut process.qps.lock())?;
        let response = uapi::QpResponse {
            rings: rings.mapping(),
            send: send.descriptor(),
            recv: layout
                .recv()
                .map(|recv| recv.descriptor())
                .unwrap_or_default(),
        };
        let record = process
            .own
            .segment
            .qp(index(number))
            .ok_or(Errno(libc::ENOMEM))?;
        // First: a peer may have ended with the lock, in search of the number's last queue pair.
        side::change(process, record, |attrs| *attrs = Attrs::new());
        record.work.store(0, Ordering::Relaxed);
        record.given_back.store(0, Ordering::Relaxed);
        record.taking.store(taking::NONE, Ordering::Relaxed);
        record.taken_by.store(0, Ordering::Relaxed);
        record.is_broken.store(0, Ordering::Relaxed);
        record.qp_type.store(init.qp_type.into(), Ordering::Relaxed);
        record.pd.store(init.pd.number, Ordering::Relaxed);
        record.device.store(context.guid, Ordering::Relaxed);
        record.recv_cq.store(init.recv_cq.number, Ordering::Relaxed);
        let srq = init.srq.as_ref().map_or(0, |srq| srq.number + 1);
        record.srq.store(srq, Ordering::Relaxed);
        match layout.recv().zip(layout.recv_offset()) {
            Some((geometry, at)) => {
                let offset = (rings.offset + at) as u64;
                record.receives.ring.set(offset, geometry);
                record.receives.executor.store([0; 4]);
            }
            // With a shared queue: where the ring of the number's last queue pair was is another one's now.
            None => record.receives.ring.clear(),
        }
        record.sends.set(rings.offset as u64, send);
        record.tries.store(0, Ordering::Relaxed);
        let uses = [&init.pd.uses, &init.send_cq.uses, &init.recv_cq.uses];
        let srq_uses = init.srq.as_ref().map(|srq| &srq.uses);
        uses.into_iter().chain(srq_uses).for_each(Uses::add);
        let qp = Arc::new(Self {
            context: context.clone(),
            number,
            qp_type: init.qp_type,
            pd: init.pd,
            send_cq: init.send_cq,
            recv_cq: init.recv_cq,
            srq: init.srq,
            layout,
            signal_all: init.signal_all,
            user_handle: init.user_handle,
            send: Turn::new(SendSide::new(WorkQueue { ring, buffer })),
            deferral: Deferral::new(),
            told: AtomicU32::new(0),
            _rings: rings,
        });
        process.qps.lock().put(number, qp.clone());
        record.number.store(number, Ordering::Release);
        Ok((qp, response))
    }

    /// Its transport.
    pub fn qp_type(&self) -> QpType {
        self.qp_type
    }

    /// Its capacities, which are not below those that were asked for.
    pub fn caps(&self) -> Caps {
        self.layout.caps()
    }

    /// How many requests may be posted and not executed.
    pub(crate) fn send_entries(&self) -> u32 {
        self.layout.send().entries()
    }

    /// Whether every request has a completion.
    pub fn signal_all(&self) -> bool {
        self.signal_all
    }

    /// The longest datagram, as the port's MTU.
    pub(crate) fn mtu(&self) -> Mtu {
        Mtu::B4096
    }

    fn process(&self) -> &'static Process {
        self.context.process
    }

    pub(crate) fn record(&self) -> Result<&QpRecord> {
        let record = self.process().own.segment.qp(index(self.number));
        record.ok_or(Errno(libc::EINVAL))
    }

    /// As it sees itself, as of now.
    pub(crate) fn side<'a>(&'a self, cache: &'a Cache) -> Option<(Attrs, Side<'a>)> {
        let process = self.process();
        let (_guard, attrs, side) = Side::lock(process, &process.own, self.number, cache)?;
        Some((attrs, side))
    }

    /// Changes its attributes.
    pub(crate) fn change<R>(&self, op: impl FnOnce(&mut Attrs) -> R) -> Result<R> {
        Ok(side::change(self.process(), self.record()?, op))
    }

    /// Changes what a Modify QP names. `sgid` is the GID at the index that the address vector names.
    pub fn modify(
        &self,
        mask: AttrMask,
        requested: &RequestedAttr,
        sgid: Option<[u8; 16]>,
    ) -> Result<()> {
        let process = self.process();
        process.check_current()?;
        self.flush();
        let modified = self.change(|attrs| attrs.modify(self.kind(), mask, requested, sgid))?;
        let effects = modified.map_err(|error| Errno::from(error.errno()))?;
        self.carry_out(effects, Self::execute_now);
        Ok(())
    }

    /// Does what a change of the state leads to; `execute` has the send queue executed.
    pub(crate) fn carry_out(&self, effects: Effects, execute: impl FnOnce(&Self)) {
        let mut execute = Some(execute);
        for effect in effects {
            match effect {
                Effect::Event(event) => self.raise(event),
                Effect::WaitForPeers => self.process().wait_for_users(),
                Effect::Reset => self.reset(),
                Effect::FlushReceives => self.flush_receives(),
                Effect::Execute => {
                    if let Some(execute) = execute.take() {
                        execute(self);
                    }
                }
                // One that a living process has taken that completes by itself.
                Effect::FlushHeldReceive => self.end_taken(),
                // There is no wire here.
                Effect::Configure | Effect::Respond => {}
            }
        }
    }

    fn reset(&self) {
        self.send.lock().reset();
        let Ok(record) = self.record() else { return };
        let process = self.process();
        let _guard = taken::lock(process, &process.own, record);
        record.given_back.store(0, Ordering::Relaxed);
        // Nobody has one now, but for a process that has ended.
        record.taken_by.store(0, Ordering::Relaxed);
        if self.srq.is_none() {
            side::with_queue(&process.own.segment, &record.receives, |queue| {
                queue.reset()
            });
        }
    }

    pub(crate) fn kind(&self) -> QpKind {
        QpKind {
            qp_type: self.qp_type,
            has_srq: self.srq.is_some(),
        }
    }

    /// Its attributes.
    pub fn query(&self) -> Result<QpAttr> {
        self.process().check_current()?;
        let cache = Cache::default();
        let (attrs, _) = self.side(&cache).ok_or(Errno(libc::EINVAL))?;
        Ok(attrs.attr)
    }

    /// Destroys it. Returns how many events of it the program has read.
    pub fn destroy(&self) -> Result<u32> {
        let process = self.process();
        if !process.is_current() {
            return Ok(0);
        }
        if groups::has(process, self.number) {
            return Err(Errno(libc::EBUSY));
        }
        self.flush();
        self.change(|attrs| attrs.is_gone = true)?;
        self.record()?.number.store(0, Ordering::Release);
        process.wait_for_users();
        self.with_send(SendSide::reset);
        process.qps.lock().give_up(self.number, 0);
        let uses = [&self.pd.uses, &self.send_cq.uses, &self.recv_cq.uses];
        let srq_uses = self.srq.as_ref().map(|srq| &srq.uses);
        uses.into_iter().chain(srq_uses).for_each(Uses::remove);
        let event = |event| self.context.event(self.user_handle, event);
        let events: Vec<_> = Effects::events().map(event).collect();
        let unread = self
            .context
            .events
            .take_back(|other| events.iter().any(|event| event == other));
        Ok(self.told.load(Ordering::Relaxed).wrapping_sub(unread))
    }

    /// Adds it to a multicast group.
    pub fn attach(&self, group: &Gid) -> Result<()> {
        self.process().check_current()?;
        match self.qp_type {
            QpType::Ud => groups::attach(self.process(), self.number, group),
            _ => Err(Errno(libc::EINVAL)),
        }
    }

    /// Takes it out of a multicast group.
    pub fn detach(&self, group: &Gid) -> Result<()> {
        self.process().check_current()?;
        groups::detach(self.process(), self.number, group)
    }

    /// Has the send queue executed: by this thread, or by the one that is at it. In a child, by the parent.
    pub fn kick(&self) {
        if !self.process().is_current() {
            self.leave(Effects::of(Effect::Execute));
            return;
        }
        self.deferral.end(&self.process().deferring);
        turn::run(&self.send, |send| send::drain(self, send));
    }

    /// A receive was posted to a queue that flushes.
    pub fn kick_receives(&self) {
        match self.process().is_current() {
            true => self.flush_receives(),
            false => self.leave(Effects::of(Effect::FlushReceives)),
        }
    }

    /// Has the helper do something.
    fn leave(&self, effects: Effects) {
        if let Ok(record) = self.record() {
            let segment = &self.process().own.segment;
            record.work.fetch_or(effects.bits(), Ordering::AcqRel);
            mark(&segment.header().dirty_qps, index(self.number));
            segment.wake();
        }
    }

    /// Has the send queue executed up to where its state says, before this returns.
    fn execute_now(&self) {
        self.with_send(|send| send::drain(self, send));
    }

    /// Waits for the send queue, and uses it.
    fn with_send(&self, op: impl FnOnce(&mut SendSide)) {
        op(&mut self.send.lock());
        // What came in the meantime found the lock taken.
        if turn::was_requested(&self.send) {
            self.kick();
        }
    }

    fn flush_receives(&self) {
        let cache = Cache::default();
        // As in `end_taken`.
        let _entered = Entered::new(&*self.process().own);
        let Some((_, side)) = self.side(&cache) else {
            return;
        };
        // As many as there may have been, with the one that was given back: a program that goes on posting does not
        // keep this thread.
        let most = self.layout.recv().map_or(0, |recv| recv.entries());
        if side::flush_receives(&side, most.saturating_add(1)) {
            self.leave(Effects::of(Effect::FlushReceives));
        }
    }

    /// Raises an event.
    pub(crate) fn raise(&self, event: EventType) {
        self.told.fetch_add(1, Ordering::Relaxed);
        self.context.raise(self.user_handle, event);
    }

    /// The queue pair cannot be used any more. The caller executes what is posted.
    pub(crate) fn fail_fatally(&self) {
        if let Ok(effects) = self.change(|attrs| attrs.fail_fatally(self.kind())) {
            self.carry_out(effects, |_| {});
        }
    }

    /// Another process has ended, in the middle of something perhaps.
    pub(crate) fn recover(&self) {
        let Ok(record) = self.record() else { return };
        drop(taken::lock(self.process(), &self.process().own, record));
        if record.is_broken.swap(0, Ordering::AcqRel) != 0 {
            self.fail_fatally();
            // What the process that has ended was about to leave, in the error state already.
            self.flush_receives();
            self.kick();
        }
        self.end_taken();
    }

    /// Completes the receive that a process had taken that has ended.
    fn end_taken(&self) {
        let process = self.process();
        let Ok(record) = self.record() else { return };
        // Destroying the queue pair, and then its completion queue, waits for this thread.
        let _entered = Entered::new(&*process.own);
        // Who has taken it may not have come to note that.
        if let Some(srq) = &self.srq {
            srq::recover(process, &process.own, srq.number);
        }
        let taken_by = record.taken_by.load(Ordering::Acquire);
        if taken_by == 0 || process.is_alive(taken_by) {
            return;
        }
        // Or that it has given it back, or completed it. What was found before it was known to have ended may have
        // changed since.
        if let Some(srq) = &self.srq {
            srq::recover(process, &process.own, srq.number);
        }
        drop(taken::lock(process, &process.own, record));
        cq::recover(process, &process.own, self.recv_cq.number);
        let cache = Cache::default();
        if let Some((_, side)) = self.side(&cache) {
            side.end_taken(taken_by);
        }
    }
}

/// Does what peers, or a child, have left to do for a queue pair.
pub(crate) fn serve(process: &Process, index: u32) {
    let Some(record) = process.own.segment.qp(index) else {
        return;
    };
    let number = record.number.load(Ordering::Acquire);
    let effects = Effects::from_bits(record.work.swap(0, Ordering::AcqRel));
    let qp = process.qps.lock().get(number).cloned();
    if let Some(qp) = qp {
        qp.carry_out(effects, Qp::kick);
    }
}

/// Does what has come up with a queue pair of this process while one of its own was executed.
pub(crate) fn serve_own(process: &Process, number: u32, effects: Effects) {
    let qp = process.qps.lock().get(number).cloned();
    if let Some(qp) = qp {
        // Not by this thread, which is executing another queue pair's requests.
        qp.carry_out(effects, |qp| qp.leave(Effects::of(Effect::Execute)));
    }
}
