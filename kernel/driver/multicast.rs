// SPDX-License-Identifier: GPL-2.0

//! Multicast groups (IBTA 10.5): which queue pairs get what is sent to a group.
//!
//! By the wire that gets here only if the network device has joined the group as well, at the level of IP:
//! then its filter lets it through, switches and routers know that there is somebody, and IP does not drop
//! it. `rdma_cm` joins for its users, with IPv4 (`cma_igmp_send()`); who attaches a queue pair by himself
//! says that here alone. IP counts, and so each queue pair joins for itself.

use super::{
    device::Ferroce,
    queue_pair::{FoundQp, Qp},
};
use crate::{
    groups::{self, Attach, Full},
    net::SpinLockBh,
    rdma::{self, Device, Gid, NetDevice, Rtnl},
};
use kernel::{prelude::*, sync::static_lock_class, task::Kuid};

/// The members of all groups of a device. They change with the RTNL lock held.
#[pin_data]
pub(crate) struct Groups {
    #[pin]
    members: SpinLockBh<Members>,
}

/// In the order of the groups.
type Members = KVVec<Member>;

struct Member {
    group: Gid,
    qp: FoundQp,
    /// The user who has attached it, unless that is the kernel.
    owner: Option<Kuid>,
    /// `ib_core` counts by GID and LID, and on Ethernet any LID will do: a program can attach a queue pair to
    /// a group any number of times, and each must be detached with success before that can go.
    times: usize,
    /// The network device is in the group for it. It is not as long as IP is switched off.
    has_joined: bool,
}

impl Member {
    fn of_group(&self) -> groups::Member<Gid, Kuid> {
        groups::Member {
            group: self.group,
            qpn: self.qp.number,
            owner: self.owner,
        }
    }
}

impl Groups {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            members <- SpinLockBh::new(
                Members::new(), c"ferroce::Groups::members", static_lock_class!()
            ),
        })
    }

    /// Adds a queue pair to a group, or once more if it is in it already. `ENOMEM` if there are too many.
    pub(crate) fn attach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        let owner = qp.user.is_none().then(Kuid::current_euid);
        let new = groups::Member {
            group: *group,
            qpn: qp.number,
            owner,
        };
        let rtnl = Rtnl::lock();
        let (attached, count, capacity) = {
            let mut members = self.members.lock();
            let all = members.iter().map(Member::of_group);
            let attached = groups::attach(all, &new).map_err(|Full| ENOMEM)?;
            if let Attach::Again(at) = attached {
                members[at].times += 1;
                return Ok(());
            }
            (attached, members.len(), members.capacity())
        };
        if attached == Attach::Exceeds && !rdma::may_exceed_limits() {
            return Err(ENOMEM);
        }
        if count == capacity {
            // Allocated, and what was there before freed, without the lock, under which nothing may sleep.
            let mut larger = Members::with_capacity(2 * capacity.max(2), qp.flags())?;
            let mut members = self.members.lock();
            for member in members.drain_all() {
                larger.push_within_capacity(member)?;
            }
            core::mem::swap(&mut *members, &mut larger);
            drop(members);
        }
        let has_joined = match qp.device().netdev(1) {
            Some(netdev) => join(qp.device(), &netdev, group, &rtnl)?,
            None => false,
        };
        let member = Member {
            group: *group,
            qp: qp.device().qps.get(qp.number).ok_or(EINVAL)?,
            owner,
            times: 1,
            has_joined,
        };
        let mut members = self.members.lock();
        let end = members.partition_point(|m| m.group.0 <= group.0);
        // There is room.
        members
            .insert_within_capacity(end, member)
            .map_err(|_| ENOMEM)
    }

    /// Reverses an [`attach`](Self::attach).
    pub(crate) fn detach(&self, qp: &rdma::Qp<Qp>, group: &Gid) -> Result {
        let rtnl = Rtnl::lock();
        let mut members = self.members.lock();
        let at = find(&members, qp, group).ok_or(EINVAL)?;
        members[at].times -= 1;
        if members[at].times > 0 {
            return Ok(());
        }
        let member = members.remove(at).map_err(|_| EINVAL)?;
        drop(members);
        if member.has_joined {
            let netdev = qp.device().netdev(1);
            netdev.inspect(|netdev| netdev.leave(group.ip(), &rtnl));
        }
        Ok(())
    }

    /// Looks at whether the network device still is in all groups that it should be in. To be called when
    /// anything has happened to it.
    pub(crate) fn rejoin(device: &Device<Ferroce>, netdev: &NetDevice, rtnl: &Rtnl) {
        let members = &device.groups.members;
        for at in 0.. {
            let Some((group, had_joined)) = members.lock().get(at).map(|m| (m.group, m.has_joined))
            else {
                return;
            };
            let has_joined = match had_joined {
                true => netdev.has_ip_of(group.ip(), rtnl),
                false => join(device, netdev, &group, rtnl).unwrap_or(false),
            };
            if let Some(member) = members.lock().get_mut(at) {
                member.has_joined = has_joined;
            }
        }
    }

    /// The member of a group after the first `skip` ones.
    pub(crate) fn member(&self, group: &[u8; 16], skip: usize) -> Option<FoundQp> {
        let members = self.members.lock();
        let first = members.partition_point(|m| m.group.0 < *group);
        let member = members.get(first.checked_add(skip)?)?;
        (member.group.0 == *group).then(|| member.qp.clone())
    }
}

/// Where a queue pair is as the member of a group.
fn find(members: &Members, qp: &rdma::Qp<Qp>, group: &Gid) -> Option<usize> {
    let first = members.partition_point(|m| m.group.0 < group.0);
    let mut of_group = members[first..].iter().take_while(|m| m.group == *group);
    let at = of_group.position(|m| core::ptr::eq(&**m.qp, qp))?;
    Some(first + at)
}

/// Has the network device join a group; or not, if the device reaches nobody by it.
fn join(device: &Device<Ferroce>, netdev: &NetDevice, group: &Gid, rtnl: &Rtnl) -> Result<bool> {
    if device.netns_mismatch() || !netdev.has_ip_of(group.ip(), rtnl) {
        return Ok(false);
    }
    netdev.join(group.ip(), rtnl).map(|()| true)
}
