// SPDX-License-Identifier: GPL-2.0

//! Completions of work requests, as the kernel's own users poll them.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings, ops,
    types::NetworkType,
    verbs::{WcOpcode, WcStatus},
    Qp,
};
use core::{marker::PhantomData, mem::MaybeUninit};

/// A completion, `struct ib_wc`, of a queue pair of the driver `D`.
pub struct Wc<'a, D> {
    raw: bindings::ib_wc,
    _qp: PhantomData<&'a ()>,
    _driver: PhantomData<fn() -> D>,
}

impl<'a, D: ops::Operations> Wc<'a, D> {
    /// The completion of the work request `id` of a queue pair.
    pub fn new(qp: &'a Qp<D::Qp>, id: u64, status: WcStatus) -> Self {
        let mut raw: bindings::ib_wc = pin_init::zeroed();
        raw.__bindgen_anon_1.wr_id = id;
        raw.status = status.as_raw();
        raw.qp = qp.as_raw();
        Self {
            raw,
            _qp: PhantomData,
            _driver: PhantomData,
        }
    }

    /// Sets the operation; only valid on success.
    pub fn opcode(mut self, opcode: WcOpcode) -> Self {
        self.raw.opcode = opcode.as_raw();
        self
    }

    /// Sets the number of bytes received or read.
    pub fn byte_len(mut self, bytes: u32) -> Self {
        self.raw.byte_len = bytes;
        self
    }

    /// Sets the immediate data, as they came over the network.
    pub fn immediate(mut self, data: [u8; 4]) -> Self {
        self.raw.ex.imm_data = u32::from_ne_bytes(data);
        self.raw.wc_flags |= bindings::ib_wc_flags_IB_WC_WITH_IMM as i32;
        self
    }

    /// Sets the key that the sender had invalidated.
    pub fn invalidated(mut self, rkey: u32) -> Self {
        self.raw.ex.invalidate_rkey = rkey;
        self.raw.wc_flags |= bindings::ib_wc_flags_IB_WC_WITH_INVALIDATE as i32;
        self
    }

    /// Sets what a datagram has on top: the sender's queue pair, and whether there is a GRH in the
    /// first 40 bytes of the buffer, which with RoCE there always is.
    pub fn datagram(mut self, src_qp: u32, port: u32, pkey_index: u16, grh: bool) -> Self {
        self.raw.src_qp = src_qp;
        self.raw.port_num = port;
        self.raw.pkey_index = pkey_index;
        if grh {
            self.raw.wc_flags |= bindings::ib_wc_flags_IB_WC_GRH as i32;
        }
        self
    }

    /// Sets what the header in the first 40 bytes is. Without it `ib_core` guesses.
    pub fn network_type(mut self, network_type: NetworkType) -> Self {
        self.raw.network_hdr_type = network_type.as_raw() as u8;
        self.raw.wc_flags |= bindings::ib_wc_flags_IB_WC_WITH_NETWORK_HDR_TYPE as i32;
        self
    }

    /// Sets a code for the cause of an error that only the driver knows the meaning of.
    pub fn vendor_error(mut self, code: u32) -> Self {
        self.raw.vendor_err = code;
        self
    }
}

/// Room for completions, in the memory of who polls.
///
/// # Invariants
///
/// The first `len` elements of `slots` are initialised.
pub struct WcBuffer<'a, D> {
    slots: &'a mut [MaybeUninit<bindings::ib_wc>],
    len: usize,
    _p: PhantomData<fn() -> D>,
}

impl<D: ops::Operations> WcBuffer<'_, D> {
    /// # Safety
    ///
    /// `wc` must be an array with room for `max` elements that nobody else uses.
    pub(super) unsafe fn from_raw(wc: *mut bindings::ib_wc, max: usize) -> Self {
        let slots = if max == 0 {
            &mut []
        } else {
            // SAFETY: By the function's requirements.
            unsafe { core::slice::from_raw_parts_mut(wc.cast(), max) }
        };
        // INVARIANT: None is initialised.
        Self {
            slots,
            len: 0,
            _p: PhantomData,
        }
    }

    /// How many completions are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no completions in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no more room.
    pub fn is_full(&self) -> bool {
        self.len == self.slots.len()
    }

    /// Adds a completion. If there is no room it is dropped, so look at [`Self::is_full`] first.
    pub fn push(&mut self, wc: Wc<'_, D>) {
        if let Some(slot) = self.slots.get_mut(self.len) {
            slot.write(wc.raw);
            // INVARIANT: One more is initialised.
            self.len += 1;
        }
    }
}
