// SPDX-License-Identifier: MIT OR Apache-2.0
//! The attributes of a queue pair: what it takes from whom, and what a Modify QP and errors do to it.

use crate::counter::PortCounter;
use crate::effects::{Effect, Effects};
use crate::qp::{
    self, state, AddressVector, AttrMask, DeviceLimits, ModifyError, QpAttr, RequestedAttr,
    Transition,
};
use crate::verbs::{AccessFlags, AckTimeout, EventType, Mtu, QpState, QpType, RnrTimer};

/// The attributes of a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Attrs {
    /// Those of the verbs.
    pub attr: QpAttr,
    /// The GID that its packets come from.
    pub sgid: [u8; 16],
    /// It is being destroyed.
    pub is_gone: bool,
}

/// What a queue pair is from its creation on, as far as changes of its state depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QpKind {
    /// Its transport.
    pub qp_type: QpType,
    /// Its receives come from a shared receive queue.
    pub has_srq: bool,
}

/// A connected queue pair, as that which it is connected to knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number.
    pub number: u32,
    /// Its transport.
    pub qp_type: QpType,
    /// The GID that its packets come from.
    pub gid: [u8; 16],
}

/// How a queue pair takes the messages of its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the peer may do (`qp_access_flags`).
    pub access: AccessFlags,
    /// Whether RDMA READs and atomics are taken at all (`max_dest_rd_atomic`).
    pub takes_reads: bool,
    /// What a peer is told for which there is no receive.
    pub min_rnr_timer: RnrTimer,
    /// The queue pair is in RTR, and no request of the peer's has come yet.
    pub awaits_peer: bool,
}

impl Terms {
    /// Those of these attributes.
    pub fn of(attr: &QpAttr) -> Self {
        Self {
            access: attr.qp_access_flags,
            takes_reads: attr.max_dest_rd_atomic > 0,
            min_rnr_timer: attr.min_rnr_timer,
            awaits_peer: attr.awaits_peer,
        }
    }
}

impl Attrs {
    /// Those of a queue pair that was just created.
    pub fn new() -> Self {
        Self {
            attr: QpAttr::new(),
            sgid: [0; 16],
            is_gone: false,
        }
    }

    /// Changes what a Modify QP names (IBTA 11.2.5.2). `sgid` is the GID at the index that the address
    /// vector names.
    pub fn modify(
        &mut self,
        kind: QpKind,
        mask: AttrMask,
        requested: &RequestedAttr,
        sgid: Option<[u8; 16]>,
    ) -> Result<Effects, ModifyError> {
        let limits = &DeviceLimits::FERROCE;
        let modified = qp::modify(kind.qp_type, &self.attr, mask, requested, limits)?;
        self.attr = modified.attr;
        if let Some(sgid) = sgid {
            self.sgid = sgid;
        }
        let changed = Effects::of(Effect::Configure);
        Ok(match modified.transition {
            Transition::Attributes | Transition::Init => changed,
            Transition::Reset => changed.and(Effect::WaitForPeers).and(Effect::Reset),
            Transition::StartReceiving => changed.and(Effect::Respond),
            Transition::StartSending | Transition::ResumeSending | Transition::Drain => {
                changed.and(Effect::Execute)
            }
            Transition::Flush => changed
                .and(Effect::WaitForPeers)
                .and(Effect::FlushHeldReceive)
                .union(Self::receiving_ends(kind))
                .and(Effect::Execute),
        })
    }

    /// What becomes of receives in ERR.
    const fn receiving_ends(kind: QpKind) -> Effects {
        let tells = Effects::of(Effect::Event(EventType::QpLastWqeReached));
        Effects::of(Effect::FlushReceives).union(tells.only_if(kind.has_srq))
    }

    /// A request of the send queue has failed, whose completion the caller writes first.
    pub fn fail_send(&mut self, kind: QpKind) -> Effects {
        let has_failed = self.enter(state::after_send_error(kind.qp_type, self.attr.state));
        let receives = Self::receiving_ends(kind).and(Effect::FlushHeldReceive);
        Effects::of(Effect::Execute)
            .union(receives.only_if(self.is_in_error()))
            .only_if(has_failed)
    }

    /// A receive has failed, or a request of the peer's, for which `event` is told. The receive that the
    /// caller is in the middle of is completed by the caller.
    pub fn fail_receive(&mut self, kind: QpKind, event: Option<EventType>) -> Effects {
        let event = event.map_or(Effects::NONE, |event| Effects::of(Effect::Event(event)));
        event
            .union(Self::receiving_ends(kind))
            .and(Effect::Execute)
            .only_if(self.enter(state::after_receive_error(self.attr.state)))
    }

    /// The queue pair cannot be used any more.
    pub fn fail_fatally(&mut self, kind: QpKind) -> Effects {
        let has_failed = self.enter(state::after_fatal_error(self.attr.state));
        Effects::of(Effect::Event(EventType::QpFatal))
            .and(Effect::FlushHeldReceive)
            .union(Self::receiving_ends(kind))
            .and(Effect::Execute)
            .only_if(has_failed && self.is_in_error())
    }

    /// Nothing of the send queue is under way any more, see [`QpAttr::drained`].
    pub fn drained(&mut self) -> Effects {
        Effects::of(Effect::Event(EventType::SqDrained)).only_if(self.attr.drained())
    }

    /// A request of the peer's has come, see [`QpAttr::established`].
    pub fn established(&mut self) -> Effects {
        Effects::of(Effect::Event(EventType::CommEst)).only_if(self.attr.established())
    }

    fn is_in_error(&self) -> bool {
        self.attr.state == QpState::Err
    }

    fn enter(&mut self, state: QpState) -> bool {
        core::mem::replace(&mut self.attr.state, state) != state
    }

    /// The state, unless the queue pair is being destroyed.
    pub fn state(&self) -> Option<QpState> {
        (!self.is_gone).then_some(self.attr.state)
    }

    /// Whether receives are flushed (IBTA 10.3.1, Error).
    pub fn flushes_receives(&self) -> bool {
        let processing = self.state().map(state::receive_queue);
        processing == Some(state::Processing::Flush)
    }

    /// Whether requests of the send queue are flushed.
    pub fn flushes_sends(&self) -> bool {
        let processing = self.state().map(state::send_queue);
        processing == Some(state::Processing::Flush)
    }

    fn accepts_requests(&self) -> bool {
        self.state().is_some_and(state::accepts_requests)
    }

    /// Whether packets of a connection may come, if the peer is on another host: then there is to be a
    /// responder.
    pub fn takes_packets(&self, kind: QpKind) -> bool {
        !kind.qp_type.is_datagram() && self.accepts_requests()
    }

    /// How messages of a connected queue pair are taken; `None` if they are not: the state is not such, or
    /// this queue pair is connected to another one.
    pub fn takes_from(&self, qp_type: QpType, peer: &Endpoint) -> Option<Terms> {
        let takes = self.accepts_requests()
            && qp_type == peer.qp_type
            && self.attr.dest_qp_num == peer.number
            && self.attr.ah_attr.dgid == peer.gid;
        takes.then(|| Terms::of(&self.attr))
    }

    /// How datagrams with this Q_Key are taken, or what counts them if they are not (IBTA 9.8.3.1, C9-42).
    pub fn takes_datagram(&self, qp_type: QpType, qkey: u32) -> Result<Terms, PortCounter> {
        if !qp_type.is_datagram() {
            return Err(PortCounter::UnknownQp);
        }
        if !self.accepts_requests() {
            return Err(PortCounter::NotReady);
        }
        if self.attr.qkey != qkey {
            return Err(PortCounter::WrongQkey);
        }
        Ok(Terms::of(&self.attr))
    }

    /// How a packet of a connection is taken, or what counts it if it is not. `is_from_peer` says whether
    /// its addresses are these: the peer's GID, and that of this queue pair (IBTA 9.6.1.2.1, 9.6.1.2.2:
    /// both are to be checked).
    pub fn takes_packet(
        &self,
        is_response: bool,
        is_from_peer: impl FnOnce(&[u8; 16], &[u8; 16]) -> bool,
    ) -> Result<Terms, PortCounter> {
        let takes = match is_response {
            true => state::accepts_responses,
            false => state::accepts_requests,
        };
        if !self.state().is_some_and(takes) {
            return Err(PortCounter::NotReady);
        }
        if !is_from_peer(&self.attr.ah_attr.dgid, &self.sgid) {
            return Err(PortCounter::WrongSource);
        }
        Ok(Terms::of(&self.attr))
    }
}

/// How many [words](Attrs::words) attributes have.
pub const WORDS: usize = 28;

impl Attrs {
    /// As plain numbers, for other processes to look at.
    pub fn words(&self) -> [u32; WORDS] {
        let attr = &self.attr;
        let [dgid, sgid] = [attr.ah_attr.dgid, self.sgid].map(gid_words);
        let [a, b, c, d, e, f] = attr.ah_attr.dmac;
        [
            attr.state.into(),
            flags([
                self.is_gone,
                attr.sq_draining,
                attr.en_sqd_async_notify,
                attr.awaits_peer,
            ]),
            attr.path_mtu.into(),
            attr.qkey,
            attr.rq_psn,
            attr.sq_psn,
            attr.dest_qp_num,
            attr.qp_access_flags.bits(),
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, attr.ah_attr.hop_limit, attr.ah_attr.traffic_class]),
            attr.ah_attr.sgid_index,
            attr.ah_attr.flow_label,
            attr.ah_attr.port_num,
            u32::from_le_bytes([
                attr.ah_attr.sl,
                attr.max_rd_atomic,
                attr.max_dest_rd_atomic,
                0,
            ]),
            attr.pkey_index.into(),
            attr.min_rnr_timer.code().into(),
            attr.port_num,
            attr.timeout.code().into(),
            u32::from_le_bytes([attr.retry_cnt, attr.rnr_retry, 0, 0]),
            dgid[0],
            dgid[1],
            dgid[2],
            dgid[3],
            sgid[0],
            sgid[1],
            sgid[2],
            sgid[3],
            0,
        ]
    }

    /// From [words](Self::words) that may be anything: a number that means nothing is taken for the one
    /// that allows least.
    pub fn from_words(words: &[u32; WORDS]) -> Self {
        let [state, bits, path_mtu, qkey, rq_psn, sq_psn, dest_qp_num, access, mac, more, sgid_index, flow_label, ah_port, numbers, pkey_index, rnr, port_num, timeout, retries, d0, d1, d2, d3, s0, s1, s2, s3, _] =
            *words;
        let [a, b, c, d] = mac.to_le_bytes();
        let [e, f, hop_limit, traffic_class] = more.to_le_bytes();
        let [sl, max_rd_atomic, max_dest_rd_atomic, _] = numbers.to_le_bytes();
        let [retry_cnt, rnr_retry, ..] = retries.to_le_bytes();
        let bit = |number: u32| bits >> number & 1 != 0;
        Self {
            attr: QpAttr {
                state: QpState::try_from(state).unwrap_or(QpState::Err),
                sq_draining: bit(1),
                en_sqd_async_notify: bit(2),
                awaits_peer: bit(3),
                path_mtu: Mtu::try_from(path_mtu).unwrap_or(Mtu::B256),
                qkey,
                rq_psn,
                sq_psn,
                dest_qp_num,
                qp_access_flags: AccessFlags::from_bits_truncate(access),
                ah_attr: AddressVector {
                    dgid: gid([d0, d1, d2, d3]),
                    dmac: [a, b, c, d, e, f],
                    sgid_index,
                    flow_label,
                    hop_limit,
                    traffic_class,
                    sl,
                    port_num: ah_port,
                },
                pkey_index: pkey_index as u16,
                max_rd_atomic,
                max_dest_rd_atomic,
                min_rnr_timer: RnrTimer::from_low_bits(rnr),
                port_num,
                timeout: AckTimeout::from_low_bits(timeout),
                retry_cnt,
                rnr_retry,
            },
            sgid: gid([s0, s1, s2, s3]),
            is_gone: bit(0),
        }
    }
}

fn flags(flags: [bool; 4]) -> u32 {
    let bits = flags.into_iter().enumerate();
    bits.fold(0, |bits, (number, flag)| bits | u32::from(flag) << number)
}

fn gid_words(gid: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(gid.chunks_exact(4)) {
        *word = bytes.first_chunk().copied().map_or(0, u32::from_le_bytes);
    }
    words
}

fn gid(words: [u32; 4]) -> [u8; 16] {
    let mut gid = [0; 16];
    for (chunk, word) in gid.chunks_exact_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    gid
}

impl Default for Attrs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_words_are_attributes_that_have_words(words: [u32; WORDS]) {
            let attrs = Attrs::from_words(&words);
            let again = Attrs::from_words(&attrs.words());
            prop_assert_eq!(attrs.attr, again.attr);
            prop_assert_eq!((attrs.sgid, attrs.is_gone), (again.sgid, again.is_gone));
        }
    }
}
