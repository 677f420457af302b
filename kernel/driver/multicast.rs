// SPDX-License-Identifier: GPL-2.0

//! Multicast groups (IBTA 10.5): which queue pairs get what is sent to a group.

use super::queue_pair::{Qp, QpRef};
use crate::rdma::{self, Gid};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{aref::ARef, Mutex},
};

/// The members of all groups of a device.
#[pin_data]
pub(crate) struct Groups {
    #[pin]
    members: Mutex<KVec<Member>>,
}

struct Member {
    group: Gid,
    qp: QpRef,
}

impl Groups {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            members <- new_mutex!(KVec::new(), "ferroce::Groups::members"),
        })
    }

    /// Adds a queue pair to a group; to be in it already is as good.
    pub(crate) fn attach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        let mut members = self.members.lock();
        if members.iter().any(|m| m.is(qp, group)) {
            return Ok(());
        }
        let member = Member {
            group: *group,
            qp: ARef::from(qp),
        };
        members.push(member, GFP_KERNEL)?;
        Ok(())
    }

    /// Takes a queue pair out of a group.
    pub(crate) fn detach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        let mut members = self.members.lock();
        let place = members.iter().position(|m| m.is(qp, group)).ok_or(EINVAL)?;
        members.remove(place).map(drop).map_err(|_| EINVAL)
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
