// SPDX-License-Identifier: MIT OR Apache-2.0
//! Delivery on one host: a work request is executed straight against the peer
//! QP, in one copy from registered memory to registered memory, with every rule
//! of the transport kept and not one packet made.
//!
//! The front end finds the peer, checks that the two are connected, and lends
//! both sides' memory and the peer's receive queue by the traits here. What the
//! protocol would have said on the wire comes back as an [`Outcome`]; waiting,
//! retrying and completing on the requester's side are the front end's, since
//! they take time.

mod cursor;
mod datagram;
mod list;
mod sides;
#[cfg(test)]
mod tests;

use crate::ring::{Data, Operation, Remote, SendRequest, SgeList};
use crate::rules::{self, ReceiveError, Refusal};
use crate::verbs::limits::{ATOMIC_LENGTH, MAX_MESSAGE_LENGTH};
use crate::verbs::{AccessFlags, RnrTimer, SendFlags, WcOpcode, WcStatus};

pub(crate) use cursor::{Cursor, Denied};
pub use datagram::{Arrived, Datagram, Delivery};
use list::{transfer, Direction, Regions, Stopped, Walk, PIECES};
pub use list::{RegionList, PART};
pub use sides::{
    AccessError, AtomicChange, CopyFault, Extra, Fault, LocalMemory, Receive, Received, Region,
    Responder, Source, Taken,
};

/// What the requester learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; this many bytes were moved.
    Done(u32),
    /// The peer has not taken this many bytes of an unreliable connection: to the requester, which
    /// cannot know, that is as good as done.
    Dropped(u32),
    /// The peer has no receive posted, or its memory is not there yet: try again, at
    /// the earliest after this (IBTA 9.7.5.2.8, RNR NAK).
    NotReady(RnrTimer),
    /// The peer's memory is not there yet, and there is no acknowledgement that could
    /// say so (UC): try again a little later, or take it for dropped.
    MemoryLater,
    /// The requester's own memory is not there yet: go on when it is.
    OwnMemoryLater,
    /// [`Responder::may_go_on`] has said no: go on later, or with what has become of the
    /// peer.
    Paused,
    /// It failed, and so does the requester's QP.
    Failed(WcStatus),
}

/// What has been done of a request that is executed in several calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the message have been moved.
    moved: u32,
    /// What an atomic has found: it is not executed again.
    found: Option<u64>,
}

/// A request's data with its keys checked.
enum Checked<'a, R> {
    Inline(&'a [u8]),
    Regions(Regions<'a, R>),
}

/// Executes a request of a connected QP against its peer.
///
/// `max_rd_atomic` is the requester's. On an unreliable connection (`reliable` is
/// false) the requester learns nothing of what the peer makes of it: the message
/// is dropped (IBTA 9.8).
///
/// `progress` is what an earlier call with the same request and peer has come to.
pub fn execute<L, P>(
    request: &SendRequest,
    data: Data<'_>,
    requester: &L,
    max_rd_atomic: u8,
    peer: &P,
    reliable: bool,
    progress: &mut Progress,
) -> Outcome
where
    L: LocalMemory,
    P: Responder<Region = L::Region>,
{
    let (length, writes) = match check_request(request, data, max_rd_atomic) {
        Ok(checked) => checked,
        Err(status) => return Outcome::Failed(status),
    };
    // Only one of them is ever made.
    let (mut one, mut many): (RegionList<_, 1>, RegionList<_>);
    let checked = match data {
        Data::Inline(bytes) => Checked::Inline(bytes),
        Data::Sges(sges) => {
            let (result, regions) = if sges.len() <= 1 {
                one = RegionList::new();
                (one.check(requester, sges, writes), one.regions())
            } else {
                many = RegionList::new();
                (many.check(requester, sges, writes), many.regions())
            };
            match result {
                Ok(()) => Checked::Regions(regions),
                Err(AccessError) => return Outcome::Failed(WcStatus::LocProtErr),
            }
        }
    };
    let done = &mut progress.moved;
    let message = Message {
        data: checked,
        length,
        extra: extra_of(&request.operation),
        solicited: request.flags.contains(SendFlags::SOLICITED),
    };
    // Those that concern the requester's host alone do not come here.
    peer.established();
    let result = match request.operation {
        Operation::Send | Operation::SendImm(_) | Operation::SendInvalidate { .. } => {
            send(&message, peer, reliable, done)
        }
        Operation::RdmaWrite(remote) => write(&message, remote, peer, done),
        Operation::RdmaWriteImm(remote, _) => write_with_immediate(&message, remote, peer, done),
        Operation::RdmaRead(remote) => read(&message, remote, peer, done),
        Operation::CompareSwap {
            remote,
            compare,
            swap,
        } => atomic(
            &message,
            remote,
            AtomicChange::CompareSwap { compare, swap },
            peer,
            &mut progress.found,
        ),
        Operation::FetchAdd { remote, add } => {
            let change = AtomicChange::Add(add);
            atomic(&message, remote, change, peer, &mut progress.found)
        }
        Operation::AtomicWrite(remote) => atomic_write(&message, remote, peer),
        Operation::Flush {
            remote,
            length,
            selectivity,
            placement,
        } => rules::flush(peer, placement, Some(selectivity), remote, length).map_err(End::Refused),
        Operation::LocalInvalidate { .. } | Operation::BindMw(_) | Operation::RegMr(_) => {
            Err(End::Failed(WcStatus::LocQpOpErr))
        }
    };
    let refusal = match result {
        Ok(()) => return Outcome::Done(length),
        Err(End::Failed(status)) => return Outcome::Failed(status),
        Err(End::Paused) => return Outcome::Paused,
        Err(End::OwnMemoryLater) => return Outcome::OwnMemoryLater,
        Err(End::Refused(refusal)) => refusal,
    };
    match refusal.answer() {
        _ if !reliable => match refusal {
            Refusal::MemoryLater => Outcome::MemoryLater,
            _ => {
                if refusal.fails_unreliable() {
                    peer.fail(None);
                }
                Outcome::Dropped(length)
            }
        },
        Some((nak, event)) => {
            peer.fail(event);
            Outcome::Failed(nak.status())
        }
        None => Outcome::NotReady(peer.min_rnr_timer()),
    }
}

/// Checks a request without its peer: what fails for it fails whether there is a peer or not.
///
/// Not inlined: its list is not to be on the stack beside that of [`execute`].
#[inline(never)]
pub fn check<L: LocalMemory>(
    request: &SendRequest,
    data: Data<'_>,
    requester: &L,
    max_rd_atomic: u8,
) -> Result<(), WcStatus> {
    let (_, writes) = check_request(request, data, max_rd_atomic)?;
    if let Data::Sges(sges) = data {
        RegionList::<_, PIECES>::new()
            .check(requester, sges, writes)
            .map_err(|AccessError| WcStatus::LocProtErr)?;
    }
    Ok(())
}

/// Checks a request without its keys. Returns its length in bytes, and whether the requester's memory is
/// written.
fn check_request(
    request: &SendRequest,
    data: Data<'_>,
    max_rd_atomic: u8,
) -> Result<(u32, bool), WcStatus> {
    if !request.operation.opcode().may_be_under_way(max_rd_atomic) {
        return Err(WcStatus::LocQpOpErr);
    }
    let length = match u32::try_from(data.length()) {
        Ok(length) if length <= MAX_MESSAGE_LENGTH => length,
        _ => return Err(WcStatus::LocLenErr),
    };
    let writes = request.operation.opcode().gets_data();
    // What comes back has no place in a work request (IBTA 11.4.1.1).
    match data {
        Data::Inline(_) if writes => Err(WcStatus::LocQpOpErr),
        _ => Ok((length, writes)),
    }
}

/// A request's data and what goes with it.
struct Message<'a, R> {
    data: Checked<'a, R>,
    length: u32,
    extra: Extra,
    solicited: bool,
}

impl<R: Region> Message<'_, R> {
    /// Copies the message to the peer's memory: nothing, if there is nothing to be copied.
    fn copy_to<P: Responder<Region = R>>(
        &self,
        target: Option<&R>,
        peer: &P,
        done: &mut u32,
    ) -> Result<(), Stopped> {
        match (target, &self.data) {
            (None, _) => Ok(()),
            (Some(target), Checked::Inline(bytes)) => target.write(0, bytes).map_err(Stopped::Peer),
            (Some(target), Checked::Regions(list)) => {
                let (from, to) = (Walk::list(*list), Walk::region(target));
                let direction = Direction::ToPeer;
                transfer(from, to, direction, self.length, done, || peer.may_go_on())
            }
        }
    }

    /// Puts the message into a receive's buffers, from `at` bytes on.
    fn place<P: Responder<Region = R>>(
        &self,
        peer: &P,
        scatter: SgeList<'_>,
        at: u32,
        done: &mut u32,
    ) -> Result<(), Stopped> {
        match scatter.len() {
            0 | 1 => self.place_in::<P, 1>(peer, scatter, at, done),
            _ => self.place_in::<P, PIECES>(peer, scatter, at, done),
        }
    }

    /// [`place`](Self::place), by a list with room for all of the buffers. Not inlined: only one of the
    /// lists is to be on the stack.
    #[inline(never)]
    fn place_in<P: Responder<Region = R>, const ROOM: usize>(
        &self,
        peer: &P,
        scatter: SgeList<'_>,
        at: u32,
        done: &mut u32,
    ) -> Result<(), Stopped> {
        let mut target = RegionList::<R, ROOM>::new();
        target
            .check_prefix(peer, scatter, at, self.length)
            .map_err(|AccessError| Stopped::Peer(Fault::Gone))?;
        let target = target.regions();
        match self.data {
            Checked::Inline(bytes) => target.write(bytes).map_err(Stopped::Peer),
            Checked::Regions(list) => {
                let (from, to) = (Walk::list(list), Walk::list(target));
                let direction = Direction::ToPeer;
                transfer(from, to, direction, self.length, done, || peer.may_go_on())
            }
        }
    }

    /// The completion of the receive that the message consumed.
    fn received(&self, wr_id: u64, status: WcStatus, opcode: WcOpcode) -> Received {
        Received {
            wr_id,
            status,
            opcode,
            byte_len: self.length,
            extra: self.extra,
            solicited: self.solicited,
            source: None,
        }
    }
}

/// Why a request is not done, or not yet.
enum End {
    /// The requester's own fault: the peer never hears of it.
    Failed(WcStatus),
    /// The requester's own memory is not there yet.
    OwnMemoryLater,
    /// The host has other things to do.
    Paused,
    /// The peer refuses it.
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Stopped> for End {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Peer(fault) => Self::Refused(fault.into()),
            Stopped::Own(Fault::Later) => Self::OwnMemoryLater,
            Stopped::Own(Fault::Gone) => Self::Failed(WcStatus::LocProtErr),
            Stopped::Paused => Self::Paused,
        }
    }
}

impl From<ReceiveError> for End {
    fn from(error: ReceiveError) -> Self {
        Self::Refused(Refusal::Receive(error))
    }
}

fn send<P: Responder>(
    message: &Message<'_, P::Region>,
    peer: &P,
    reliable: bool,
    done: &mut u32,
) -> Result<(), End> {
    let fits = |receive: &Receive<'_>| receive.capacity() >= u64::from(message.length);
    consume_receive(
        message,
        peer,
        WcOpcode::Recv,
        // See `Refusal::fails_unreliable`.
        |receive| reliable || fits(receive),
        |receive| {
            if !fits(receive) {
                return Err(ReceiveError::TooLong.into());
            }
            match message.place(peer, receive.scatter, 0, done) {
                Ok(()) => Ok(rules::invalidate(peer, message.extra)?),
                Err(Stopped::Peer(Fault::Gone)) => Err(ReceiveError::Memory.into()),
                Err(stopped) => Err(stopped.into()),
            }
        },
    )
}

/// Takes a receive for a message, unless `accept` refuses it, and completes it if `place` did its work, or
/// the receive itself has failed. Otherwise the receive is there for the next message.
fn consume_receive<P: Responder>(
    message: &Message<'_, P::Region>,
    peer: &P,
    opcode: WcOpcode,
    accept: impl FnOnce(&Receive<'_>) -> bool,
    place: impl FnOnce(&Receive<'_>) -> Result<(), End>,
) -> Result<(), End> {
    let mut kept = End::Refused(Refusal::NoReceive);
    let taken = peer.take_receive(accept, |receive| {
        let result = match place(receive) {
            Ok(()) => Ok(()),
            Err(End::Refused(Refusal::Receive(error))) => Err(error),
            Err(end) => {
                kept = end;
                return None;
            }
        };
        let status = result.map_or_else(ReceiveError::status, |()| WcStatus::Success);
        Some((message.received(receive.wr_id, status, opcode), result))
    });
    match taken {
        Taken::Done((received, result)) => {
            // The lock on the receive queue is not held any more.
            peer.complete(&received);
            Ok(result?)
        }
        Taken::Empty | Taken::Refused => Err(kept),
    }
}

fn extra_of(operation: &Operation) -> Extra {
    match *operation {
        Operation::SendImm(data) | Operation::RdmaWriteImm(_, data) => Extra::Immediate(data),
        Operation::SendInvalidate { rkey } => Extra::Invalidated(rkey),
        _ => Extra::None,
    }
}

/// The peer's memory that an RDMA WRITE names.
fn target<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
) -> Result<Option<P::Region>, Refusal> {
    rules::check_write(peer, message.length)?;
    rules::range(peer, remote, message.length, AccessFlags::REMOTE_WRITE)
}

fn write<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), End> {
    let target = target(message, remote, peer)?;
    Ok(message.copy_to(target.as_ref(), peer, done)?)
}

fn write_with_immediate<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), End> {
    let target = target(message, remote, peer)?;
    let opcode = WcOpcode::RecvRdmaWithImm;
    consume_receive(
        message,
        peer,
        opcode,
        |_| true,
        |_| match message.copy_to(target.as_ref(), peer, done) {
            Err(Stopped::Peer(Fault::Gone)) => Err(ReceiveError::Immediate.into()),
            copied => Ok(copied?),
        },
    )
}

fn read<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), End> {
    let from = rules::read(peer, remote, message.length)?;
    let Checked::Regions(to) = &message.data else {
        return Err(End::Failed(WcStatus::LocQpOpErr));
    };
    let Some(from) = from else {
        return Ok(());
    };
    let (from, to) = (Walk::region(&from), Walk::list(*to));
    let direction = Direction::FromPeer;
    Ok(transfer(from, to, direction, message.length, done, || {
        peer.may_go_on()
    })?)
}

fn atomic<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    change: AtomicChange,
    peer: &P,
    found: &mut Option<u64>,
) -> Result<(), End> {
    let Checked::Regions(to) = &message.data else {
        return Err(End::Failed(WcStatus::LocQpOpErr));
    };
    let before = match *found {
        Some(before) => before,
        None => {
            let word = rules::word(peer, remote, AccessFlags::REMOTE_ATOMIC)?;
            // What could not be told is not done.
            to.read(&mut [0; ATOMIC_LENGTH as usize])
                .map_err(Stopped::Own)?;
            *found.insert(word.update(change).map_err(Refusal::from)?)
        }
    };
    // In the byte order of the host, as rdma_rxe and hardware on it return it.
    to.write(&before.to_ne_bytes())
        .map_err(|fault| Stopped::Own(fault).into())
}

fn atomic_write<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
) -> Result<(), End> {
    let mut bytes = [0; ATOMIC_LENGTH as usize];
    match &message.data {
        Checked::Inline(from) => from
            .iter()
            .zip(&mut bytes)
            .for_each(|(from, to)| *to = *from),
        Checked::Regions(list) => list.read(&mut bytes).map_err(Stopped::Own)?,
    }
    let word = rules::word(peer, remote, AccessFlags::REMOTE_WRITE)?;
    word.update(AtomicChange::Store(bytes))
        .map_err(Refusal::from)?;
    Ok(())
}
