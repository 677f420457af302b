// SPDX-License-Identifier: GPL-2.0

//! The smallest RDMA device, step 3 of 3: programs can open it.
//!
//! ```text
//! rdma link add tiny0 type tiny3 netdev eth0
//! ```
//!
//! Programs can open it, as `ibv_devinfo` does, and allocate protection domains. There are no queues.

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
    name: "tiny3",
    authors: ["The ferroce authors"],
    description: "The smallest RDMA device, step 3: programs can open it",
    license: "GPL",
    // So that `rdma link add` loads the module.
    alias: ["rdma-link-tiny3"],
}

/// What the module has registered. The fields are dropped from the first to the last: no new devices,
/// then those that there are go, and then nobody is left to be told of network devices.
#[pin_data]
pub struct Tiny {
    #[pin]
    link: LinkRegistration<Link>,
    driver: DriverRegistration<Card>,
    #[pin]
    notifier: NetNotifier<Events>,
}

impl kernel::InPlaceModule for Tiny {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            notifier <- NetNotifier::register(),
            driver: DriverRegistration::new(),
            link <- LinkRegistration::register(),
        })
    }
}
// ANCHOR_END: module

// ANCHOR: link
struct Link;

impl LinkOps for Link {
    const TYPE: &'static CStr = c"tiny3";

    fn newlink(name: &CStr, netdev: &NetDevice) -> Result {
        let mut device = NewDevice::new(netdev, try_init!(Card {}))?;
        device.set_node_guid(rdma::random());
        device.set_netdev(1, netdev)?;
        device.register(name)
    }
}
// ANCHOR_END: link

// ANCHOR: events
struct Events;

impl NetEvents for Events {
    fn event(event: NetEvent, netdev: &NetDevice, _rtnl: &Rtnl) {
        if event == NetEvent::Unregister {
            if let Some(device) = Device::<Card>::from_netdev(netdev) {
                device.unregister_queued();
            }
        }
    }
}
// ANCHOR_END: events

/// Entries of the port's table of GIDs, and of its table of partition keys.
const GIDS: u8 = 16;
const PKEYS: u16 = 1;

// ANCHOR: card
/// The driver's data for one device: none.
struct Card {}

#[vtable]
impl Operations for Card {
    const MODULE: &'static ThisModule = this_module!();
    const DRIVER_ID: u32 = u32::from_be_bytes(*b"TIN3");
    const ABI_VERSION: u32 = 1;
    const NODE_DESC: &'static str = "tiny";

    type Ucontext = Context;
    type Pd = Domain;
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
        attr.max_pkeys = PKEYS;
        attr.max_pd = 16;
        Ok(())
    }

    // ANCHOR: port
    fn query_port(device: &Device<Self>, port: u32, attr: &mut PortAttr) -> Result {
        let netdev = device.netdev(port).ok_or(ENODEV)?;
        let (state, phys_state) = netdev.port_state();
        attr.state = state.as_raw();
        attr.phys_state = phys_state.as_raw() as u8;
        attr.max_mtu = Mtu::Mtu4096.as_raw();
        attr.active_mtu = Mtu::Mtu1024.as_raw();
        attr.gid_tbl_len = GIDS.into();
        attr.pkey_tbl_len = PKEYS;
        attr.max_msg_sz = 1 << 31;
        attr.active_width = Width::X1.as_raw() as u8;
        attr.active_speed = Speed::Sdr.as_raw() as u16;
        Ok(())
    }

    fn port_immutable(_: &Device<Self>, _port: u32, immutable: &mut PortImmutable) -> Result {
        immutable.gid_tbl_len = GIDS.into();
        immutable.pkey_tbl_len = PKEYS.into();
        immutable.core_cap_flags = PortCoreCaps::PROT_ROCE_UDP_ENCAP.bits();
        Ok(())
    }
    // ANCHOR_END: port

    fn link_layer(_device: &Device<Self>, _port: u32) -> LinkLayer {
        LinkLayer::Ethernet
    }

    fn query_pkey(_device: &Device<Self>, _port: u32, index: u16) -> Result<u16> {
        // The default partition, with full membership (IBTA A17.7).
        (index == 0).then_some(0xffff).ok_or(EINVAL)
    }
}
// ANCHOR_END: card

// ANCHOR: context
/// What a process has of a device that it has opened.
struct Context {}

#[vtable]
impl ucontext::Operations for Context {
    type Device = Card;

    fn alloc(
        _ucontext: &NewUcontext<'_, Self>,
        udata: &Udata<'_>,
    ) -> Result<impl PinInit<Self, Error>> {
        // The driver and its provider have nothing to tell each other.
        udata.none()?;
        Ok(try_init!(Context {}))
    }
}
// ANCHOR_END: context

// ANCHOR: domain
struct Domain {}

#[vtable]
impl pd::Operations for Domain {
    type Device = Card;

    fn alloc(
        _pd: &NewPd<'_, Self>,
        call: Option<&UserCall<'_, Card>>,
    ) -> Result<impl PinInit<Self, Error>> {
        if let Some(call) = call {
            call.none()?;
        }
        Ok(try_init!(Domain {}))
    }
}
// ANCHOR_END: domain
