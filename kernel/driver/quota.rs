// SPDX-License-Identifier: GPL-2.0

//! How many objects of each kind a device has, and how many it may have.

use crate::rdma::{Count, DeviceAttr};
use core::sync::atomic::{AtomicU32, Ordering};
use kernel::{prelude::*, sync::Arc};

/// A kind of object.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Pd,
    Ah,
    Cq,
    Srq,
    Qp,
    Mr,
    Mw,
    Dm,
}

const KINDS: usize = Kind::Dm as usize + 1;

/// How many address handles there can be.
pub(crate) const MAX_AH: u32 = 1 << 16;

impl Kind {
    /// How many there can be of a device, the kernel's own among them. Of regions and windows together no
    /// more than half as many as there are keys.
    const fn max(self) -> u32 {
        match self {
            Self::Pd | Self::Dm => 1 << 16,
            Self::Ah => MAX_AH,
            Self::Cq | Self::Srq | Self::Qp => 1 << 20,
            Self::Mr | Self::Mw => 1 << 22,
        }
    }
}

/// How many objects there are of each kind.
pub(crate) struct Quota([AtomicU32; KINDS]);

/// That an object is counted, until this is dropped.
pub(crate) struct Counted {
    quota: Arc<Quota>,
    kind: Kind,
}

impl Quota {
    pub(crate) fn new() -> Result<Arc<Self>> {
        Ok(Arc::new(
            Self([const { AtomicU32::new(0) }; KINDS]),
            GFP_KERNEL,
        )?)
    }

    fn count(&self, kind: Kind) -> &AtomicU32 {
        &self.0[kind as usize]
    }

    /// Counts one more. `ENOMEM` if there are as many as there can be.
    pub(crate) fn add(self: &Arc<Self>, kind: Kind) -> Result<Counted> {
        // Relaxed, and so below: nothing else depends on the number.
        self.count(kind)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
                (count < kind.max()).then(|| count + 1)
            })
            .map_err(|_| ENOMEM)?;
        Ok(Counted {
            quota: self.clone(),
            kind,
        })
    }

    /// Fills in how many there can be.
    pub(crate) fn fill(attr: &mut DeviceAttr) {
        let max = |kind: Kind| kind.max() as Count;
        attr.max_pd = max(Kind::Pd);
        attr.max_ah = max(Kind::Ah);
        attr.max_cq = max(Kind::Cq);
        attr.max_srq = max(Kind::Srq);
        attr.max_qp = max(Kind::Qp);
        attr.max_mr = max(Kind::Mr);
        attr.max_mw = max(Kind::Mw);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.quota.count(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}
