// SPDX-License-Identifier: GPL-2.0

//! Sending datagrams: to queue pairs of this host, and to others.

use super::{
    inbound::Entered,
    peer_cache::at,
    receive::{Own, Peer},
    FoundQp, Qp,
};
use crate::{
    ah,
    counter::PortCounter,
    datagram::{Deliveries, Route},
    local::{self, Fault},
    mr::Uncached,
    net,
    rdma::{self, Gid},
    ring::{Data, SendRequest},
    roce,
    send::{Attempt, Tries},
    verbs::WcStatus,
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
    /// How many bytes the last one has put into the memory of this host's queue pairs, all together.
    copied: u32,
}

impl Datagrams {
    /// How many bytes the last one has put into memory of this host.
    pub(super) fn copied(&self) -> u32 {
        self.copied
    }

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
    let own_qkey = qp.shared.lock().attr.qkey;
    let route = match Route::of(request, qp.pd, own_qkey, |number| {
        device.ahs.entry(number)?.copy()
    }) {
        Ok(route) => route,
        Err(status) => return Attempt::Failed(status),
    };
    let in_flight = datagrams.in_flight.as_ref();
    if in_flight.is_some_and(net::InFlight::is_full) {
        return Attempt::Wait(roce::PAUSE);
    }
    let mtu = crate::port::mtu(device).bytes();
    let source = route.source(qp.number, data.length());
    let mut list = local::RegionList::new();
    let checked = local::Datagram::new(request, data, &Own(qp, Uncached), mtu, source, &mut list);
    let datagram = match checked {
        Ok(datagram) => datagram,
        Err(status) => return Attempt::Failed(status),
    };
    let length = datagram.length();
    let mut deliveries = Deliveries::new(&route);
    datagrams.copied = 0;
    let mut deliver = |peer: FoundQp| {
        let peer = Entered::new(peer);
        let taken = Peer::datagram(&peer, route.qkey);
        let delivery = taken.map(|taker| datagram.deliver(&taker));
        datagrams.copied = datagrams.copied.saturating_add(length);
        if let Some((counter, number)) = deliveries.add(delivery, length) {
            peer.device().counters.add(counter, number);
        }
    };
    if !route.is_to_group() {
        let peer = at(device, Gid(route.address.dgid), |peer| {
            peer.qps.get(route.qpn)
        });
        peer.into_iter().for_each(deliver);
    } else if !device.netns_mismatch() {
        let mut members = 0..;
        while let Some(member) = members
            .next()
            .and_then(|skip| device.groups.member(&route.address.dgid, skip))
        {
            if route.reaches_member(qp.number, member.number) {
                deliver(member);
            }
        }
    }
    if let Some(attempt) = deliveries.attempt(tries) {
        return attempt;
    }
    let counters = &device.counters;
    if roce::is_remote_gid(device, &route.address.dgid) {
        datagrams.sent = datagrams.sent.wrapping_add(1);
        let psn = datagrams.sent;
        let path = datagrams.path_for(ah::way(&route.address, qp.number));
        match roce::datagram::make(path, &datagram, (route.qpn, route.qkey), psn) {
            Ok(packet) => datagrams.ready = packet,
            Err(Fault::Later) => return Attempt::OwnMemory,
            Err(Fault::Gone) => return Attempt::Failed(WcStatus::LocProtErr),
        }
    } else if let Some(counter) = deliveries.undelivered() {
        counters.count(counter);
    }
    counters.count(PortCounter::RdmaSends);
    counters.add(PortCounter::SentBytes, length.into());
    Attempt::Done(length)
}
