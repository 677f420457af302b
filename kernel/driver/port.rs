// SPDX-License-Identifier: GPL-2.0

//! The port: its attributes, and what can be changed of them.

use super::{counters::Counters, device::Ferroce};
use crate::{
    counter::PortCounter as Counter,
    rdma::{
        eopnotsupp, Device, Mtu, PhysState, PortAttr, PortCaps, PortCoreCaps, PortImmutable,
        PortModify, PortState, Speed, Width,
    },
    verbs::{self, limits},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;

/// What the port does for the RDMA core.
const CORE_CAPS: PortCoreCaps = PortCoreCaps::IBA_ROCE_UDP_ENCAP;

/// How many GIDs there can be.
const GIDS: i32 = 1024;

/// How many partition keys there are: the default one. RoCE has no other (IBTA A17.7).
const PKEYS: u16 = limits::PKEY_TABLE_LEN;

/// All headers of RoCE v2 that can come together: IPv6 40, UDP 8, BTH 12, the longest extended headers
/// 28, ICRC 4.
const HEADERS: u32 = 40 + 8 + 12 + 28 + 4;

/// The MTU as it is now.
pub(crate) fn mtu(device: &Device<Ferroce>) -> verbs::Mtu {
    let mtu = device.netdev(1).map_or(0, |n| n.mtu());
    verbs::Mtu::largest_within(mtu.saturating_sub(HEADERS)).unwrap_or(verbs::Mtu::B256)
}

/// What the kernel's users can change of the port.
pub(crate) struct Port {
    /// [`PortCaps`]: which of the port's managers are there.
    caps: AtomicU32,
    /// How many Q_Key violations had been counted when the counter was last reset.
    qkey_violations: AtomicU64,
}

impl Port {
    pub(crate) fn new() -> Self {
        Self {
            caps: AtomicU32::new(PortCaps::CM_SUP.bits()),
            qkey_violations: AtomicU64::new(0),
        }
    }

    /// Changes what can be changed. `EOPNOTSUPP` for the rest.
    pub(crate) fn modify(&self, counters: &Counters, change: &PortModify) -> Result {
        if change.has_others {
            return Err(eopnotsupp());
        }
        self.caps
            .fetch_or(change.set_caps.bits(), Ordering::Relaxed);
        self.caps
            .fetch_and(!change.clear_caps.bits(), Ordering::Relaxed);
        if change.reset_qkey_violations {
            let counted = counters.port(Counter::WrongQkey);
            self.qkey_violations.store(counted, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Fills in the attributes.
pub(crate) fn query(device: &Device<Ferroce>, attr: &mut PortAttr) -> Result {
    let netdev = device.netdev(1).ok_or(ENODEV)?;
    let (state, phys_state) = match device.netns_mismatch() {
        false => netdev.port_state(),
        true => (PortState::Down, PhysState::Disabled),
    };
    attr.state = state.as_raw();
    attr.phys_state = phys_state.as_raw() as u8;
    attr.max_mtu = Mtu::Mtu4096.as_raw();
    attr.active_mtu = mtu(device).number().into();
    attr.gid_tbl_len = GIDS;
    attr.pkey_tbl_len = PKEYS;
    attr.set_ip_gids(1);
    attr.port_cap_flags = device.port.caps.load(Ordering::Relaxed);
    attr.max_msg_sz = 1 << 31;
    attr.active_width = Width::X4.as_raw() as u8;
    attr.active_speed = Speed::Edr.as_raw() as u16;
    // Violations (IBTA 14.2.5.6, PortInfo), which stay at their largest value.
    let number = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    let counters = &device.counters;
    attr.bad_pkey_cntr = number(counters.port(Counter::WrongPkey));
    let before = device.port.qkey_violations.load(Ordering::Relaxed);
    attr.qkey_viol_cntr = number(counters.port(Counter::WrongQkey).saturating_sub(before));
    Ok(())
}

/// Fills in what does not change.
pub(crate) fn immutable(immutable: &mut PortImmutable) {
    immutable.gid_tbl_len = GIDS;
    immutable.pkey_tbl_len = PKEYS.into();
    immutable.core_cap_flags = CORE_CAPS.bits();
    immutable.max_mad_size = limits::MAD_LENGTH;
}
