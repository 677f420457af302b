// SPDX-License-Identifier: MIT OR Apache-2.0
//! Time-outs and retries (IBTA 9.7.5.2.8, 9.7.6.1.3, 9.9.2.1).

use core::ops::DerefMut;

use super::{Host, Requester, Response, Slot};
use crate::local::Region;
use crate::verbs::{RnrTimer, WcStatus, RNR_RETRY_INFINITE};

/// What comes of it that nobody has answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimedOut {
    /// What was sent is sent again.
    Retry,
    /// That has been done often enough: the oldest request has failed.
    Exceeded,
}

impl<S: DerefMut<Target = [Slot]>, R: Region> Requester<S, R> {
    /// When [`on_deadline`](Self::on_deadline) is to be called, if nothing happens before.
    pub fn next_deadline(&self) -> Option<u64> {
        // While nothing is sent, nothing is waited for.
        self.resume_at.or(self.ack_deadline)
    }

    /// Does what is due, which may be nothing.
    pub fn on_deadline<H: Host<Region = R>>(&mut self, now: u64, host: &H) -> Option<TimedOut> {
        if let Some(resume_at) = self.resume_at {
            if resume_at <= now {
                self.resume();
            }
            return None;
        }
        if self.ack_deadline? > now {
            return None;
        }
        self.ack_deadline = None;
        self.repeated = None;
        Some(match self.count_retry(host) {
            None => TimedOut::Retry,
            Some(()) => TimedOut::Exceeded,
        })
    }

    /// Notes that memory which was missing ([`Fault::Later`](crate::local::Fault::Later)) may be there:
    /// what was not taken for want of it is asked for again now.
    pub fn memory_ready(&mut self) {
        if self.faulted {
            self.resume();
        }
    }

    /// Goes on after a pause.
    fn resume(&mut self) {
        self.resume_at = None;
        self.faulted = false;
        self.send_again();
    }

    /// Sends everything again that is not acknowledged.
    fn send_again(&mut self) {
        self.ack_each_message = true;
        self.ack_deadline = None;
        self.seek(self.una);
    }

    /// Goes back, unless that has been done too often. Returns something if the oldest request failed.
    fn count_retry<H: Host<Region = R>>(&mut self, host: &H) -> Option<()> {
        if self.retries >= self.config.retry_cnt {
            self.fail(WcStatus::RetryExcErr, host);
            return Some(());
        }
        self.retries += 1;
        self.send_again();
        None
    }

    /// Waits for the answer to what has been sent, unless it does so already.
    pub(super) fn start_ack_timer(&mut self, now: u64) {
        if self.ack_deadline.is_none() {
            let timeout = self.config.ack_timeout;
            self.ack_deadline = timeout.map(|timeout| now.saturating_add(timeout));
        }
    }

    /// Something has been acknowledged that was not: retries are counted from zero, and the timer starts again.
    pub(super) fn progress(&mut self, now: u64) {
        self.retries = 0;
        self.rnr_retries = 0;
        self.not_ready_since = None;
        self.probing = false;
        self.repeated = None;
        self.resume_at = None;
        self.faulted = false;
        self.ack_deadline = None;
        if self.next.is_before(self.una) {
            self.seek(self.una);
        }
        if self.una == self.end {
            self.ack_each_message = false;
        }
        if self.una != self.next {
            self.start_ack_timer(now);
        }
    }

    /// The peer tells, or gives away, that it misses something. What it says again about the same
    /// packet is a copy, or came too late: if the packet was lost once more, the time-out finds out.
    pub(super) fn again<H: Host<Region = R>>(&mut self, why: Response, host: &H) -> Response {
        if self.failed || self.resume_at.is_some() || self.repeated == Some(self.una) {
            return Response::Ignored;
        }
        match self.count_retry(host) {
            Some(()) => Response::Failed(WcStatus::RetryExcErr),
            None => {
                self.repeated = Some(self.una);
                why
            }
        }
    }

    /// The peer has no receive for the oldest request.
    pub(super) fn not_ready<H: Host<Region = R>>(
        &mut self,
        now: u64,
        timer: RnrTimer,
        host: &H,
    ) -> Response {
        if self.resume_at.is_some() {
            return Response::Ignored;
        }
        if self.config.rnr_retry != RNR_RETRY_INFINITE {
            if self.rnr_retries >= self.config.rnr_retry {
                self.fail(WcStatus::RnrRetryExcErr, host);
                return Response::Failed(WcStatus::RnrRetryExcErr);
            }
            self.rnr_retries += 1;
        }
        // The peer is there, and answers.
        self.retries = 0;
        self.probing = true;
        self.ack_deadline = None;
        let since = *self.not_ready_since.get_or_insert(now);
        let delay = timer.backoff_nanos(now.saturating_sub(since));
        self.resume_at = Some(now.saturating_add(delay));
        Response::NotReady
    }
}
