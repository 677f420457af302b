// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to happen when, and what has happened.

use std::collections::BTreeMap;

use crate::network::Time;

/// The events to come, of several QPs, in virtual time. Those of one moment are in the order in which they
/// were noted.
pub struct Agenda<E> {
    pub now: Time,
    /// How many events there have been, those to come included.
    pub count: u64,
    events: BTreeMap<(Time, u64), (usize, E)>,
    /// What has happened, if that is wanted.
    trace: Option<Vec<String>>,
}

impl<E> Agenda<E> {
    pub fn new(trace: bool) -> Self {
        Self {
            now: 0,
            count: 0,
            events: BTreeMap::new(),
            trace: trace.then(Vec::new),
        }
    }

    /// Writes down what has happened to a QP.
    pub fn note(&mut self, qp: usize, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let micros = self.now as f64 / 1000.0;
            trace.push(format!("{micros:>12.3} µs  qp {qp}: {}", what()));
        }
    }

    pub fn is_traced(&self) -> bool {
        self.trace.is_some()
    }

    pub fn take_trace(&mut self) -> Vec<String> {
        self.trace.take().unwrap_or_default()
    }

    /// Has something happen to a QP.
    pub fn at(&mut self, time: Time, qp: usize, event: E) {
        self.count += 1;
        self.events.insert((time, self.count), (qp, event));
    }

    /// The next event, whose time it is now.
    pub fn next(&mut self) -> Option<(usize, E)> {
        let ((time, _), next) = self.events.pop_first()?;
        self.now = time;
        Some(next)
    }
}
