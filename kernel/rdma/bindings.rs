// SPDX-License-Identifier: GPL-2.0

//! Bindings to `ib_core` and to what else this folder needs of C.
//!
//! `bindgen` makes them while the module is built, from `bindings.h`; see `Kbuild.include`. Types that
//! both this folder and the `kernel` crate deal in, such as `scatterlist`, are left out and come from
//! `kernel::bindings`, by the glob import, so that they are the same. `bindgen_parameters` lists them.
//!
//! In the kernel tree this would not be a file but a few more lines in
//! `rust/bindings/bindings_helper.h`.

#![allow(
    clippy::all,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    // Rust 1.85 does not know the next one yet.
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]

use kernel::{bindings::*, ffi};
use pin_init::{MaybeZeroable, Zeroable};

// Those that the kernel's own parameters for bindgen leave out, for being written by hand.
type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

// SAFETY: `__BindgenBitfieldUnit<Storage>` is a newtype around `Storage`.
unsafe impl<Storage> Zeroable for __BindgenBitfieldUnit<Storage> where Storage: Zeroable {}

include!(env!("RDMA_BINDINGS"));
