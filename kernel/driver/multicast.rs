// SPDX-License-Identifier: GPL-2.0

//! Multicast groups (IBTA 10.5): which queue pairs get what is sent to a group.

use super::queue_pair::{Qp, QpRef};
use crate::{
    net::SpinLockBh,
    rdma::{self, Gid},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, static_lock_class},
};

/// The members of all groups of a device.
#[pin_data]
pub(crate) struct Groups {
    #[pin]
    members: SpinLockBh<Members>,
}

type Members = KVec<Member>;

struct Member {
    group: Gid,
    qp: QpRef,
    /// `ib_core` counts by GID and LID, and on Ethernet any LID will do: a program can attach a queue pair to
    /// a group any number of times, and each must be detached with success before that can go.
    times: usize,
}

impl Groups {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            members <- SpinLockBh::new(
                Members::new(), c"ferroce::Groups::members", static_lock_class!()
            ),
        })
    }

    /// Adds a queue pair to a group, or once more if it is in it already.
    pub(crate) fn attach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        loop {
            let capacity = self.members.lock().len() + 1;
            // Allocated before the lock is taken, under which nothing may sleep.
            let mut larger = Members::with_capacity(capacity, GFP_KERNEL)?;
            let mut members = self.members.lock();
            if let Some(member) = members.iter_mut().find(|m| m.is(qp, group)) {
                member.times += 1;
                return Ok(());
            }
            if members.len() == members.capacity() {
                if larger.capacity() <= members.len() {
                    // Another thread was faster.
                    continue;
                }
                while let Some(member) = members.pop() {
                    larger.push_within_capacity(member)?;
                }
                core::mem::swap(&mut *members, &mut larger);
            }
            let member = Member {
                group: *group,
                qp: ARef::from(qp),
                times: 1,
            };
            members.push_within_capacity(member)?;
            drop(members);
            // What is not used is freed after this.
            return Ok(());
        }
    }

    /// Reverses an [`attach`](Self::attach).
    pub(crate) fn detach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        let mut members = self.members.lock();
        let place = members.iter().position(|m| m.is(qp, group)).ok_or(EINVAL)?;
        members[place].times -= 1;
        if members[place].times == 0 {
            // The queue pair is its caller's as well: this is never the last reference.
            members.remove(place).map_err(|_| EINVAL)?;
        }
        Ok(())
    }

    /// Takes a queue pair out of all groups.
    pub(crate) fn forget(&self, qp: &rdma::Qp<Qp>) {
        self.members.lock().retain(|m| !core::ptr::eq(&*m.qp, qp));
    }

    /// The member of a group after the first `skip` ones.
    pub(crate) fn member(&self, group: &[u8; 16], skip: usize) -> Option<QpRef> {
        let members = self.members.lock();
        let mut of_group = members.iter().filter(|m| m.group.0 == *group);
        of_group.nth(skip).map(|m| m.qp.clone())
    }
}

impl Member {
    fn is(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> bool {
        self.group == *group && core::ptr::eq(&*self.qp, qp)
    }
}
