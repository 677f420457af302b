// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rdma-core provider of ferroce: what an unmodified libibverbs loads, as
//! `libferroce-rdmavNN.so`, to drive the device from user space.
//!
//! - [`abi`]: libibverbs' structures and functions, declared by hand. The private ABI's number, NN,
//!   is known there alone.
//! - [`ffi`]: the verbs as libibverbs calls them. Pointers become references there, errors become
//!   errno, and nowhere else.
//! - [`queue`]: what posting and polling mean, in safe Rust, on rings in any memory.
//! - [`mapping`], [`lock`]: the memory those rings are in, and who may touch it.
//! - [`idle`]: who runs while a program polls in vain.
//! - [`user`]: the device in this process, in the kernel's place.
//!
//! # The data path
//! Posting writes into a ring that the driver shares ([`ferroce_core::ring`]), polling reads from one.
//! The kernel is entered only if the driver has asked to be told, by a command without any work
//! request in it ([`ffi::doorbell`]). Arming a completion queue writes a word of its ring.
//!
//! # Installing
//! Cargo's `libferroce_provider.so` goes to libibverbs' folder (`/usr/lib/x86_64-linux-gnu/libibverbs`
//! on Debian) as `libferroce-rdmavNN.so`, and `ferroce.driver` to `/etc/libibverbs.d`: that is what
//! `ferroce install` does. Without
//! installing anything, `IBV_DRIVERS=/folder/libferroce` makes libibverbs load
//! `/folder/libferroce-rdmavNN.so`.
//!
//! # No unwinding
//! A function that C calls is `extern "C"`: a panic in it ends the process and does not unwind into
//! C. There is none that a program can cause.

// All of it is private, and its documentation is for those who read the source.
#![allow(rustdoc::private_intra_doc_links)]

mod abi;
mod ffi;
mod idle;
mod lock;
mod mapping;
mod queue;
mod user;

#[cfg(test)]
mod tests {
    use core::hint::black_box;

    // What a program loads has none of these checks (profile `plugin`).
    #[test]
    #[should_panic(expected = "attempt to add with overflow")]
    fn the_provider_is_tested_with_overflow_checks() {
        black_box(black_box(u32::MAX) + 1);
    }

    #[test]
    #[should_panic(expected = "a debug assertion")]
    fn the_provider_is_tested_with_debug_assertions() {
        debug_assert!(black_box(false), "a debug assertion");
    }
}
