// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of checked memory, and copies from one list to another.

use super::{AccessError, Fault, LocalMemory, Region};
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
    /// Adds the whole of a requester's list, checks it, and has the memory be there, so
    /// that whatever fails afterwards is for the peer to answer for.
    pub fn check(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        write: bool,
    ) -> Result<(), AccessError> {
        // An element of no bytes names no memory, and its key is not looked at
        // (IBTA 11.4.1).
        for sge in sges.iter().filter(|s| s.length > 0) {
            let region = memory.local(sge, write)?;
            region
                .fault_in(sge.length, write)
                .map_err(|_: Fault| AccessError)?;
            self.push(region, sge.length)?;
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

    /// Copies the list's bytes to a region that has room for them.
    pub(super) fn copy_to(self, target: &R) -> Result<(), Fault> {
        let mut at = 0;
        for (region, length) in self.iter() {
            target.copy_from(at, region, 0, *length)?;
            at += length;
        }
        Ok(())
    }

    /// Copies the bytes of a region, which has as many, into the list.
    pub(super) fn copy_of(self, source: &R) -> Result<(), Fault> {
        let mut at = 0;
        for (region, length) in self.iter() {
            region.copy_from(0, source, at, *length)?;
            at += length;
        }
        Ok(())
    }

    /// Copies another list's bytes into this one, as far as both go.
    pub(super) fn copy_from(self, from: Self) -> Result<(), Fault> {
        let mut targets = self.iter();
        let mut target = targets.next();
        let mut at = 0;
        for (source, source_length) in from.iter() {
            let mut source_at = 0;
            while source_at < *source_length {
                let Some((region, length)) = target else {
                    return Ok(());
                };
                let now = (*source_length - source_at).min(*length - at);
                region.copy_from(at, source, source_at, now)?;
                source_at += now;
                at += now;
                if at == *length {
                    target = targets.next();
                    at = 0;
                }
            }
        }
        Ok(())
    }
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
