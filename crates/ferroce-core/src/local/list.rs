// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of checked memory, and copies from one list to another.

use super::{AccessError, CopyFault, Fault, LocalMemory, Region};
use crate::ring::{Sge, SgeList};
use crate::verbs::limits::MAX_SEND_SGE;

/// As many pieces as a work request has at most.
pub(super) const PIECES: usize = MAX_SEND_SGE as usize;

/// The pieces of memory of a scatter or gather list, in order, keys checked.
///
/// It is large, and filled where it is: it is not to be returned, nor moved. Most work requests have one
/// piece, and a list with `ROOM` for that alone costs much less to make and to drop.
#[derive(Debug)]
pub struct RegionList<R, const ROOM: usize = PIECES> {
    pieces: [Option<(R, u32)>; ROOM],
    count: usize,
}

/// What is in a [`RegionList`].
#[derive(Debug)]
pub(super) struct Regions<'a, R>(&'a [Option<(R, u32)>]);

impl<R> Clone for Regions<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Regions<'_, R> {}

impl<R, const ROOM: usize> Default for RegionList<R, ROOM> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R, const ROOM: usize> RegionList<R, ROOM> {
    /// A constant, so that it is made at its place. An expression is made beside that and copied, with
    /// twice the stack.
    const EMPTY: Self = Self {
        pieces: [const { None }; ROOM],
        count: 0,
    };

    /// No bytes at all.
    pub fn new() -> Self {
        Self::EMPTY
    }

    pub(super) fn regions(&self) -> Regions<'_, R> {
        Regions(self.pieces.get(..self.count).unwrap_or_default())
    }

    pub(super) fn push(&mut self, region: R, length: u32) -> Result<(), AccessError> {
        let place = self.pieces.get_mut(self.count).ok_or(AccessError)?;
        *place = Some((region, length));
        self.count += 1;
        Ok(())
    }
}

impl<R: Region, const ROOM: usize> RegionList<R, ROOM> {
    /// Adds the whole of a requester's list, and checks it.
    pub fn check(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        write: bool,
    ) -> Result<(), AccessError> {
        // An element of no bytes names no memory, and its key is not looked at
        // (IBTA 11.4.1).
        for sge in sges.iter().filter(|s| s.length > 0) {
            self.push(memory.local(sge, write)?, sge.length)?;
        }
        Ok(())
    }

    /// Adds those elements of a scatter list that `length` bytes go to, after
    /// the first `skip` bytes.
    pub fn check_prefix(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        mut skip: u32,
        length: u32,
    ) -> Result<(), AccessError> {
        let mut left = length;
        for sge in sges.iter() {
            if left == 0 {
                break;
            }
            let skipped = skip.min(sge.length);
            skip -= skipped;
            let used = (sge.length - skipped).min(left);
            if used == 0 {
                continue;
            }
            let piece = Sge {
                addr: sge.addr.wrapping_add(u64::from(skipped)),
                length: used,
                lkey: sge.lkey,
            };
            self.push(memory.local(piece, true)?, used)?;
            left -= used;
        }
        match left {
            0 => Ok(()),
            _ => Err(AccessError),
        }
    }
}

impl<'a, R: Region> Regions<'a, R> {
    fn iter(self) -> impl Iterator<Item = &'a (R, u32)> {
        self.0.iter().flatten()
    }

    /// Copies `bytes` into the list, as far as both go.
    pub(super) fn write(self, mut bytes: &[u8]) -> Result<(), Fault> {
        for (region, length) in self.iter() {
            let (now, later) = bytes.split_at(bytes.len().min(*length as usize));
            region.write(0, now)?;
            bytes = later;
        }
        Ok(())
    }

    /// Copies the list's bytes out, as far as both go.
    pub(super) fn read(self, mut bytes: &mut [u8]) -> Result<(), Fault> {
        for (region, length) in self.iter() {
            let (now, later) = bytes.split_at_mut(bytes.len().min(*length as usize));
            region.read(0, now)?;
            bytes = later;
        }
        Ok(())
    }
}

/// Bytes that are moved before the host is asked whether to go on.
pub const PART: u32 = 1 << 16;

/// Why a message was not moved to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Memory of the requester is not there.
    Own(Fault),
    /// Memory of the peer is not there.
    Peer(Fault),
    /// The host has other things to do.
    Paused,
}

/// Which way a message goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToPeer,
    FromPeer,
}

impl Direction {
    fn stopped(self, fault: CopyFault) -> Stopped {
        match (self, fault) {
            (Self::ToPeer, CopyFault::Source(fault))
            | (Self::FromPeer, CopyFault::Target(fault)) => Stopped::Own(fault),
            (Self::ToPeer, CopyFault::Target(fault))
            | (Self::FromPeer, CopyFault::Source(fault)) => Stopped::Peer(fault),
        }
    }
}

/// A place in a list of regions.
pub(super) struct Walk<'a, R> {
    rest: core::slice::Iter<'a, Option<(R, u32)>>,
    region: Option<&'a R>,
    /// Where in the region.
    at: u32,
    /// How many bytes of the region there are from there on.
    left: u32,
}

impl<'a, R> Walk<'a, R> {
    /// The beginning of a list.
    pub(super) fn list(Regions(pieces): Regions<'a, R>) -> Self {
        Self {
            rest: pieces.iter(),
            region: None,
            at: 0,
            left: 0,
        }
    }

    /// The beginning of a region that has room for the whole message.
    pub(super) fn region(region: &'a R) -> Self {
        Self {
            rest: [].iter(),
            region: Some(region),
            at: 0,
            left: u32::MAX,
        }
    }

    /// The region, where in it, and how many bytes there are; `None` at the end.
    fn piece(&mut self) -> Option<(&'a R, u32, u32)> {
        while self.left == 0 {
            let (region, length) = self.rest.by_ref().flatten().next()?;
            (self.region, self.at, self.left) = (Some(region), 0, *length);
        }
        Some((self.region?, self.at, self.left))
    }

    /// Goes on by so many bytes of the piece.
    fn advance(&mut self, bytes: u32) {
        self.at = self.at.saturating_add(bytes);
        self.left = self.left.saturating_sub(bytes);
    }

    /// Passes over bytes that were moved before.
    fn skip(&mut self, mut bytes: u32) {
        while bytes > 0 {
            let Some((_, _, left)) = self.piece() else {
                return;
            };
            let now = left.min(bytes);
            self.advance(now);
            bytes -= now;
        }
    }
}

/// Moves the first `length` bytes of a message, as far as both lists go. The first `done` of them have been
/// moved before; how many it is now is there when this returns.
pub(super) fn transfer<R: Region>(
    mut from: Walk<'_, R>,
    mut to: Walk<'_, R>,
    direction: Direction,
    length: u32,
    done: &mut u32,
    may_go_on: impl Fn() -> bool,
) -> Result<(), Stopped> {
    from.skip(*done);
    to.skip(*done);
    let mut part = PART;
    while *done < length {
        let (Some((source, source_at, there)), Some((target, at, room))) =
            (from.piece(), to.piece())
        else {
            return Ok(());
        };
        if part == 0 {
            if !may_go_on() {
                return Err(Stopped::Paused);
            }
            part = PART;
        }
        if *done > 0 {
            // It is a while since the keys were checked.
            let checked = target.check().map_err(CopyFault::Target);
            checked
                .and_then(|()| source.check().map_err(CopyFault::Source))
                .map_err(|fault| direction.stopped(fault))?;
        }
        let now = there.min(room).min(part).min(length - *done);
        target
            .copy_from(at, source, source_at, now)
            .map_err(|fault| direction.stopped(fault))?;
        from.advance(now);
        to.advance(now);
        *done += now;
        part -= now;
    }
    Ok(())
}

/// Writes to the memory of a scatter list, from `at` bytes on. Piece by piece: if a key is wrong, what
/// comes before it has been written.
pub(super) fn write(
    memory: &impl LocalMemory,
    sges: SgeList<'_>,
    mut at: u32,
    mut bytes: &[u8],
) -> Result<(), Fault> {
    for sge in sges.iter() {
        let skipped = at.min(sge.length);
        at -= skipped;
        let room = usize::try_from(sge.length - skipped).unwrap_or(0);
        let (now, later) = bytes.split_at(bytes.len().min(room));
        if !now.is_empty() {
            let piece = Sge {
                addr: sge.addr.wrapping_add(u64::from(skipped)),
                length: now.len() as u32,
                lkey: sge.lkey,
            };
            let region = memory
                .local(piece, true)
                .map_err(|AccessError| Fault::Gone)?;
            region.write(0, now)?;
        }
        bytes = later;
    }
    match bytes {
        [] => Ok(()),
        _ => Err(Fault::Gone),
    }
}
