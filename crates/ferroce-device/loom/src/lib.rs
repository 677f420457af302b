// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rings and what decides who executes and who waits: the same source files that the driver and the
//! provider are built of, over loom's atomics in place of `core`'s.
#![no_std]

extern crate ferroce_loom_core as core;
extern crate std;

#[path = "../../src/in_use.rs"]
pub mod in_use;
#[path = "../../src/kick.rs"]
pub mod kick;
#[path = "../../../ferroce-user/src/lock.rs"]
pub mod lock;
#[path = "../../src/published.rs"]
pub mod published;
#[path = "../../../ferroce-core/src/ring/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod ring;
#[path = "../../../ferroce-user/src/turn.rs"]
pub mod turn;
#[path = "../../../ferroce-user/src/users.rs"]
pub mod users;
#[path = "../../../ferroce-core/src/verbs/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod verbs;

pub use ferroce_loom_core::sync::atomic;
