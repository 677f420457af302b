// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue pair's state, as far as the process has a say in it.

use core::sync::atomic::{AtomicU8, Ordering};

use ferroce_core::qp::state::{may_post_recv, may_post_send};
use ferroce_core::verbs::QpState;

use super::PostError;

/// The state that the last Modify QP led to, or that the last Query QP found.
///
/// Errors move a queue pair on without the process knowing. That does no harm: in the states they lead
/// to everything can be posted, and is flushed by the driver.
pub struct State(AtomicU8);

impl State {
    /// As created.
    pub const fn new() -> Self {
        Self(AtomicU8::new(QpState::Reset.number()))
    }

    /// The state.
    pub fn get(&self) -> QpState {
        // Relaxed: a program that posts in one thread what it has just made possible in another has
        // to tell the one of the other anyway.
        QpState::try_from(u32::from(self.0.load(Ordering::Relaxed))).unwrap_or(QpState::Reset)
    }

    /// Notes the state with this number of libibverbs, which is the kernel's.
    pub fn set(&self, state: u32) {
        if let Ok(state) = QpState::try_from(state) {
            self.0.store(state.number(), Ordering::Relaxed);
        }
    }

    /// Whether send work requests can be posted.
    pub fn check_send(&self) -> Result<(), PostError> {
        let state = self.get();
        may_post_send(state)
            .then_some(())
            .ok_or(PostError::State(state))
    }

    /// Whether receive work requests can be posted.
    pub fn check_recv(&self) -> Result<(), PostError> {
        let state = self.get();
        may_post_recv(state)
            .then_some(())
            .ok_or(PostError::State(state))
    }
}
