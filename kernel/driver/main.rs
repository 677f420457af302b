// SPDX-License-Identifier: GPL-2.0

//! ferroce: a virtual RDMA network card.
//!
//! `rdma link add NAME type ferroce netdev NETDEV` makes a device.

use kernel::prelude::*;

#[path = "../rdma/mod.rs"]
pub mod rdma;

// The protocol core, the same files that the provider and the tests are built of. Some of it is for
// them alone.
#[path = "../../crates/ferroce-core/src/local/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod local;
#[path = "../../crates/ferroce-core/src/qp/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod qp;
#[path = "../../crates/ferroce-core/src/ring/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod ring;
#[path = "../../crates/ferroce-core/src/uapi.rs"]
#[allow(dead_code, unused_imports)]
pub mod uapi;
#[path = "../../crates/ferroce-core/src/verbs/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod verbs;

mod address;
mod callback;
mod counters;
mod cq;
mod device;
mod kernel_user;
mod memory;
mod multicast;
mod place;
mod queue_pair;
mod rings;
mod srq;
mod table;
mod window;

module! {
    type: Ferroce,
    name: "ferroce",
    authors: ["The ferroce authors"],
    description: "Virtual RDMA network card",
    license: "GPL",
    alias: ["rdma-link-ferroce"],
}

/// What the module has registered. The fields are dropped from the first to the last: first no new
/// devices, then those that there are go, and then nobody is left to be told of network devices.
#[pin_data]
struct Ferroce {
    #[pin]
    link: rdma::LinkRegistration<device::Link>,
    driver: rdma::DriverRegistration<device::Ferroce>,
    #[pin]
    notifier: rdma::NetNotifier<device::NetEvents>,
}

impl kernel::InPlaceModule for Ferroce {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Here and nowhere else, which is called once.
        unsafe { device::NEWLINK.init() };
        // In this order, so that there is no device before all else is in place.
        try_pin_init!(Self {
            notifier <- rdma::NetNotifier::register(),
            driver: rdma::DriverRegistration::new(),
            link <- rdma::LinkRegistration::register(),
        })
    }
}
