// SPDX-License-Identifier: MIT OR Apache-2.0
//! The requester of a connection (IBTA 9.7, 9.8): makes packets of send work requests, and completes
//! those by the responses.
//!
//! No call here waits or allocates. The front end has one requester a QP under a lock; every call may be
//! made under a spinlock, with bottom halves off. After each of them, and whenever there is something
//! to send, it calls [`Requester::poll_transmit`] until that returns no packet any more, and then arms
//! its timer for [`Requester::next_deadline`].
//!
//! A batch ends when `poll_transmit` has no packet any more, or by [`Requester::end_batch`], which who
//! stops before calls: a [`Region`] is kept within a batch, so that a key is looked up once for many
//! packets, and none is kept beyond.
//!
//! # PSNs
//! ```text
//!        una              next            end          allotted
//!  done   |  sent, not      |  to be sent  |  never sent   |  of no request yet
//!         |  acknowledged   |  again       |               |
//! ```
//! What is lost is sent again from the oldest packet without an acknowledgement on (go-back-N, IBTA
//! 9.7.5.2.4): `next` goes back to `una`.

mod responses;
mod slot;
#[cfg(test)]
mod tests;
mod timers;
mod transmit;

use core::ops::DerefMut;

use crate::local::{Cursor, LocalMemory, Region};
use crate::qp::QpAttr;
use crate::ring::{Origin, SendRequest};
use crate::verbs::{QpType, SendFlags, SendOpcode, WcStatus};
use crate::wire::Psn;

pub use responses::Response;
pub use slot::Slot;
pub use timers::TimedOut;
pub use transmit::Transmit;

/// Whose requests are sent: a QP's own memory and queues.
pub trait Host: LocalMemory {
    /// The copy of the entry in a slot: [`SendRequest::decode`] reads it. It does not change between
    /// [`Requester::posted`] and the slot's completion.
    fn entry(&self, slot: u32) -> &[u8];

    /// A request is done: in the order they were posted in, and the slot is free. Without success the QP
    /// goes to [`after_send_error`](crate::qp::state::after_send_error), and no other request completes
    /// before [`Requester::flush`].
    fn complete(&self, completed: &Completed);
}

/// How a send work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Its slot.
    pub slot: u32,
    /// The caller's number for it.
    pub wr_id: u64,
    /// What it was.
    pub opcode: SendOpcode,
    /// Its properties: whether a completion is to be written if it succeeded.
    pub flags: SendFlags,
    /// How it ended.
    pub status: WcStatus,
    /// Bytes of the message.
    pub length: u32,
}

/// How many packets may be under way: what a peer has to have room for.
const WINDOW: u32 = 256;

/// How many packets a READ request asks for at most. A longer READ is several requests one after the
/// other, so that responses too come no faster than they are taken.
const READ_PACKETS: u32 = 64;

/// How many packets are sent before an acknowledgement is asked for.
const ASK_AFTER: u32 = 16;

/// How many requests are flushed at once.
const FLUSHED_AT_ONCE: u32 = 64;

/// What of the QP's attributes the requester goes by.
struct Config {
    qp_type: QpType,
    origin: Origin,
    dest_qp: u32,
    /// Bytes of payload of a packet.
    mtu: u32,
    max_rd_atomic: u8,
    /// Nanoseconds.
    ack_timeout: Option<u64>,
    retry_cnt: u8,
    rnr_retry: u8,
}

/// The requester of a QP. `S` is one [`Slot`] for each entry of the send queue.
pub struct Requester<S, R> {
    config: Config,
    slots: S,
    // Positions in the send queue, which wrap; a slot is a position modulo the number of slots.
    /// The oldest request that is not complete.
    head: u32,
    /// The request that `next` belongs to, or the one after all that have been begun.
    current: u32,
    /// The next request to be begun: those before have PSNs.
    begun: u32,
    /// The next request to be posted.
    posted: u32,
    /// The oldest PSN that is not acknowledged.
    una: Psn,
    /// The next PSN to be sent.
    next: Psn,
    /// The next PSN that has never been sent.
    end: Psn,
    /// The next PSN that belongs to no request.
    allotted: Psn,
    /// How many READ requests, atomics and the like are under way.
    rd_atomic: u32,
    /// How many messages have been begun, as the peer counts them.
    ssn: u32,
    /// How many it has receives for, if it limits them: a number of messages (IBTA 9.7.7.2, LSN).
    lsn: Option<u32>,
    /// Packets sent since an acknowledgement was asked for.
    since_ack_req: u32,
    /// Something was sent again: an acknowledgement is asked for at the end of each message.
    ack_each_message: bool,
    /// The peer was not ready: one packet at a time is sent, until it is.
    probing: bool,
    /// No other request is begun.
    hold: bool,
    /// This request cannot be sent, and completes so when those before it are done.
    broken: Option<(u32, WcStatus)>,
    failed: bool,
    /// When an acknowledgement has to have come.
    ack_deadline: Option<u64>,
    /// Until when nothing is sent, since the peer or memory is not ready.
    resume_at: Option<u64>,
    /// It is memory that is not ready.
    faulted: bool,
    /// Retries since there was progress.
    retries: u8,
    rnr_retries: u8,
    /// Since when the peer has had no receive for the oldest request.
    not_ready_since: Option<u64>,
    /// What was sent again because the peer misses it, or because responses were lost: once is enough.
    repeated: Option<Psn>,
    gather: List<R>,
    scatter: List<R>,
}

/// A cursor in the list of the request at a position.
struct List<R> {
    position: u32,
    cursor: Cursor<R>,
}

impl<R: Region> List<R> {
    const fn new() -> Self {
        Self {
            position: 0,
            cursor: Cursor::new(),
        }
    }

    /// The cursor, for the list of that request.
    fn of(&mut self, position: u32) -> &mut Cursor<R> {
        if self.position != position {
            self.position = position;
            self.cursor.forget();
        }
        &mut self.cursor
    }
}

impl<S: DerefMut<Target = [Slot]>, R: Region> Requester<S, R> {
    /// Of a QP that becomes ready to send. `slots` are as many as the send queue has entries, a power of
    /// two; their contents mean nothing.
    pub fn new(qp_type: QpType, origin: Origin, attr: &QpAttr, slots: S) -> Self {
        let psn = Psn::new(attr.sq_psn);
        let mut requester = Self {
            config: Config {
                qp_type,
                origin,
                dest_qp: attr.dest_qp_num,
                mtu: 0,
                max_rd_atomic: 0,
                ack_timeout: None,
                retry_cnt: 0,
                rnr_retry: 0,
            },
            slots,
            head: 0,
            current: 0,
            begun: 0,
            posted: 0,
            una: psn,
            next: psn,
            end: psn,
            allotted: psn,
            rd_atomic: 0,
            ssn: 0,
            lsn: None,
            since_ack_req: 0,
            ack_each_message: false,
            probing: false,
            hold: false,
            broken: None,
            failed: false,
            ack_deadline: None,
            resume_at: None,
            faulted: false,
            retries: 0,
            rnr_retries: 0,
            not_ready_since: None,
            repeated: None,
            gather: List::new(),
            scatter: List::new(),
        };
        requester.configure(attr);
        requester
    }

    /// Takes over what can be changed of a QP in SQD or RTS: timeouts, retries, how many READs may be
    /// under way, and, if nothing is, the path MTU.
    pub fn configure(&mut self, attr: &QpAttr) {
        let config = &mut self.config;
        config.ack_timeout = attr.timeout.nanos();
        config.retry_cnt = attr.retry_cnt;
        config.rnr_retry = attr.rnr_retry;
        config.max_rd_atomic = attr.max_rd_atomic;
        if self.head == self.begun {
            config.mtu = attr.path_mtu.bytes();
        }
    }

    /// Notes that the next slot has an entry. They go round: 0, 1, …, 0; the front end keeps from filling
    /// one that is not free.
    pub fn posted(&mut self) {
        self.posted = self.posted.wrapping_add(1);
    }

    /// Notes that the front end has executed a request of its own host's: [`Transmit::Local`].
    pub fn executed<H: Host<Region = R>>(
        &mut self,
        slot: u32,
        result: Result<(), WcStatus>,
        host: &H,
    ) {
        // It was begun when all before it were done, and nothing is begun before it is.
        if self.head == self.begun || self.index(self.head) != slot as usize {
            return;
        }
        match result {
            Ok(()) => {
                let slot = Slot {
                    executed: true,
                    ..self.slot(self.head)
                };
                self.set_slot(self.head, slot);
                self.retire(host);
            }
            Err(status) => self.fail(status, host),
        }
    }

    /// Has no other request begun (in SQD), or again has them begun.
    pub fn hold(&mut self, hold: bool) {
        self.hold = hold;
    }

    /// Whether all requests that were begun are complete.
    pub fn is_drained(&self) -> bool {
        self.head == self.begun
    }

    /// Whether no request is posted that is not complete.
    pub fn is_empty(&self) -> bool {
        self.head == self.posted
    }

    /// Whether all that is posted has been sent, and nothing has to be sent again. A request for this host
    /// alone counts as sent when it has been [executed](Self::executed).
    pub fn has_sent_all(&self) -> bool {
        self.begun == self.posted && self.next == self.allotted && self.local().is_none()
    }

    /// Whether a request has failed: nothing is sent any more.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Completes requests with [`WrFlushErr`](WcStatus::WrFlushErr): in ERR and SQE, again whenever there
    /// are more. No more than some at a time, as it may be called under a spinlock; returns whether there
    /// are more, for which it is to be called again.
    #[must_use = "there may be more"]
    pub fn flush<H: Host<Region = R>>(&mut self, host: &H) -> bool {
        self.stop();
        for _ in 0..FLUSHED_AT_ONCE {
            if self.is_empty() {
                break;
            }
            self.retire_oldest(WcStatus::WrFlushErr, host);
        }
        !self.is_empty()
    }

    /// Completes the oldest request, which leaves the queue.
    fn retire_oldest<H: Host<Region = R>>(&mut self, status: WcStatus, host: &H) {
        let position = self.head;
        self.head = position.wrapping_add(1);
        // It may never have been begun.
        if self.begun == position {
            self.begun = self.head;
        }
        if self.current == position {
            self.current = self.head;
        }
        self.complete(position, status, host);
    }

    /// Goes on after a failure, if there was one: of a UC QP that was brought back from SQE to RTS (IBTA
    /// 10.3.1). What is left of the message that failed is never sent; what has not been flushed is.
    pub fn recover(&mut self) {
        if !core::mem::take(&mut self.failed) {
            return;
        }
        self.begun = self.head;
        self.current = self.head;
        self.una = self.next;
        self.end = self.next;
        self.allotted = self.next;
    }

    /// Sends nothing any more, and waits for nothing.
    fn stop(&mut self) {
        self.failed = true;
        self.broken = None;
        self.ack_deadline = None;
        self.resume_at = None;
        self.faulted = false;
        self.end_batch();
    }

    /// Ends a batch with packets left to send: gives up the regions that are kept.
    pub fn end_batch(&mut self) {
        self.gather.cursor.forget();
        self.scatter.cursor.forget();
    }

    fn index(&self, position: u32) -> usize {
        // The number of slots is a power of two.
        position as usize & self.slots.len().wrapping_sub(1)
    }

    fn slot(&self, position: u32) -> Slot {
        self.slots
            .get(self.index(position))
            .copied()
            .unwrap_or_default()
    }

    fn set_slot(&mut self, position: u32, slot: Slot) {
        let index = self.index(position);
        if let Some(place) = self.slots.get_mut(index) {
            *place = slot;
        }
    }

    fn entry<'a, H: Host<Region = R>>(&self, position: u32, host: &'a H) -> &'a [u8] {
        host.entry(self.index(position) as u32)
    }

    /// Hands out the completion of a request that has left the queue.
    fn complete<H: Host<Region = R>>(&self, position: u32, status: WcStatus, host: &H) {
        let slot = self.slot(position);
        host.complete(&Completed {
            slot: self.index(position) as u32,
            wr_id: SendRequest::wr_id(self.entry(position, host)),
            opcode: slot.opcode,
            flags: slot.flags,
            status,
            length: slot.length,
        });
    }

    /// Completes the oldest request with an error, which ends all sending.
    fn fail<H: Host<Region = R>>(&mut self, status: WcStatus, host: &H) {
        self.stop();
        self.retire_oldest(status, host);
    }

    /// Completes what is done: those requests whose packets are all acknowledged, in order.
    fn retire<H: Host<Region = R>>(&mut self, host: &H) {
        while self.head != self.begun {
            let slot = self.slot(self.head);
            let done = match slot.packets {
                0 => slot.executed,
                _ => !self.una.is_before(slot.end()),
            };
            if !done {
                break;
            }
            let position = self.head;
            self.head = position.wrapping_add(1);
            if self.broken.is_some_and(|(broken, _)| broken == position) {
                // It could not be sent again, and need not be.
                self.broken = None;
            }
            self.complete(position, WcStatus::Success, host);
        }
        match self.broken {
            Some((broken, status)) if broken == self.head => self.fail(status, host),
            _ => {}
        }
    }

    /// Goes on with the packet of this number.
    fn seek(&mut self, psn: Psn) {
        self.next = psn;
        let mut position = self.head;
        while position != self.begun {
            let slot = self.slot(position);
            if slot.packets > 0 && psn.is_before(slot.end()) {
                break;
            }
            position = position.wrapping_add(1);
        }
        self.current = position;
    }
}
