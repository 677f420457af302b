// SPDX-License-Identifier: GPL-2.0

//! Memory that a device reaches, and regions of it.

use super::{atomically, destroyed, Pd, Remote};
use crate::bindings::*;
use core::{
    ptr,
    sync::atomic::{AtomicU8, Ordering},
};
use kernel::{bindings::scatterlist, error::from_err_ptr, prelude::*};

/// Memory that a device reaches while others look at it.
pub(crate) struct Buffer<'a> {
    bytes: KVec<AtomicU8>,
    address: u64,
    pd: &'a Pd<'a>,
}

impl<'a> Buffer<'a> {
    /// Memory with a pattern of its own, see [`pattern`].
    pub(crate) fn new(pd: &'a Pd<'a>, len: usize, seed: u8) -> Result<Self> {
        let mut bytes = KVec::with_capacity(len, GFP_KERNEL)?;
        for i in 0..len {
            bytes.push(AtomicU8::new(pattern(seed, i)), GFP_KERNEL)?;
        }
        // SAFETY: Valid memory, which is unmapped before it goes.
        let address = unsafe {
            rdma_helper_ib_dma_map(pd.device.raw, bytes.as_mut_ptr().cast(), bytes.len())
        };
        Ok(Self { bytes, address, pd })
    }

    pub(crate) fn address(&self, at: usize) -> u64 {
        self.address + at as u64
    }

    pub(crate) fn sge(&self, at: usize, len: usize) -> ib_sge {
        self.sge_by(self.pd.lkey(), at, len)
    }

    pub(crate) fn sge_by(&self, lkey: u32, at: usize, len: usize) -> ib_sge {
        ib_sge {
            addr: self.address(at),
            length: len as u32,
            lkey,
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<u8> {
        Some(self.bytes.get(at)?.load(Ordering::Relaxed))
    }

    pub(crate) fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(core::array::from_fn(|i| self.get(at + i).unwrap_or(0)))
    }

    pub(crate) fn set_word(&self, at: usize, word: u64) {
        let bytes = self.bytes.iter().skip(at).zip(word.to_ne_bytes());
        bytes.for_each(|(to, from)| to.store(from, Ordering::Relaxed));
    }

    /// Checks that each byte is what `must` says.
    pub(crate) fn check(&self, must: impl Fn(usize) -> u8) -> Result {
        for i in 0..self.bytes.len() {
            let is = self.get(i);
            check!(is == Some(must(i)), "byte {i} is {is:?}, not {}", must(i));
        }
        Ok(())
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // SAFETY: As mapped.
        unsafe { rdma_helper_ib_dma_unmap(self.pd.device.raw, self.address, self.bytes.len()) };
    }
}

/// The byte at `i` of a buffer that was made with `seed`: pages and buffers differ.
pub(crate) fn pattern(seed: u8, i: usize) -> u8 {
    (i as u8)
        .wrapping_mul(7)
        .wrapping_add((i >> 8) as u8)
        .wrapping_add(seed.wrapping_mul(31))
}

/// A memory region that work requests register memory in.
pub(crate) struct Mr<'a> {
    pub(super) raw: *mut ib_mr,
    mapped: KVec<scatterlist>,
    pd: &'a Pd<'a>,
}

impl<'a> Mr<'a> {
    pub(crate) fn new(pd: &'a Pd<'a>, max_pages: u32) -> Result<Self> {
        // SAFETY: A valid domain.
        let raw =
            from_err_ptr(unsafe { ib_alloc_mr(pd.raw, ib_mr_type_IB_MR_TYPE_MEM_REG, max_pages) })?;
        Ok(Self {
            raw,
            mapped: KVec::new(),
            pd,
        })
    }

    /// Maps pieces of buffers: each a buffer, where in it, and the length. Returns how many of them.
    pub(crate) fn map(&mut self, pieces: &[(&Buffer<'_>, usize, usize)]) -> Result<usize> {
        self.unmap();
        let mut list = KVec::new();
        list.resize(pieces.len(), scatterlist::default(), GFP_KERNEL)?;
        // SAFETY: A list of that many entries, each set to valid memory, which the caller keeps as long
        // as it wants it reached. The region is not registered, so nobody uses its list.
        unsafe {
            kernel::bindings::sg_init_table(list.as_mut_ptr(), list.len() as u32);
            for (entry, (buffer, at, len)) in list.iter_mut().zip(pieces) {
                let start = buffer.bytes.as_ptr().add(*at);
                rdma_helper_sg_set_buf(entry, start.cast(), *len as u32);
            }
            let count = rdma_helper_ib_dma_map_sg(
                self.pd.device.raw,
                list.as_mut_ptr(),
                list.len() as c_int,
            );
            self.mapped = list;
            let mapped = atomically(|| {
                ib_map_mr_sg(
                    self.raw,
                    self.mapped.as_mut_ptr(),
                    count,
                    ptr::null_mut(),
                    4096,
                )
            });
            usize::try_from(mapped).map_err(|_| Error::from_errno(mapped))
        }
    }

    fn unmap(&mut self) {
        let len = self.mapped.len() as c_int;
        if len > 0 {
            // SAFETY: As mapped in `map`.
            unsafe {
                rdma_helper_ib_dma_unmap_sg(self.pd.device.raw, self.mapped.as_mut_ptr(), len)
            };
        }
    }

    /// Changes the part of the key that is the user's.
    pub(crate) fn set_key(&mut self, key: u8) {
        // SAFETY: A valid region.
        unsafe { rdma_helper_ib_update_fast_reg_key(self.raw, key) };
    }

    pub(crate) fn key(&self) -> u32 {
        // SAFETY: A valid region.
        unsafe { (*self.raw).rkey }
    }

    /// The place of a byte of the region.
    pub(crate) fn remote(&self, at: u64) -> Remote {
        // SAFETY: A valid region.
        let start = unsafe { (*self.raw).iova };
        Remote {
            // It may be before the region.
            addr: start.wrapping_add(at),
            rkey: self.key(),
        }
    }

    /// A part of the region for work requests of one's own.
    pub(crate) fn sge(&self, at: u64, len: u32) -> ib_sge {
        let Remote { addr, rkey } = self.remote(at);
        ib_sge {
            addr,
            length: len,
            lkey: rkey,
        }
    }
}

impl Drop for Mr<'_> {
    fn drop(&mut self) {
        // SAFETY: Nobody uses it any more.
        destroyed(unsafe { ib_dereg_mr_user(self.raw, ptr::null_mut()) });
        self.unmap();
    }
}
