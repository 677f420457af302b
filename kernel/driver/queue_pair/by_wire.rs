// SPDX-License-Identifier: GPL-2.0

//! The sending side of a queue pair whose peer is on another host.

use super::{
    send::{broken, execute_local, Extent, Stopped},
    Qp,
};
use crate::{rdma, remote::Next, ring::SendQueue, rings::WorkQueue};

/// Hands what is posted to the requester, and has it sent as far as that goes now.
pub(super) fn drain(
    qp: &rdma::Qp<Qp>,
    queue: &mut WorkQueue<SendQueue>,
    extent: Extent,
) -> Stopped {
    let mut fetched = 0;
    loop {
        let Ok((now, next)) = qp.connection.post(qp, queue, extent.is_to_sleep()) else {
            broken(qp);
            // What was fetched before is flushed.
            qp.connection.run_requester(qp);
            return Stopped::Waiting;
        };
        fetched += now;
        match next {
            Next::Local(slot, operation) => {
                let result = execute_local(qp, &operation).unwrap_or(Ok(()));
                qp.connection.executed(qp, slot, result);
            }
            Next::Idle | Next::Busy if now == 0 => return Stopped::After(fetched),
            Next::Idle | Next::Busy | Next::More => {}
            // Who has the memory be there comes back.
            Next::Later => return Stopped::Waiting,
        }
        if let Some(stopped) = extent.pause(qp, fetched) {
            return stopped;
        }
    }
}
