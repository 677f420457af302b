// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the targets have in common: the host that the tests have, its model and its plans.

#[path = "../../tests/local/host.rs"]
#[allow(dead_code)]
pub mod host;
#[path = "../../tests/local/model.rs"]
pub mod model;
#[path = "../../tests/local/plan.rs"]
pub mod plan;
#[path = "../../tests/rings/mod.rs"]
pub mod rings;
