// SPDX-License-Identifier: GPL-2.0

//! What comes in.

use super::{burst::icrc_of, datagram};
use crate::{
    counters::Port,
    device::Ferroce,
    net::{Datagram, IpHeader, Receiver},
    qp::state,
    queue_pair::{Qp, QpRef},
    rdma::{self, Device, DeviceRef, Gid},
    verbs::limits,
    wire::{Bth, Packet, Service, ICRC_LEN},
};
use core::net::IpAddr;

/// Who takes what comes to the port.
pub(crate) struct Incoming;

impl Receiver for Incoming {
    fn receive(datagram: Datagram) {
        let Some(device) = device_of(&datagram) else {
            return;
        };
        if device.is_apart() {
            return;
        }
        let payload = datagram.payload();
        if payload.is_empty() {
            device.counters.count(Port::RcvdPackets);
            device.counters.count(Port::Malformed);
            return;
        }
        let size = datagram.segment_size().unwrap_or(payload.len()).max(1);
        let mut receiving = Receiving {
            device: &device,
            qp: None,
        };
        for (index, bytes) in payload.chunks(size).enumerate() {
            let ip = datagram.ip().segment(index as u16, bytes.len());
            device.counters.count(Port::RcvdPackets);
            if let Err(dropped) = receiving.take(&ip, datagram.ports(), bytes) {
                device.counters.count(dropped);
            }
        }
        receiving.answer();
    }
}

/// The device that a packet is for: the one over the network device that it came by, or that has the
/// address, if the packet came by another way: from this host.
fn device_of(datagram: &Datagram) -> Option<DeviceRef<Ferroce>> {
    let netdev = datagram.netdev()?;
    if let Some(device) = Device::from_netdev(netdev) {
        return Some(device);
    }
    let destination = datagram.ip().destination();
    let owner = netdev.with_address(destination)?;
    Device::from_netdev(&owner).or_else(|| {
        owner.find_below(|lower| {
            let device = Device::<Ferroce>::from_netdev(lower)?;
            Ferroce::has_address(&device, destination).then_some(device)
        })
    })
}

/// What came as one.
struct Receiving<'a> {
    device: &'a Device<Ferroce>,
    /// Who got the last packet, and has not answered yet.
    qp: Option<QpRef>,
}

impl Receiving<'_> {
    /// Takes a packet to its queue pair, or says what keeps it from there.
    fn take(&mut self, ip: &IpHeader, ports: (u16, u16), bytes: &[u8]) -> Result<(), Port> {
        let (transport, icrc) = bytes
            .split_last_chunk::<ICRC_LEN>()
            .ok_or(Port::Malformed)?;
        let header: &[u8; Bth::LEN] = transport.first_chunk().ok_or(Port::Malformed)?;
        let ([a, b], [c, d]) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
        let [e, f] = ((bytes.len() + 8) as u16).to_be_bytes();
        if icrc_of(ip, &[a, b, c, d, e, f, 0, 0], transport) != *icrc {
            return Err(Port::WrongIcrc);
        }
        let packet = Packet::parse(transport).map_err(|_| Port::Malformed)?;
        // Both are of the partition, and one of them is a full member of it: this one (IBTA 10.9.3).
        if packet.bth.pkey & 0x7fff != limits::DEFAULT_PKEY & 0x7fff {
            return Err(Port::WrongPkey);
        }
        let number = Bth::dest_qp_of(header);
        match packet.bth.opcode.service() {
            Service::Ud => datagram::receive(self.device, ip, number, &packet),
            Service::Rc | Service::Uc => self.connected(ip, number, &packet),
            // There is no congestion control that would slow down.
            Service::Cnp => Ok(()),
        }
    }

    fn connected(&mut self, ip: &IpHeader, number: u32, packet: &Packet<'_>) -> Result<(), Port> {
        if self.qp.as_ref().is_none_or(|qp| qp.number != number) {
            self.answer();
            self.qp = self.device.qps.get(number);
        }
        let qp = self.qp.as_ref().ok_or(Port::UnknownQp)?;
        if Service::of(qp.qp_type) != packet.bth.opcode.service() {
            return Err(Port::UnknownQp);
        }
        qp.connection
            .take(qp, packet, || check_peer(qp, ip, packet))
    }

    /// Has the queue pair that got the last packet answer.
    fn answer(&mut self) {
        if let Some(qp) = self.qp.take() {
            qp.connection.answer(&qp);
        }
    }
}

/// Checks that a packet is of the peer that a queue pair is connected to, and that the queue pair is in
/// a state to take it.
fn check_peer(qp: &rdma::Qp<Qp>, ip: &IpHeader, packet: &Packet<'_>) -> Result<(), Port> {
    let shared = qp.shared.lock();
    let state = shared.attr.state;
    let takes = match packet.bth.opcode.kind().is_response() {
        true => state::accepts_responses(state),
        false => state::accepts_requests(state),
    };
    if shared.is_gone || !takes {
        return Err(Port::NotReady);
    }
    let is = |gid: [u8; 16], address: IpAddr| Gid(gid).ip() == address;
    // IBTA 9.6.1.2.1, 9.6.1.2.2: both are to be checked.
    if !is(shared.attr.ah_attr.dgid, ip.source()) || !is(shared.sgid, ip.destination()) {
        return Err(Port::WrongSource);
    }
    Ok(())
}
