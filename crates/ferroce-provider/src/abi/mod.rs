// SPDX-License-Identifier: MIT OR Apache-2.0
//! libibverbs, as this provider sees it: its structures, and its functions.
//!
//! There is no dependency on libibverbs' headers or on a C compiler. Structures are declared by hand,
//! with the names of C (`struct ibv_wc` is [`IbvWc`]), and their layout is checked when they are
//! compiled ([`layout`]).
//!
//! # The private ABI
//! libibverbs has a private interface to providers, with a number of its own: that of the release of
//! rdma-core it came with. What depends on it is in `verbs`, `qp` and `specific`, and is declared
//! once: what came with a number has a feature of this crate, which stands for that number *or a
//! later one*. No other module knows which it is.
//!
//! | number | rdma-core | feature | what came with it |
//! |---|---|---|---|
//! | 34 | 36 to 56 | none | |
//! | 57 | 57, 58 | `abi57` | an argument of `ibv_cmd_get_context` |
//! | 59 | 59 to 63 | `abi59` | DMA handles: verbs, and an argument of `ibv_cmd_create_cq_ex` |
//! | 64 | 64 | `abi64` | buffers: verbs, and an argument of `ibv_cmd_create_qp_ex2` |
//! | 65 | 65 | `abi65` | completion counters: verbs |
//!
//! Checked against the headers of rdma-core 36, 39, 44, and 56 to 65, and loaded by the libibverbs of
//! each.
//!
//! The number stands for less than one would think. rdma-core's own providers come out of one source
//! tree with libibverbs and are never mixed, so nobody there notices what it did not keep from
//! changing:
//!
//! - rdma-core 35 and 36 added functions to the middle of the table of verbs, 35 a field to the
//!   middle of `verbs_sysfs_dev`. From 36 to 56 the table is the same, and an older libibverbs is
//!   refused; the other structure is not looked into here.
//! - rdma-core 44 and 45 added a function each to `ibv_qp_ex`, which moved the `comp_mask` that
//!   [`VerbsQp`] has behind it. See there.
//! - rdma-core 54 gave `ibv_cmd_reg_dmabuf_mr` another argument. See
//!   [`Common`](library::Common).
//! - rdma-core 62 added functions to the middle of the table of verbs, and one to the beginning of
//!   `verbs_context`. See `before_62`.

mod attributes;
#[cfg(all(feature = "abi59", not(feature = "abi64")))]
mod before_62;
mod commands;
pub mod device_memory;
#[cfg(test)]
mod headers;
pub mod layout;
pub mod library;
mod objects;
mod private;
mod qp;
mod requests;
mod specific;
mod verbs;

pub use attributes::*;
pub use commands::*;
pub use ferroce_core::ring::Sge;
pub use objects::*;
pub use private::*;
pub use qp::VerbsQp;
pub use requests::*;
pub use specific::Specific;
pub use verbs::{ContextOps, VerbsContext};
