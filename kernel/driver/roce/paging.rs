// SPDX-License-Identifier: GPL-2.0

//! Memory on demand that a bottom half finds missing: a thread has it be there.
//!
//! What missed it is done again. A packet that was to be sent is made when the memory is there, and so is
//! a response: that to a READ which is asked for again before is an RNR NAK. A request is answered with one
//! at once, and comes again, as with hardware; a response is asked for again; a datagram is lost, and its
//! receive stays.

use crate::{
    local::Fault,
    mr::{Missing, Place},
    net::SpinLockBh,
};
use kernel::{prelude::*, sync::static_lock_class};

/// What a queue pair misses.
#[pin_data]
pub(super) struct Paging {
    #[pin]
    state: SpinLockBh<State>,
}

#[derive(Default)]
enum State {
    #[default]
    Nothing,
    /// For a thread to be had. What else is missing waits for its turn.
    Wanted(Missing),
    /// The process has no such memory. Who comes for it again is told.
    Gone(Place),
}

impl Paging {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- SpinLockBh::new(State::Nothing, c"ferroce::Paging::state", static_lock_class!()),
        })
    }

    /// Notes that memory is missing. If it can be had [`Later`](Fault::Later), a thread is to call
    /// [`Self::fault_in`].
    pub(super) fn missing(&self, missing: Missing) -> Fault {
        let mut state = self.state.lock();
        match *state {
            State::Gone(place) if place == missing.place() => {
                *state = State::Nothing;
                return Fault::Gone;
            }
            State::Nothing | State::Gone(_) => *state = State::Wanted(missing),
            State::Wanted(_) => {}
        }
        Fault::Later
    }

    /// Has memory be there that is wanted. Returns whether any was.
    pub(super) fn fault_in(&self) -> bool {
        let wanted = {
            let mut state = self.state.lock();
            match core::mem::take(&mut *state) {
                State::Wanted(missing) => missing,
                other => {
                    *state = other;
                    return false;
                }
            }
        };
        if wanted.fault_in().is_err() {
            self.replace(State::Gone(wanted.place()));
        }
        true
    }

    /// Forgets what is missing.
    pub(super) fn forget(&self) {
        self.replace(State::Nothing);
    }

    fn replace(&self, state: State) {
        let before = core::mem::replace(&mut *self.state.lock(), state);
        // Dropped with the lock released: to give memory up may sleep.
        drop(before);
    }
}
