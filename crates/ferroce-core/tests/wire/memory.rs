// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registered memory: a vector, with one local and one remote key for all of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ferroce_core::local::{AccessError, AtomicChange, CopyFault, Fault, Region};

/// The address of a memory's first byte.
pub const BASE: u64 = 0x7f00_0000_1000;

/// A QP's memory.
#[derive(Clone)]
pub struct Memory(Rc<Inner>);

struct Inner {
    bytes: RefCell<Vec<u8>>,
    /// One access of so many finds a page missing that may be waited for; none if zero.
    later_every: Cell<u32>,
    accesses: Cell<u32>,
}

impl Memory {
    pub fn new(bytes: Vec<u8>, later_every: u32) -> Self {
        Self(Rc::new(Inner {
            bytes: RefCell::new(bytes),
            later_every: Cell::new(later_every),
            accesses: Cell::new(0),
        }))
    }

    /// Has all pages missing, or there.
    pub fn set_missing(&self, missing: bool) {
        self.0.later_every.set(missing.into());
    }

    /// How many hold on to it.
    pub fn users(&self) -> usize {
        Rc::strong_count(&self.0)
    }

    pub fn get(&self, at: usize, length: usize) -> Vec<u8> {
        self.0.bytes.borrow()[at..at + length].to_vec()
    }

    pub fn is(&self, at: usize, bytes: &[u8]) -> bool {
        self.0.bytes.borrow()[at..at + bytes.len()] == *bytes
    }

    pub fn put(&self, at: usize, bytes: &[u8]) {
        self.0.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn fill(&self, at: usize, length: usize, byte: u8) {
        self.0.bytes.borrow_mut()[at..at + length].fill(byte);
    }

    /// The range that an address and a length name.
    pub fn range(&self, addr: u64, length: u32) -> Result<Range, AccessError> {
        let at = addr.checked_sub(BASE).ok_or(AccessError)?;
        let end = at.checked_add(length.into()).ok_or(AccessError)?;
        if end > self.0.bytes.borrow().len() as u64 {
            return Err(AccessError);
        }
        Ok(Range {
            memory: self.clone(),
            at: at as usize,
            length: length as usize,
        })
    }

    /// An access to a page, which may be missing.
    fn touch(&self) -> Result<(), Fault> {
        let inner = &self.0;
        let number = inner.accesses.get().wrapping_add(1);
        inner.accesses.set(number);
        // Scattered, lest it be the same one that does not find it over and over again (Knuth's
        // multiplicative hash).
        let scattered = number.wrapping_mul(0x9e37_79b1) >> 16;
        let later_every = inner.later_every.get();
        if later_every > 0 && scattered % later_every == 0 {
            return Err(Fault::Later);
        }
        Ok(())
    }
}

/// A range whose key was checked.
pub struct Range {
    memory: Memory,
    at: usize,
    length: usize,
}

impl Region for Range {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, at: u32, from: &Self, from_at: u32, length: u32) -> Result<(), CopyFault> {
        let mut bytes = vec![0; length as usize];
        from.read(from_at, &mut bytes).map_err(CopyFault::Source)?;
        self.write(at, &bytes).map_err(CopyFault::Target)
    }

    fn write(&self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        assert!(at as usize + bytes.len() <= self.length, "beyond the range");
        self.memory.touch()?;
        self.memory.put(self.at + at as usize, bytes);
        Ok(())
    }

    fn read(&self, at: u32, bytes: &mut [u8]) -> Result<(), Fault> {
        assert!(at as usize + bytes.len() <= self.length, "beyond the range");
        self.memory.touch()?;
        let from = self.at + at as usize;
        bytes.copy_from_slice(&self.memory.0.bytes.borrow()[from..from + bytes.len()]);
        Ok(())
    }

    fn update(&self, change: AtomicChange) -> Result<u64, Fault> {
        assert!(self.length >= 8, "beyond the range");
        self.memory.touch()?;
        let word = self.memory.get(self.at, 8);
        let before = u64::from_ne_bytes(word.try_into().unwrap());
        let after = match change {
            AtomicChange::Add(n) => before.wrapping_add(n).to_ne_bytes(),
            AtomicChange::CompareSwap { compare, swap } if before == compare => swap.to_ne_bytes(),
            AtomicChange::CompareSwap { .. } => before.to_ne_bytes(),
            AtomicChange::Store(bytes) => bytes,
        };
        self.memory.put(self.at, &after);
        Ok(before)
    }
}
