// SPDX-License-Identifier: GPL-2.0

//! The port, as those of the kernel have it who manage it.

use crate::{
    bindings::*,
    datagram::datagrams,
    verbs::{eopnotsupp, Device},
};
use kernel::prelude::*;

/// What can be changed is, and the rest is refused.
pub(crate) fn changes(device: &Device) -> Result {
    let reset = ib_port_modify_flags_IB_PORT_RESET_QKEY_CNTR;
    let mut change = ib_port_modify::default();
    device.modify_port(reset, &mut change)?;
    datagrams(device)?;
    check_eq!(device.port()?.qkey_viol_cntr, 2);
    device.modify_port(0, &mut change)?;
    check_eq!(device.port()?.qkey_viol_cntr, 2);
    device.modify_port(reset, &mut change)?;
    check_eq!(device.port()?.qkey_viol_cntr, 0);

    let managed = ib_uverbs_query_port_cap_flags_IB_UVERBS_PCF_DEVICE_MGMT_SUP;
    let before = device.port()?.port_cap_flags;
    check_eq!(before & managed, 0);
    change.set_port_cap_mask = managed;
    device.modify_port(0, &mut change)?;
    check_eq!(device.port()?.port_cap_flags, before | managed);
    change.set_port_cap_mask = 0;
    change.clr_port_cap_mask = managed;
    device.modify_port(0, &mut change)?;
    check_eq!(device.port()?.port_cap_flags, before);

    for other in [
        ib_port_modify_flags_IB_PORT_SHUTDOWN,
        ib_port_modify_flags_IB_PORT_INIT_TYPE,
    ] {
        check_eq!(device.modify_port(other, &mut change), Err(eopnotsupp()));
    }
    Ok(())
}
