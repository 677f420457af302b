// SPDX-License-Identifier: GPL-2.0

//! Sending datagrams: to queue pairs of this host, and to others.

use super::{
    inbound::Entered,
    peer_cache::at,
    receive::{Own, Peer},
    Qp, QpRef,
};
use crate::{
    ah,
    counter::PortCounter,
    local::{self, Delivery, Fault},
    mr::Uncached,
    net,
    rdma::{self, Gid},
    ring::{Data, SendRequest},
    roce,
    send::{Attempt, Tries},
    verbs::{limits, WcStatus},
};
/// What datagrams for other hosts are sent with.
#[derive(Default)]
pub(super) struct Datagrams {
    /// One that is made, and not sent yet.
    ready: Option<net::Packet>,
    /// The way that the last one went.
    path: Option<roce::Path>,
    /// Counts them, from the first one on.
    in_flight: Option<net::InFlight>,
    /// How many there were: nobody looks at their PSN, but it counts up (IBTA 9.8.3).
    sent: u32,
}

impl Datagrams {
    /// The way to an address.
    fn path_for(&mut self, address: roce::Address) -> &mut roce::Path {
        self.path = self.path.take().filter(|path| path.is_to(&address));
        self.path.get_or_insert_with(|| roce::Path::new(address))
    }

    /// Sends what is ready.
    pub(super) fn send(&mut self, qp: &rdma::Qp<Qp>) {
        let (Some(packet), Some(path)) = (self.ready.take(), &mut self.path) else {
            return;
        };
        let device = qp.device();
        let in_flight = match self.in_flight.take() {
            Some(in_flight) => Ok(in_flight),
            None => roce::in_flight(device),
        };
        // Without memory it is as if it were lost on the way.
        if let Ok(in_flight) = in_flight {
            path.send(device, packet, 1, self.in_flight.insert(in_flight));
        }
    }
}

/// Not inlined: its list of regions is not to be on the stack beside that of [`local::execute`].
#[inline(never)]
pub(super) fn datagram(
    qp: &rdma::Qp<Qp>,
    request: &SendRequest,
    data: Data<'_>,
    datagrams: &mut Datagrams,
    tries: &mut Tries,
) -> Attempt {
    let device = qp.device();
    let Some(to) = request.destination else {
        return Attempt::Failed(WcStatus::LocQpOpErr);
    };
    let Some(address) = device.ahs.get(to.ah).filter(|a| a.pd == qp.pd) else {
        return Attempt::Failed(WcStatus::LocQpOpErr);
    };
    let own_qkey = qp.shared.lock().attr.qkey;
    let qkey = limits::datagram_qkey(to.remote_qkey, own_qkey);
    let in_flight = datagrams.in_flight.as_ref();
    if in_flight.is_some_and(net::InFlight::is_full) {
        return Attempt::Wait(roce::PAUSE);
    }
    let source = local::Source {
        qpn: qp.number,
        grh: address.grh(data.length()),
    };
    let mtu = crate::port::mtu(device).bytes();
    let mut list = local::RegionList::new();
    match local::Datagram::new(request, data, &Own(qp, Uncached), mtu, source, &mut list) {
        Ok(datagram) => {
            let counters = &device.counters;
            let deliver = |peer: &QpRef| {
                let peer = Entered::new(peer.clone());
                let delivery = datagram.deliver(&Peer::datagram(&peer, qkey)?);
                if delivery == Delivery::Done {
                    let counters = &peer.device().counters;
                    counters.add(PortCounter::RcvdBytes, datagram.length().into());
                }
                Ok(delivery)
            };
            let mut delivered = None;
            if to.remote_qpn == limits::MULTICAST_QPN && !device.netns_mismatch() {
                let mut members = 0..;
                let next = || device.groups.member(&address.dgid, members.next()?);
                // IBTA 10.5.1: to all members but the sender itself.
                core::iter::from_fn(next)
                    .filter(|member| member.number != qp.number)
                    // As of the wire: who has another Q_Key is none of the group. A member whose memory
                    // is not there yet does not have the others get the datagram twice.
                    .for_each(|member| match deliver(&member) {
                        Ok(Delivery::MemoryLater) | Err(_) => {}
                        Ok(delivery) => delivered = Some(delivery),
                    });
            } else if let Some(peer) = at(device, Gid(address.dgid), |peer| {
                peer.qps.get(to.remote_qpn)
            }) {
                delivered = deliver(&peer)
                    .inspect_err(|why| peer.device().counters.count(*why))
                    .ok();
            }
            match delivered {
                Some(Delivery::Failed(status)) => return Attempt::Failed(status),
                Some(Delivery::OwnMemoryLater) => return Attempt::OwnMemory,
                Some(Delivery::MemoryLater) => {
                    if let Some(delay) = tries.wait_for_memory() {
                        return Attempt::Wait(delay);
                    }
                }
                _ => {}
            }
            if roce::is_remote_gid(device, &address.dgid) {
                datagrams.sent = datagrams.sent.wrapping_add(1);
                let (way, to) = (ah::way(&address, qp.number), (to.remote_qpn, qkey));
                let psn = datagrams.sent;
                let path = datagrams.path_for(way);
                match roce::datagram::make(path, &datagram, to, psn) {
                    Ok(packet) => datagrams.ready = packet,
                    Err(Fault::Later) => return Attempt::OwnMemory,
                    Err(Fault::Gone) => return Attempt::Failed(WcStatus::LocProtErr),
                }
            } else if delivered.is_none() {
                counters.count(PortCounter::Undelivered);
            }
            counters.count(PortCounter::RdmaSends);
            counters.add(PortCounter::SentBytes, datagram.length().into());
            Attempt::Done(datagram.length())
        }
        Err(status) => Attempt::Failed(status),
    }
}
