// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device in one thread, with two queue pairs that are connected to each other, against a model of it.
//! What is posted, bound, deregistered and executed, and in which order, is a matter of chance: a plan
//! that fails is shrunk, and printed.

#[path = "../rings/mod.rs"]
mod rings;

mod host;
mod model;

use ferroce_core::ring::{BindMw, Operation, Remote, SendRequest, Sge};
use ferroce_core::verbs::{AccessFlags, ImmData, QpState, SendFlags, RNR_RETRY_INFINITE};
use ferroce_device::window::Kind;
use host::{Host, MEMORY};
use model::Model;
use proptest::prelude::*;
use proptest::sample::Index;

const NUMBERS: [u32; 2] = [100, 101];

#[derive(Clone, Debug)]
enum Step {
    Register {
        range: Range,
        access: AccessFlags,
    },
    Deregister(Index),
    AllocateWindow(bool),
    Receive {
        qp: usize,
        key: Index,
        range: Range,
    },
    Send {
        qp: usize,
        kind: Kinds,
        signaled: bool,
        own: Index,
        range: Range,
        other: Index,
        addr: u64,
    },
    Run(usize),
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

/// A range of the host's memory; of a request, of the range that its key names more or less.
#[derive(Clone, Copy, Debug)]
struct Range {
    addr: u64,
    length: u32,
}

fn range() -> impl Strategy<Value = Range> {
    (0..MEMORY as u64 - 64, 0_u32..64).prop_map(|(addr, length)| Range { addr, length })
}

fn access() -> impl Strategy<Value = AccessFlags> {
    let all = AccessFlags::LOCAL_WRITE
        .union(AccessFlags::REMOTE_WRITE)
        .union(AccessFlags::REMOTE_READ)
        .union(AccessFlags::REMOTE_ATOMIC)
        .union(AccessFlags::MW_BIND);
    let consistent = |access: AccessFlags| access.is_consistent().then_some(access);
    prop_oneof![
        4 => Just(all),
        1 => (0_u32..32).prop_filter_map("inconsistent", move |bits| {
            consistent(AccessFlags::try_from(bits).unwrap())
        }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let qp = 0_usize..2;
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
    let large = (0_u64..64, 512_u32..900).prop_map(|(addr, length)| Range { addr, length });
    let send = (
        qp.clone(),
        kind,
        any::<bool>(),
        any::<Index>(),
        range(),
        any::<Index>(),
        0..600_u64,
    );
    prop_oneof![
        2 => (prop_oneof![3 => large, 1 => range()], access())
            .prop_map(|(range, access)| Step::Register { range, access }),
        1 => any::<Index>().prop_map(Step::Deregister),
        1 => any::<bool>().prop_map(Step::AllocateWindow),
        6 => (qp.clone(), any::<Index>(), range())
            .prop_map(|(qp, key, range)| Step::Receive { qp, key, range }),
        12 => send.prop_map(|(qp, kind, signaled, own, range, other, addr)| Step::Send {
            qp, kind, signaled, own, range, other, addr,
        }),
        8 => qp.prop_map(Step::Run),
    ]
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
struct Outcome {
    completed: usize,
    failed: usize,
}

fn execute(plan: &[Step]) -> Result<Outcome, TestCaseError> {
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
        let pick = |of: &[u32], index: &Index| match of {
            _ if !stale.is_empty() && index.index(16) == 0 => *index.get(&stale),
            [] => 0x7700,
            keys => *index.get(keys),
        };
        match step {
            Step::Register { range, access } => {
                if regions.len() + windows.len() < 40 {
                    let (addr, length) = (range.addr, range.length.into());
                    let key = host.register(addr, length, *access);
                    model.register(key, addr, length, *access);
                    regions.push(key);
                }
            }
            Step::Deregister(index) => {
                let key = pick(&regions, index);
                let is_gone = model.deregister(key);
                prop_assert_eq!(host.deregister(key), is_gone);
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
                prop_assert_eq!(posted, model.post_receive(*qp, wr_id, sge));
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
                    windows => model.key_of_window(*other.get(windows)),
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
                prop_assert_eq!(posted, model.post_send(*qp, request, sges));
            }
            Step::Run(qp) => {
                // Longer than anything waits.
                host.now.set(host.now.get() + 1_000_000_000);
                host.run(&qps[*qp]);
                model.run(*qp);
            }
        }
        for (qp, model) in qps.iter().zip(&mut model.qps) {
            prop_assert_eq!(qp.state() == QpState::Err, model.has_failed);
            for (found, expected) in [
                (&qp.sent, &mut model.sent),
                (&qp.received, &mut model.received),
            ] {
                let found = found.borrow_mut().drain(..).collect::<Vec<_>>();
                let found = found.iter().map(|cqe| {
                    prop_assert_eq!(cqe.qp_num, qp.number);
                    Ok((cqe.wr_id, cqe.opcode, cqe.status, cqe.byte_len))
                });
                let found = found.collect::<Result<Vec<_>, _>>()?;
                let expected: Vec<_> = expected.drain(..).collect();
                outcome.completed += expected.len();
                prop_assert_eq!(found, expected, "step {}", number);
            }
        }
        prop_assert_eq!(&*host.memory.borrow(), &model.memory, "step {}", number);
    }
    outcome.failed = model.qps.iter().filter(|qp| qp.has_failed).count();
    Ok(outcome)
}

/// How many plans there are, ten times as many with `FERROCE_LONG`.
fn plans() -> u32 {
    match std::env::var_os("FERROCE_LONG") {
        Some(_) => 200_000,
        None => 20_000,
    }
}

#[test]
fn a_device_and_its_model_agree_on_any_plan() {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(plans())
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let (completed, failed) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let strategy = prop::collection::vec(step(), 1..80);
    let result = runner.run(&strategy, |plan| {
        let outcome = execute(&plan)?;
        completed.set(completed.get() + outcome.completed);
        failed.set(failed.get() + outcome.failed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let plans = plans() as usize;
    // Plans in which all fails at once, or nothing ever does, would show nothing.
    assert!(completed.get() > 5 * plans, "{completed:?}");
    assert!(failed.get() > plans / 10, "{failed:?}");
}
