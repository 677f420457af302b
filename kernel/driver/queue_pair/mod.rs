// SPDX-License-Identifier: GPL-2.0

//! Queue pairs.
//!
//! A queue pair has three parts, each with a lock of its own:
//!
//! - what it *is*, [`Shared`]: its attributes and its receive queue, which peers look at. A
//!   spinlock, held for a few instructions.
//! - its *send queue*, [`send::SendSide`]: the thread that holds this mutex executes its requests. Nobody
//!   waits for it to post: [`kick`] leaves a request to the holder.
//!   Of a busy one, the device's [`SqPoller`] does.
//! - its *deferred work*, [`work::Deferred`]: to execute requests later, or from where the mutex
//!   cannot be taken.
//!
//! The mutex of one queue pair is held when the spinlock of another is taken, never the reverse, and
//! no two of the mutexes are ever held by one thread.

mod by_wire;
mod datagram;
mod effects;
mod inbound;
mod peer_cache;
mod receive;
mod send;
mod shared;
mod sq_poller;
mod work;

use super::{
    ah::Attributes,
    counters::HostCounter,
    cq::CqRef,
    device::Ferroce,
    kernel_user::{qp_event_bit, Polling, Posting},
    mr,
    quota::{Counted, Kind},
    rings::{errno, PostQueue, Rings},
    roce::Connection,
    srq::{receive_details, SrqRef},
};
use crate::{
    attrs::QpKind,
    effects::Effect,
    key::PdId,
    kick::Kick,
    net::SpinLockBh,
    rdma::{
        self, eopnotsupp,
        qp::{Operations, QpEvent},
        qp_attr::{QpAttrOut, QpCap, QpInitAttr},
        rcu::RcuArc,
        wr::{RecvWrs, SendWrs},
        Details, Gid, MemCgroup, NewQp, QpAttrMask, UserCall,
    },
    ring::{Doorbell, Origin, QpCaps, QpLayout},
    uapi,
    verbs::{limits, EventType, QpType},
};
use core::sync::atomic::{AtomicBool, AtomicU32};
use kernel::{
    alloc::Flags,
    new_mutex,
    prelude::*,
    sync::{aref::ARef, static_lock_class, Arc, Mutex},
    time::{Delta, Instant, Monotonic},
};

use effects::flush_receives;
pub(crate) use effects::{carry_out, change, Caller};
use inbound::Inbound;
pub(crate) use receive::{Own, Peer, ReceiveQueue};
use send::Extent;
use shared::{LocalHint, Shared};
pub(crate) use sq_poller::SqPoller;

/// A queue pair that somebody holds on to.
pub(crate) type QpRef = ARef<rdma::Qp<Qp>>;

/// A queue pair that was found by its number.
pub(crate) type FoundQp = RcuArc<QpRef>;

/// The driver's data for queue pairs.
#[pin_data(PinnedDrop)]
pub(crate) struct Qp {
    pub(crate) number: u32,
    pub(crate) kind: QpKind,
    pd: PdId,
    pub(crate) caps: Caps,
    pub(crate) send_cq: CqRef,
    recv_cq: CqRef,
    srq: Option<SrqRef>,
    #[pin]
    pub(crate) shared: SpinLockBh<Shared>,
    /// See [`Qp::changes`].
    changes: AtomicU32,
    local_hint: LocalHint,
    /// Its part for peers on other hosts.
    #[pin]
    pub(crate) connection: Connection,
    #[pin]
    inbound: Inbound,
    #[pin]
    send: Mutex<send::SendSide>,
    /// Has the holder of `send` look once more.
    kick: Kick,
    /// The device's SQ poller has it, or it was offered to it.
    polled: AtomicBool,
    pub(crate) deferred: Arc<work::Deferred>,
    /// The user's side, if that is the kernel.
    pub(crate) user: Option<Pin<KBox<Posting>>>,
    _counted: Counted,
    /// Whom to charge for what is allocated on behalf of the process, if there is one, in whatever thread.
    payer: MemCgroup,
}

#[pinned_drop]
impl PinnedDrop for Qp {
    fn drop(self: Pin<&mut Self>) {
        // Nobody has a reference to the queue pair any more who could ask for work.
        self.deferred.cancel();
        self.for_each_polling(|polling| polling.disown(self.number));
        // Not before: the next queue pair of that number is to find no completions of this one.
        let device = self.send_cq.device();
        match self.kind.qp_type {
            QpType::Gsi => device.release_gsi(),
            _ => device.qps.remove(self.number),
        }
    }
}

/// What the queues hold, and when the send queue makes completions.
#[derive(Clone, Copy)]
pub(crate) struct Caps {
    layout: QpLayout,
    pub(crate) signal_all: bool,
}

#[vtable]
impl Operations for Qp {
    type Device = Ferroce;

    fn create(
        qp: &mut NewQp<'_, Self>,
        attr: &mut QpInitAttr,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result<impl PinInit<Self, Error>> {
        if attr.create_flags() != 0 {
            return Err(eopnotsupp());
        }
        let qp_type = match attr.qp_type() {
            rdma::QpType::Rc => QpType::Rc,
            rdma::QpType::Uc => QpType::Uc,
            rdma::QpType::Ud => QpType::Ud,
            rdma::QpType::Gsi => QpType::Gsi,
            _ => return Err(eopnotsupp()),
        };
        let counted = qp.device().quota.add(Kind::Qp)?;
        let srq = qp.srq().map(ARef::from);
        let send_cq = ARef::from(qp.send_cq().ok_or(EINVAL)?);
        let recv_cq = ARef::from(qp.recv_cq().ok_or(EINVAL)?);

        let layout = layout(attr.caps(), srq.is_some())?;
        let rings = Rings::new(layout.len(), call)?;
        let send = Rings::send(&rings, layout.send_offset(), layout.send())?;
        let receives = match (layout.recv(), layout.recv_offset()) {
            (Some(size), Some(at)) => Some(ReceiveQueue::new(Rings::receive(&rings, at, size)?)),
            _ => None,
        };
        let user = match call {
            Some(call) => {
                call.respond(&uapi::QpResponse {
                    rings: rings.mapping(),
                    send: layout.send().descriptor(),
                    recv: layout.recv().map(|r| r.descriptor()).unwrap_or_default(),
                })?;
                None
            }
            None => Some(posting(&rings, &layout)?),
        };
        let caps = Caps {
            layout,
            signal_all: attr.signal_all(),
        };
        caps.fill(attr.caps_mut());

        let pd = mr::pd_id(qp.pd());
        let queue = match call {
            Some(call) => call.ucontext().queue.clone(),
            None => qp.device().queue.clone(),
        };
        let deferred = work::Deferred::new(queue, UserCall::flags(call))?;
        let payer = call.map_or_else(MemCgroup::none, |_| MemCgroup::current());
        let stride = match &srq {
            Some(srq) => srq.stride(),
            None => layout.recv().map_or(0, |size| size.stride()),
        };
        let flags = UserCall::flags(call);
        let shared = Shared::new(receive::receives(receives, qp_type, stride, flags)?);
        let send = send::SendSide::new(send);
        // Last: the queue pair gives it up, and nothing fails before there is one.
        let number = match qp_type {
            QpType::Gsi => qp.device().claim_gsi()?,
            _ => qp.device().qps.reserve(flags)?.keep(),
        };
        qp.set_number(number);
        Ok(try_pin_init!(Qp {
            number,
            kind: QpKind {
                qp_type,
                has_srq: srq.is_some(),
            },
            pd,
            caps,
            send_cq,
            recv_cq,
            srq,
            shared <- SpinLockBh::new(shared, c"ferroce::Qp::shared", static_lock_class!()),
            // Not the same for two queue pairs that have a number one after the other.
            changes: AtomicU32::new(u32::from_ne_bytes(rdma::random())),
            local_hint: LocalHint::unknown(),
            connection <- Connection::new(),
            inbound <- Inbound::new(),
            send <- new_mutex!(send, "ferroce::Qp::send"),
            kick: Kick::new(),
            polled: AtomicBool::new(false),
            deferred,
            user,
            _counted: counted,
            payer,
        }? Error))
    }

    fn created(qp: &rdma::Qp<Self>) -> Result {
        let found = RcuArc::new(ARef::from(qp), qp.flags())?;
        let mut result = Ok(());
        qp.for_each_polling(|polling| {
            result = result.and_then(|()| polling.add(qp, GFP_KERNEL));
        });
        if result.is_err() {
            qp.for_each_polling(|polling| polling.remove(qp.number));
            return result;
        }
        qp.deferred.attach(ARef::from(qp));
        qp.device().qps.put(qp.number, found);
        Ok(())
    }

    fn destroy(qp: &rdma::Qp<Self>) {
        if qp.user.is_none() && qp.device().is_removed() {
            // Not the process's wish: its requests are to have their completions. The rings are there as
            // long as it maps them. (Kernel users end their traffic before they let go of a device.)
            let effects = qp.change(|attrs| attrs.fail_fatally(qp.kind));
            carry_out(qp, Caller::Owner, effects.and(Effect::Execute));
        }
        qp.device().qps.take(qp.number);
        qp.for_each_polling(|polling| polling.remove(qp.number));
        qp.change(|attrs| attrs.is_gone = true);
        qp.deferred.detach();
        qp.device().sq_poller.forget(qp);
        // A thread that executes its requests notices, and stops; from here on no timer is started.
        let mut send = qp.send.lock();
        send.forget_current();
        qp.connection.reset();
    }

    fn modify(
        qp: &rdma::Qp<Self>,
        attr: &rdma::QpAttr<'_>,
        call: Option<&UserCall<'_, Ferroce>>,
    ) -> Result {
        if let Some(call) = call {
            call.none()?;
        }
        modify(qp, attr)
    }

    fn query(qp: &rdma::Qp<Self>, out: &mut QpAttrOut<'_>, _mask: QpAttrMask) -> Result {
        let (attr, av) = {
            let shared = qp.shared.lock();
            (shared.attr, shared.av)
        };
        let mut caps = QpCap::default();
        qp.caps.fill(&mut caps);
        super::ah::fill(out, &attr);
        if let Some(av) = av {
            out.av(av);
        }
        out.sq_draining(attr.sq_draining.into())
            .caps(caps)
            .signal_all(qp.caps.signal_all);
        Ok(())
    }

    fn details(qp: &rdma::Qp<Self>, details: &mut Details<'_>) -> Result {
        let send = qp.send.try_lock();
        details.u32(c"sq_executing", send.is_none().into())?;
        if let Some(send) = send {
            let written = send.details(details);
            drop(send);
            // Who came in the meantime found the mutex taken.
            if qp.kick.is_requested() {
                qp.deferred.queue();
            }
            written?;
        }
        let receives = qp.shared.lock().receives.queue().map(|r| r.positions());
        if let Some(at) = receives {
            receive_details(details, &at)?;
        }
        Ok(())
    }

    fn attach_mcast(qp: &rdma::Qp<Self>, gid: &Gid) -> Result {
        if qp.kind.qp_type != QpType::Ud {
            return Err(EINVAL);
        }
        qp.device().groups.attach(qp, gid)
    }

    fn detach_mcast(qp: &rdma::Qp<Self>, gid: &Gid) -> Result {
        qp.device().groups.detach(qp, gid)
    }

    fn post_send(qp: &rdma::Qp<Self>, wrs: &mut SendWrs<'_, Ferroce>) -> Result {
        match &qp.user {
            Some(user) => {
                let (doorbell, result) = user.post_send(qp.kind.qp_type, wrs);
                ring(qp, doorbell);
                result
            }
            // A process has its ring; this is its doorbell.
            None if wrs.is_empty() => {
                doorbell(qp);
                Ok(())
            }
            None => Err(eopnotsupp()),
        }
    }

    fn post_recv(qp: &rdma::Qp<Self>, wrs: &mut RecvWrs<'_, Ferroce>) -> Result {
        match &qp.user {
            Some(user) => {
                let (doorbell, result) = user.post_recv(wrs);
                ring(qp, doorbell);
                result
            }
            // As above.
            None if wrs.is_empty() => {
                qp.device().counters.count_host(HostCounter::Doorbells);
                flush_receives(qp);
                Ok(())
            }
            None => Err(eopnotsupp()),
        }
    }
}

impl Qp {
    /// Has the process that has the queue pair charged for what `op` allocates with [`Self::flags`].
    pub(crate) fn charge<R>(&self, op: impl FnOnce() -> R) -> R {
        self.payer.charge(op)
    }

    /// Whose requests it has.
    pub(crate) fn origin(&self) -> Origin {
        match self.user {
            Some(_) => Origin::Kernel,
            None => Origin::User,
        }
    }

    /// What to allocate with for the queue pair's user.
    pub(crate) fn flags(&self) -> Flags {
        match self.user {
            Some(_) => GFP_KERNEL,
            None => GFP_KERNEL_ACCOUNT,
        }
    }

    /// Calls `op` for the completion queues of a kernel user, twice if they are the same.
    fn for_each_polling(&self, mut op: impl FnMut(&Polling)) {
        for cq in [&self.send_cq, &self.recv_cq] {
            if let Some(polling) = cq.polling() {
                op(polling);
            }
        }
    }
}

/// A kernel user's side of the rings.
fn posting(rings: &Arc<Rings>, layout: &QpLayout) -> Result<Pin<KBox<Posting>>> {
    let send = PostQueue::new(rings, layout.send_offset(), layout.send())?;
    let recv = match (layout.recv(), layout.recv_offset()) {
        (Some(size), Some(at)) => Some(PostQueue::new(rings, at, size)?),
        _ => None,
    };
    Posting::new(send, recv)
}

/// Answers a kernel user's doorbell: not here, where nothing may sleep.
fn ring(qp: &rdma::Qp<Qp>, doorbell: Doorbell) {
    if doorbell == Doorbell::Ring {
        qp.deferred.queue();
    }
}

/// Does what has been deferred.
fn catch_up(qp: &rdma::Qp<Qp>) {
    flush_receives(qp);
    // Without memory the peer's packets are lost until there is some.
    let _ = qp.connection.prepare(qp);
    qp.connection.resume(qp);
    take_turn(qp);
}

/// Tells of an event.
pub(crate) fn dispatch(qp: &rdma::Qp<Qp>, event: QpEvent) {
    match &qp.user {
        Some(user) => user.callbacks.raise(qp, qp_event_bit(event)),
        None => qp.dispatch(event),
    }
}

impl Caps {
    fn fill(&self, caps: &mut QpCap) {
        let QpCaps {
            max_send_wr,
            max_recv_wr,
            max_send_sge,
            max_recv_sge,
            max_inline_data,
        } = self.layout.caps();
        caps.max_send_wr = max_send_wr;
        caps.max_recv_wr = max_recv_wr;
        caps.max_send_sge = max_send_sge;
        caps.max_recv_sge = max_recv_sge;
        caps.max_inline_data = max_inline_data;
    }
}

fn layout(caps: &QpCap, has_srq: bool) -> Result<QpLayout> {
    let caps = QpCaps {
        max_send_wr: caps.max_send_wr,
        max_recv_wr: caps.max_recv_wr,
        max_send_sge: caps.max_send_sge,
        max_recv_sge: caps.max_recv_sge,
        max_inline_data: caps.max_inline_data,
    };
    QpLayout::with_caps(&caps, has_srq).map_err(|e| errno(e.errno()))
}

fn modify(qp: &rdma::Qp<Qp>, attr: &rdma::QpAttr<'_>) -> Result {
    let Attributes {
        mask,
        requested,
        sgid,
        av,
    } = Attributes::of(attr);
    // Its holder stops at the state that it finds when it begins a request.
    let effects = qp.change_shared(|shared| -> Result<_> {
        let modified = shared.attrs.modify(qp.kind, mask, &requested, sgid);
        let effects = modified.map_err(|e| errno(e.errno()))?;
        if sgid.is_some() {
            shared.av = av;
        }
        if let Some(user) = &qp.user {
            user.set_state(shared.attrs.attr.state);
        }
        Ok(effects)
    })?;
    carry_out(qp, Caller::Owner, effects);
    Ok(())
}

/// Has the send queue executed up to where its state says, before this returns.
fn execute_now(qp: &rdma::Qp<Qp>) {
    let mut send = qp.send.lock();
    qp.kick.take();
    let flushes = qp.shared.lock().flushes_sends();
    let extent = match flushes {
        // A process that goes on posting does not keep the thread, which may be one that takes the device
        // away. When a queue's worth of requests has been fetched, and another flushed, all are done that
        // were posted before.
        true => Extent::Flushed(2 * qp.caps.layout.send().entries()),
        false => Extent::All,
    };
    send::drain_all(qp, &mut send, extent);
    drop(send);
    // What came in the meantime found the mutex taken.
    if qp.kick.is_requested() {
        qp.deferred.queue();
    }
}

/// Has the send queue executed: by this thread, or by the one that is at it.
pub(crate) fn kick(qp: &rdma::Qp<Qp>) {
    qp.kick.run(
        || qp.send.try_lock(),
        |send| send::drain_all(qp, send, Extent::All),
    );
}

/// How long a thread of the work queue executes one queue pair before others of the same process have
/// their turn: as long as the kernel serves bottom halves in one go (`MAX_SOFTIRQ_TIME` in
/// kernel/softirq.c).
const TURN: Delta = Delta::from_millis(2);

/// As [`kick`], but no longer than a turn: a process that goes on posting does not keep the thread.
fn take_turn(qp: &rdma::Qp<Qp>) {
    let is_requested = qp.kick.run_once(
        || qp.send.try_lock(),
        |send| {
            let (began, end) = (rdma::clock(), Instant::<Monotonic>::now() + TURN);
            send::drain_all(qp, send, Extent::Until(end));
            let counters = &qp.device().counters;
            counters.took(HostCounter::LongestTurn, began);
        },
    );
    // What came in the meantime found the mutex taken.
    if is_requested {
        qp.deferred.queue();
    }
}

/// Answers a process's doorbell.
fn doorbell(qp: &rdma::Qp<Qp>) {
    kick(qp);
    qp.device().counters.count_host(HostCounter::Doorbells);
    sq_poller::doorbell(qp);
}

/// Moves to the error state because of something on the receiving side, and has all flushed.
fn fail(qp: &rdma::Qp<Qp>, event: Option<EventType>) {
    let has_failed = effects::change(qp, Caller::Any, |attrs| attrs.fail_receive(qp.kind, event));
    if let Some(event) = event.filter(|_| has_failed) {
        qp.warn(fmt!(
            "queue pair {:#x} is in error by a request of its peer's ({event:?})",
            qp.number
        ));
    }
}

/// The numbers of queue pairs, from the first to the one before the second. 0 is for subnet
/// management, which RoCE has none of, 1 for general services (IBTA 3.5.10), all ones is multicast.
pub(crate) const NUMBERS: (u32, u32) = (limits::GSI_QPN, limits::MULTICAST_QPN);
