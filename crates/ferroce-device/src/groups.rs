// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast groups (IBTA 10.5): which queue pairs can be in one.
//!
//! The host has the members, in storage and in an order of its own.

/// How many queue pairs can be in how many groups, each of them counted for each of its groups.
pub const MAX_MEMBERS: usize = 1 << 12;

/// How many queue pairs can be in one group. A datagram is copied to each of them, one after the other:
/// by the wire in one bottom half, for which this is then 64 times 4 KiB at most. (rdma_rxe has 56.)
pub const MAX_GROUP_MEMBERS: usize = 64;

/// How many of these places one user of the machine can have without a right to more: there is always
/// room for another.
const fn users_share(places: usize) -> usize {
    places / 2
}

/// A queue pair that is in a group, or is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<G, O> {
    /// The group's GID, in whatever form the host has it.
    pub group: G,
    /// The queue pair's number.
    pub qpn: u32,
    /// The user who has attached it, unless that is the kernel.
    pub owner: Option<O>,
}

/// What an attach comes to that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// The queue pair is in the group, at this place among the members: it is counted once more. A program
    /// can attach it any number of times, and each is detached before it can be destroyed.
    Again(usize),
    /// It is a member from here on.
    New,
    /// So it is if the user may have more than a share of the places, and else refused.
    Exceeds,
}

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Whether a GID is that of a group: one of IPv6, or one of IPv4 mapped into it (224.0.0.0/4).
pub fn is_group(gid: &[u8; 16]) -> bool {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
    gid[0] == 0xff || gid.starts_with(&mapped) && gid[12] >> 4 == 0xe
}

/// Says what it comes to that a queue pair is attached to a group; `members` are all of the device.
pub fn attach<G: PartialEq, O: PartialEq>(
    members: impl Iterator<Item = Member<G, O>>,
    new: &Member<G, O>,
) -> Result<Attach, Full> {
    let (mut all, mut of_owner) = (Places::default(), Places::default());
    for (member, at) in members.zip(0..) {
        let is_in_group = member.group == new.group;
        if is_in_group && member.qpn == new.qpn {
            return Ok(Attach::Again(at));
        }
        all.add(is_in_group);
        if new.owner.is_some() && member.owner == new.owner {
            of_owner.add(is_in_group);
        }
    }
    let (total, in_group) = (MAX_MEMBERS, MAX_GROUP_MEMBERS);
    if all.has(total, in_group) {
        return Err(Full);
    }
    Ok(
        match of_owner.has(users_share(total), users_share(in_group)) {
            true => Attach::Exceeds,
            false => Attach::New,
        },
    )
}

/// How many places are taken.
#[derive(Default)]
struct Places {
    total: usize,
    /// Of one group.
    in_group: usize,
}

impl Places {
    fn add(&mut self, is_in_group: bool) {
        self.total += 1;
        self.in_group += usize::from(is_in_group);
    }

    fn has(&self, total: usize, in_group: usize) -> bool {
        self.total >= total || self.in_group >= in_group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(group: u8, qpn: u32, owner: Option<u32>) -> Member<u8, u32> {
        Member { group, qpn, owner }
    }

    #[test]
    fn a_group_is_one_of_ip() {
        let mapped = |first| {
            let mut gid = [0; 16];
            gid[10..13].copy_from_slice(&[0xff, 0xff, first]);
            gid
        };
        assert!(is_group(&[0xff; 16]) && is_group(&mapped(224)) && is_group(&mapped(239)));
        assert!(!is_group(&[0xfe; 16]) && !is_group(&mapped(223)) && !is_group(&mapped(240)));
    }

    #[test]
    fn one_user_has_half_of_a_group() {
        let half = MAX_GROUP_MEMBERS as u32 / 2;
        let members = || (0..half).map(|qpn| member(1, qpn, Some(7)));
        assert_eq!(
            attach(members(), &member(1, 3, Some(7))),
            Ok(Attach::Again(3))
        );
        let new = member(1, half, Some(7));
        assert_eq!(attach(members(), &new), Ok(Attach::Exceeds));
        for other in [
            member(2, half, Some(7)),
            member(1, half, Some(8)),
            member(1, half, None),
        ] {
            assert_eq!(attach(members(), &other), Ok(Attach::New));
        }
        let full = (0..2 * half).map(|qpn| member(1, qpn, None));
        assert_eq!(attach(full, &member(1, 2 * half, None)), Err(Full));
    }
}
