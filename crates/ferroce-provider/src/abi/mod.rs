// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs, as this provider sees it: its structures, and its functions.
//!
//! There is no dependency on libibverbs' headers or on a C compiler. Structures are declared by hand,
//! with the names of C (`struct ibv_wc` is [`IbvWc`]), and their layout is checked when they are
//! compiled ([`layout`]).
//!
//! libibverbs has a private interface to providers, with a number of its own. What depends on that
//! number is in `v34` or `v65`; a feature of this crate chooses between them, and no other module
//! knows which it is.

mod attributes;
mod commands;
#[cfg(test)]
mod headers;
pub mod layout;
pub mod library;
mod objects;
mod private;
mod requests;
#[cfg(not(feature = "abi65"))]
mod v34;
#[cfg(feature = "abi65")]
mod v65;

pub use attributes::*;
pub use commands::*;
pub use ferroce_core::ring::Sge;
pub use objects::*;
pub use private::*;
pub use requests::*;
#[cfg(not(feature = "abi65"))]
pub use v34::{ContextOps, Specific, VerbsContext, VerbsQp};
#[cfg(feature = "abi65")]
pub use v65::{ContextOps, Specific, VerbsContext, VerbsQp};
