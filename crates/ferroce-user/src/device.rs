// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices, and what a process has opened.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ferroce_core::verbs::EventType;

use crate::events::Events;
use crate::process::Process;
use crate::{Errno, Result};

/// A GID.
pub type Gid = [u8; 16];

/// A device that a process has opened.
pub struct Context {
    /// The process.
    pub process: &'static Process,
    /// The GUID of the device.
    pub(crate) guid: u64,
    /// The table of GIDs, as the device has it.
    gids: Vec<Gid>,
    /// The asynchronous events.
    pub(crate) events: Arc<Events>,
}

impl Context {
    /// Opens a device, whose attributes are in this folder (`class/infiniband/NAME`).
    pub fn open(device: &Path, events: Events) -> Result<Arc<Self>> {
        let mut gids = Vec::new();
        while let Ok(text) = fs::read_to_string(device.join(format!("ports/1/gids/{}", gids.len())))
        {
            gids.push(parse(&text).ok_or(Errno(libc::EPROTO))?);
        }
        Ok(Arc::new(Self {
            process: Process::join()?,
            guid: guid(device),
            gids,
            events: Arc::new(events),
        }))
    }

    /// The GID at an index.
    pub fn gid(&self, index: u32) -> Result<Gid> {
        let gid = self.gids.get(index as usize).copied();
        // An entry that is not in use.
        gid.filter(|gid| *gid != [0; 16])
            .ok_or(Errno(libc::ENODATA))
    }

    /// How many GIDs there are.
    pub fn gid_count(&self) -> usize {
        self.gids.len()
    }

    /// Whether a GID is one of this host.
    pub(crate) fn has_gid(&self, gid: &Gid) -> bool {
        self.gids.contains(gid)
    }

    /// `struct ib_uverbs_async_event_desc`, of the object that the program's events name by this.
    pub(crate) fn event(&self, user_handle: u64, event: EventType) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&user_handle.to_ne_bytes());
        bytes[8..12].copy_from_slice(&u32::from(event).to_ne_bytes());
        bytes
    }

    /// Raises an asynchronous event.
    pub(crate) fn raise(&self, user_handle: u64, event: EventType) {
        self.process
            .tell(&self.events, &self.event(user_handle, event));
    }
}

/// A GID as sysfs has it: eight groups of four digits.
fn parse(text: &str) -> Option<Gid> {
    text.trim()
        .parse::<std::net::Ipv6Addr>()
        .ok()
        .map(|address| address.octets())
}

/// The GUID of the device whose attributes are in a folder; zero if it has none.
pub fn guid(device: &Path) -> u64 {
    let text = fs::read_to_string(device.join("node_guid")).unwrap_or_default();
    u64::from_str_radix(&text.trim().replace(':', ""), 16).unwrap_or(0)
}
