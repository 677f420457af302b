// SPDX-License-Identifier: MIT OR Apache-2.0
//! Requests that come again (IBTA 9.7.5.1.1 to 9.7.5.1.4).

use core::ops::DerefMut;

use super::resource::Answer;
use super::{Request, Resource, Responder};
use crate::local::{self, AtomicChange, Region};
use crate::rules;
use crate::verbs::AccessFlags;
use crate::wire::{Headers, Kind, Packet, Reth};

impl<S: DerefMut<Target = [Resource]>, R: Region> Responder<S, R> {
    /// Answers a request that has been carried out before. What is not remembered, or is not what was
    /// remembered under its PSN, is dropped.
    pub(super) fn on_duplicate<Q: local::Responder<Region = R>>(
        &mut self,
        packet: &Packet<'_>,
        qp: &Q,
    ) -> Request {
        let bth = &packet.bth;
        let found = self.resources.find(bth.psn);
        match (bth.opcode.kind(), packet.headers) {
            (Kind::ReadRequest, Headers::Reth(reth)) => {
                let Some((place, index, resource)) = found else {
                    return Request::Dropped;
                };
                let Some(packets) = self.part_of(reth, index, &resource) else {
                    return Request::Dropped;
                };
                // It is a request of its own, and its key is checked again.
                let allowed = rules::range(qp, reth.remote, reth.dma_len, AccessFlags::REMOTE_READ);
                if let Err(refusal) = allowed {
                    return self.refuse(bth.psn, refusal, qp);
                }
                self.resources.repeat(place, index, packets);
                self.read_repeated = true;
                self.reading = None;
            }
            (Kind::CompareSwap | Kind::FetchAdd, Headers::Atomic(atomic)) => {
                let expected = match bth.opcode.kind() {
                    Kind::CompareSwap => AtomicChange::CompareSwap {
                        compare: atomic.compare,
                        swap: atomic.swap_add,
                    },
                    _ => AtomicChange::Add(atomic.swap_add),
                };
                match found {
                    Some((place, _, resource))
                        if matches!(resource.answer, Answer::Atomic { remote, change, .. }
                            if remote == atomic.remote && change == expected) =>
                    {
                        self.resources.repeat(place, 0, 1);
                    }
                    _ => return Request::Dropped,
                }
            }
            (Kind::AtomicWrite | Kind::Flush, _) => match found {
                Some((place, _, resource)) if resource.answer == Answer::Done => {
                    self.resources.repeat(place, 0, 1);
                }
                _ => return Request::Dropped,
            },
            // Only if it asks: what comes after it may be on its way once more. rdma_rxe takes an
            // acknowledgement of a message that it is in the middle of for the whole one's, and then does
            // not wait for another. A NAK that is to be sent acknowledges as much.
            _ if bth.ack_req && self.answer.is_none() => self.acknowledge(),
            _ => {}
        }
        Request::Duplicate
    }

    /// How many responses a READ is answered by, if it asks for a part of what the first one asked for,
    /// from this response on.
    fn part_of(&self, reth: Reth, index: u32, resource: &Resource) -> Option<u32> {
        let Answer::Read(whole) = resource.answer else {
            return None;
        };
        let skipped = index.checked_mul(self.mtu)?;
        let left = whole.dma_len.checked_sub(skipped)?;
        let is_part = reth.remote.rkey == whole.remote.rkey
            && reth.remote.addr == whole.remote.addr.wrapping_add(skipped.into())
            && reth.dma_len <= left;
        is_part.then(|| reth.dma_len.div_ceil(self.mtu.max(1)).max(1))
    }
}
