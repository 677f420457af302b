// SPDX-License-Identifier: GPL-2.0

//! What comes in.

use crate::{
    device::Ferroce,
    net::{Datagram, Receiver},
    rdma::Device,
};

/// Who takes what comes to the port.
pub(crate) struct Incoming;

impl Receiver for Incoming {
    fn receive(datagram: Datagram) {
        let _ = datagram.netdev().and_then(Device::<Ferroce>::from_netdev);
    }
}
