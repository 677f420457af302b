// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of datagrams.

use ferroce_core::local::{Datagram, Delivery, RegionList};
use ferroce_core::ring::{Data, SendRequest};
use ferroce_core::verbs::limits;
use ferroce_device::counter::PortCounter;
use ferroce_device::datagram::{Deliveries, Route};
use ferroce_device::send::{Attempt, Tries};

use crate::beside::{self, Message};
use crate::groups;
use crate::peer::{Entered, Peer};
use crate::qp::Qp;
use crate::side::{Range, Side};

/// Sends a datagram of a queue pair whose own Q_Key is this.
pub fn send(
    qp: &Qp,
    own: &Side<'_>,
    own_qkey: u32,
    request: &SendRequest,
    data: Data<'_>,
    tries: &mut Tries,
) -> Attempt {
    let process = own.process;
    let found = |number| process.addresses.get(number);
    let route = match Route::of(request, qp.pd.id(), own_qkey, found) {
        Ok(route) => route,
        Err(status) => return Attempt::Failed(status),
    };
    let source = route.source(own.number, data.length());
    let mut list = RegionList::new();
    let mtu = qp.mtu().bytes();
    let datagram = match Datagram::new(request, data, own, mtu, source, &mut list) {
        Ok(datagram) => datagram,
        Err(status) => return Attempt::Failed(status),
    };
    let mut deliveries = Deliveries::new(&route);
    let mut deliver = |peer: &Peer, qpn| {
        let delivery = deliver(own, &datagram, peer, qpn, route.qkey);
        // Nothing is counted here.
        deliveries.add(delivery, datagram.length());
    };
    if route.is_to_group() {
        for peer in process.everybody() {
            let members = groups::members(&peer, &route.address.dgid).into_iter();
            let reached = members.filter(|member| route.reaches_member(own.number, *member));
            reached.for_each(|member| deliver(&peer, member));
        }
    } else if qp.context.has_gid(&route.address.dgid)
        && let Some(peer) = process.peer_of(route.qpn)
    {
        deliver(&peer, route.qpn);
    }
    let done = Attempt::Done(datagram.length());
    deliveries.attempt(tries).unwrap_or(done)
}

fn deliver<'a>(
    own: &Side<'a>,
    datagram: &Datagram<'_, Range<'a>>,
    peer: &Peer,
    qpn: u32,
    qkey: u32,
) -> Result<Delivery, PortCounter> {
    let _entered = Entered::new(peer);
    let found = Side::lock(own.process, peer, qpn, own.cache);
    let (guard, attrs, side) = found.ok_or(PortCounter::UnknownQp)?;
    let qp_type = crate::qp::qp_type(side.record).ok_or(PortCounter::UnknownQp)?;
    let terms = attrs.takes_datagram(qp_type, qkey);
    drop(guard);
    let message = Message::default();
    let length = datagram.length() + limits::GRH_LENGTH;
    let is_short = length as usize <= beside::ROOM;
    Ok(datagram.deliver(&Side {
        terms: terms?,
        message: is_short.then_some(&message),
        ..side
    }))
}
