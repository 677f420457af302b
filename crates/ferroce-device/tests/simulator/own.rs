// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue pair as its own requests and its peer's see it, and memory.

use std::cell::RefCell;
use std::rc::Rc;

use ferroce_core::local::{
    self, AccessError, AtomicChange, CopyFault, Fault, LocalMemory, Receive, Received, Taken,
};
use ferroce_core::ring::{Cqe, RecvRequest, Remote, Sge, MAX_RECV_STRIDE};
use ferroce_core::verbs::{limits, AccessFlags, EventType, RnrTimer, WcStatus};
use ferroce_device::attrs::{Attrs, Terms};
use ferroce_device::counter::PortCounter;
use ferroce_device::effects::Effects;
use ferroce_device::key::Access;
use ferroce_device::receive::{self, Looked, Return};
use ferroce_device::remote::Owner;

use crate::host::{unbind, Host, Named};
use crate::queue_pair::Qp;
use crate::world::{Caller, World};

/// A queue pair, as its own requests and its peer's see it.
pub struct Own<'a> {
    pub world: &'a World,
    pub qp: &'a Qp,
    pub terms: Terms,
}

impl Own<'_> {
    fn host(&self) -> &Host {
        &self.world.hosts[self.qp.process.host]
    }

    fn range(&self, access: &Access) -> Result<Range, AccessError> {
        let (region, offset) = match self.host().named(access.key).ok_or(AccessError)? {
            Named::Region(region) => {
                let offset = region.region.borrow().check(access)?;
                (region, offset)
            }
            Named::Window(window) => {
                let window = window.borrow();
                let (region, addr) = window.check(access)?;
                let offset = region.region.borrow().offset_of(addr, access.length)?;
                (region.clone(), offset)
            }
        };
        Ok(Range {
            memory: self.host().memory.clone(),
            at: region.start + offset as usize,
        })
    }
}

impl Own<'_> {
    fn fail_receive(&self, event: Option<EventType>) {
        let kind = self.qp.kind;
        self.world.change(self.qp, Caller::Any, |attrs| {
            attrs.fail_receive(kind, event)
        });
    }
}

impl LocalMemory for Own<'_> {
    type Region = Range;

    fn local(&self, sge: Sge, write: bool) -> Result<Range, AccessError> {
        let (pd, number) = (self.qp.process.pd(), self.qp.number);
        match self.host().named(sge.lkey) {
            Some(Named::Region(_)) => self.range(&Access::local(pd, number, sge, write)),
            _ => Err(AccessError),
        }
    }
}

impl receive::Source for Own<'_> {
    fn take_into(&self, copy: &mut [u8], accept: impl FnOnce(&Receive<'_>) -> bool) -> Looked {
        let (_, receives) = &mut *self.qp.receive.borrow_mut();
        match (receives.take_into(copy, accept), &self.qp.srq) {
            (Ok(looked), _) => looked,
            (Err(accept), Some(srq)) => srq.with(|srq| srq.take_into(copy, accept)),
            (Err(_), None) => panic!("there is no receive queue"),
        }
    }

    fn give_back(&self, entry: &[u8]) {
        let (_, receives) = &mut *self.qp.receive.borrow_mut();
        let returned = receives.give_back(entry, self.qp.state());
        assert_eq!(returned, Return::Done);
    }

    fn complete_failed(&self, entry: &[u8], status: WcStatus) {
        let cqe = receive::ended(RecvRequest::wr_id(entry), self.qp.number, status);
        self.qp.received.borrow_mut().push_back(cqe);
        self.fail_receive(None);
    }
}

impl local::Responder for Own<'_> {
    fn remote(
        &self,
        remote: Remote,
        length: u32,
        access: AccessFlags,
    ) -> Result<Range, AccessError> {
        let (pd, number) = (self.qp.process.pd(), self.qp.number);
        self.range(&Access::remote(pd, number, remote, length, access))
    }

    fn remote_key(&self, rkey: u32, access: AccessFlags) -> Result<(), AccessError> {
        let remote = Remote { addr: 0, rkey };
        let (pd, number) = (self.qp.process.pd(), self.qp.number);
        let access = Access::remote(pd, number, remote, 0, access);
        match self.host().named(rkey).ok_or(AccessError)? {
            Named::Region(region) => region.region.borrow().check_key(&access),
            Named::Window(window) => window.borrow().check_key(&access),
        }
    }

    fn access(&self) -> AccessFlags {
        self.terms.access
    }

    fn takes_reads(&self) -> bool {
        self.terms.takes_reads
    }

    fn min_rnr_timer(&self) -> RnrTimer {
        self.terms.min_rnr_timer
    }

    fn established(&self) {
        self.world.change(self.qp, Caller::Any, Attrs::established);
    }

    fn take_receive<T>(
        &self,
        accept: impl FnOnce(&Receive<'_>) -> bool,
        place: impl FnOnce(&Receive<'_>) -> Option<T>,
    ) -> Taken<T> {
        receive::take(self, &mut [0; MAX_RECV_STRIDE], accept, place)
    }

    fn complete(&self, received: &Received) {
        let (cqe, _) = receive::completion(received, self.qp.number);
        self.qp.received.borrow_mut().push_back(cqe);
    }

    fn invalidate(&self, rkey: u32) -> Result<(), AccessError> {
        match self.host().named(rkey).ok_or(AccessError)? {
            Named::Window(window) => {
                let bound = window.borrow_mut().invalidate(rkey, self.qp.number)?;
                unbind(bound);
                Ok(())
            }
            Named::Region(_) => Err(AccessError),
        }
    }

    fn fail(&self, event: Option<EventType>) {
        self.fail_receive(event);
    }
}

impl Owner for Own<'_> {
    fn hand_back(&self) {
        // Only what has a connection completes by one.
        if let Some(connection) = &*self.qp.remote.borrow() {
            connection.returner.borrow_mut().hand_back();
        }
    }

    fn complete(&self, cqe: &Cqe) {
        self.qp.complete(*cqe);
    }

    fn fail(&self) -> Effects {
        self.qp.change(|attrs| attrs.fail_send(self.qp.kind))
    }

    fn count(&self, what: PortCounter, _number: u64) {
        if what == PortCounter::RcvdRnr {
            self.qp.not_ready.set(self.qp.not_ready.get() + 1);
        }
    }
}

/// Bytes of a host's memory.
pub struct Range {
    memory: Rc<RefCell<Vec<u8>>>,
    at: usize,
}

impl local::Region for Range {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        let (from, to) = (from.at + from_at as usize, self.at + at as usize);
        let mut memory = self.memory.borrow_mut();
        memory.copy_within(from..from + length as usize, to);
        Ok(())
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        let at = self.at + at as usize;
        self.memory.borrow_mut()[at..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        let at = self.at + at as usize;
        bytes.copy_from_slice(&self.memory.borrow()[at..][..bytes.len()]);
        Ok(())
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        let mut memory = self.memory.borrow_mut();
        let word = &mut memory[self.at..][..limits::ATOMIC_LENGTH as usize];
        let before = u64::from_ne_bytes((&*word).try_into().unwrap());
        let after = match change {
            AtomicChange::Add(n) => before.wrapping_add(n),
            AtomicChange::CompareSwap { compare, swap } if before == compare => swap,
            AtomicChange::CompareSwap { .. } => before,
            AtomicChange::Store(bytes) => u64::from_ne_bytes(bytes),
        };
        word.copy_from_slice(&after.to_ne_bytes());
        Ok(before)
    }
}
