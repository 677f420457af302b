// SPDX-License-Identifier: GPL-2.0

//! The card on a PCI bus: how the driver of hardware comes to its device.
//!
//! 1. [`module_device_table`](crate::rdma::compat) puts the vendor and device numbers below into the module's
//!    aliases (`modinfo ferroce`). When the kernel finds a function with these numbers on the bus, udev
//!    loads the module that has such an alias.
//! 2. [`Ferroce`](crate::Ferroce) registers the driver, and the PCI core calls [`Card::probe`](pci::Driver::probe)
//!    for each function that is there, and for each that is plugged in later.
//! 3. `probe` switches the function's memory on, maps it, looks whether it is what the driver takes it for, and
//!    registers an RDMA device.
//! 4. When the function goes, or is given to another driver (`/sys/bus/pci/drivers/ferroce/unbind`), or the module
//!    is unloaded, `unbind` has the RDMA device go, and waits until nobody has the function's memory
//!    any more. The rest is undone as [`Bound`] is dropped.
//!
//! Suspend and resume need nothing of the driver's: the function has no state but its memory, which stays, and
//! the registers that the PCI core saves.

use crate::{
    card::{Header, DEVICE, HEADER_LEN, MEMORY_BAR, MEMORY_OFFSET},
    device::{self, Ferroce},
    rdma::{compat, BarMemory, NetDevice, Rtnl, WeakDevice},
};
use kernel::{
    bindings::EPROBE_DEFER,
    device::Core,
    pci,
    prelude::*,
    sync::{Arc, Completion},
};

// ANCHOR: table
/// The driver, as the bus knows it.
pub(crate) struct Card;

compat::pci_device_table!(
    TABLE,
    MODULE_TABLE,
    [(
        pci::DeviceId::from_id(pci::Vendor::REDHAT_QUMRANET, DEVICE as u32),
        ()
    )]
);
// ANCHOR_END: table

// ANCHOR: bound
/// A card that the driver is bound to.
pub(crate) struct Bound {
    /// It may go before, with its network device.
    device: WeakDevice<Ferroce>,
    /// Completed when nobody has the card's memory any more.
    gone: Arc<Completion>,
}
// ANCHOR_END: bound

impl pci::Driver for Card {
    type IdInfo = ();
    type Data<'bound> = Bound;
    const ID_TABLE: pci::IdTable<()> = &TABLE;

    // ANCHOR: probe
    fn probe<'bound>(
        card: &'bound pci::Device<Core<'_>>,
        _function: compat::IdInfo<'bound, ()>,
    ) -> impl PinInit<Bound, Error> + 'bound {
        card.enable_device_mem()?;
        let gone = Arc::pin_init(Completion::new(), GFP_KERNEL)?;
        let memory = BarMemory::map(card, MEMORY_BAR, MEMORY_OFFSET, c"ferroce", gone.clone())?;

        let mut header = [0; HEADER_LEN];
        memory.read_header(&mut header)?;
        // Others have functions of this kind for what they like.
        let header = Header::parse(&header).ok_or(ENODEV)?;

        // On a card with both, the network device would be this driver's too. It is virtio's here, and may
        // come later: then the kernel probes once more.
        let netdev = NetDevice::find_by_mac(header.mac, &Rtnl::lock());
        let netdev = netdev.ok_or(Error::from_errno(-(EPROBE_DEFER as i32)))?;

        let device = device::add(c"ferroce%d", &netdev, Some((card.as_ref(), memory)))?;
        dev_info!(card, "RDMA device over {}\n", netdev.name());
        Ok(Bound { device, gone })
    }
    // ANCHOR_END: probe

    // ANCHOR: unbind
    fn unbind<'bound>(_: &'bound pci::Device<Core<'_>>, this: Pin<&Bound>) {
        if let Some(device) = this.device.upgrade() {
            device.unregister();
        }
        this.gone.wait_for_completion();
    }
    // ANCHOR_END: unbind
}
