// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any sequence of what can be done with keys: what they give access to is what the model says.
#![no_main]

#[path = "../../tests/keys/device.rs"]
mod device;
#[path = "../../tests/keys/model.rs"]
mod model;
#[path = "../../tests/keys/plan.rs"]
mod plan;

use ferroce_core::verbs::AccessFlags;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use plan::{execute, rights, Pick, Step};

fn pick(from: &mut Unstructured<'_>) -> Result<Pick> {
    Ok(Pick(from.arbitrary()?))
}

/// An address, an offset, or a length.
fn number(from: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match from.arbitrary::<u8>()? {
        small @ 0..=199 => u64::from(small % 64),
        large @ 200..=249 => u64::MAX - u64::from(large % 64),
        _ => from.arbitrary()?,
    })
}

fn access(from: &mut Unstructured<'_>) -> Result<AccessFlags> {
    let bits = from.arbitrary::<u8>()?;
    Ok(rights(if bits < 128 { 0x1f } else { bits }))
}

fn option<T>(
    from: &mut Unstructured<'_>,
    some: impl FnOnce(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Option<T>> {
    from.arbitrary::<bool>()?.then(|| some(from)).transpose()
}

fn step(from: &mut Unstructured<'_>) -> Result<Step> {
    let [pd, qp] = {
        let which = from.arbitrary::<u8>()?;
        [which % 8 == 7, which / 8 % 8 == 7]
    };
    Ok(match from.int_in_range(0..=31_u8)? {
        0..=2 => Step::Register {
            pd,
            access: access(from)?,
            start: number(from)?,
            length: number(from)?,
        },
        3..=4 => Step::AllocateRegion(pd),
        5..=7 => Step::AllocateWindow {
            pd,
            belongs_to_qp: from.arbitrary()?,
        },
        8..=10 => {
            let key = pick(from)?;
            Step::RegisterMemory {
                key,
                of: option(from, pick)?.unwrap_or(key),
                pd,
                variant: from.arbitrary()?,
                access: access(from)?,
                range: (number(from)?, number(from)?),
                offset: number(from)?,
            }
        }
        11..=12 => Step::BeginInvalidate {
            key: pick(from)?,
            pd,
        },
        13..=14 => Step::EndInvalidate(pick(from)?),
        15 => Step::Reregister {
            key: pick(from)?,
            access: option(from, access)?,
            pd: option(from, |from| from.arbitrary())?,
            memory: option(from, |from| Ok((number(from)?, number(from)?)))?,
        },
        16..=17 => Step::Destroy(pick(from)?),
        18..=22 => Step::Bind {
            window: pick(from)?,
            region: pick(from)?,
            pd,
            qp,
            addr: number(from)?,
            length: number(from)?,
            variant: from.arbitrary()?,
            access: access(from)?,
        },
        23..=24 => Step::InvalidateWindow {
            key: pick(from)?,
            qp,
        },
        _ => Step::Use {
            key: pick(from)?,
            pd,
            qp,
            addr: number(from)?,
            length: from.int_in_range(0..=15)?,
            rights: rights(from.int_in_range(0..=15)?),
        },
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
