// SPDX-License-Identifier: MIT OR Apache-2.0
//! The execution of send queues whose peer is on this host, and of datagrams.

use ferroce_core::local::{self, AccessError, Datagram, Outcome, RegionList, Responder as _};
use ferroce_core::ring::{Data, Operation, Origin, SendRequest};
use ferroce_core::verbs::WcStatus;
use ferroce_core::wire::Psn;
use ferroce_device::address::Address;
use ferroce_device::attrs::{Attrs, Endpoint};
use ferroce_device::datagram::{Deliveries, Route};
use ferroce_device::send::{self, Alone, Attempt, Next, Tries};

use crate::host::HOSTS;
use crate::network::Packet;
use crate::own::Own;
use crate::queue_pair::Qp;
use crate::world::{gid, host_of, Caller, World};

/// The number of the address handle of the group; that of a host has the host's number.
pub const GROUP: u32 = HOSTS as u32;
/// The group's GID.
const GROUP_GID: [u8; 16] = [0xff; 16];

impl World {
    /// Executes one request. Returns whether there may be another.
    pub fn step(&self, qp: &Qp) -> bool {
        let mut send = qp.send.borrow_mut();
        let (_, queue, execution) = &mut *send;
        let state = qp.state();
        let next = execution.next(queue, state, true, || self.now.get());
        let Ok(next) = next else {
            // Indexes that make no sense.
            self.change(qp, Caller::Executor, |attrs| attrs.fail_fatally(qp.kind));
            return false;
        };
        match next {
            Next::Held | Next::Idle | Next::Later => return false,
            Next::Drained => {
                self.change(qp, Caller::Executor, Attrs::drained);
                return false;
            }
            Next::Flush(wr_id) => {
                qp.complete(send::flushed(wr_id, qp.number));
                return true;
            }
            Next::Execute => {}
        }
        let qp_type = qp.kind.qp_type;
        let (completion, request) = execution.request(queue, qp_type, Origin::User, false);
        let attempt = match request {
            Err(status) => Attempt::Failed(status),
            Ok((request, data)) => match self.execute_alone(qp, &request.operation) {
                Some(Ok(())) => Attempt::Done(0),
                Some(Err(status)) => Attempt::Failed(status),
                None if qp_type.is_datagram() => {
                    self.datagram(qp, &request, data, &mut execution.tries)
                }
                None => self.message(qp, &request, data, &mut execution.tries),
            },
        };
        match attempt {
            Attempt::Done(length) => {
                execution.finish(queue);
                if let Some(cqe) = completion.done(qp.number, length) {
                    qp.complete(cqe);
                }
                true
            }
            Attempt::Failed(status) => {
                execution.finish(queue);
                qp.complete(completion.failed(qp.number, status));
                self.change(qp, Caller::Executor, |attrs| attrs.fail_send(qp.kind));
                true
            }
            Attempt::Wait(nanos) => {
                execution.wait_until(self.now.get() + nanos);
                false
            }
            Attempt::Stuck | Attempt::OwnMemory | Attempt::Paused => false,
        }
    }

    /// Executes a message to the queue pair that this one is connected to.
    fn message(
        &self,
        qp: &Qp,
        request: &SendRequest,
        data: Data<'_>,
        tries: &mut Tries,
    ) -> Attempt {
        let attrs = *qp.attrs.borrow();
        let (attr, qp_type) = (attrs.attr, qp.kind.qp_type);
        let (length, most) = (data.length(), attr.max_rd_atomic);
        let endpoint = Endpoint {
            number: qp.number,
            qp_type,
            gid: attrs.sgid,
        };
        let own = self.own(qp);
        let peer = self.find(host_of(&attr.ah_attr.dgid), attr.dest_qp_num);
        let terms = peer
            .as_ref()
            .and_then(|peer| peer.attrs.borrow().takes_from(peer.kind.qp_type, &endpoint));
        let (Some(peer), Some(terms)) = (&peer, terms) else {
            return match local::check(request, data, &own, most) {
                Ok(()) => tries.no_peer(qp_type, &attr, length).0,
                Err(status) => Attempt::Failed(status),
            };
        };
        let progress = tries.progress_with(peer.version.get());
        let peer = Own {
            world: self,
            qp: peer,
            terms,
        };
        let is_reliable = qp_type == ferroce_core::verbs::QpType::Rc;
        let outcome = local::execute(request, data, &own, most, &peer, is_reliable, progress);
        assert_ne!(outcome, Outcome::Paused);
        tries.outcome(outcome, &attr, length, || self.now.get()).0
    }

    /// The address that a handle of a queue pair's process has.
    fn address(&self, qp: &Qp, number: u32) -> Option<Address> {
        let dgid = match number {
            ..GROUP => gid(number as usize),
            GROUP => GROUP_GID,
            _ => return None,
        };
        Some(Address {
            pd: qp.process.pd(),
            dgid,
            sgid: gid(qp.process.host),
            traffic_class: 0,
            flow_label: 0,
            hop_limit: 0,
        })
    }

    /// Sends a datagram to queue pairs of this host and of others.
    fn datagram(
        &self,
        qp: &Qp,
        request: &SendRequest,
        data: Data<'_>,
        tries: &mut Tries,
    ) -> Attempt {
        let host = qp.process.host;
        let own_qkey = qp.attrs.borrow().attr.qkey;
        let found = |number| self.address(qp, number);
        let route = match Route::of(request, qp.process.pd(), own_qkey, found) {
            Ok(route) => route,
            Err(status) => return Attempt::Failed(status),
        };
        let (own, mut list) = (self.own(qp), RegionList::new());
        let source = route.source(qp.number, data.length());
        let datagram = match Datagram::new(request, data, &own, 256, source, &mut list) {
            Ok(datagram) => datagram,
            Err(status) => return Attempt::Failed(status),
        };
        let mut deliveries = Deliveries::new(&route);
        let mut deliver = |number| {
            let Some(peer) = self.find(host, number) else {
                return;
            };
            let taken = peer
                .attrs
                .borrow()
                .takes_datagram(peer.kind.qp_type, route.qkey);
            let delivery = taken.map(|terms| {
                datagram.deliver(&Own {
                    world: self,
                    qp: &peer,
                    terms,
                })
            });
            deliveries.add(delivery, datagram.length());
        };
        if route.is_to_group() {
            let members = self.hosts[host].members().into_iter();
            let reached = members.filter(|member| route.reaches_member(qp.number, *member));
            reached.for_each(deliver);
        } else if route.address.dgid == gid(host) {
            deliver(route.qpn);
        }
        if let Some(attempt) = deliveries.attempt(tries) {
            return attempt;
        }
        let others = (0..HOSTS).filter(|other| *other != host);
        let reached: Vec<_> = others
            .filter(|other| route.is_to_group() || route.address.dgid == gid(*other))
            .collect();
        if !reached.is_empty() {
            let mut room = [0; 512];
            let emitted = datagram.emit(route.qpn, route.qkey, Psn::new(0), &mut room);
            let length = emitted.unwrap().unwrap();
            let id = self.emitted();
            for to in reached {
                self.network.borrow_mut().send(Packet {
                    from: host,
                    to,
                    bytes: room[..length].to_vec(),
                    is_final: false,
                    is_short_lived: false,
                    message: Some(id),
                    grh: Some(source.grh),
                });
            }
        }
        Attempt::Done(datagram.length())
    }

    /// Executes what concerns the host of a queue pair alone.
    pub fn execute_alone(&self, qp: &Qp, operation: &Operation) -> Option<Result<(), WcStatus>> {
        let alone = Alone::of(operation)?;
        let result = match &alone {
            Alone::Bind(bind) => {
                let host = &self.hosts[qp.process.host];
                host.bind(qp.process.pd(), qp.number, bind)
            }
            Alone::Invalidate(rkey) => self.own(qp).invalidate(*rkey),
            Alone::Register(_) => Err(AccessError),
        };
        Some(alone.end(result))
    }
}
