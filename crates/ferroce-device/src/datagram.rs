// SPDX-License-Identifier: MIT OR Apache-2.0
//! Datagrams: whom one is for, and what comes of it for its sender.

use crate::address::Address;
use crate::counter::PortCounter;
use crate::key::PdId;
use crate::local::{Delivery, Source};
use crate::ring::SendRequest;
use crate::send::{Attempt, Tries};
use crate::verbs::{limits, WcStatus};

/// Where a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The address.
    pub address: Address,
    /// The queue pair, or [`MULTICAST_QPN`](limits::MULTICAST_QPN).
    pub qpn: u32,
    /// The Q_Key that it carries.
    pub qkey: u32,
}

impl Route {
    /// That of a request, for a queue pair of a protection domain and with this Q_Key, or what the request
    /// fails with. `find` finds address handles by their numbers: only one of the same domain is good (IBTA
    /// C10-35).
    pub fn of(
        request: &SendRequest,
        pd: PdId,
        own_qkey: u32,
        find: impl FnOnce(u32) -> Option<Address>,
    ) -> Result<Self, WcStatus> {
        let to = request.destination.ok_or(WcStatus::LocQpOpErr)?;
        let address = find(to.ah).filter(|address| address.pd == pd);
        Ok(Self {
            address: address.ok_or(WcStatus::LocQpOpErr)?,
            qpn: to.remote_qpn,
            qkey: limits::datagram_qkey(to.remote_qkey, own_qkey),
        })
    }

    /// Whether it goes to all members of the group that has the address.
    pub const fn is_to_group(&self) -> bool {
        self.qpn == limits::MULTICAST_QPN
    }

    /// Whether a member of the group gets a datagram of that sender: all but the sender itself do (IBTA 10.5.1).
    pub const fn reaches_member(&self, sender: u32, member: u32) -> bool {
        member != sender
    }

    /// What receivers are told of where a datagram of `length` bytes comes from.
    pub fn source(&self, own_qpn: u32, length: u64) -> Source {
        Source {
            qpn: own_qpn,
            grh: self.address.grh(length),
        }
    }
}

/// What has come of a datagram at the queue pairs of its own host.
#[derive(Debug)]
pub struct Deliveries {
    is_to_group: bool,
    delivered: Option<Delivery>,
}

impl Deliveries {
    /// Of one that nobody has got yet.
    pub const fn new(route: &Route) -> Self {
        Self {
            is_to_group: route.is_to_group(),
            delivered: None,
        }
    }

    /// Notes what has come of `length` bytes at one queue pair, or why that does not take them. Returns what
    /// counts it at the port of that, and how much.
    pub fn add(
        &mut self,
        delivered: Result<Delivery, PortCounter>,
        length: u32,
    ) -> Option<(PortCounter, u64)> {
        let (delivery, counted) = match delivered {
            Ok(delivery @ Delivery::Done) => (
                Some(delivery),
                Some((PortCounter::RcvdBytes, length.into())),
            ),
            // A member whose memory is not there yet does not have the others get it twice.
            Ok(Delivery::MemoryLater) if self.is_to_group => (None, None),
            Ok(delivery) => (Some(delivery), None),
            // As of the wire: who has another Q_Key is none of the group.
            Err(_) if self.is_to_group => (None, None),
            Err(why) => (None, Some((why, 1))),
        };
        let is_sender_at_fault = matches!(
            self.delivered,
            Some(Delivery::Failed(_) | Delivery::OwnMemoryLater)
        );
        if !is_sender_at_fault {
            self.delivered = delivery.or(self.delivered);
        }
        counted
    }

    /// What comes of the attempt, unless the datagram is sent as far as this host is concerned.
    pub fn attempt(&self, tries: &mut Tries) -> Option<Attempt> {
        match self.delivered? {
            Delivery::Failed(status) => Some(Attempt::Failed(status)),
            Delivery::OwnMemoryLater => Some(Attempt::OwnMemory),
            Delivery::MemoryLater => tries.wait_for_memory().map(Attempt::Wait),
            Delivery::Done | Delivery::Dropped => None,
        }
    }

    /// What counts it at the sender's port, if it is lost here: no queue pair of this host was found, and it
    /// has gone to no other host.
    pub const fn undelivered(&self) -> Option<PortCounter> {
        match self.delivered {
            None | Some(Delivery::MemoryLater) => Some(PortCounter::Undelivered),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Destination, Operation};
    use crate::verbs::SendFlags;

    const PD: PdId = PdId::new(1);

    fn route(remote_qpn: u32) -> Result<Route, WcStatus> {
        let request = SendRequest {
            wr_id: 0,
            flags: SendFlags::EMPTY,
            operation: Operation::Send,
            destination: Some(Destination {
                ah: 5,
                remote_qpn,
                remote_qkey: limits::QKEY_CONTROLLED,
                pkey_index: 0,
            }),
        };
        let pd = PD;
        let address = Address {
            pd,
            dgid: [1; 16],
            sgid: [2; 16],
            traffic_class: 0,
            flow_label: 0,
            hop_limit: 0,
        };
        assert_eq!(
            Route::of(&request, PdId::new(2), 9, |_| Some(address)),
            Err(WcStatus::LocQpOpErr)
        );
        Route::of(&request, pd, 9, |ah| (ah == 5).then_some(address))
    }

    #[test]
    fn what_comes_of_a_datagram_is_what_comes_of_it_at_each() {
        let mut tries = Tries::default();
        let route = route(7).unwrap();
        assert_eq!((route.qkey, route.is_to_group()), (9, false));
        let mut one = Deliveries::new(&route);
        assert_eq!(one.undelivered(), Some(PortCounter::Undelivered));
        let wrong = one.add(Err(PortCounter::WrongQkey), 8);
        assert_eq!(wrong, Some((PortCounter::WrongQkey, 1)));
        assert_eq!(
            one.add(Ok(Delivery::Done), 8),
            Some((PortCounter::RcvdBytes, 8))
        );
        assert_eq!((one.undelivered(), one.attempt(&mut tries)), (None, None));
        let _ = one.add(Ok(Delivery::MemoryLater), 8);
        assert!(matches!(one.attempt(&mut tries), Some(Attempt::Wait(_))));
    }

    #[test]
    fn a_member_that_takes_none_does_not_keep_it_from_others() {
        let route = route(limits::MULTICAST_QPN).unwrap();
        let mut group = Deliveries::new(&route);
        assert!(route.reaches_member(3, 4) && !route.reaches_member(3, 3));
        assert_eq!(group.add(Err(PortCounter::WrongQkey), 8), None);
        assert_eq!(group.add(Ok(Delivery::MemoryLater), 8), None);
        assert_eq!(group.undelivered(), Some(PortCounter::Undelivered));
        let failed = Delivery::Failed(WcStatus::LocProtErr);
        let _ = group.add(Ok(failed), 8);
        let _ = group.add(Ok(Delivery::Done), 8);
        let attempt = group.attempt(&mut Tries::default());
        assert_eq!(attempt, Some(Attempt::Failed(WcStatus::LocProtErr)));
    }
}
