// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any plan of what processes of two hosts do: devices and their model agree.
#![no_main]

use ferroce_core::verbs::{AccessFlags, QpType};
use ferroce_device_fuzz::host::{Process, DEPTH, HOSTS, MEMORY, PROCESSES};
use ferroce_device_fuzz::network::Conditions;
use ferroce_device_fuzz::plan::{all_rights, Kinds, Pick, Plan, Range, Send, Step};
use ferroce_device_fuzz::simulation::execute;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const KINDS: [Kinds; 8] = [
    Kinds::Send,
    Kinds::SendInvalidate,
    Kinds::Write,
    Kinds::WriteImm,
    Kinds::Read,
    Kinds::FetchAdd,
    Kinds::Bind,
    Kinds::Invalidate,
];

fn pick(from: &mut Unstructured<'_>) -> Result<Pick> {
    Ok(Pick(from.arbitrary()?))
}

fn process(from: &mut Unstructured<'_>) -> Result<Process> {
    Ok(Process {
        host: from.int_in_range(0..=HOSTS - 1)?,
        number: from.int_in_range(0..=PROCESSES - 1)?,
    })
}

fn range(from: &mut Unstructured<'_>) -> Result<Range> {
    Ok(Range {
        addr: from.int_in_range(0..=MEMORY as u64 - 65)?,
        length: from.int_in_range(0..=63)?,
    })
}

fn access(from: &mut Unstructured<'_>) -> Result<AccessFlags> {
    let bits = from.int_in_range(0..=63_u32)?;
    let access = AccessFlags::try_from(bits & 31).unwrap_or(AccessFlags::EMPTY);
    Ok(match bits {
        ..=31 if access.is_consistent() => access,
        _ => all_rights(),
    })
}

fn step(from: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match from.int_in_range(0..=63_u8)? {
        0..=2 => {
            let range = match from.int_in_range(0..=3_u8)? {
                0 => range(from)?,
                _ => Range {
                    addr: from.int_in_range(0..=63)?,
                    length: from.int_in_range(512..=900)?,
                },
            };
            Step::Register {
                of: process(from)?,
                range,
                access: access(from)?,
            }
        }
        3 => Step::Deregister {
            of: process(from)?,
            key: pick(from)?,
        },
        4 => Step::AllocateWindow {
            of: process(from)?,
            belongs_to_qp: from.arbitrary()?,
        },
        5 => Step::Create {
            of: process(from)?,
            qp_type: *from.choose(&[QpType::Rc, QpType::Uc, QpType::Ud])?,
            has_srq: from.arbitrary()?,
        },
        6 => Step::Connect(pick(from)?, pick(from)?),
        7 => match from.int_in_range(0..=4_u8)? {
            0 => Step::Drain(pick(from)?),
            1 => Step::Resume(pick(from)?),
            2 => Step::Limit(process(from)?, from.int_in_range(0..=DEPTH)?),
            3 => Step::Attach(pick(from)?),
            _ => Step::Detach(pick(from)?),
        },
        8 => Step::Reset(pick(from)?),
        9 => Step::Flush(pick(from)?),
        10 => Step::Destroy(pick(from)?),
        11 => Step::Die(process(from)?),
        12..=23 => Step::Receive {
            qp: pick(from)?,
            key: pick(from)?,
            range: range(from)?,
        },
        24..=47 => Step::Send {
            qp: pick(from)?,
            send: Send {
                kind: *from.choose(&KINDS)?,
                signaled: from.arbitrary()?,
                own: pick(from)?,
                range: range(from)?,
                other: pick(from)?,
                addr: from.int_in_range(0..=599)?,
                to: pick(from)?,
                to_group: from.ratio(1, 5)?,
            },
        },
        _ => Step::Run(pick(from)?),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut from = Unstructured::new(bytes);
    let share = |from: &mut Unstructured<'_>| from.int_in_range(0..=29_u32).unwrap_or(0);
    let mut plan = Plan {
        conditions: Conditions {
            drop: share(&mut from),
            duplicate: share(&mut from),
            reorder: share(&mut from),
            keep: share(&mut from),
        },
        seed: from.arbitrary().unwrap_or(0),
        steps: Vec::new(),
    };
    while !from.is_empty() && plan.steps.len() < 400 {
        match step(&mut from) {
            Ok(step) => plan.steps.push(step),
            Err(_) => break,
        }
    }
    if let Err(error) = execute(&plan) {
        panic!("{error}\n{plan:?}");
    }
});
