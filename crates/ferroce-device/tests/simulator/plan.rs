// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans: what processes do, and how the network is.

use std::fmt;

use ferroce_core::ring::{BindMw, Destination, Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, ImmData, QpType, SendFlags};

use crate::host::Process;
use crate::network::Conditions;

#[derive(Clone)]
pub struct Plan {
    pub conditions: Conditions,
    /// Of the network.
    pub seed: u64,
    pub steps: Vec<Step>,
}

impl fmt::Debug for Plan {
    /// A step a line, whatever was asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?}, seed {:#x}:", self.conditions, self.seed)?;
        for (step, number) in self.steps.iter().zip(1..) {
            writeln!(f, "{number:3} {step:?}")?;
        }
        Ok(())
    }
}

/// Which of some things is meant, however many there are.
#[derive(Clone, Copy)]
pub struct Pick(pub u8);

impl Pick {
    /// The place of the one, of at least one.
    pub fn index(self, count: usize) -> usize {
        (usize::from(self.0) * count) >> 8
    }

    /// What is left to choose by, of one whose [index](Self::index) of 16 is the first.
    pub fn rest(self) -> Self {
        Self(self.0 << 4)
    }

    pub fn of<T: Copy>(self, things: &[T]) -> T {
        things[self.index(things.len())]
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Register {
        of: Process,
        range: Range,
        access: AccessFlags,
    },
    Deregister {
        of: Process,
        key: Pick,
    },
    AllocateWindow {
        of: Process,
        belongs_to_qp: bool,
    },
    Create {
        of: Process,
        qp_type: QpType,
        has_srq: bool,
    },
    /// After a reset of both.
    Connect(Pick, Pick),
    /// The send queue is drained, or told to go on.
    Drain(Pick),
    Resume(Pick),
    /// The limit of a shared receive queue.
    Limit(Process, u32),
    Attach(Pick),
    Detach(Pick),
    Reset(Pick),
    Flush(Pick),
    Destroy(Pick),
    Die(Process),
    Receive {
        qp: Pick,
        key: Pick,
        range: Range,
    },
    Send {
        qp: Pick,
        send: Send,
    },
    Run(Pick),
}

/// A request, without its keys.
#[derive(Clone, Debug)]
pub struct Send {
    pub kind: Kinds,
    pub signaled: bool,
    pub own: Pick,
    pub range: Range,
    pub other: Pick,
    pub addr: u64,
    /// Of a datagram: which queue pair, and whether all of the group instead.
    pub to: Pick,
    pub to_group: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Kinds {
    Send,
    SendInvalidate,
    Write,
    WriteImm,
    Read,
    FetchAdd,
    Bind,
    Invalidate,
}

/// A range of a host's memory.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub addr: u64,
    pub length: u32,
}

impl Range {
    pub fn sge(self, lkey: u32) -> Sge {
        Sge {
            addr: self.addr,
            length: self.length,
            lkey,
        }
    }
}

/// The keys that a request may name.
pub struct Keys {
    pub own: u32,
    pub remote: u32,
    pub own_window: u32,
    pub remote_window: u32,
}

/// The number of the queue pair at a place.
pub fn number(place: usize) -> u32 {
    100 + place as u32
}

/// What a queue pair of that transport sends instead of what it cannot.
fn permitted(kind: Kinds, qp_type: QpType) -> Kinds {
    match (qp_type, kind) {
        (QpType::Rc, kind) => kind,
        (QpType::Uc, Kinds::SendInvalidate) => Kinds::Send,
        (QpType::Uc, Kinds::Read) => Kinds::Write,
        (QpType::Uc, Kinds::FetchAdd) => Kinds::WriteImm,
        (QpType::Uc, kind) => kind,
        _ => Kinds::Send,
    }
}

impl Send {
    /// For a queue pair of that transport. Datagrams have a destination.
    pub fn request(
        &self,
        wr_id: u64,
        qp_type: QpType,
        keys: &Keys,
        destination: Option<Destination>,
    ) -> (SendRequest, Option<Sge>) {
        let kind = permitted(self.kind, qp_type);
        let addr = self.addr;
        // Often the key of a window.
        let rkey = match addr % 2 {
            0 => keys.remote_window,
            _ => keys.remote,
        };
        let remote = Remote { addr, rkey };
        let aligned = Remote {
            addr: addr & !7 | u64::from(addr > 590),
            rkey,
        };
        let mut sge = self.range.sge(keys.own);
        let operation = match kind {
            Kinds::Send => Operation::Send,
            Kinds::SendInvalidate => Operation::SendInvalidate {
                rkey: keys.remote_window,
            },
            Kinds::Write => Operation::RdmaWrite(remote),
            Kinds::WriteImm => Operation::RdmaWriteImm(remote, ImmData::default()),
            Kinds::Read => Operation::RdmaRead(remote),
            Kinds::FetchAdd => {
                sge.length = 8;
                Operation::FetchAdd {
                    remote: aligned,
                    add: wr_id + 1,
                }
            }
            Kinds::Bind => Operation::BindMw(BindMw {
                addr: self.range.addr / 8,
                length: u64::from(self.range.length) * 8 + 1,
                mr_lkey: keys.own,
                mw_rkey: keys.own_window,
                new_rkey: addr as u32,
                access: AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_READ),
            }),
            Kinds::Invalidate => Operation::LocalInvalidate {
                rkey: keys.own_window,
            },
        };
        // What comes after a READ or an atomic may be executed before it (IBTA 9.5.1), but on one host.
        let mut flags = SendFlags::FENCE;
        if self.signaled {
            flags = flags.union(SendFlags::SIGNALED);
        }
        let request = SendRequest {
            wr_id,
            flags,
            operation,
            destination,
        };
        let has_data = !matches!(kind, Kinds::Bind | Kinds::Invalidate) && sge.length > 0;
        (request, has_data.then_some(sge))
    }
}

/// All that a region can be registered for here.
pub fn all_rights() -> AccessFlags {
    AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_WRITE)
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::REMOTE_ATOMIC)
        .union(AccessFlags::MW_BIND)
}
