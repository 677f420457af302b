// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the targets have in common: the hosts that the tests have, their model and their plans.

#[path = "../../tests/simulator/host.rs"]
pub mod host;
#[path = "../../tests/simulator/local.rs"]
pub mod local;
#[path = "../../tests/simulator/model.rs"]
pub mod model;
#[path = "../../tests/simulator/network.rs"]
pub mod network;
#[path = "../../tests/simulator/own.rs"]
pub mod own;
#[path = "../../tests/simulator/plan.rs"]
pub mod plan;
#[path = "../../tests/simulator/queue_pair.rs"]
pub mod queue_pair;
#[path = "../../tests/rings/mod.rs"]
pub mod rings;
#[path = "../../tests/simulator/simulation.rs"]
pub mod simulation;
#[path = "../../tests/simulator/wire.rs"]
pub mod wire;
#[path = "../../tests/simulator/world.rs"]
pub mod world;
