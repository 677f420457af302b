// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plan of what a process does with two queue pairs that are connected to each other, and its execution
//! by a host and by the model, which have to agree after each step.

use std::fmt::Debug;

use ferroce_core::ring::{BindMw, Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, ImmData, QpState, SendFlags, RNR_RETRY_INFINITE};
use ferroce_device::window::Kind;

use crate::host::Host;
use crate::model::Model;

const NUMBERS: [u32; 2] = [100, 101];

/// Bytes of memory that plans have to do with.
pub const RANGE: u64 = crate::host::MEMORY as u64 - 64;

/// Chooses among the things that there are at a step.
#[derive(Clone, Copy, Debug)]
pub struct Pick(pub u16);

impl Pick {
    /// One of them. Now and then one of those that are no more.
    fn of(self, keys: &[u32], stale: &[u32]) -> u32 {
        let number = usize::from(self.0);
        match (number % 16, stale, keys) {
            (0, [_, ..], _) => stale[number / 16 % stale.len()],
            (.., []) => 0x7700,
            _ => keys[number / 16 % keys.len()],
        }
    }
}

#[derive(Clone, Debug)]
pub enum Step {
    Register {
        range: Range,
        access: AccessFlags,
    },
    Deregister(Pick),
    AllocateWindow(bool),
    Receive {
        qp: usize,
        key: Pick,
        range: Range,
    },
    Send {
        qp: usize,
        kind: Kinds,
        signaled: bool,
        own: Pick,
        range: Range,
        other: Pick,
        addr: u64,
    },
    Run(usize),
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

impl Kinds {
    #[allow(dead_code)] // Not every user chooses among them.
    pub const ALL: [Self; 8] = [
        Self::Send,
        Self::SendInvalidate,
        Self::Write,
        Self::WriteImm,
        Self::Read,
        Self::FetchAdd,
        Self::Bind,
        Self::Invalidate,
    ];
}

/// A range of the host's memory; of a request, of the range that its key names more or less.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub addr: u64,
    pub length: u32,
}

/// What there is from the beginning: a region that allows everything, and a window of each type.
fn prologue() -> [Step; 3] {
    let range = Range {
        addr: 0,
        length: 900,
    };
    let access = AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_WRITE)
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::REMOTE_ATOMIC)
        .union(AccessFlags::MW_BIND);
    [
        Step::Register { range, access },
        Step::AllocateWindow(false),
        Step::AllocateWindow(true),
    ]
}

/// What a plan comes to, so that it can be seen that plans come to something.
#[derive(Default)]
pub struct Outcome {
    pub completed: usize,
    pub failed: usize,
}

/// Says where host and model differ.
fn agree<T: PartialEq + Debug>(
    step: usize,
    what: &str,
    found: T,
    expected: T,
) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!(
            "step {step}, {what}: {found:?}, expected {expected:?}"
        )),
    }
}

/// Carries a plan out. On an error, host and model do not agree.
pub fn execute(plan: &[Step]) -> Result<Outcome, String> {
    let host = Host::new();
    let qps = host.connect(NUMBERS[0], RNR_RETRY_INFINITE);
    let mut model = Model::new(NUMBERS);
    let (mut regions, mut windows): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    // Different bytes everywhere.
    for (at, byte) in model.memory.iter_mut().enumerate() {
        *byte = (at ^ at >> 8) as u8;
    }
    host.memory.borrow_mut().copy_from_slice(&model.memory);
    // Keys that were good for something once.
    let mut stale: Vec<u32> = Vec::new();
    let mut outcome = Outcome::default();
    let prologue = prologue();
    for (number, step) in prologue.iter().chain(plan).enumerate() {
        let wr_id = number as u64;
        let pick = |keys: &[u32], pick: &Pick| pick.of(keys, &stale);
        match step {
            Step::Register { range, access } => {
                if regions.len() + windows.len() < 40 {
                    let (addr, length) = (range.addr, range.length.into());
                    let key = host.register(addr, length, *access);
                    model.register(key, addr, length, *access);
                    regions.push(key);
                }
            }
            Step::Deregister(which) => {
                let key = pick(&regions, which);
                let is_gone = model.deregister(key);
                agree(number, "deregister", host.deregister(key), is_gone)?;
                if is_gone {
                    regions.retain(|other| *other != key);
                    stale.push(key);
                }
            }
            Step::AllocateWindow(belongs_to_qp) => {
                if regions.len() + windows.len() < 40 {
                    let kind = match belongs_to_qp {
                        true => Kind::Type2,
                        false => Kind::Type1,
                    };
                    let key = host.allocate_window(kind);
                    model.allocate_window(key, *belongs_to_qp);
                    windows.push(key >> 8);
                }
            }
            Step::Receive { qp, key, range } => {
                let sge = Sge {
                    addr: range.addr,
                    length: range.length,
                    lkey: pick(&regions, key),
                };
                let posted = qps[*qp].post_receive(wr_id, sge).is_ok();
                agree(
                    number,
                    "receive",
                    posted,
                    model.post_receive(*qp, wr_id, sge),
                )?;
            }
            Step::Send {
                qp,
                kind,
                signaled,
                own,
                range,
                other,
                addr,
            } => {
                let lkey = pick(&regions, own);
                let window = match windows.as_slice() {
                    [] => 0x7700,
                    windows => model.key_of_window(other.of(windows, &[])),
                };
                // Often that of a window.
                let rkey = match addr % 2 {
                    0 => window,
                    _ => pick(&regions, other),
                };
                let remote = Remote { addr: *addr, rkey };
                let aligned = Remote {
                    addr: addr & !7 | u64::from(*addr > 590),
                    rkey,
                };
                let mut length = range.length;
                let operation = match kind {
                    Kinds::Send => Operation::Send,
                    Kinds::SendInvalidate => Operation::SendInvalidate { rkey: window },
                    Kinds::Write => Operation::RdmaWrite(remote),
                    Kinds::WriteImm => Operation::RdmaWriteImm(remote, ImmData::default()),
                    Kinds::Read => Operation::RdmaRead(remote),
                    Kinds::FetchAdd => {
                        length = 8;
                        Operation::FetchAdd {
                            remote: aligned,
                            add: wr_id + 1,
                        }
                    }
                    Kinds::Bind => Operation::BindMw(BindMw {
                        addr: range.addr / 8,
                        length: u64::from(range.length) * 8 + 1,
                        mr_lkey: lkey,
                        mw_rkey: window,
                        new_rkey: *addr as u32,
                        access: AccessFlags::REMOTE_WRITE.union(AccessFlags::REMOTE_READ),
                    }),
                    Kinds::Invalidate => Operation::LocalInvalidate { rkey: window },
                };
                let request = SendRequest {
                    wr_id,
                    flags: match signaled {
                        true => SendFlags::SIGNALED,
                        false => SendFlags::EMPTY,
                    },
                    operation,
                    destination: None,
                };
                let sge = Sge {
                    addr: range.addr,
                    length,
                    lkey,
                };
                let has_data = !matches!(kind, Kinds::Bind | Kinds::Invalidate) && length > 0;
                let sges = if has_data { &[sge][..] } else { &[] };
                if let Kinds::Bind | Kinds::Invalidate = kind {
                    stale.push(window);
                }
                let posted = qps[*qp].post_send(&request, sges).is_ok();
                agree(number, "send", posted, model.post_send(*qp, request, sges))?;
            }
            Step::Run(qp) => {
                // Longer than anything waits.
                host.now.set(host.now.get() + 1_000_000_000);
                host.run(&qps[*qp]);
                model.run(*qp);
            }
        }
        for (qp, model) in qps.iter().zip(&mut model.qps) {
            agree(
                number,
                "failed",
                qp.state() == QpState::Err,
                model.has_failed,
            )?;
            for (found, expected) in [
                (&qp.sent, &mut model.sent),
                (&qp.received, &mut model.received),
            ] {
                let mut found = found.borrow_mut();
                let found = found.drain(..).map(|cqe| {
                    assert_eq!(cqe.qp_num, qp.number);
                    (cqe.wr_id, cqe.opcode, cqe.status, cqe.byte_len)
                });
                let expected: Vec<_> = expected.drain(..).collect();
                outcome.completed += expected.len();
                agree(number, "completions", found.collect(), expected)?;
            }
        }
        agree(number, "memory", &*host.memory.borrow(), &model.memory)?;
    }
    outcome.failed = model.qps.iter().filter(|qp| qp.has_failed).count();
    Ok(outcome)
}
