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
mod flush;
mod list;
mod sides;
#[cfg(test)]
mod tests;

use crate::ring::{Data, Operation, Remote, SendRequest, SgeList};
use crate::verbs::limits::{ATOMIC_LENGTH, MAX_MESSAGE_LENGTH};
use crate::verbs::{AccessFlags, EventType, RnrTimer, SendFlags, WcOpcode, WcStatus};

pub(crate) use cursor::{Cursor, Denied};
pub use datagram::{Arrived, Datagram, Delivery};
pub(crate) use flush::{flush, FlushError};
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
    if !request.operation.opcode().may_be_under_way(max_rd_atomic) {
        return Outcome::Failed(WcStatus::LocQpOpErr);
    }
    let length = match u32::try_from(data.length()) {
        Ok(length) if length <= MAX_MESSAGE_LENGTH => length,
        _ => return Outcome::Failed(WcStatus::LocLenErr),
    };
    let writes = matches!(
        request.operation,
        Operation::RdmaRead(_) | Operation::CompareSwap { .. } | Operation::FetchAdd { .. }
    );
    // Only one of them is ever made.
    let (mut one, mut many): (RegionList<_, 1>, RegionList<_>);
    let checked = match data {
        // What comes back has no place in a work request (IBTA 11.4.1.1).
        Data::Inline(_) if writes => return Outcome::Failed(WcStatus::LocQpOpErr),
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
        } => flush(placement, Some(selectivity), remote, length, peer).map_err(Refusal::from),
        Operation::LocalInvalidate { .. } | Operation::BindMw(_) | Operation::RegMr(_) => {
            Err(Refusal::Local(WcStatus::LocQpOpErr))
        }
    };
    match result {
        Ok(()) => Outcome::Done(length),
        Err(Refusal::Local(status)) => Outcome::Failed(status),
        Err(Refusal::Paused) => Outcome::Paused,
        Err(Refusal::OwnMemoryLater) => Outcome::OwnMemoryLater,
        Err(refusal) if reliable => refusal.answer(peer),
        Err(Refusal::MemoryLater) => Outcome::MemoryLater,
        Err(Refusal::Completed(_)) => {
            // A receive that failed ends any QP (IBTA 10.3.1, Error).
            peer.fail(None);
            Outcome::Dropped(length)
        }
        Err(_) => Outcome::Dropped(length),
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

/// What keeps a request from being done.
enum Refusal {
    /// The requester's own fault: the peer never hears of it.
    Local(WcStatus),
    /// No receive is posted.
    NotReady,
    /// The peer's memory is not there yet.
    MemoryLater,
    /// The requester's own memory is not there yet.
    OwnMemoryLater,
    /// The host has other things to do.
    Paused,
    /// NAK, invalid request (IBTA 9.7.5.2.5).
    InvalidRequest,
    /// NAK, remote access error (IBTA 9.7.5.2.6).
    Access,
    /// NAK with this status; the responder has learned by a completion, and
    /// needs no event (IBTA 11.6.3: those are for what no completion tells).
    Completed(WcStatus),
}

/// A fault in the peer's memory.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Later => Self::MemoryLater,
            Fault::Gone => Self::Access,
        }
    }
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Peer(fault) => fault.into(),
            Stopped::Own(Fault::Later) => Self::OwnMemoryLater,
            Stopped::Own(Fault::Gone) => Self::Local(WcStatus::LocProtErr),
            Stopped::Paused => Self::Paused,
        }
    }
}

impl From<FlushError> for Refusal {
    fn from(error: FlushError) -> Self {
        match error {
            FlushError::InvalidRequest => Self::InvalidRequest,
            FlushError::Access => Self::Access,
        }
    }
}

impl Refusal {
    /// Whether the peer is not to learn of it: to the peer, the receive is still there.
    fn is_silent(&self) -> bool {
        matches!(
            self,
            Self::Local(_) | Self::MemoryLater | Self::OwnMemoryLater | Self::Paused
        )
    }

    /// What happens to the two sides of a reliable connection.
    fn answer(self, peer: &impl Responder) -> Outcome {
        let (event, status) = match self {
            Refusal::Local(status) => return Outcome::Failed(status),
            Refusal::NotReady | Refusal::MemoryLater => {
                return Outcome::NotReady(peer.min_rnr_timer());
            }
            Refusal::OwnMemoryLater => return Outcome::OwnMemoryLater,
            Refusal::Paused => return Outcome::Paused,
            Refusal::InvalidRequest => (Some(EventType::QpReqErr), WcStatus::RemInvReqErr),
            Refusal::Access => (Some(EventType::QpAccessErr), WcStatus::RemAccessErr),
            Refusal::Completed(status) => (None, status),
        };
        peer.fail(event);
        Outcome::Failed(status)
    }
}

fn send<P: Responder>(
    message: &Message<'_, P::Region>,
    peer: &P,
    reliable: bool,
    done: &mut u32,
) -> Result<(), Refusal> {
    let fits = |receive: &Receive<'_>| receive.capacity() >= u64::from(message.length);
    let mut later = Refusal::NotReady;
    let taken = peer.take_receive(
        // Without an answer, a message that is too long is dropped, and the
        // receive is there for the next (IBTA 9.8.2; rdma_rxe's class D).
        |receive| reliable || fits(receive),
        |receive| {
            // The status, and the answer if it is an error: for a message
            // that is too long IBTA 9.7.4.1.7 and table 61, length errors.
            let failed = if !fits(receive) {
                Some((WcStatus::LocLenErr, WcStatus::RemInvReqErr))
            } else {
                match message.place(peer, receive.scatter, 0, done) {
                    Ok(()) => match message.extra {
                        Extra::Invalidated(rkey) if peer.invalidate(rkey).is_err() => {
                            Some((WcStatus::LocAccessErr, WcStatus::RemAccessErr))
                        }
                        _ => None,
                    },
                    Err(stopped) => {
                        let refusal = Refusal::from(stopped);
                        if refusal.is_silent() {
                            later = refusal;
                            return None;
                        }
                        Some((WcStatus::LocProtErr, WcStatus::RemOpErr))
                    }
                }
            };
            let status = failed.map_or(WcStatus::Success, |(status, _)| status);
            let received = message.received(receive.wr_id, status, WcOpcode::Recv);
            let result = failed.map_or(Ok(()), |(_, answer)| Err(Refusal::Completed(answer)));
            Some((received, result))
        },
    );
    finish(taken, peer, later)
}

/// Completes a receive that was taken, after the lock on its queue is gone. `later` says why if none was.
fn finish<P: Responder>(
    taken: Taken<(Received, Result<(), Refusal>)>,
    peer: &P,
    later: Refusal,
) -> Result<(), Refusal> {
    match taken {
        Taken::Done((received, result)) => {
            peer.complete(&received);
            result
        }
        Taken::Empty | Taken::Refused => Err(later),
    }
}

fn extra_of(operation: &Operation) -> Extra {
    match *operation {
        Operation::SendImm(data) | Operation::RdmaWriteImm(_, data) => Extra::Immediate(data),
        Operation::SendInvalidate { rkey } => Extra::Invalidated(rkey),
        _ => Extra::None,
    }
}

/// The peer's memory that a request names; a range of no bytes needs no key
/// (IBTA 9.7.4.1.6).
fn target<P: Responder>(
    remote: Remote,
    length: u32,
    access: AccessFlags,
    peer: &P,
) -> Result<Option<P::Region>, Refusal> {
    // A QP that does not do this at all finds the request invalid, whatever
    // its key (IBTA 9.7.4.1.5; rdma_rxe answers the same).
    if !peer.access().contains(access) {
        return Err(Refusal::InvalidRequest);
    }
    if length == 0 {
        return Ok(None);
    }
    peer.remote(remote, length, access)
        .map(Some)
        .map_err(|AccessError| Refusal::Access)
}

fn write<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), Refusal> {
    let target = target(remote, message.length, AccessFlags::REMOTE_WRITE, peer)?;
    Ok(message.copy_to(target.as_ref(), peer, done)?)
}

fn write_with_immediate<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), Refusal> {
    let target = target(remote, message.length, AccessFlags::REMOTE_WRITE, peer)?;
    let mut later = Refusal::NotReady;
    let taken = peer.take_receive(
        |_| true,
        |receive| {
            let copied = message.copy_to(target.as_ref(), peer, done);
            let (status, result) = match copied.map_err(Refusal::from) {
                Ok(()) => (WcStatus::Success, Ok(())),
                Err(refusal) if refusal.is_silent() => {
                    later = refusal;
                    return None;
                }
                Err(_) => {
                    let answer = Refusal::Completed(WcStatus::RemAccessErr);
                    (WcStatus::LocAccessErr, Err(answer))
                }
            };
            let received = message.received(receive.wr_id, status, WcOpcode::RecvRdmaWithImm);
            Some((received, result))
        },
    );
    finish(taken, peer, later)
}

fn read<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    peer: &P,
    done: &mut u32,
) -> Result<(), Refusal> {
    if !peer.takes_reads() {
        return Err(Refusal::InvalidRequest);
    }
    let from = target(remote, message.length, AccessFlags::REMOTE_READ, peer)?;
    let Checked::Regions(to) = &message.data else {
        return Err(Refusal::Local(WcStatus::LocQpOpErr));
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

/// Eight aligned bytes of the peer's memory.
fn word<P: Responder>(remote: Remote, access: AccessFlags, peer: &P) -> Result<P::Region, Refusal> {
    // IBTA 9.4.5 and 9.7.4.1.8: a misaligned address makes the request invalid.
    let aligned = remote.addr.is_multiple_of(u64::from(ATOMIC_LENGTH));
    if !aligned || !peer.takes_reads() || !peer.access().contains(access) {
        return Err(Refusal::InvalidRequest);
    }
    peer.remote(remote, ATOMIC_LENGTH, access)
        .map_err(|AccessError| Refusal::Access)
}

fn atomic<P: Responder>(
    message: &Message<'_, P::Region>,
    remote: Remote,
    change: AtomicChange,
    peer: &P,
    found: &mut Option<u64>,
) -> Result<(), Refusal> {
    let Checked::Regions(to) = &message.data else {
        return Err(Refusal::Local(WcStatus::LocQpOpErr));
    };
    let before = match *found {
        Some(before) => before,
        None => {
            let word = word(remote, AccessFlags::REMOTE_ATOMIC, peer)?;
            // What could not be told is not done.
            to.read(&mut [0; ATOMIC_LENGTH as usize])
                .map_err(Stopped::Own)?;
            *found.insert(word.update(change)?)
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
) -> Result<(), Refusal> {
    let mut bytes = [0; ATOMIC_LENGTH as usize];
    match &message.data {
        Checked::Inline(from) => from
            .iter()
            .zip(&mut bytes)
            .for_each(|(from, to)| *to = *from),
        Checked::Regions(list) => list.read(&mut bytes).map_err(Stopped::Own)?,
    }
    word(remote, AccessFlags::REMOTE_WRITE, peer)?.update(AtomicChange::Store(bytes))?;
    Ok(())
}
