// SPDX-License-Identifier: GPL-2.0

//! Datagrams.

use super::{gso::GsoBatch, path::Path};
use crate::{
    arrival::Arrival,
    counter::PortCounter,
    device::Ferroce,
    local::{self, Fault},
    mr::Range,
    net::{IpHeader, Packet},
    queue_pair::{Peer, Qp},
    rdma::{self, Device, Gid},
    wire::{self, grh, Psn},
};

/// Makes a packet of a datagram, from the number and the Q_Key that it is for. `None` without memory:
/// then it is as if it were lost on the way. An error if the sender's own memory is not there.
pub(crate) fn make(
    path: &mut Path,
    datagram: &local::Datagram<'_, Range>,
    to: (u32, u32),
    psn: u32,
) -> Result<Option<Packet>, Fault> {
    let ((qpn, qkey), psn) = (to, Psn::new(psn));
    let emit = |room: &mut [u8]| datagram.emit(qpn, qkey, psn, room);
    let length = match emit(&mut []) {
        Err(too_short) => too_short.0,
        Ok(_) => return Ok(None),
    };
    let Some(mut batch) = GsoBatch::new(path, length, 1) else {
        return Ok(None);
    };
    let emitted = batch.add(|room| match emit(room) {
        Ok(Ok(length)) => (Some(length), Ok(())),
        Ok(Err(fault)) => (None, Err(fault)),
        // There is room.
        Err(_) => (None, Ok(())),
    });
    emitted.map(|()| Some(batch.finish().1))
}

/// Takes a datagram to its queue pair, or to those of a multicast group.
pub(super) fn receive(
    device: &Device<Ferroce>,
    ip: &IpHeader,
    arrival: Arrival,
    packet: &wire::Packet<'_>,
) -> Result<(), PortCounter> {
    let grh = match ip {
        IpHeader::V4(ip) => grh::of_ipv4(ip),
        IpHeader::V6(ip) => *ip,
    };
    let datagram = local::Arrived::new(packet, grh).ok_or(PortCounter::Malformed)?;
    let deliver = |qp: &rdma::Qp<Qp>, qkey: u32| {
        let taker = Peer::datagram(qp, qkey)?;
        if datagram.deliver(&taker) {
            let counters = &qp.device().counters;
            counters.add(PortCounter::RcvdBytes, datagram.length().into());
        }
        Ok(())
    };
    match arrival {
        Arrival::Group { qkey } => {
            let group = Gid::of(ip.destination());
            let mut members = 0..;
            let next = || device.groups.member(&group.0, members.next()?);
            // Who has another Q_Key is none of the group.
            core::iter::from_fn(next).for_each(|qp| deliver(&qp, qkey).unwrap_or(()));
            Ok(())
        }
        Arrival::Datagram { .. } if !Ferroce::has_address(device, ip.destination()) => {
            Err(PortCounter::WrongSource)
        }
        Arrival::Datagram { qpn, qkey } => {
            let qp = device.qps.get(qpn).ok_or(PortCounter::UnknownQp)?;
            deliver(&qp, qkey)
        }
        Arrival::Connected(_) | Arrival::Nobody => Ok(()),
    }
}
