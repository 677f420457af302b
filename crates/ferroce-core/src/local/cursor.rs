// SPDX-License-Identifier: MIT OR Apache-2.0
//! A place in a scatter or gather list that packets fill or empty one after the other.

use super::{AccessError, Fault, LocalMemory, Region};
use crate::ring::{Sge, SgeList};

/// Why a part of a list cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// A key does not allow it, or the list is too short.
    Access,
    /// The memory is not there.
    Fault(Fault),
}

impl From<AccessError> for Denied {
    fn from(AccessError: AccessError) -> Self {
        Self::Access
    }
}

impl From<Fault> for Denied {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The element of a list that was used last, with its key checked.
pub(crate) struct Cursor<R> {
    current: Option<Piece<R>>,
}

struct Piece<R> {
    /// Where in the message it begins.
    start: u32,
    length: u32,
    region: R,
}

impl<R: Region> Cursor<R> {
    pub(crate) const fn new() -> Self {
        Self { current: None }
    }

    /// Gives up what it keeps. To be called when the list is another one.
    pub(crate) fn forget(&mut self) {
        self.current = None;
    }

    /// Checks the keys of a whole list, and begins with its first element.
    pub(crate) fn check(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        write: bool,
    ) -> Result<(), AccessError> {
        self.forget();
        // An element of no bytes names no memory, and its key is not looked at (IBTA 11.4.1).
        for sge in sges.iter().filter(|sge| sge.length > 0) {
            let region = memory.local(sge, write)?;
            self.current.get_or_insert(Piece {
                start: 0,
                length: sge.length,
                region,
            });
        }
        Ok(())
    }

    /// The element that byte `at` of a message is in, as much of it as `length` bytes need at least.
    fn piece(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        write: bool,
        at: u32,
        length: usize,
    ) -> Result<&Piece<R>, AccessError> {
        let holds = |start: u32, length: u32| at >= start && at - start < length;
        let current = self.current.take();
        let piece = match current.filter(|piece| holds(piece.start, piece.length)) {
            Some(piece) => piece,
            None => {
                let mut start: u32 = 0;
                let mut found: Option<Sge> = None;
                for sge in sges.iter() {
                    if holds(start, sge.length) {
                        found = Some(sge);
                        break;
                    }
                    start = start.checked_add(sge.length).ok_or(AccessError)?;
                }
                let sge = found.ok_or(AccessError)?;
                match memory.local(sge, write) {
                    Ok(region) => Piece {
                        start,
                        length: sge.length,
                        region,
                    },
                    // A message may be shorter than its receive. What it does not fill is not looked at.
                    Err(AccessError) => {
                        let skipped = at - start;
                        let left = sge.length - skipped;
                        let used = u32::try_from(length).map_or(left, |length| length.min(left));
                        let part = Sge {
                            addr: sge.addr.wrapping_add(skipped.into()),
                            length: used,
                            lkey: sge.lkey,
                        };
                        Piece {
                            start: at,
                            length: used,
                            region: memory.local(part, write)?,
                        }
                    }
                }
            }
        };
        Ok(self.current.insert(piece))
    }

    /// Copies the bytes from `at` on out of a gather list.
    pub(crate) fn read(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        mut at: u32,
        mut bytes: &mut [u8],
    ) -> Result<(), Denied> {
        check_end(at, bytes.len())?;
        while !bytes.is_empty() {
            let piece = self.piece(memory, sges, false, at, bytes.len())?;
            let offset = at - piece.start;
            let now = bytes.len().min((piece.length - offset) as usize);
            let (first, rest) = bytes.split_at_mut(now);
            piece.region.read(offset, first)?;
            bytes = rest;
            // No more than the end that has been checked.
            at += now as u32;
        }
        Ok(())
    }

    /// Copies bytes into a scatter list, from `at` on.
    pub(crate) fn write(
        &mut self,
        memory: &impl LocalMemory<Region = R>,
        sges: SgeList<'_>,
        mut at: u32,
        mut bytes: &[u8],
    ) -> Result<(), Denied> {
        check_end(at, bytes.len())?;
        while !bytes.is_empty() {
            let piece = self.piece(memory, sges, true, at, bytes.len())?;
            let offset = at - piece.start;
            let now = bytes.len().min((piece.length - offset) as usize);
            let (first, rest) = bytes.split_at(now);
            piece.region.write(offset, first)?;
            bytes = rest;
            // No more than the end that has been checked.
            at += now as u32;
        }
        Ok(())
    }
}

/// Checks, before anything is copied, that a part of a message ends where a number of 32 bits can tell.
/// (No message is that long: its length is checked by the caller.)
fn check_end(at: u32, length: usize) -> Result<(), AccessError> {
    let end = u32::try_from(length).ok().and_then(|n| at.checked_add(n));
    end.map(|_| ()).ok_or(AccessError)
}
