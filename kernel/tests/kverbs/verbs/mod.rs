// SPDX-License-Identifier: GPL-2.0

//! The kernel's verbs, as far as the tests use them: objects that go with their scope, and work
//! requests.

mod ah;
mod cq;
mod mr;
mod qp;
mod request;
mod srq;

pub(crate) use ah::Ah;
pub(crate) use cq::{extra, Cq};
pub(crate) use mr::{pattern, Buffer, Mr};
pub(crate) use qp::{Pair, Qp, QpParts, DEPTH, MAX_INLINE, MAX_SGE};
pub(crate) use request::{receive_wr, Op, Remote};
pub(crate) use srq::Srq;

use crate::bindings::{self, *};
use core::ptr;
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
    time::{Instant, Monotonic},
};

/// How long is waited for what has to come at once, in seconds: no test passes or fails by time.
const PATIENCE: i64 = 30;

/// Waits until `ready` has something.
pub(crate) fn wait<T>(mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::<Monotonic>::now();
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        if begin.elapsed().as_millis() > PATIENCE * 1000 {
            return Err(ETIMEDOUT);
        }
        // `cond_resched()` does nothing in a kernel that can be preempted anywhere (`CONFIG_PREEMPT`), and
        // User-Mode Linux with that configuration never preempts a thread that runs in the kernel.
        // SAFETY: No test waits where it must not sleep.
        unsafe { kernel::bindings::schedule() };
    }
}

/// Does something with interrupts off.
pub(crate) fn atomically<T>(op: impl FnOnce() -> T) -> T {
    // SAFETY: They are on again below, as they were.
    let flags = unsafe { bindings::rdma_helper_local_irq_save() };
    let result = op();
    // SAFETY: As saved above.
    unsafe { bindings::rdma_helper_local_irq_restore(flags) };
    result
}

/// Whether this runs in a bottom half.
pub(crate) fn in_softirq() -> bool {
    // SAFETY: It may be asked anywhere.
    unsafe { bindings::rdma_helper_in_softirq() }
}

/// Whom the kernel notes down as the owner of objects.
pub(crate) const CALLER: *const c_char = c"kverbs".to_bytes_with_nul().as_ptr();

/// `EOPNOTSUPP`, which the kernel crate does not have.
pub(crate) fn eopnotsupp() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as c_int))
}

/// An object was destroyed, which cannot fail.
fn destroyed(result: c_int) {
    kernel::warn_on!(result != 0);
}

/// A device, and one of its GIDs.
pub(crate) struct Device {
    pub(super) raw: *mut ib_device,
    gid_index: u32,
    gid: ib_gid,
    mac: [u8; 6],
}

impl Device {
    /// # Safety
    ///
    /// `raw` must be a device that stays registered as long as this exists.
    pub(crate) unsafe fn new(raw: *mut ib_device, gid_index: u32) -> Result<Self> {
        // SAFETY: A valid device; the function checks the port and the index. There is a reference to
        // the result until it is put. A GID of RoCE is of a network device, which stays while it is
        // registered, and has an address of this length.
        unsafe {
            let attr = rdma_get_gid_attr(raw, 1, gid_index as c_int);
            let attr = from_err_ptr(attr.cast_mut())?;
            let netdev: *const net_device = (*attr).ndev;
            let mac = (*netdev).dev_addr.cast::<[u8; 6]>().read();
            let gid = (*attr).gid;
            rdma_put_gid_attr(attr);
            Ok(Self {
                raw,
                gid_index,
                gid,
                mac,
            })
        }
    }

    pub(crate) fn raw(&self) -> *mut ib_device {
        self.raw
    }

    pub(crate) fn attrs(&self) -> &ib_device_attr {
        // SAFETY: A valid device, whose attributes do not change.
        unsafe { &(*self.raw).attrs }
    }

    /// The attributes of its port.
    pub(crate) fn port(&self) -> Result<ib_port_attr> {
        let mut attr = ib_port_attr::default();
        // SAFETY: A valid device; the function checks the port.
        to_result(unsafe { ib_query_port(self.raw, 1, &mut attr) })?;
        Ok(attr)
    }

    /// Changes its port.
    pub(crate) fn modify_port(&self, mask: u32, change: &mut ib_port_modify) -> Result {
        // SAFETY: As above.
        to_result(unsafe { ib_modify_port(self.raw, 1, mask as c_int, change) })
    }

    /// The address of the device itself.
    pub(crate) fn address(&self) -> rdma_ah_attr {
        let mut attr = rdma_ah_attr::default();
        attr.grh.dgid = self.gid;
        attr.grh.sgid_index = self.gid_index as u8;
        attr.grh.hop_limit = 64;
        attr.port_num = 1;
        attr.__bindgen_anon_1.roce.dmac = self.mac;
        attr.ah_flags = ib_ah_flags_IB_AH_GRH as u8;
        attr.type_ = rdma_ah_attr_type_RDMA_AH_ATTR_TYPE_ROCE;
        attr
    }
}

/// A protection domain.
pub(crate) struct Pd<'a> {
    pub(super) raw: *mut ib_pd,
    pub(crate) device: &'a Device,
}

impl<'a> Pd<'a> {
    pub(crate) fn new(device: &'a Device) -> Result<Self> {
        // SAFETY: A valid device.
        let raw = from_err_ptr(unsafe { __ib_alloc_pd(device.raw, 0, CALLER) })?;
        Ok(Self { raw, device })
    }

    /// The key for all memory.
    pub(crate) fn lkey(&self) -> u32 {
        // SAFETY: A valid domain.
        unsafe { (*self.raw).local_dma_lkey }
    }
}

impl Drop for Pd<'_> {
    fn drop(&mut self) {
        // SAFETY: Whatever is in it borrows it, and so has gone.
        destroyed(unsafe { ib_dealloc_pd_user(self.raw, ptr::null_mut()) });
    }
}
