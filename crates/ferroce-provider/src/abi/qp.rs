// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue pair as libibverbs shares it with providers.

use core::ffi::c_void;

use super::objects::{IbvQpEx, WrAtomicWrite, WrFlush};
use super::private::VERBS_QP_EX;

/// A function of `ibv_qp_ex` in one release of libibverbs, and in another the `comp_mask` behind the
/// last function.
#[cfg(not(feature = "abi57"))]
#[derive(Clone, Copy)]
#[repr(C)]
pub union Slot<F: Copy> {
    function: Option<F>,
    comp_mask: u32,
}

/// A function of `ibv_qp_ex`.
#[cfg(feature = "abi57")]
#[repr(C)]
pub struct Slot<F: Copy> {
    function: Option<F>,
}

impl<F: Copy> Slot<F> {
    fn fill(function: Option<F>) -> Self {
        #[cfg(not(feature = "abi57"))]
        if function.is_none() {
            return Self {
                comp_mask: VERBS_QP_EX,
            };
        }
        Self { function }
    }
}

/// A queue pair, and whether it is an extended one.
///
/// libibverbs looks for that in a `comp_mask` behind what it takes for the whole of `ibv_qp_ex`. In
/// ABI 34 that has grown: up to rdma-core 43 `comp_mask` is in the place of `wr_atomic_write`, in 44
/// in that of `wr_flush`, and only since 45 where it is declared here. So with ABI 34 an extended
/// queue pair has the bit in all three places, save where the function itself is: a program that asks
/// for that function has a libibverbs that knows it.
#[repr(C)]
pub struct VerbsQp {
    pub qp_ex: IbvQpEx,
    wr_atomic_write: Slot<WrAtomicWrite>,
    wr_flush: Slot<WrFlush>,
    comp_mask: u32,
    xrcd: *mut c_void,
}

impl VerbsQp {
    /// Makes it an extended one, after it has been created.
    pub fn set_extended(&mut self, atomic_write: Option<WrAtomicWrite>, flush: Option<WrFlush>) {
        self.wr_atomic_write = Slot::fill(atomic_write);
        self.wr_flush = Slot::fill(flush);
        self.comp_mask = VERBS_QP_EX;
    }
}

// The layout of rdma-core 45 and later.
#[cfg(feature = "abi57")]
super::layout::layouts! {
    VerbsQp is "struct verbs_qp": 376 { comp_mask: 360, xrcd: 368 }
}

// Not in a table: the headers of ABI 34 do not agree on where `comp_mask` is.
#[cfg(not(feature = "abi57"))]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
const _: () = {
    use core::mem::offset_of;
    // rdma-core 36 to 43
    assert!(offset_of!(VerbsQp, wr_atomic_write) == 344);
    // 44
    assert!(offset_of!(VerbsQp, wr_flush) == 352);
    // 45 to 56
    assert!(offset_of!(VerbsQp, comp_mask) == 360);
    assert!(offset_of!(VerbsQp, xrcd) == 368);
    assert!(size_of::<VerbsQp>() == 376);
};
#[cfg(all(test, not(feature = "abi57")))]
pub const LAYOUTS: &[super::layout::Layout] = &[];
