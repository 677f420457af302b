// SPDX-License-Identifier: MIT OR Apache-2.0
//! Multicast groups: which queue pairs of which processes get what is sent to a group.

use core::sync::atomic::Ordering;

use ferroce_device::groups::{self, Attach, Full};

use crate::device::Gid;
use crate::peer::Peer;
use crate::process::Process;
use crate::segment::Member;
use crate::{Errno, Result};

fn words(group: &Gid) -> [u32; 4] {
    let (words, _) = group.as_chunks::<4>();
    core::array::from_fn(|i| words.get(i).copied().map_or(0, u32::from_le_bytes))
}

fn is(member: &Member, group: &Gid, qpn: u32) -> bool {
    member.qpn.load(Ordering::Relaxed) == qpn && member.gid.load() == words(group)
}

/// Adds a queue pair of this process to a group, or once more if it is in it already.
pub fn attach(process: &Process, qpn: u32, group: &Gid) -> Result<()> {
    if !groups::is_group(group) {
        return Err(Errno(libc::EINVAL));
    }
    let full = Errno(libc::ENOMEM);
    let header = process.own.segment.header();
    let _guard = header.groups_lock.lock(process);
    let is_free = |member: &&Member| member.qpn.load(Ordering::Relaxed) == 0;
    let is_taken = |member: &&Member| !is_free(member);
    let new = groups::Member {
        group: words(group),
        qpn,
        // All are one user's, who has as many as there is room for.
        owner: None::<u32>,
    };
    let taken = header.groups.iter().filter(is_taken);
    let members = taken.map(|member| groups::Member {
        group: member.gid.load(),
        qpn: member.qpn.load(Ordering::Relaxed),
        owner: None,
    });
    if let Attach::Again(at) = groups::attach(members, &new).map_err(|Full| full)? {
        if let Some(member) = header.groups.iter().filter(is_taken).nth(at) {
            member.times.fetch_add(1, Ordering::Relaxed);
        }
        return Ok(());
    }
    let free = header.groups.iter().find(is_free).ok_or(full)?;
    free.gid.store(words(group));
    free.times.store(1, Ordering::Relaxed);
    free.qpn.store(qpn, Ordering::Release);
    header.members.fetch_add(1, Ordering::Release);
    Ok(())
}

/// Reverses an [`attach`].
pub fn detach(process: &Process, qpn: u32, group: &Gid) -> Result<()> {
    let header = process.own.segment.header();
    let _guard = header.groups_lock.lock(process);
    let member = header.groups.iter().find(|member| is(member, group, qpn));
    let member = member.ok_or(Errno(libc::EINVAL))?;
    if member.times.fetch_sub(1, Ordering::Relaxed) == 1 {
        member.qpn.store(0, Ordering::Relaxed);
        header.members.fetch_sub(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether a queue pair is in any group: it cannot be destroyed then.
pub fn has(process: &Process, qpn: u32) -> bool {
    let mut members = process.own.segment.header().groups.iter();
    members.any(|member| member.qpn.load(Ordering::Relaxed) == qpn)
}

/// The queue pairs of a process that are in a group.
pub fn members(peer: &Peer, group: &Gid) -> Vec<u32> {
    let header = peer.segment.header();
    if header.members.load(Ordering::Acquire) == 0 {
        return Vec::new();
    }
    let qpns = header
        .groups
        .iter()
        .map(|member| member.qpn.load(Ordering::Acquire));
    let members = header.groups.iter().zip(qpns);
    members
        .filter(|(member, qpn)| *qpn != 0 && member.gid.load() == words(group))
        .map(|(_, qpn)| qpn)
        .collect()
}
