// SPDX-License-Identifier: MIT OR Apache-2.0
//! A plan of what is done with keys, and its execution by a device and by the model, which have to agree
//! after each step.

use std::fmt::Debug;

use ferroce_core::ring::{BindMw, RegMr, Remote};
use ferroce_core::verbs::AccessFlags;
use ferroce_device::key::{self, Access, PdId};
use ferroce_device::region::Change;
use ferroce_device::window::Kind;

use crate::device::{Device, COUNT};
use crate::model::Model;

/// Chooses one of the keys that there were so far.
#[derive(Clone, Copy, Debug)]
pub struct Pick(pub u16);

/// One of two protection domains, or of two queue pairs.
pub type Which = bool;

#[derive(Clone, Debug)]
pub enum Step {
    Register {
        pd: Which,
        access: AccessFlags,
        start: u64,
        length: u64,
    },
    /// Without memory, for work requests.
    AllocateRegion(Which),
    AllocateWindow {
        pd: Which,
        belongs_to_qp: bool,
    },
    /// By a work request, with another variant of a key.
    RegisterMemory {
        key: Pick,
        of: Pick,
        pd: Which,
        variant: u8,
        access: AccessFlags,
        range: (u64, u64),
        offset: u64,
    },
    BeginInvalidate {
        key: Pick,
        pd: Which,
    },
    EndInvalidate(Pick),
    Reregister {
        key: Pick,
        access: Option<AccessFlags>,
        pd: Option<Which>,
        memory: Option<(u64, u64)>,
    },
    /// Of a region, or a window.
    Destroy(Pick),
    Bind {
        window: Pick,
        region: Pick,
        pd: Which,
        qp: Which,
        addr: u64,
        length: u64,
        variant: u8,
        access: AccessFlags,
    },
    InvalidateWindow {
        key: Pick,
        qp: Which,
    },
    Use {
        key: Pick,
        pd: Which,
        qp: Which,
        addr: u64,
        length: u32,
        rights: AccessFlags,
    },
}

/// The rights that plans have to do with.
pub fn rights(bits: u8) -> AccessFlags {
    AccessFlags::try_from(u32::from(bits) % 64).unwrap_or(AccessFlags::EMPTY)
}

/// Says where device and model differ.
fn agree<T: PartialEq + Debug>(
    step: usize,
    what: &str,
    found: T,
    expected: T,
) -> Result<T, String> {
    match found == expected {
        true => Ok(found),
        false => Err(format!(
            "step {step}, {what}: {found:?}, expected {expected:?}"
        )),
    }
}

const fn pd(which: Which) -> PdId {
    PdId::new(1 + which as u64)
}

const fn qpn(which: Which) -> u32 {
    100 + which as u32
}

/// How many accesses were allowed, so that it can be seen that plans come to something.
pub type Allowed = usize;

/// Carries a plan out. On an error, device and model do not agree.
pub fn execute(plan: &[Step]) -> Result<Allowed, String> {
    let mut device = Device::new();
    let mut model = Model::default();
    // All that there were so far.
    let mut keys: Vec<u32> = vec![0x0500];
    let mut allowed = 0;
    for (number, step) in plan.iter().enumerate() {
        // One of the last few, often.
        let pick = |pick: &Pick| {
            let which = usize::from(pick.0);
            let among = match which % 4 {
                0 => keys.len(),
                _ => keys.len().min(4),
            };
            keys[keys.len() - 1 - which / 4 % among]
        };
        match step {
            Step::Register {
                pd: domain,
                access,
                start,
                length,
            } => {
                if let Some(key) = model.reserve(device.reserve())? {
                    device.register(key, pd(*domain), *access, *start, *length);
                    model.register(key, pd(*domain), *access, *start, *length);
                    keys.push(key);
                }
            }
            Step::AllocateRegion(domain) => {
                if let Some(key) = model.reserve(device.reserve())? {
                    device.allocate_region(key, pd(*domain));
                    model.allocate_region(key, pd(*domain));
                    keys.push(key);
                }
            }
            Step::AllocateWindow {
                pd: domain,
                belongs_to_qp,
            } => {
                if let Some(key) = model.reserve(device.reserve())? {
                    let kind = match belongs_to_qp {
                        true => Kind::Type2,
                        false => Kind::Type1,
                    };
                    device.allocate_window(key, pd(*domain), kind);
                    model.allocate_window(key, pd(*domain), *belongs_to_qp);
                    keys.push(key);
                }
            }
            Step::RegisterMemory {
                key,
                of,
                pd: domain,
                variant,
                access,
                range,
                offset,
            } => {
                let request = RegMr {
                    mr: key::number(pick(key)),
                    key: key::new(key::number(pick(of)), *variant),
                    access: *access,
                };
                let found = device.register_memory(pd(*domain), &request, *range, *offset);
                let expected = model.register_memory(pd(*domain), &request, *range, *offset);
                if agree(number, "register memory", found, expected)? {
                    keys.push(request.key);
                }
            }
            Step::BeginInvalidate { key, pd: domain } => {
                let key = pick(key);
                let found = device.begin_invalidate(pd(*domain), key);
                let expected = model.begin_invalidate(pd(*domain), key);
                agree(number, "invalidate", found, expected)?;
            }
            Step::EndInvalidate(key) => {
                device.end_invalidate(pick(key));
                model.end_invalidate(pick(key));
            }
            Step::Reregister {
                key,
                access,
                pd: domain,
                memory,
            } => {
                let change = Change {
                    access: *access,
                    pd: domain.map(pd),
                    memory: *memory,
                };
                let found = device.reregister(pick(key), &change);
                let expected = model.reregister(pick(key), &change);
                agree(number, "reregister", found, expected)?;
            }
            Step::Destroy(key) => {
                let key = pick(key);
                agree(number, "destroy", device.destroy(key), model.destroy(key))?;
            }
            Step::Bind {
                window,
                region,
                pd: domain,
                qp,
                addr,
                length,
                variant,
                access,
            } => {
                let request = BindMw {
                    addr: *addr,
                    length: *length,
                    mr_lkey: pick(region),
                    mw_rkey: pick(window),
                    new_rkey: (*variant).into(),
                    access: *access,
                };
                let found = device.bind(pd(*domain), qpn(*qp), &request);
                let expected = model.bind(pd(*domain), qpn(*qp), &request);
                if agree(number, "bind", found, expected)? {
                    keys.push(key::new(key::number(request.mw_rkey), *variant));
                }
            }
            Step::InvalidateWindow { key, qp } => {
                let key = pick(key);
                let found = device.invalidate_window(key, qpn(*qp));
                let expected = model.invalidate_window(key, qpn(*qp));
                agree(number, "invalidate window", found, expected)?;
            }
            Step::Use {
                key,
                pd: domain,
                qp,
                addr,
                length,
                rights,
            } => {
                let remote = Remote {
                    addr: *addr,
                    rkey: pick(key),
                };
                let access = Access::remote(pd(*domain), qpn(*qp), remote, *length, *rights);
                let found = device.check_key(&access);
                agree(number, "key", found, model.check_key(&access))?;
                let found = device.check(&access);
                let found = agree(number, "access", found, model.check(&access))?;
                allowed += usize::from(found.is_some());
            }
        }
        for key in (1..=COUNT).map(|number| key::new(number, 0)) {
            agree(number, "windows", device.windows(key), model.windows(key))?;
        }
    }
    Ok(allowed)
}
