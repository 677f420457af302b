// SPDX-License-Identifier: GPL-2.0

//! ferroce: a virtual RDMA network card.
//!
//! `rdma link add NAME type ferroce netdev NETDEV` makes a device, and so does a card on a PCI bus.

use kernel::{driver, pci::Adapter, prelude::*};

#[path = "../rdma/mod.rs"]
pub mod rdma;

#[path = "../net/mod.rs"]
pub mod net;

// The protocol core, the same files that the provider and the tests are built of. Some of it is for
// them alone.
#[path = "../../crates/ferroce-core/src/card.rs"]
#[allow(dead_code)]
pub mod card;
#[path = "../../crates/ferroce-core/src/local/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod local;
#[path = "../../crates/ferroce-core/src/qp/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod qp;
#[path = "../../crates/ferroce-core/src/requester/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod requester;
#[path = "../../crates/ferroce-core/src/responder/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod responder;
#[path = "../../crates/ferroce-core/src/ring/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod ring;
#[path = "../../crates/ferroce-core/src/rules.rs"]
#[allow(dead_code, unused_imports)]
mod rules;
#[path = "../../crates/ferroce-core/src/uapi.rs"]
#[allow(dead_code, unused_imports)]
pub mod uapi;
#[path = "../../crates/ferroce-core/src/verbs/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod verbs;
#[path = "../../crates/ferroce-core/src/wire/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod wire;

// What makes it a card, the same files that the tests are built of.
#[path = "../../crates/ferroce-device/src/address.rs"]
#[allow(dead_code, unused_imports)]
pub mod address;
#[path = "../../crates/ferroce-device/src/arrival.rs"]
#[allow(dead_code, unused_imports)]
pub mod arrival;
#[path = "../../crates/ferroce-device/src/attrs.rs"]
#[allow(dead_code, unused_imports)]
pub mod attrs;
#[path = "../../crates/ferroce-device/src/completion_queue.rs"]
#[allow(dead_code, unused_imports)]
pub mod completion_queue;
#[path = "../../crates/ferroce-device/src/counter.rs"]
#[allow(dead_code, unused_imports)]
pub mod counter;
#[path = "../../crates/ferroce-device/src/datagram.rs"]
#[allow(dead_code, unused_imports)]
pub mod datagram;
#[path = "../../crates/ferroce-device/src/effects.rs"]
#[allow(dead_code, unused_imports)]
pub mod effects;
#[path = "../../crates/ferroce-device/src/groups.rs"]
#[allow(dead_code, unused_imports)]
pub mod groups;
#[path = "../../crates/ferroce-device/src/in_use.rs"]
#[allow(dead_code, unused_imports)]
pub mod in_use;
#[path = "../../crates/ferroce-device/src/key.rs"]
#[allow(dead_code, unused_imports)]
pub mod key;
#[path = "../../crates/ferroce-device/src/kick.rs"]
#[allow(dead_code, unused_imports)]
pub mod kick;
#[path = "../../crates/ferroce-device/src/numbers.rs"]
#[allow(dead_code, unused_imports)]
pub mod numbers;
#[path = "../../crates/ferroce-device/src/published.rs"]
#[allow(dead_code, unused_imports)]
pub mod published;
#[path = "../../crates/ferroce-device/src/queue.rs"]
#[allow(dead_code, unused_imports)]
pub mod queue;
#[path = "../../crates/ferroce-device/src/receive.rs"]
#[allow(dead_code, unused_imports)]
pub mod receive;
#[path = "../../crates/ferroce-device/src/region.rs"]
#[allow(dead_code, unused_imports)]
pub mod region;
#[path = "../../crates/ferroce-device/src/remote.rs"]
#[allow(dead_code, unused_imports)]
pub mod remote;
#[path = "../../crates/ferroce-device/src/send.rs"]
#[allow(dead_code, unused_imports)]
pub mod send;
#[path = "../../crates/ferroce-device/src/shared_receive_queue.rs"]
#[allow(dead_code, unused_imports)]
pub mod shared_receive_queue;
#[path = "../../crates/ferroce-device/src/transmit.rs"]
#[allow(dead_code, unused_imports)]
pub mod transmit;
#[path = "../../crates/ferroce-device/src/window.rs"]
#[allow(dead_code, unused_imports)]
pub mod window;

mod ah;
mod callback;
mod counters;
mod cq;
mod device;
mod dm;
mod kernel_user;
mod mr;
mod multicast;
mod mw;
mod pci;
mod place;
mod port;
mod queue_pair;
mod quota;
mod rings;
mod roce;
mod srq;
mod table;

module! {
    type: Ferroce,
    name: "ferroce",
    authors: ["The ferroce authors"],
    description: "Virtual RDMA network card",
    license: "GPL",
    alias: ["rdma-link-ferroce"],
    params: {
        local: u8 {
            default: 1,
            description: "Deliver on this host from memory to memory; 0 sends all by the wire, for tests (default: 1)",
        },
        poll: u8 {
            default: 1,
            description: "Have a thread poll busy send queues on a CPU with nothing else to do; 0 has a doorbell rung for each request (default: 1)",
        },
    },
}

/// What the module has registered. The fields are dropped from the first to the last: first no new
/// devices, and those of cards go, then the others that there are, and then nobody is left to be told of
/// network devices and namespaces.
#[pin_data]
pub struct Ferroce {
    #[pin]
    link: rdma::LinkRegistration<device::Link>,
    #[pin]
    cards: driver::Registration<Adapter<pci::Card>>,
    driver: rdma::DriverRegistration<device::Ferroce>,
    #[pin]
    notifier: rdma::NetNotifier<device::NetEvents>,
    #[pin]
    namespaces: net::Registration<roce::port::Namespaces>,
}

impl kernel::InPlaceModule for Ferroce {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: Here and nowhere else, which is called once.
        unsafe {
            device::NEWLINK.init();
            roce::port::PORTS.init();
        }
        roce::init();
        // In this order, so that there is no device before all else is in place.
        try_pin_init!(Self {
            namespaces <- net::Registration::register(),
            notifier <- rdma::NetNotifier::register(),
            driver: rdma::DriverRegistration::new(),
            cards <- driver::Registration::new(c"ferroce", rdma::this_module!()),
            link <- rdma::LinkRegistration::register(),
        })
    }
}
