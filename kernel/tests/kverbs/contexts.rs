// SPDX-License-Identifier: GPL-2.0

//! Completion queues that `ib_core` polls, in all the contexts it has for that.

use crate::{
    bindings::*,
    verbs::{in_softirq, receive_wr, wait, Buffer, Device, Op, Pd, Qp, QpParts, CALLER},
};
use core::{
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use kernel::{error::from_err_ptr, prelude::*};

/// How often the ball goes to and fro.
const ROUNDS: u32 = 500;

/// One of two players of a game of ping-pong, all of which takes place in completion handlers.
struct Player {
    received: ib_cqe,
    sent: ib_cqe,
    qp: *mut ib_qp,
    ball: ib_sge,
    /// Receives to come.
    left: AtomicU32,
    sends: AtomicU32,
    failed: AtomicBool,
    /// The game is over, and what is left is flushed.
    over: AtomicBool,
    flushed: AtomicU32,
    in_softirq: AtomicBool,
}

impl Player {
    fn new(qp: &Qp<'_>, ball: ib_sge) -> Self {
        Self {
            received: ib_cqe {
                done: Some(Self::on_received),
            },
            sent: ib_cqe {
                done: Some(Self::on_sent),
            },
            qp: qp.raw(),
            ball,
            left: AtomicU32::new(ROUNDS),
            sends: AtomicU32::new(0),
            failed: AtomicBool::new(false),
            over: AtomicBool::new(false),
            flushed: AtomicU32::new(0),
            in_softirq: AtomicBool::new(false),
        }
    }

    fn receive(&self) {
        let sges = [self.ball];
        let mut wr = receive_wr(0, &sges);
        wr.__bindgen_anon_1.wr_cqe = ptr::from_ref(&self.received).cast_mut();
        // SAFETY: The queue pair exists, and the request is valid.
        let result = unsafe { rdma_helper_ib_post_recv(self.qp, &wr, &mut ptr::null()) };
        self.must(result == 0);
    }

    fn send(&self) {
        let sges = [self.ball];
        let mut wr = Op::Send.wr(0, &sges, ib_send_flags_IB_SEND_SIGNALED);
        wr.plain.__bindgen_anon_1.wr_cqe = ptr::from_ref(&self.sent).cast_mut();
        // SAFETY: The queue pair exists, and the request is valid.
        let result = unsafe { rdma_helper_ib_post_send(self.qp, &wr.plain, &mut ptr::null()) };
        self.must(result == 0);
    }

    fn must(&self, be: bool) {
        if !be {
            self.failed.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a completion is one of the game, and not flushed.
    fn counts(&self, wc: &ib_wc) -> bool {
        self.in_softirq.store(in_softirq(), Ordering::SeqCst);
        if self.over.load(Ordering::SeqCst) && wc.status == ib_wc_status_IB_WC_WR_FLUSH_ERR {
            self.flushed.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        self.must(wc.status == ib_wc_status_IB_WC_SUCCESS && wc.qp == self.qp);
        true
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, for a request whose `ib_cqe` is the `received` of a player.
    unsafe extern "C" fn on_received(_cq: *mut ib_cq, wc: *mut ib_wc) {
        // SAFETY: By the function's requirements.
        let (wc, this) = unsafe {
            let cqe = (*wc).__bindgen_anon_1.wr_cqe;
            (
                &*wc,
                &*cqe.byte_sub(offset_of!(Self, received)).cast::<Self>(),
            )
        };
        if this.counts(wc) {
            this.receive();
            if this.left.fetch_sub(1, Ordering::SeqCst) > 1 {
                this.send();
            }
        }
    }

    /// # Safety
    ///
    /// As [`Self::on_received`], for `sent`.
    unsafe extern "C" fn on_sent(_cq: *mut ib_cq, wc: *mut ib_wc) {
        // SAFETY: By the function's requirements.
        let (wc, this) = unsafe {
            let cqe = (*wc).__bindgen_anon_1.wr_cqe;
            (&*wc, &*cqe.byte_sub(offset_of!(Self, sent)).cast::<Self>())
        };
        if this.counts(wc) {
            this.sends.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Plays a game, all completions of which go to one queue. `direct` if that has to be polled.
fn play(pd: &Pd<'_>, cq: *mut ib_cq, direct: bool) -> Result {
    let poll = || {
        if direct {
            // SAFETY: A valid queue.
            unsafe { ib_process_cq_direct(cq, 64) };
        }
    };
    let balls = Buffer::new(pd, 64, 1)?;
    let make = || {
        let parts = QpParts {
            send_cq: cq,
            recv_cq: cq,
            srq: None,
        };
        Qp::new(pd, ib_qp_type_IB_QPT_RC, parts)
    };
    let (a, b) = (make()?, make()?);
    a.connect(b.number())?;
    b.connect(a.number())?;
    // They outlive the queue pairs, which are drained before they go.
    let players = KBox::new(
        [
            Player::new(&a, balls.sge(0, 8)),
            Player::new(&b, balls.sge(16, 8)),
        ],
        GFP_KERNEL,
    )?;
    let [first, second] = &*players;
    first.receive();
    first.receive();
    second.receive();
    second.receive();
    first.send();
    let failed = || players.iter().any(|p| p.failed.load(Ordering::SeqCst));
    let over = wait(|| {
        poll();
        let left = first
            .left
            .load(Ordering::SeqCst)
            .min(second.left.load(Ordering::SeqCst));
        (left == 0 || failed()).then_some(())
    });
    for player in &*players {
        player.over.store(true, Ordering::SeqCst);
        // SAFETY: A valid queue pair, to which nobody posts any more, with room for one more request.
        unsafe { ib_drain_qp(player.qp) };
    }
    over?;
    check!(!failed(), "a player has failed");
    for player in &*players {
        check!(
            player.flushed.load(Ordering::SeqCst) >= 2,
            "the receives are not flushed"
        );
    }
    let sends = players.iter().map(|p| p.sends.load(Ordering::SeqCst));
    check!(
        sends.sum::<u32>() >= 2 * ROUNDS - 2,
        "completions are missing"
    );
    Ok(())
}

/// Each of the contexts.
pub(crate) fn all_contexts(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    for context in [
        ib_poll_context_IB_POLL_DIRECT,
        ib_poll_context_IB_POLL_SOFTIRQ,
        ib_poll_context_IB_POLL_WORKQUEUE,
        ib_poll_context_IB_POLL_UNBOUND_WORKQUEUE,
    ] {
        // SAFETY: A valid device.
        let cq = from_err_ptr(unsafe {
            __ib_alloc_cq(device.raw(), ptr::null_mut(), 64, 0, context, CALLER)
        })?;
        let result = play(&pd, cq, context == ib_poll_context_IB_POLL_DIRECT);
        // SAFETY: As allocated, and no longer used.
        unsafe { ib_free_cq(cq) };
        result.inspect_err(|_| pr_err!("polling context {context}\n"))?;
    }
    Ok(())
}

/// A queue out of the device's pool.
pub(crate) fn shared_queues(device: &Device) -> Result {
    let pd = Pd::new(device)?;
    for context in [
        ib_poll_context_IB_POLL_SOFTIRQ,
        ib_poll_context_IB_POLL_WORKQUEUE,
    ] {
        // SAFETY: A valid device.
        let cq = from_err_ptr(unsafe { ib_cq_pool_get(device.raw(), 64, -1, context) })?;
        let result = play(&pd, cq, false).and_then(|()| play(&pd, cq, false));
        // SAFETY: As it was got, and no longer used.
        unsafe { ib_cq_pool_put(cq, 64) };
        result?;
    }
    Ok(())
}
