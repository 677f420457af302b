// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of datagrams.

use ferroce_core::local::{Datagram, Delivery, RegionList, Source};
use ferroce_core::ring::{Data, SendRequest};
use ferroce_core::verbs::limits;
use ferroce_core::verbs::WcStatus;
use ferroce_device::send::Attempt;

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
) -> Attempt {
    let process = own.process;
    let Some(to) = request.destination else {
        return Attempt::Failed(WcStatus::LocQpOpErr);
    };
    let address = process.addresses.get(to.ah);
    let Some(address) = address.filter(|address| address.pd == qp.pd.id()) else {
        return Attempt::Failed(WcStatus::LocQpOpErr);
    };
    let qkey = limits::datagram_qkey(to.remote_qkey, own_qkey);
    let source = Source {
        qpn: own.number,
        grh: address.grh(data.length()),
    };
    let mut list = RegionList::new();
    let mtu = qp.mtu().bytes();
    let datagram = match Datagram::new(request, data, own, mtu, source, &mut list) {
        Ok(datagram) => datagram,
        Err(status) => return Attempt::Failed(status),
    };
    let delivery = if to.remote_qpn == limits::MULTICAST_QPN {
        let mut delivered = Delivery::Dropped;
        for peer in process.everybody() {
            // To all members but the sender itself (IBTA 10.5.1).
            let members = groups::members(&peer, &address.dgid).into_iter();
            for qpn in members.filter(|qpn| *qpn != own.number) {
                if let failed @ Delivery::Failed(_) = deliver(own, &datagram, &peer, qpn, qkey) {
                    delivered = failed;
                }
            }
        }
        delivered
    } else if qp.context.has_gid(&address.dgid) {
        match process.peer_of(to.remote_qpn) {
            Some(peer) => deliver(own, &datagram, &peer, to.remote_qpn, qkey),
            None => Delivery::Dropped,
        }
    } else {
        Delivery::Dropped
    };
    match delivery {
        Delivery::Failed(status) => Attempt::Failed(status),
        _ => Attempt::Done(datagram.length()),
    }
}

fn deliver<'a>(
    own: &Side<'a>,
    datagram: &Datagram<'_, Range<'a>>,
    peer: &Peer,
    qpn: u32,
    qkey: u32,
) -> Delivery {
    let _entered = Entered::new(peer);
    let Some((guard, attrs, side)) = Side::lock(own.process, peer, qpn, own.cache) else {
        return Delivery::Dropped;
    };
    let Some(qp_type) = crate::qp::qp_type(side.record) else {
        return Delivery::Dropped;
    };
    let taken = attrs.takes_datagram(qp_type, qkey);
    drop(guard);
    let message = Message::default();
    let length = datagram.length() + limits::GRH_LENGTH;
    let is_short = length as usize <= beside::ROOM;
    match taken {
        Ok(terms) => datagram.deliver(&Side {
            terms,
            message: is_short.then_some(&message),
            ..side
        }),
        Err(_) => Delivery::Dropped,
    }
}
