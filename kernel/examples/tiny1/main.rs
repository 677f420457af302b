// SPDX-License-Identifier: GPL-2.0

//! The smallest RDMA device, step 1 of 3: it registers.
//!
//! ```text
//! rdma link add tiny0 type tiny1 netdev eth0
//! ```
//!
//! Its port is not there and nobody can open it; the next steps add that.

// ANCHOR: uses
use kernel::prelude::*;
use rdma::*;

#[path = "../../rdma/mod.rs"]
#[allow(unused_imports, unused_macros)]
pub mod rdma;
// ANCHOR_END: uses

// ANCHOR: module
module! {
    type: Tiny,
    name: "tiny1",
    authors: ["The ferroce authors"],
    description: "The smallest RDMA device, step 1: it registers",
    license: "GPL",
    // So that `rdma link add` loads the module.
    alias: ["rdma-link-tiny1"],
}

/// What the module has registered. The fields are dropped from the first to the last: no new devices,
/// then those that there are go.
#[pin_data]
pub struct Tiny {
    #[pin]
    link: LinkRegistration<Link>,
    driver: DriverRegistration<Card>,
}

impl kernel::InPlaceModule for Tiny {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            driver: DriverRegistration::new(),
            link <- LinkRegistration::register(),
        })
    }
}
// ANCHOR_END: module

// ANCHOR: link
struct Link;

impl LinkOps for Link {
    const TYPE: &'static CStr = c"tiny1";

    fn newlink(name: &CStr, netdev: &NetDevice) -> Result {
        NewDevice::new(netdev, try_init!(Card {}))?.register(name)
    }
}
// ANCHOR_END: link

// ANCHOR: card
/// The driver's data for one device: none.
struct Card {}

#[vtable]
impl Operations for Card {
    const MODULE: &'static ThisModule = this_module!();
    const DRIVER_ID: u32 = u32::from_be_bytes(*b"TIN1");
    const ABI_VERSION: u32 = 1;
    const NODE_DESC: &'static str = "tiny";

    type Ucontext = Unsupported<Self>;
    type Pd = Unsupported<Self>;
    type Ah = Unsupported<Self>;
    type Cq = Unsupported<Self>;
    type Srq = Unsupported<Self>;
    type Qp = Unsupported<Self>;
    type Mr = Unsupported<Self>;
    type Mw = Unsupported<Self>;
    type Dm = Unsupported<Self>;

    fn query_device(_device: &Device<Self>, attr: &mut DeviceAttr) -> Result {
        // `rdma link delete` may unregister it.
        attr.kernel_cap_flags = KernelCaps::ALLOW_USER_UNREG.bits().into();
        Ok(())
    }

    fn query_port(_device: &Device<Self>, _port: u32, _attr: &mut PortAttr) -> Result {
        Ok(())
    }

    fn port_immutable(_: &Device<Self>, _port: u32, _immutable: &mut PortImmutable) -> Result {
        Ok(())
    }

    fn link_layer(_device: &Device<Self>, _port: u32) -> LinkLayer {
        LinkLayer::Ethernet
    }

    fn query_pkey(_device: &Device<Self>, _port: u32, _index: u16) -> Result<u16> {
        Err(EINVAL)
    }
}
// ANCHOR_END: card
