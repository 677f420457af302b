// SPDX-License-Identifier: GPL-2.0

//! Where in sysfs a device is.
//!
//! Of a card on a bus, RDMA device and network device have one parent, and programs go from the one to
//! the other by `/sys/class/infiniband/DEVICE/device/net`. Here the network device is somebody else's,
//! and may have no parent at all. So each RDMA device that is not a card's has a parent of its own, and each
//! parent a folder `net` in which there is a link to the network device.

use crate::rdma::{compat::faux_device, net::InterfaceName, sysfs::Folder, NetDevice};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{device::Device, faux, prelude::*, str::CString, sync::aref::ARef};

/// The parent of an RDMA device.
pub(crate) struct Place {
    /// The name of the link in the folder.
    link: Option<InterfaceName>,
    // In this order: the folder goes before what it is in.
    folder: Folder,
    parent: Parent,
}

enum Parent {
    Own(faux::Registration),
    Card(ARef<Device>),
}

impl Place {
    /// Makes it, with nothing below.
    pub(crate) fn new() -> Result<Self> {
        // RDMA devices can be renamed, and their names given to others.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = CString::try_from_fmt(fmt!("ferroce.{number}"))?;
        let parent = faux::Registration::new(&name, None)?;
        Ok(Self {
            link: None,
            folder: Folder::new(faux_device(&parent), c"net")?,
            parent: Parent::Own(parent),
        })
    }

    /// That of a card, which stays on its bus until the RDMA device has gone.
    pub(crate) fn of_card(card: &Device) -> Result<Self> {
        Ok(Self {
            link: None,
            folder: Folder::new(card, c"net")?,
            parent: Parent::Card(card.into()),
        })
    }

    /// The device that is to be the parent.
    pub(crate) fn parent(&self) -> &Device {
        match &self.parent {
            Parent::Own(parent) => faux_device(parent),
            Parent::Card(card) => card,
        }
    }

    /// Has the link lead to a network device, by the name that this has now, or to none.
    pub(crate) fn show(&mut self, netdev: Option<&NetDevice>) {
        let name = netdev.map(NetDevice::name);
        if name == self.link {
            return;
        }
        if let Some(before) = self.link.take() {
            self.folder.remove_link(before.as_c_str());
        }
        let Some((netdev, name)) = netdev.zip(name) else {
            return;
        };
        match self.folder.add_link(name.as_c_str(), netdev) {
            Ok(()) => self.link = Some(name),
            // It is a help for programs; the device works without.
            Err(error) => pr_warn!("no link to {name} in sysfs: {error:?}\n"),
        }
    }
}
