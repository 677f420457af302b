// SPDX-License-Identifier: GPL-2.0

//! Handlers, and when they are called.

use crate::{
    bindings::*,
    verbs::{atomically, wait, Buffer, Cq, Device, Op, Pair, Pd},
};
use core::{
    pin::Pin,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use kernel::{new_spinlock, prelude::*, sync::SpinLock};

/// Counts the calls of handlers.
#[pin_data]
pub(crate) struct Handlers {
    completions: AtomicU32,
    events: AtomicU32,
    /// A handler is being called.
    running: AtomicBool,
    /// One was called while another was.
    overlapped: AtomicBool,
    /// Taken by the handler, and by the user around its calls.
    #[pin]
    lock: SpinLock<()>,
}

pub(crate) type EventHandler = Option<unsafe extern "C" fn(*mut ib_event, *mut c_void)>;

impl Handlers {
    pub(crate) fn new() -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                completions: AtomicU32::new(0),
                events: AtomicU32::new(0),
                running: AtomicBool::new(false),
                overlapped: AtomicBool::new(false),
                lock <- new_spinlock!((), "kverbs::Handlers::lock"),
            }),
            GFP_KERNEL,
        )
    }

    fn called(&self, counter: &AtomicU32) {
        if self.running.swap(true, Ordering::SeqCst) {
            self.overlapped.store(true, Ordering::SeqCst);
        }
        drop(self.lock.lock());
        counter.fetch_add(1, Ordering::SeqCst);
        self.running.store(false, Ordering::SeqCst);
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, with a context that is one of these.
    unsafe extern "C" fn on_completion(_cq: *mut ib_cq, context: *mut c_void) {
        // SAFETY: By the function's requirements.
        let this = unsafe { &*context.cast::<Self>() };
        this.called(&this.completions);
    }

    /// # Safety
    ///
    /// As [`Self::on_completion`].
    unsafe extern "C" fn on_event(_event: *mut ib_event, context: *mut c_void) {
        // SAFETY: By the function's requirements.
        let this = unsafe { &*context.cast::<Self>() };
        this.called(&this.events);
    }

    /// A handler of events, and its context.
    pub(crate) fn event(&self) -> (EventHandler, *mut c_void) {
        (Some(Self::on_event), ptr::from_ref(self).cast_mut().cast())
    }

    /// A completion queue with these handlers.
    ///
    /// # Safety
    ///
    /// They have to go after the queue.
    unsafe fn cq<'a>(&self, device: &'a Device, entries: u32) -> Result<Cq<'a>> {
        let (event, context) = self.event();
        // SAFETY: By the function's requirements.
        unsafe { Cq::with_handlers(device, entries, Some(Self::on_completion), event, context) }
    }

    /// Waits for that many events in all.
    pub(crate) fn wait_for_events(&self, count: u32) -> Result {
        self.wait_for(&self.events, count)
    }

    fn wait_for(&self, counter: &AtomicU32, count: u32) -> Result {
        wait(|| (counter.load(Ordering::SeqCst) >= count).then_some(()))?;
        check_eq!(counter.load(Ordering::SeqCst), count);
        check!(
            !self.overlapped.load(Ordering::SeqCst),
            "two handlers at a time"
        );
        Ok(())
    }
}

const NEXT: u32 = ib_cq_notify_flags_IB_CQ_NEXT_COMP;
const SOLICITED: u32 = ib_cq_notify_flags_IB_CQ_SOLICITED;
const REPORT: u32 = ib_cq_notify_flags_IB_CQ_REPORT_MISSED_EVENTS;

/// An event for each time one is asked for, and none missed.
pub(crate) fn events(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let handlers = Handlers::new()?;
    // SAFETY: `handlers` goes after the queue.
    let a_cq = unsafe { handlers.cq(device, 32)? };
    let b_cq = Cq::new(device, 32)?;
    let buffer = Buffer::new(&pd, 64, 1)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    let write = |id| {
        // Of no bytes, so that no key is needed.
        let nowhere = crate::verbs::Remote { addr: 0, rkey: 0 };
        pair.a.send(id, Op::Write(nowhere), &[buffer.sge(0, 0)])
    };
    for round in 1..=50 {
        check!(!a_cq.arm(NEXT | REPORT)?, "a completion in an empty queue");
        write(1)?;
        handlers.wait_for(&handlers.completions, round)?;
        // There is no second event unless it is asked for.
        write(2)?;
        a_cq.success(&pair.a, 1, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
        wait(|| a_cq.arm(REPORT).ok()?.then_some(()))?;
        check!(a_cq.arm(NEXT | REPORT)?, "a completion is missed");
        a_cq.success(&pair.a, 2, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
        check!(a_cq.poll()?.is_none(), "a completion too many");
        // That one is still asked for.
        write(3)?;
        a_cq.success(&pair.a, 3, ib_wc_opcode_IB_WC_RDMA_WRITE)?;
        wait(|| (handlers.completions.load(Ordering::SeqCst) > round).then_some(()))?;
        handlers.completions.fetch_sub(1, Ordering::SeqCst);
    }
    Ok(())
}

/// Events for those messages alone that ask for them, and for errors.
pub(crate) fn solicited(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let handlers = Handlers::new()?;
    let a_cq = Cq::new(device, 32)?;
    // SAFETY: `handlers` goes after the queue.
    let b_cq = unsafe { handlers.cq(device, 32)? };
    let buffer = Buffer::new(&pd, 64, 1)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    let flags = ib_send_flags_IB_SEND_SIGNALED;
    for round in 1..=20 {
        b_cq.arm(SOLICITED)?;
        pair.b.receive(1, &[buffer.sge(0, 8)])?;
        pair.b.receive(2, &[buffer.sge(0, 8)])?;
        let sge = [buffer.sge(16, 8)];
        pair.a.send_with(3, Op::Send, &sge, flags)?;
        b_cq.success(&pair.b, 1, ib_wc_opcode_IB_WC_RECV)?;
        check_eq!(handlers.completions.load(Ordering::SeqCst), round - 1);
        pair.a
            .send_with(4, Op::Send, &sge, flags | ib_send_flags_IB_SEND_SOLICITED)?;
        b_cq.success(&pair.b, 2, ib_wc_opcode_IB_WC_RECV)?;
        handlers.wait_for(&handlers.completions, round)?;
        a_cq.success(&pair.a, 3, ib_wc_opcode_IB_WC_SEND)?;
        a_cq.success(&pair.a, 4, ib_wc_opcode_IB_WC_SEND)?;
    }
    b_cq.arm(SOLICITED)?;
    pair.b.receive(5, &[buffer.sge(0, 8)])?;
    pair.b.to(ib_qp_state_IB_QPS_ERR)?;
    b_cq.expect(&pair.b, 5, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
    handlers.wait_for(&handlers.completions, 21)
}

/// A handler may take a lock that is held around any call that posts, polls or arms.
pub(crate) fn handlers(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let handlers = Handlers::new()?;
    // SAFETY: `handlers` goes after the queue.
    let cq = unsafe { handlers.cq(device, 64)? };
    let buffer = Buffer::new(&pd, 64, 1)?;
    let pair = Pair::new(&pd, &cq, &cq)?;
    let locked = |op: &dyn Fn() -> Result| {
        atomically(|| {
            let _guard = handlers.lock.lock();
            op()
        })
    };
    let mut expected = 0;
    for _ in 0..20 {
        locked(&|| cq.arm(NEXT).map(drop))?;
        locked(&|| pair.b.receive(1, &[buffer.sge(0, 8)]))?;
        locked(&|| pair.a.send(2, Op::Send, &[buffer.sge(16, 8)]))?;
        cq.next()?;
        cq.next()?;
        expected += 1;
        handlers.wait_for(&handlers.completions, expected)?;
    }
    // What is posted now is flushed.
    pair.a.to(ib_qp_state_IB_QPS_ERR)?;
    for _ in 0..20 {
        locked(&|| cq.arm(NEXT).map(drop))?;
        locked(&|| pair.a.receive(3, &[buffer.sge(0, 8)]))?;
        locked(&|| pair.a.send(3, Op::Send, &[buffer.sge(16, 8)]))?;
        cq.expect(&pair.a, 3, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
        cq.expect(&pair.a, 3, ib_wc_status_IB_WC_WR_FLUSH_ERR)?;
        expected += 1;
        handlers.wait_for(&handlers.completions, expected)?;
    }
    Ok(())
}

/// A queue that overruns says so, once.
pub(crate) fn overrun(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    let handlers = Handlers::new()?;
    // SAFETY: `handlers` goes after the queue.
    let a_cq = unsafe { handlers.cq(device, 4)? };
    let b_cq = Cq::new(device, 32)?;
    let pair = Pair::new(&pd, &a_cq, &b_cq)?;
    let nowhere = crate::verbs::Remote { addr: 0, rkey: 0 };
    for id in 0..10 {
        pair.a.send(id, Op::Write(nowhere), &[])?;
    }
    handlers.wait_for_events(1)
}
