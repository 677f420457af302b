// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans: what processes do, and how the network is.

use std::fmt;

use ferroce_core::ring::{BindMw, Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, ImmData, SendFlags};
use proptest::prelude::*;

use crate::host::{Process, HOSTS, MEMORY, PROCESSES};
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
pub struct Pick(u8);

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

fn pick() -> impl Strategy<Value = Pick> {
    any::<u8>().prop_map(Pick)
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
    Create(Process),
    /// After a reset of both.
    Connect(Pick, Pick),
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
    kind: Kinds,
    signaled: bool,
    pub own: Pick,
    range: Range,
    pub other: Pick,
    addr: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kinds {
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

impl Send {
    pub fn request(&self, wr_id: u64, keys: &Keys) -> (SendRequest, Option<Sge>) {
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
        let operation = match self.kind {
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
            destination: None,
        };
        let has_data = !matches!(self.kind, Kinds::Bind | Kinds::Invalidate) && sge.length > 0;
        (request, has_data.then_some(sge))
    }
}

fn range() -> impl Strategy<Value = Range> {
    (0..MEMORY as u64 - 64, 0_u32..64).prop_map(|(addr, length)| Range { addr, length })
}

pub fn all_rights() -> AccessFlags {
    AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_WRITE)
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::REMOTE_ATOMIC)
        .union(AccessFlags::MW_BIND)
}

fn access() -> impl Strategy<Value = AccessFlags> {
    let consistent = |bits: u32| {
        let access = AccessFlags::try_from(bits).unwrap();
        access.is_consistent().then_some(access)
    };
    prop_oneof![
        4 => Just(all_rights()),
        1 => (0_u32..32).prop_filter_map("inconsistent", consistent),
    ]
}

fn send() -> impl Strategy<Value = Send> {
    let kind = prop_oneof![
        3 => Just(Kinds::Send),
        1 => Just(Kinds::SendInvalidate),
        3 => Just(Kinds::Write),
        2 => Just(Kinds::WriteImm),
        3 => Just(Kinds::Read),
        2 => Just(Kinds::FetchAdd),
        4 => Just(Kinds::Bind),
        1 => Just(Kinds::Invalidate),
    ];
    let keys = (pick(), pick());
    (kind, any::<bool>(), range(), keys, 0..600_u64).prop_map(
        |(kind, signaled, range, (own, other), addr)| Send {
            kind,
            signaled,
            own,
            range,
            other,
            addr,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let process = (0..HOSTS, 0..PROCESSES).prop_map(|(host, number)| Process { host, number });
    let large = (0_u64..64, 512_u32..900).prop_map(|(addr, length)| Range { addr, length });
    let index = pick;
    prop_oneof![
        4 => (process.clone(), prop_oneof![3 => large, 1 => range()], access())
            .prop_map(|(of, range, access)| Step::Register { of, range, access }),
        2 => (process.clone(), index()).prop_map(|(of, key)| Step::Deregister { of, key }),
        2 => (process.clone(), any::<bool>())
            .prop_map(|(of, belongs_to_qp)| Step::AllocateWindow { of, belongs_to_qp }),
        2 => process.clone().prop_map(Step::Create),
        4 => (index(), index()).prop_map(|(one, other)| Step::Connect(one, other)),
        1 => index().prop_map(Step::Reset),
        1 => index().prop_map(Step::Flush),
        1 => index().prop_map(Step::Destroy),
        1 => process.prop_map(Step::Die),
        24 => (index(), index(), range())
            .prop_map(|(qp, key, range)| Step::Receive { qp, key, range }),
        48 => (index(), send()).prop_map(|(qp, send)| Step::Send { qp, send }),
        32 => index().prop_map(Step::Run),
    ]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let bad = (0_u32..30, 0_u32..20, 0_u32..30, 0_u32..20).prop_map(
        |(drop, duplicate, reorder, keep)| Conditions {
            drop,
            duplicate,
            reorder,
            keep,
        },
    );
    let good = Conditions {
        drop: 0,
        duplicate: 0,
        reorder: 0,
        keep: 0,
    };
    prop_oneof![1 => Just(good), 3 => bad]
}

pub fn plan() -> impl Strategy<Value = Plan> {
    (
        conditions(),
        any::<u64>(),
        prop::collection::vec(step(), 1..100),
    )
        .prop_map(|(conditions, seed, steps)| Plan {
            conditions,
            seed,
            steps,
        })
}
