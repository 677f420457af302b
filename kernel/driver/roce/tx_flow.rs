// SPDX-License-Identifier: GPL-2.0

//! Packets that stay in their order.

use super::path::{Address, Path};
use crate::{device::Ferroce, net::InFlight, queue_pair::Qp, rdma};
use kernel::{cpu::CpuId, prelude::*};

/// The way of one half of a connection to its peer, on which no packet overtakes another.
///
/// What two CPUs send may arrive in any order: each has queues of its own, in this host and in hardware. So
/// the CPU that has sent the last packet sends the next one as well, unless all have arrived. The kernel
/// does the same for what sockets send (`ooo_okay` of an `sk_buff`).
pub(super) struct TxFlow {
    /// Where it leads, once that is known.
    path: Option<Path>,
    in_flight: InFlight,
    /// Who has sent the last packet.
    cpu: CpuId,
}

impl TxFlow {
    /// Of a connection of a device. It may sleep.
    pub(super) fn new(device: &rdma::Device<Ferroce>) -> Result<Self> {
        Ok(Self {
            path: None,
            in_flight: in_flight(device)?,
            cpu: CpuId::current(),
        })
    }

    /// Whether this CPU may send, and what it sends comes after all that was sent before. It must stay this
    /// CPU until that is done.
    pub(super) fn keeps_order(&mut self) -> bool {
        let here = CpuId::current();
        if here.as_u32() == self.cpu.as_u32() {
            return true;
        }
        if !self.in_flight.is_empty() {
            return false;
        }
        self.cpu = here;
        true
    }

    /// Whether so much is on its way already that more would be lost.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight.is_full()
    }

    /// The path, and what counts the packets there.
    pub(super) fn path(&mut self, qp: &rdma::Qp<Qp>) -> (&mut Path, &InFlight) {
        let path = self.path.get_or_insert_with(|| Path::new(address(qp)));
        (path, &self.in_flight)
    }

    /// The queue pair's attributes have changed, and with them, perhaps, where it leads.
    pub(super) fn changed(&mut self) {
        self.path = None;
    }
}

/// What counts the packets that a queue pair of a device sends. It may sleep.
pub(crate) fn in_flight(device: &rdma::Device<Ferroce>) -> Result<InFlight> {
    InFlight::new(&*device.netdev(1).ok_or(ENODEV)?)
}

/// Where packets of a connected queue pair go.
fn address(qp: &rdma::Qp<Qp>) -> Address {
    let shared = qp.shared.lock();
    let to = &shared.attr.ah_attr;
    Address {
        sgid: shared.sgid,
        dgid: to.dgid,
        traffic_class: to.traffic_class,
        flow_label: to.flow_label,
        hop_limit: to.hop_limit,
        entropy: qp.number ^ shared.attr.dest_qp_num,
    }
}
