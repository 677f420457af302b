// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a responder makes of a FLUSH (IBTA annex A19), on this host or by the wire.

use super::{AccessError, Responder};
use crate::ring::Remote;
use crate::verbs::{AccessFlags, FlushPlacement, FlushSelectivity};

/// Why a FLUSH is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlushError {
    /// It makes no sense, or the QP does not do it.
    InvalidRequest,
    /// The key does not allow it.
    Access,
}

/// What lets a peer FLUSH, for each placement type.
const RIGHTS: [(FlushPlacement, AccessFlags); 2] = [
    (FlushPlacement::GLOBAL, AccessFlags::FLUSH_GLOBAL),
    (FlushPlacement::PERSISTENT, AccessFlags::FLUSH_PERSISTENT),
];

/// Carries out a FLUSH. `length` is in bytes; `selectivity` is `None` if its number means nothing.
///
/// Nothing is cached between the memory and any agent of the host: a FLUSH to global visibility is done
/// as soon as it is allowed. Persistence the device does not offer: none of its memory is known to
/// survive a loss of power, so no region can be registered for that
/// (`IB_DEVICE_FLUSH_PERSISTENT` is not set), and no key allows it. rdma_rxe answers the same if the
/// region is not in persistent memory.
pub(crate) fn flush<P: Responder>(
    placement: FlushPlacement,
    selectivity: Option<FlushSelectivity>,
    remote: Remote,
    length: u32,
    peer: &P,
) -> Result<(), FlushError> {
    let rights = RIGHTS
        .iter()
        .filter(|(one, _)| placement.contains(*one))
        .fold(AccessFlags::EMPTY, |rights, (_, right)| rights | *right);
    let is_valid = FlushPlacement::ALL.contains(placement)
        && !rights.is_empty()
        && peer.takes_reads()
        && peer.access().contains(rights);
    let selectivity = selectivity.filter(|_| is_valid);
    let selectivity = selectivity.ok_or(FlushError::InvalidRequest)?;
    if placement.contains(FlushPlacement::PERSISTENT) {
        return Err(FlushError::Access);
    }
    let allowed = match selectivity {
        // A range of no bytes is somewhere in the region nevertheless, as rdma_rxe has it.
        FlushSelectivity::Range => peer.remote(remote, length.max(1), rights).map(|_| ()),
        // Neither address nor length mean anything.
        FlushSelectivity::Mr => peer.remote_key(remote.rkey, rights),
    };
    allowed.map_err(|AccessError| FlushError::Access)
}
