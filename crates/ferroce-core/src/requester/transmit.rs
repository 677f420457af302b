// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making packets of requests (IBTA 9.7.2 to 9.7.4, 9.8.1).

use core::ops::DerefMut;

use super::{Host, Requester, Slot, ASK_AFTER, READ_PACKETS, WINDOW};
use crate::local::{Denied, Fault, Region};
use crate::ring::{Data, Operation, Remote, SendRequest};
use crate::verbs::limits::ATOMIC_LENGTH;
use crate::verbs::{SendFlags, SendOpcode, WcStatus};
use crate::wire::{
    emit_with, AtomicEth, Bth, Feth, Headers, Kind, Opcode, Part, Psn, Reth, Service,
};

/// What there is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A packet: the first bytes of the buffer. There may be more.
    Packet(usize),
    /// A packet of so many bytes, for which the buffer is too short. Nothing has changed.
    NeedsRoom(usize),
    /// Nothing, before something else happens.
    Nothing,
    /// The request in this slot concerns this host alone, and it is its turn: nothing is sent before
    /// [`Requester::executed`], and each call until then returns this.
    Local(u32),
    /// Memory on demand is not there ([`Fault::Later`]): to be called again when it may be.
    Later,
}

/// What one packet of a request is.
struct Plan {
    kind: Kind,
    headers: Headers,
    /// The part of the message that is its payload, in bytes.
    at: u32,
    length: u32,
    /// How many PSNs it takes, with its responses.
    psns: u32,
}

impl<S: DerefMut<Target = [Slot]>, R: Region> Requester<S, R> {
    /// Fills `buffer` with the next packet, from the BTH to the padding. `now` is in nanoseconds, and
    /// never runs backwards.
    pub fn poll_transmit<H: Host<Region = R>>(
        &mut self,
        now: u64,
        host: &H,
        buffer: &mut [u8],
    ) -> Transmit {
        let transmit = self.try_transmit(now, host, buffer);
        if !matches!(transmit, Transmit::Packet(_) | Transmit::NeedsRoom(_)) {
            self.end_batch();
        }
        transmit
    }

    /// How many packets there are in a row, from the next one on, that are as long as that, but for the
    /// last, which may be shorter. At least one. It is a guess: of the requests after the one that is
    /// being sent nothing is known but that they were posted.
    pub fn batch_len(&self) -> u32 {
        let posted = self.posted.wrapping_sub(self.current).max(1);
        if self.current == self.begun {
            return posted;
        }
        let slot = self.slot(self.current);
        match (slot.opcode, slot.packets) {
            (_, 0 | 1) | (SendOpcode::RdmaRead, _) => posted.min(WINDOW),
            // The first one has the address as well.
            (SendOpcode::RdmaWrite | SendOpcode::RdmaWriteImm, _) if self.next == slot.first => 2,
            _ => u32::try_from(slot.end().since(self.next)).map_or(1, |left| left.max(1)),
        }
    }

    fn try_transmit<H: Host<Region = R>>(
        &mut self,
        now: u64,
        host: &H,
        buffer: &mut [u8],
    ) -> Transmit {
        if self.failed || self.resume_at.is_some() {
            return Transmit::Nothing;
        }
        // At each call, until it has been executed: a bottom half leaves it to a thread, which asks again.
        if let Some(slot) = self.local() {
            return Transmit::Local(slot);
        }
        loop {
            if self
                .broken
                .is_some_and(|(broken, _)| broken == self.current)
            {
                return Transmit::Nothing;
            }
            let position = self.current;
            let is_new = position == self.begun;
            if is_new && (self.hold || self.begun == self.posted) {
                return Transmit::Nothing;
            }
            if !is_new && !self.next.is_before(self.slot(position).end()) {
                self.current = position.wrapping_add(1);
                continue;
            }
            let entry = self.entry(position, host);
            let decoded = SendRequest::decode(entry, self.config.qp_type, self.config.origin);
            let (request, data) = match &decoded {
                Ok((request, data)) => (request, *data),
                Err(error) => {
                    if is_new {
                        // Of what makes no sense nothing is known.
                        self.set_slot(position, Slot::default());
                    }
                    return self.refuse(position, error.status(), host);
                }
            };
            let begun = match is_new {
                true => self.begin(request, data, host),
                false => Ok(()),
            };
            return match begun {
                Ok(()) => self.send(now, request, data, host, buffer),
                Err(transmit) => transmit,
            };
        }
    }

    /// Begins the next request, if that may be.
    fn begin<H: Host<Region = R>>(
        &mut self,
        request: &SendRequest,
        data: Data<'_>,
        host: &H,
    ) -> Result<(), Transmit> {
        let position = self.begun;
        let opcode = request.operation.opcode();
        // Its length has been checked.
        let length = u32::try_from(data.length()).unwrap_or(0);
        let slot = Slot {
            first: self.allotted,
            packets: packets(opcode, length, self.config.mtu),
            length,
            opcode,
            flags: request.flags,
            executed: false,
        };
        self.set_slot(position, slot);
        if opcode.is_local() {
            // Those before may have to be sent again, with the keys that they have.
            if self.head != position {
                return Err(Transmit::Nothing);
            }
            self.begun = position.wrapping_add(1);
            self.current = self.begun;
            return Err(Transmit::Local(self.index(position) as u32));
        }
        if request.flags.contains(SendFlags::FENCE) && self.rd_atomic > 0 {
            return Err(Transmit::Nothing);
        }
        // Without a credit one message is sent at a time: what becomes of it tells how it stands
        // (IBTA 9.7.7.2.5).
        if !self.has_credit(opcode) && self.una != self.end {
            return Err(Transmit::Nothing);
        }
        if !opcode.may_be_under_way(self.config.max_rd_atomic) {
            return Err(self.refuse(position, WcStatus::LocQpOpErr, host));
        }
        if let Data::Sges(sges) = data {
            let writes = opcode.gets_data();
            let list = if writes {
                &mut self.scatter
            } else {
                &mut self.gather
            };
            if list.of(position).check(host, sges, writes).is_err() {
                return Err(self.refuse(position, WcStatus::LocProtErr, host));
            }
        }
        self.begun = position.wrapping_add(1);
        self.allotted = slot.end();
        // Each part of a READ is a message to the peer.
        let messages = match opcode {
            SendOpcode::RdmaRead => slot.packets.div_ceil(READ_PACKETS),
            _ => 1,
        };
        self.ssn = self.ssn.wrapping_add(messages);
        Ok(())
    }

    /// Whether the peer has a receive for one more message, if that needs one, as far as it has told.
    fn has_credit(&self, opcode: SendOpcode) -> bool {
        let next = Psn::new(self.ssn.wrapping_add(1));
        match self.lsn {
            // Both count in 24 bits.
            Some(limit) if opcode.consumes_receive() => !Psn::new(limit).is_before(next),
            _ => true,
        }
    }

    /// The slot of the request for this host alone that has been begun and is not done. All before it are.
    pub(super) fn local(&self) -> Option<u32> {
        let is_local = self.head != self.begun && self.slot(self.head).packets == 0;
        is_local.then(|| self.index(self.head) as u32)
    }

    /// A request cannot be sent, or sent on: it completes with this status when those before it are done.
    fn refuse<H: Host<Region = R>>(
        &mut self,
        position: u32,
        status: WcStatus,
        host: &H,
    ) -> Transmit {
        self.broken = Some((position, status));
        self.retire(host);
        Transmit::Nothing
    }

    /// Sends the packet that is next, of a request that has been begun.
    fn send<H: Host<Region = R>>(
        &mut self,
        now: u64,
        request: &SendRequest,
        data: Data<'_>,
        host: &H,
        buffer: &mut [u8],
    ) -> Transmit {
        let position = self.current;
        let slot = self.slot(position);
        let index = self.next.since(slot.first) as u32;
        let plan = plan(&request.operation, &slot, index, self.config.mtu);
        let is_new = self.next == self.end;
        let is_rd_atomic = slot.opcode.is_rd_atomic();
        let under_way = self.next.since(self.una) as u32;
        let window = match self.probing {
            true => plan.psns,
            false => WINDOW,
        };
        if under_way + plan.psns > window
            || (is_new && is_rd_atomic && self.rd_atomic >= self.config.max_rd_atomic.into())
        {
            return Transmit::Nothing;
        }
        let ends = plan.kind.part().ends();
        let asks = !is_rd_atomic
            && (self.since_ack_req >= ASK_AFTER - 1
                || under_way + 1 == window
                || (ends && (self.ack_each_message || !self.goes_on_after(position, host))));
        let service = Service::of(self.config.qp_type);
        let Some(opcode) = Opcode::new(service, plan.kind) else {
            return self.refuse(position, WcStatus::LocQpOpErr, host);
        };
        let mut bth = Bth::new(opcode, self.config.dest_qp, self.next);
        bth.solicited =
            ends && slot.opcode.consumes_receive() && slot.flags.contains(SendFlags::SOLICITED);
        bth.ack_req = asks && service == Service::Rc;
        let gather = self.gather.of(position);
        let length = plan.length as usize;
        let emitted = emit_with(&bth, &plan.headers, length, buffer, |payload| match data {
            Data::Inline(bytes) => {
                let bytes = bytes.get(plan.at as usize..).unwrap_or(&[]);
                if let Some(bytes) = bytes.get(..payload.len()) {
                    payload.copy_from_slice(bytes);
                }
                Ok(())
            }
            Data::Sges(sges) => gather.read(host, sges, plan.at, payload),
        });
        let length = match emitted {
            Err(error) => return Transmit::NeedsRoom(error.0),
            Ok(Err(Denied::Fault(Fault::Later))) => return Transmit::Later,
            Ok(Err(_)) => return self.refuse(position, WcStatus::LocProtErr, host),
            Ok(Ok((length, ()))) => length,
        };
        if is_new && is_rd_atomic {
            self.rd_atomic += 1;
        }
        // READs and atomics ask for none, and any number of them may come after each other.
        self.since_ack_req = if asks {
            0
        } else {
            self.since_ack_req.saturating_add(1)
        };
        self.next = self.next + plan.psns;
        if !self.next.is_before(slot.end()) {
            self.current = position.wrapping_add(1);
        }
        if self.end.is_before(self.next) {
            self.end = self.next;
        }
        match service {
            Service::Rc => self.start_ack_timer(now),
            // Nobody answers: what is sent is done (IBTA 9.8.1).
            _ => {
                self.una = self.next;
                self.retire(host);
            }
        }
        Transmit::Packet(length)
    }

    /// Whether another request is sent right after this one, as far as is known, so that an
    /// acknowledgement of that one will do for both.
    fn goes_on_after<H: Host<Region = R>>(&self, position: u32, host: &H) -> bool {
        let next = position.wrapping_add(1);
        if self.hold || next == self.posted {
            return false;
        }
        let entry = self.entry(next, host);
        match SendRequest::decode(entry, self.config.qp_type, self.config.origin) {
            Ok((request, _)) => {
                let opcode = request.operation.opcode();
                !opcode.is_local()
                    && !request.flags.contains(SendFlags::FENCE)
                    && self.has_credit(opcode)
            }
            Err(_) => false,
        }
    }
}

/// How many PSNs a request takes (IBTA 9.7.1, 9.7.2).
fn packets(opcode: SendOpcode, length: u32, mtu: u32) -> u32 {
    match opcode {
        _ if opcode.is_local() => 0,
        SendOpcode::CompareSwap
        | SendOpcode::FetchAdd
        | SendOpcode::Flush
        | SendOpcode::AtomicWrite => 1,
        _ => length.div_ceil(mtu.max(1)).max(1),
    }
}

/// The packet of a request that has this index.
fn plan(operation: &Operation, slot: &Slot, index: u32, mtu: u32) -> Plan {
    let at = index * mtu;
    let part = Part::new(index == 0, index + 1 == slot.packets);
    let request = |kind, headers| Plan {
        kind,
        headers,
        at: 0,
        length: 0,
        psns: 1,
    };
    let payload = |kind, headers| Plan {
        kind,
        headers,
        at,
        length: (slot.length - at).min(mtu),
        psns: 1,
    };
    let reth = |remote: Remote| Reth {
        remote,
        dma_len: slot.length,
    };
    match *operation {
        Operation::Send => payload(send_kind(part), Headers::None),
        Operation::SendImm(imm) => match part {
            Part::Last => payload(Kind::SendLastImm, Headers::Imm(imm)),
            Part::Only => payload(Kind::SendOnlyImm, Headers::Imm(imm)),
            _ => payload(send_kind(part), Headers::None),
        },
        Operation::SendInvalidate { rkey } => match part {
            Part::Last => payload(Kind::SendLastInvalidate, Headers::Ieth(rkey)),
            Part::Only => payload(Kind::SendOnlyInvalidate, Headers::Ieth(rkey)),
            _ => payload(send_kind(part), Headers::None),
        },
        Operation::RdmaWrite(remote) => {
            payload(write_kind(part), write_headers(part, reth(remote)))
        }
        Operation::RdmaWriteImm(remote, imm) => match part {
            Part::Last => payload(Kind::WriteLastImm, Headers::Imm(imm)),
            Part::Only => payload(Kind::WriteOnlyImm, Headers::RethImm(reth(remote), imm)),
            _ => payload(write_kind(part), write_headers(part, reth(remote))),
        },
        Operation::RdmaRead(remote) => {
            let end = read_end(index, slot.packets);
            let to = slot.length.min(end.saturating_mul(mtu));
            let reth = Reth {
                remote: Remote {
                    addr: remote.addr.wrapping_add(at.into()),
                    ..remote
                },
                dma_len: to - at,
            };
            Plan {
                psns: end - index,
                ..request(Kind::ReadRequest, Headers::Reth(reth))
            }
        }
        Operation::CompareSwap {
            remote,
            compare,
            swap,
        } => {
            let atomic = AtomicEth {
                remote,
                swap_add: swap,
                compare,
            };
            request(Kind::CompareSwap, Headers::Atomic(atomic))
        }
        Operation::FetchAdd { remote, add } => {
            let atomic = AtomicEth {
                remote,
                swap_add: add,
                compare: 0,
            };
            request(Kind::FetchAdd, Headers::Atomic(atomic))
        }
        Operation::AtomicWrite(remote) => Plan {
            length: ATOMIC_LENGTH,
            ..request(Kind::AtomicWrite, Headers::Reth(reth(remote)))
        },
        Operation::Flush {
            remote,
            length,
            selectivity,
            placement,
        } => {
            let feth = Feth {
                placement,
                level: selectivity.number(),
            };
            let reth = Reth {
                remote,
                dma_len: length,
            };
            request(Kind::Flush, Headers::Flush(feth, reth))
        }
        // They take no PSN, and are not sent.
        Operation::LocalInvalidate { .. } | Operation::BindMw(_) | Operation::RegMr(_) => {
            request(Kind::SendOnly, Headers::None)
        }
    }
}

/// The index after the last response to the READ request that asks for this one.
pub(super) fn read_end(index: u32, packets: u32) -> u32 {
    (index - index % READ_PACKETS + READ_PACKETS).min(packets)
}

fn send_kind(part: Part) -> Kind {
    match part {
        Part::First => Kind::SendFirst,
        Part::Middle => Kind::SendMiddle,
        Part::Last => Kind::SendLast,
        Part::Only => Kind::SendOnly,
    }
}

fn write_kind(part: Part) -> Kind {
    match part {
        Part::First => Kind::WriteFirst,
        Part::Middle => Kind::WriteMiddle,
        Part::Last => Kind::WriteLast,
        Part::Only => Kind::WriteOnly,
    }
}

fn write_headers(part: Part, reth: Reth) -> Headers {
    if part.begins() {
        Headers::Reth(reth)
    } else {
        Headers::None
    }
}
