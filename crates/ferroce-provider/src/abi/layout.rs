// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structures that another compiler lays out as well: their sizes and offsets are stated, and checked
//! when this crate is built. With a C compiler and the headers at hand, a test checks the same numbers
//! against those.

/// The layout of a C structure on x86-64 with glibc.
#[cfg(test)]
pub struct Layout {
    /// The structure in C.
    pub name: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Fields and their offsets in bytes.
    pub fields: &'static [(&'static str, usize)],
}

/// States sizes and offsets of structures, and a table `LAYOUTS` of them for the tests.
///
/// A field has the same name in C and in Rust. The numbers are those of x86-64 with glibc; elsewhere
/// they differ with the size of `pthread_mutex_t`, which is no choice of this crate's.
macro_rules! layouts {
    ($($rust:ident is $c:literal: $size:literal { $($field:ident: $offset:literal),* $(,)? })*) => {
        #[cfg(all(target_arch = "x86_64", target_env = "gnu", target_pointer_width = "64"))]
        const _: () = {
            $(
                assert!(size_of::<$rust>() == $size, $c);
                $(assert!(
                    core::mem::offset_of!($rust, $field) == $offset,
                    concat!($c, ".", stringify!($field))
                );)*
            )*
        };

        /// What is stated here.
        #[cfg(test)]
        pub const LAYOUTS: &[$crate::abi::layout::Layout] = &[
            $($crate::abi::layout::Layout {
                name: $c,
                size: $size,
                fields: &[$((stringify!($field), $offset)),*],
            }),*
        ];
    };
}

pub(super) use layouts;
