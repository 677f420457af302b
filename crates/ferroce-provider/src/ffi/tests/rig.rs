// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects on a device for tests, and verbs that are easier to call than those of C.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr;

use ferroce_core::verbs::{QpState, QpType};

use super::fake::{errno, Device};
use crate::abi::*;

/// A device, and what it takes to make queues on it.
pub struct Rig {
    pub device: Box<Device>,
    pub ops: ContextOps,
    pub pd: *mut IbvPd,
}

/// Capacities that are rounded up to four entries.
pub const SMALL: IbvQpCap = IbvQpCap {
    max_send_wr: 3,
    max_recv_wr: 3,
    max_send_sge: 2,
    max_recv_sge: 2,
    max_inline_data: 64,
};

/// A verb of the table, called.
macro_rules! verb {
    ($rig:expr, $verb:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: The tests keep to the contract of the verbs.
        unsafe { $rig.ops.$verb.unwrap()($($argument),*) }
    };
}

pub(in crate::ffi) use verb;

/// A function of an extended object, called with it.
macro_rules! call {
    ($object:expr, $function:ident($($argument:expr),*)) => {
        // SAFETY: The tests keep to the contract of the verbs.
        unsafe { (*$object).$function.unwrap()($object, $($argument),*) }
    };
}

pub(super) use call;

impl Rig {
    pub fn new() -> Self {
        let device = Device::open();
        let ops = Device::ops();
        let mut rig = Self {
            device,
            ops,
            pd: ptr::null_mut(),
        };
        rig.pd = verb!(rig, alloc_pd(rig.device.context()));
        rig
    }

    pub fn init_attr(&self, qp_type: QpType, cap: IbvQpCap) -> IbvQpInitAttrEx {
        // SAFETY: All bytes zero are valid attributes.
        let mut attr: IbvQpInitAttrEx = unsafe { core::mem::zeroed() };
        attr.cap = cap;
        attr.qp_type = qp_type.into();
        attr.comp_mask = qp_init_attr_mask::PD;
        attr.pd = self.pd;
        attr
    }

    /// A queue pair in RTS.
    pub fn qp(&self, qp_type: QpType) -> *mut IbvQp {
        let mut attr = self.init_attr(qp_type, SMALL);
        let qp = verb!(self, create_qp_ex(self.device.context(), &mut attr));
        assert!(!qp.is_null());
        self.modify(qp, QpState::Rts);
        qp
    }

    /// An extended queue pair in RTS, with all operations of its type.
    pub fn qp_ex(&self, qp_type: QpType, ops: u64) -> *mut IbvQpEx {
        let mut attr = self.init_attr(qp_type, SMALL);
        attr.comp_mask |= qp_init_attr_mask::SEND_OPS_FLAGS;
        attr.send_ops_flags = ops;
        let qp = verb!(self, create_qp_ex(self.device.context(), &mut attr));
        assert!(!qp.is_null());
        self.modify(qp, QpState::Rts);
        qp.cast()
    }

    pub fn modify(&self, qp: *mut IbvQp, state: QpState) {
        let mut attr = MaybeUninit::<IbvQpAttr>::zeroed();
        // SAFETY: All bytes zero are valid attributes.
        unsafe { attr.assume_init_mut().qp_state = state.into() };
        let result = verb!(self, modify_qp(qp, attr.as_mut_ptr(), IBV_QP_STATE));
        assert_eq!(result, 0);
    }

    pub fn cq(&self, cqe: c_int) -> *mut IbvCq {
        let context = self.device.context();
        let cq = verb!(self, create_cq(context, cqe, ptr::null_mut(), 0));
        assert!(!cq.is_null());
        cq
    }

    pub fn cq_ex(&self, change: impl FnOnce(&mut IbvCqInitAttrEx)) -> Result<*mut IbvCqEx, c_int> {
        // SAFETY: All bytes zero are valid attributes.
        let mut attr: IbvCqInitAttrEx = unsafe { core::mem::zeroed() };
        attr.cqe = 4;
        change(&mut attr);
        let cq = verb!(self, create_cq_ex(self.device.context(), &mut attr));
        if cq.is_null() {
            Err(errno())
        } else {
            Ok(cq)
        }
    }

    pub fn ah(&self) -> *mut IbvAh {
        verb!(self, create_ah(self.pd, ptr::null_mut::<c_void>()))
    }

    /// Posts them as one list. `Err` is the index of the bad one, and the errno.
    pub fn post_send(&self, qp: *mut IbvQp, list: &mut [IbvSendWr]) -> Result<(), (usize, c_int)> {
        let first = list.as_mut_ptr();
        let count = list.len();
        for (index, wr) in list.iter_mut().enumerate() {
            wr.next = match index + 1 == count {
                true => ptr::null_mut(),
                false => first.wrapping_add(index + 1),
            };
        }
        let mut bad = ptr::null_mut();
        match verb!(self, post_send(qp, first, &mut bad)) {
            0 => Ok(()),
            // SAFETY: The bad one is in the list.
            errno => Err((unsafe { bad.offset_from_unsigned(first) }, errno)),
        }
    }

    /// As [`post_send`](Self::post_send).
    pub fn post_recv(&self, qp: *mut IbvQp, list: &mut [IbvRecvWr]) -> Result<(), (usize, c_int)> {
        let first = link(list);
        let mut bad = ptr::null_mut();
        match verb!(self, post_recv(qp, first, &mut bad)) {
            0 => Ok(()),
            // SAFETY: The bad one is in the list.
            errno => Err((unsafe { bad.offset_from_unsigned(first) }, errno)),
        }
    }

    pub fn post_srq_recv(
        &self,
        srq: *mut IbvSrq,
        list: &mut [IbvRecvWr],
    ) -> Result<(), (usize, c_int)> {
        let first = link(list);
        let mut bad = ptr::null_mut();
        match verb!(self, post_srq_recv(srq, first, &mut bad)) {
            0 => Ok(()),
            // SAFETY: The bad one is in the list.
            errno => Err((unsafe { bad.offset_from_unsigned(first) }, errno)),
        }
    }
}

fn link(list: &mut [IbvRecvWr]) -> *mut IbvRecvWr {
    let first = list.as_mut_ptr();
    let count = list.len();
    for (index, wr) in list.iter_mut().enumerate() {
        wr.next = match index + 1 == count {
            true => ptr::null_mut(),
            false => first.wrapping_add(index + 1),
        };
    }
    first
}

/// A work request with nothing in it but this.
pub fn send_wr(wr_id: u64, opcode: u32) -> IbvSendWr {
    // SAFETY: All bytes zero are a valid work request.
    let mut wr: IbvSendWr = unsafe { core::mem::zeroed() };
    wr.wr_id = wr_id;
    wr.opcode = opcode;
    wr
}

/// One with a list of SGEs.
pub fn with_sges(mut wr: IbvSendWr, sges: &mut [Sge]) -> IbvSendWr {
    wr.num_sge = sges.len() as c_int;
    wr.sg_list = sges.as_mut_ptr();
    wr
}

pub fn recv_wr(wr_id: u64, sges: &mut [Sge]) -> IbvRecvWr {
    IbvRecvWr {
        wr_id,
        next: ptr::null_mut(),
        sg_list: sges.as_mut_ptr(),
        num_sge: sges.len() as c_int,
    }
}

/// An SGE of the process' own memory.
pub fn sge(bytes: &[u8]) -> Sge {
    Sge {
        addr: bytes.as_ptr().expose_provenance() as u64,
        length: bytes.len() as u32,
        lkey: 0,
    }
}
