// SPDX-License-Identifier: GPL-2.0

//! Work requests, as the kernel's own users post them, and user space if it does so by system calls.
//!
//! They come as a list. The driver takes one after the other and stops at the first that it does not
//! accept: what it has taken last then counts as the bad one, and those before as posted.
//!
//! A list can be empty. `ibv_post_send()` without work requests is a system call that reaches the
//! driver and carries nothing, so it serves as a doorbell: "look at the queue you share with me".
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    ah::Ah,
    bindings,
    mr::Mr,
    ops,
    verbs::{AccessFlags, QpType, SendFlags, WrOpcode},
};
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::prelude::*;

/// A piece of memory: address, length in bytes and key.
///
/// In user space's work requests the address is one of the process, or relative to the beginning of
/// a memory region. In those of the kernel it is a virtual address of the kernel if the key is that of
/// [`mr::Operations::get_dma`](super::mr::Operations::get_dma), for a device without DMA.
pub use super::bindings::ib_sge as Sge;

/// # Safety
///
/// `list` must be an array of `len` elements that does not change for `'a`, unless `len` is not
/// positive.
unsafe fn sges<'a>(list: *const Sge, len: c_int) -> &'a [Sge] {
    match usize::try_from(len) {
        // SAFETY: By the function's requirements.
        Ok(len) if len != 0 => unsafe { core::slice::from_raw_parts(list, len) },
        _ => &[],
    }
}

macro_rules! list {
    ($(#[$meta:meta])* $name:ident, $item:ident, $raw:ident) => {
        $(#[$meta])*
        ///
        /// # Invariants
        ///
        /// `next` and what it leads to is a list of valid work requests for `'a`. `current` is the
        /// element before `next`, if there is one.
        pub struct $name<'a, D> {
            next: Option<NonNull<bindings::$raw>>,
            current: Option<NonNull<bindings::$raw>>,
            qp_type: Option<QpType>,
            is_user: bool,
            _p: PhantomData<(&'a bindings::$raw, fn() -> D)>,
        }

        impl<D: ops::Operations> $name<'_, D> {
            /// # Safety
            ///
            /// As the type invariants. For send requests, `qp_type` is the type of the queue pair
            /// that they are for, and `is_user` says whether that belongs to a process.
            pub(super) unsafe fn from_raw(
                list: *const bindings::$raw,
                qp_type: Option<QpType>,
                is_user: bool,
            ) -> Self {
                Self {
                    next: NonNull::new(list.cast_mut()),
                    current: None,
                    qp_type,
                    is_user,
                    _p: PhantomData,
                }
            }

            /// What has been taken last, or could be taken next if nothing has.
            pub(super) fn bad(&self) -> *const bindings::$raw {
                let bad = self.current.or(self.next);
                bad.map_or(ptr::null(), |bad| bad.as_ptr().cast_const())
            }

            /// Whether there is nothing left to be taken.
            pub fn is_empty(&self) -> bool {
                self.next.is_none()
            }
        }

        impl<'a, D: ops::Operations> Iterator for $name<'a, D> {
            type Item = $item<'a, D>;

            fn next(&mut self) -> Option<$item<'a, D>> {
                let this = self.next?;
                // SAFETY: By the type invariants.
                let raw = unsafe { this.as_ref() };
                // INVARIANT: The next one is a valid one, too.
                self.current = Some(this);
                self.next = NonNull::new(raw.next);
                Some($item {
                    raw,
                    qp_type: self.qp_type,
                    is_user: self.is_user,
                    _p: PhantomData,
                })
            }
        }
    };
}

list! {
    /// A list of work requests for a send queue of the driver `D`.
    SendWrs, SendWr, ib_send_wr
}

list! {
    /// A list of work requests for a receive queue of the driver `D`.
    RecvWrs, RecvWr, ib_recv_wr
}

/// A work request for a receive queue.
pub struct RecvWr<'a, D> {
    raw: &'a bindings::ib_recv_wr,
    #[expect(dead_code)] // The macro treats both lists alike.
    qp_type: Option<QpType>,
    #[expect(dead_code)]
    is_user: bool,
    _p: PhantomData<fn() -> D>,
}

impl<'a, D: ops::Operations> RecvWr<'a, D> {
    /// The number to give back in the completion.
    pub fn id(&self) -> u64 {
        // SAFETY: Both fields of the union are 64 bits, or are used as such.
        unsafe { self.raw.__bindgen_anon_1.wr_id }
    }

    /// Where to put what is received.
    pub fn sges(&self) -> &'a [Sge] {
        // SAFETY: Who posts the request guarantees it.
        unsafe { sges(self.raw.sg_list, self.raw.num_sge) }
    }
}

/// A work request for a send queue.
///
/// # Invariants
///
/// `qp_type` is the type of the queue pair, and `is_user` says whether it belongs to a process. If the
/// type and the operation are such that there is a larger structure around `ib_send_wr`, then `raw` is
/// a field of it.
pub struct SendWr<'a, D> {
    raw: &'a bindings::ib_send_wr,
    qp_type: Option<QpType>,
    is_user: bool,
    _p: PhantomData<fn() -> D>,
}

/// Operands of an atomic operation.
#[derive(Clone, Copy, Debug)]
pub struct AtomicOperands {
    /// What to compare with, or to add.
    pub compare_add: u64,
    /// What to put there, if the comparison succeeds.
    pub swap: u64,
}

/// Where a datagram goes to.
pub struct Destination<'a, D: ops::Operations> {
    /// The address.
    pub ah: &'a Ah<D::Ah>,
    /// Number of the queue pair there.
    pub qpn: u32,
    /// The key of that queue pair, or a number with the highest bit set for the sender's own.
    pub qkey: u32,
    /// For connection management only.
    pub pkey_index: u16,
}

/// Memory to be registered.
pub struct Registration<'a, D: ops::Operations> {
    /// The memory region that the memory has been mapped in.
    pub mr: &'a Mr<D::Mr>,
    /// The key that it gets.
    pub key: u32,
    /// What it may be used for.
    pub access: AccessFlags,
}

impl<'a, D: ops::Operations> SendWr<'a, D> {
    /// The number to give back in the completion.
    pub fn id(&self) -> u64 {
        // SAFETY: Both fields of the union are 64 bits, or are used as such.
        unsafe { self.raw.__bindgen_anon_1.wr_id }
    }

    /// What to do. `EINVAL` for an operation that is not known here.
    pub fn opcode(&self) -> Result<WrOpcode> {
        self.raw.opcode.try_into()
    }

    /// How to do it.
    pub fn flags(&self) -> SendFlags {
        SendFlags::from_bits(self.raw.send_flags as u32)
    }

    /// The local memory.
    ///
    /// With [`SendFlags::INLINE`], addresses are virtual ones: the kernel's if the queue pair is, see
    /// [`Self::inline_data`], and otherwise those of the process, which the driver should refuse.
    pub fn sges(&self) -> &'a [Sge] {
        // SAFETY: Who posts the request guarantees it.
        unsafe { sges(self.raw.sg_list, self.raw.num_sge) }
    }

    /// The pieces of inline data, to be copied during the call. There are none if the queue pair is
    /// not the kernel's.
    pub fn inline_data(&self) -> impl Iterator<Item = &'a [u8]> {
        let sges = match self.is_user || !self.flags().contains(SendFlags::INLINE) {
            true => &[],
            false => self.sges(),
        };
        sges.iter().map(|sge| match sge.length as usize {
            0 => &[][..],
            // SAFETY: A kernel user that posts inline data guarantees that they are there, at the
            // kernel's virtual address, and do not change during the call.
            len => unsafe { core::slice::from_raw_parts(sge.addr as *const u8, len) },
        })
    }

    /// The immediate data, as they go over the network. Only for operations that have them.
    pub fn immediate(&self) -> [u8; 4] {
        // SAFETY: Both fields of the union are plain 32 bits.
        unsafe { self.raw.ex.imm_data }.to_ne_bytes()
    }

    /// The key to be invalidated, here or at the other side. Only for operations that have one.
    pub fn invalidate_key(&self) -> u32 {
        // SAFETY: Both fields of the union are plain 32 bits.
        unsafe { self.raw.ex.invalidate_rkey }
    }

    /// The remote memory, address and key, of operations that have such.
    pub fn remote(&self) -> Option<(u64, u32)> {
        match self.opcode().ok()? {
            WrOpcode::RdmaWrite
            | WrOpcode::RdmaWriteWithImm
            | WrOpcode::RdmaRead
            | WrOpcode::RdmaReadWithInv
            | WrOpcode::AtomicWrite => {
                // SAFETY: With these operations it is an `ib_rdma_wr`, of which `wr` is the first.
                let wr = unsafe { &*ptr::from_ref(self.raw).cast::<bindings::ib_rdma_wr>() };
                Some((wr.remote_addr, wr.rkey))
            }
            _ => self.atomic_wr().map(|wr| (wr.remote_addr, wr.rkey)),
        }
    }

    /// The operands of an atomic operation.
    pub fn atomic(&self) -> Option<AtomicOperands> {
        self.atomic_wr().map(|wr| AtomicOperands {
            compare_add: wr.compare_add,
            swap: wr.swap,
        })
    }

    fn atomic_wr(&self) -> Option<&'a bindings::ib_atomic_wr> {
        match self.opcode().ok()? {
            WrOpcode::CompareSwap | WrOpcode::FetchAdd => {
                // SAFETY: With these operations it is an `ib_atomic_wr`, of which `wr` is the first.
                Some(unsafe { &*ptr::from_ref(self.raw).cast() })
            }
            _ => None,
        }
    }

    /// Where a datagram goes to.
    pub fn destination(&self) -> Option<Destination<'a, D>> {
        let is_ud = matches!(self.qp_type, Some(QpType::Ud | QpType::Gsi | QpType::Smi));
        let is_send = matches!(self.opcode(), Ok(WrOpcode::Send | WrOpcode::SendWithImm));
        if !(is_ud && is_send) {
            return None;
        }
        // SAFETY: With these queue pairs and operations it is an `ib_ud_wr`, of which `wr` is the
        // first.
        let wr = unsafe { &*ptr::from_ref(self.raw).cast::<bindings::ib_ud_wr>() };
        if wr.ah.is_null() {
            return None;
        }
        Some(Destination {
            // SAFETY: Who posts the request keeps the address handle during the call. It is of the
            // same device as the queue pair.
            ah: unsafe { Ah::from_raw(wr.ah) },
            qpn: wr.remote_qpn,
            qkey: wr.remote_qkey,
            pkey_index: wr.pkey_index,
        })
    }

    /// The memory to be registered, for [`WrOpcode::RegMr`].
    pub fn registration(&self) -> Option<Registration<'a, D>> {
        if self.opcode() != Ok(WrOpcode::RegMr) {
            return None;
        }
        // SAFETY: With this operation it is an `ib_reg_wr`, of which `wr` is the first.
        let wr = unsafe { &*ptr::from_ref(self.raw).cast::<bindings::ib_reg_wr>() };
        Some(Registration {
            // SAFETY: Who posts the request keeps the memory region during the call. It is of the
            // same device as the queue pair.
            mr: unsafe { Mr::from_raw(wr.mr) },
            key: wr.key,
            access: AccessFlags::from_bits(wr.access as u32),
        })
    }
}
