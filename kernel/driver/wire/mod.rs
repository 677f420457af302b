// SPDX-License-Identifier: GPL-2.0

//! The wire: RoCE v2, packets of UDP between hosts.

pub(crate) mod port;
mod receive;

/// The UDP port of RoCE v2 (IBTA A17.4.2).
pub(crate) const UDP_PORT: u16 = 4791;
