// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any plan of what a process does with two queue pairs: a device and its model agree.
#![no_main]

use ferroce_core::verbs::AccessFlags;
use ferroce_device_fuzz::plan::{execute, Kinds, Pick, Range, Step, RANGE};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fn range(from: &mut Unstructured<'_>) -> Result<Range> {
    Ok(Range {
        addr: from.int_in_range(0..=RANGE - 1)?,
        length: from.int_in_range(0..=63)?,
    })
}

fn step(from: &mut Unstructured<'_>) -> Result<Step> {
    let qp = usize::from(from.arbitrary::<bool>()?);
    Ok(match from.int_in_range(0..=31_u8)? {
        0..=1 => {
            let range = match from.int_in_range(0..=3_u8)? {
                0 => range(from)?,
                _ => Range {
                    addr: from.int_in_range(0..=63)?,
                    length: from.int_in_range(512..=900)?,
                },
            };
            let bits = from.int_in_range(0..=31_u32)?;
            let access = AccessFlags::try_from(bits).unwrap_or(AccessFlags::EMPTY);
            let access = match access.is_consistent() {
                true => access,
                false => access.union(AccessFlags::LOCAL_WRITE),
            };
            Step::Register { range, access }
        }
        2 => Step::Deregister(Pick(from.arbitrary()?)),
        3 => Step::AllocateWindow(from.arbitrary()?),
        4..=10 => Step::Receive {
            qp,
            key: Pick(from.arbitrary()?),
            range: range(from)?,
        },
        11..=23 => Step::Send {
            qp,
            kind: *from.choose(&Kinds::ALL)?,
            signaled: from.arbitrary()?,
            own: Pick(from.arbitrary()?),
            range: range(from)?,
            other: Pick(from.arbitrary()?),
            addr: from.int_in_range(0..=599)?,
        },
        _ => Step::Run(qp),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut from = Unstructured::new(bytes);
    let mut plan = Vec::new();
    while !from.is_empty() && plan.len() < 400 {
        match step(&mut from) {
            Ok(step) => plan.push(step),
            Err(_) => break,
        }
    }
    if let Err(error) = execute(&plan) {
        panic!("{error}\n{plan:#?}");
    }
});
