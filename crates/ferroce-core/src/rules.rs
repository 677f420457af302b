// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a responder checks of a request (IBTA 9.7.4.1), and how it refuses one (IBTA 9.7.5.2, table 61).
//!
//! The rules are the same for a request that is executed on this host ([`local`](crate::local)) and for
//! one that comes in packets ([`responder`](crate::responder)).

use crate::local::{AccessError, Extra, Fault, Responder};
use crate::ring::Remote;
use crate::verbs::limits::{ATOMIC_LENGTH, MAX_MESSAGE_LENGTH};
use crate::verbs::{AccessFlags, EventType, FlushPlacement, FlushSelectivity, WcStatus};
use crate::wire::Nak;

/// Why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No receive is posted.
    NoReceive,
    /// The responder's memory is not there yet.
    MemoryLater,
    /// The request makes no sense, or the QP does not do this.
    InvalidRequest,
    /// The key does not allow the access.
    Access,
    /// The receive failed. Its completion tells the responder.
    Receive(ReceiveError),
}

/// Why a receive fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReceiveError {
    /// The message is longer than the receive.
    TooLong,
    /// The memory of the receive cannot be written.
    Memory,
    /// The key that a SEND with Invalidate names cannot be invalidated.
    Invalidate,
    /// The memory that an RDMA WRITE with immediate data names is gone.
    Immediate,
}

impl ReceiveError {
    /// The status of the receive's completion.
    pub(crate) const fn status(self) -> WcStatus {
        match self {
            Self::TooLong => WcStatus::LocLenErr,
            Self::Memory => WcStatus::LocProtErr,
            Self::Invalidate | Self::Immediate => WcStatus::LocAccessErr,
        }
    }
}

impl Refusal {
    /// What the requester is told, and the event at the responder; `None` if the requester is to try again.
    pub(crate) const fn answer(self) -> Option<(Nak, Option<EventType>)> {
        Some(match self {
            Self::NoReceive | Self::MemoryLater => return None,
            Self::InvalidRequest => (Nak::InvalidRequest, Some(EventType::QpReqErr)),
            Self::Access => (Nak::RemoteAccessError, Some(EventType::QpAccessErr)),
            // IBTA 11.6.3: an event is for what no completion tells.
            Self::Receive(error) => {
                let nak = match error {
                    // Table 61, length errors.
                    ReceiveError::TooLong => Nak::InvalidRequest,
                    ReceiveError::Memory => Nak::RemoteOperationalError,
                    ReceiveError::Invalidate | ReceiveError::Immediate => Nak::RemoteAccessError,
                };
                (nak, None)
            }
        })
    }

    /// Whether the responder of an unreliable connection fails with it, which tells nobody of a refusal: a
    /// receive that failed ends any QP (IBTA 10.3.1, Error). A message that is too long is dropped, and the
    /// receive is there for the next (IBTA 9.8.2; rdma_rxe's class D).
    pub(crate) const fn fails_unreliable(self) -> bool {
        match self {
            Self::Receive(ReceiveError::TooLong) => false,
            Self::Receive(_) => true,
            _ => false,
        }
    }
}

/// A fault in memory that a remote key names.
impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Later => Self::MemoryLater,
            Fault::Gone => Self::Access,
        }
    }
}

impl From<AccessError> for Refusal {
    fn from(AccessError: AccessError) -> Self {
        Self::Access
    }
}

/// Checks that the QP takes RDMA WRITEs of this length, in bytes.
///
/// A QP that does not do this at all finds the request invalid, whatever its key (IBTA 9.7.4.1.5; rdma_rxe
/// answers the same).
pub(crate) fn check_write<P: Responder>(peer: &P, length: u32) -> Result<(), Refusal> {
    let is_valid =
        peer.access().contains(AccessFlags::REMOTE_WRITE) && length <= MAX_MESSAGE_LENGTH;
    is_valid.then_some(()).ok_or(Refusal::InvalidRequest)
}

/// The memory that a request names; a range of no bytes needs no key (IBTA 9.7.4.1.6).
pub(crate) fn range<P: Responder>(
    peer: &P,
    remote: Remote,
    length: u32,
    access: AccessFlags,
) -> Result<Option<P::Region>, Refusal> {
    match length {
        0 => Ok(None),
        _ => Ok(Some(peer.remote(remote, length, access)?)),
    }
}

/// The memory that an RDMA READ of this length, in bytes, is answered from.
pub(crate) fn read<P: Responder>(
    peer: &P,
    remote: Remote,
    length: u32,
) -> Result<Option<P::Region>, Refusal> {
    let is_valid = peer.takes_reads()
        && peer.access().contains(AccessFlags::REMOTE_READ)
        && length <= MAX_MESSAGE_LENGTH;
    match is_valid {
        true => range(peer, remote, length, AccessFlags::REMOTE_READ),
        false => Err(Refusal::InvalidRequest),
    }
}

/// The eight bytes of an atomic or an ATOMIC WRITE.
pub(crate) fn word<P: Responder>(
    peer: &P,
    remote: Remote,
    access: AccessFlags,
) -> Result<P::Region, Refusal> {
    // IBTA 9.4.5 and 9.7.4.1.8: a misaligned address makes the request invalid.
    let is_valid = remote.addr % u64::from(ATOMIC_LENGTH) == 0
        && peer.takes_reads()
        && peer.access().contains(access);
    match is_valid {
        true => Ok(peer.remote(remote, ATOMIC_LENGTH, access)?),
        false => Err(Refusal::InvalidRequest),
    }
}

/// Invalidates the key that a SEND names, once its data is in place.
pub(crate) fn invalidate<P: Responder>(peer: &P, extra: Extra) -> Result<(), ReceiveError> {
    match extra {
        Extra::Invalidated(rkey) => peer
            .invalidate(rkey)
            .map_err(|AccessError| ReceiveError::Invalidate),
        Extra::None | Extra::Immediate(_) => Ok(()),
    }
}

/// What lets a peer FLUSH, for each placement type.
const FLUSH_RIGHTS: [(FlushPlacement, AccessFlags); 2] = [
    (FlushPlacement::GLOBAL, AccessFlags::FLUSH_GLOBAL),
    (FlushPlacement::PERSISTENT, AccessFlags::FLUSH_PERSISTENT),
];

/// Carries out a FLUSH (IBTA annex A19). `length` is in bytes; `selectivity` is `None` if its number means
/// nothing.
///
/// Nothing is cached between the memory and any agent of the host: a FLUSH to global visibility is done
/// as soon as it is allowed. Persistence the device does not offer: none of its memory is known to
/// survive a loss of power, so no region can be registered for that
/// (`IB_DEVICE_FLUSH_PERSISTENT` is not set), and no key allows it. rdma_rxe answers the same if the
/// region is not in persistent memory.
pub(crate) fn flush<P: Responder>(
    peer: &P,
    placement: FlushPlacement,
    selectivity: Option<FlushSelectivity>,
    remote: Remote,
    length: u32,
) -> Result<(), Refusal> {
    let rights = FLUSH_RIGHTS
        .iter()
        .filter(|(one, _)| placement.contains(*one))
        .fold(AccessFlags::EMPTY, |rights, (_, right)| rights | *right);
    let is_valid = FlushPlacement::ALL.contains(placement)
        && !rights.is_empty()
        && peer.takes_reads()
        && peer.access().contains(rights);
    let selectivity = selectivity.filter(|_| is_valid);
    let selectivity = selectivity.ok_or(Refusal::InvalidRequest)?;
    if placement.contains(FlushPlacement::PERSISTENT) {
        return Err(Refusal::Access);
    }
    match selectivity {
        // A range of no bytes is somewhere in the region nevertheless, as rdma_rxe has it.
        FlushSelectivity::Range => peer.remote(remote, length.max(1), rights).map(|_| ())?,
        // Neither address nor length mean anything.
        FlushSelectivity::Mr => peer.remote_key(remote.rkey, rights)?,
    }
    Ok(())
}
