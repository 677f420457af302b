// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers for the commands that libibverbs sends to the kernel on a provider's behalf.
//!
//! The command's own part is libibverbs' business: it fills it in and reads it, the provider lends the
//! memory. Behind it in an answer is what ferroce's driver adds ([`ferroce_core::uapi`]).

use core::ffi::c_void;

use ferroce_core::uapi;

/// A command of `WORDS` times eight bytes, header included.
#[repr(C)]
pub struct Request<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Request<WORDS> {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; WORDS])
    }

    /// Where it is.
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(self).cast()
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        size_of::<Self>()
    }
}

pub type AllocPdRequest = Request<2>;
pub type RegMrRequest = Request<6>;
pub type ReregMrRequest = Request<7>;
pub type AllocMwRequest = Request<3>;
pub type ResizeCqRequest = Request<3>;
pub type QuerySrqRequest = Request<3>;
pub type QueryQpRequest = Request<3>;
pub type ModifyQpRequest = Request<15>;
pub type QueryPortRequest = Request<3>;

/// Modify SRQ, and behind it what the provider tells the driver.
#[repr(C)]
pub struct ModifySrqRequest<D = ()> {
    core: [u64; 3],
    /// What is behind it.
    pub driver: D,
}

impl<D: Default> ModifySrqRequest<D> {
    /// All zero.
    pub fn new() -> Self {
        Self {
            core: [0; 3],
            driver: D::default(),
        }
    }
}

/// An answer: `WORDS` times four bytes of the command's own, and then the driver's.
#[repr(C, align(8))]
pub struct Response<const WORDS: usize, D = ()> {
    core: [u32; WORDS],
    /// What the driver adds.
    pub driver: D,
}

impl<const WORDS: usize, D: Default> Response<WORDS, D> {
    /// Length in bytes, without padding at the end.
    pub const LEN: usize = WORDS * 4 + size_of::<D>();

    /// All zero.
    pub fn new() -> Self {
        const { assert!(core::mem::offset_of!(Self, driver) == WORDS * 4) };
        Self {
            core: [0; WORDS],
            driver: D::default(),
        }
    }

    /// Where it is.
    pub fn as_mut_ptr(&mut self) -> *mut c_void {
        core::ptr::from_mut(self).cast()
    }

    /// Length in bytes, without padding at the end.
    pub const fn len(&self) -> usize {
        Self::LEN
    }

    /// The command's first eight bytes as one number.
    pub fn first_u64(&self) -> u64 {
        match self.core.first_chunk::<2>() {
            Some(&[first, second]) => {
                let [a, b, c, d] = first.to_ne_bytes();
                let [e, f, g, h] = second.to_ne_bytes();
                u64::from_ne_bytes([a, b, c, d, e, f, g, h])
            }
            None => 0,
        }
    }
}

pub type GetContextResponse = Response<2, uapi::UcontextResponse>;
pub type QueryDeviceExResponse = Response<76>;
pub type AllocPdResponse = Response<1>;
pub type RegMrResponse = Response<3>;
pub type ReregMrResponse = Response<2>;
pub type AllocMwResponse = Response<2>;
pub type CreateCqExResponse = Response<4, uapi::CqResponse>;
pub type ResizeCqResponse = Response<2, uapi::CqResponse>;
pub type CreateSrqResponse = Response<4, uapi::SrqResponse>;
pub type CreateQpExResponse = Response<10, uapi::QpResponse>;
pub type CreateAhResponse = Response<1, uapi::AhResponse>;

/// The command by which a provider tells the driver to look at a queue: Post Send, Post Receive or
/// Post SRQ Receive without any work request. They have the same form.
#[repr(C)]
pub struct DoorbellCommand {
    pub command: u32,
    pub in_words: u16,
    pub out_words: u16,
    pub response: u64,
    pub handle: u32,
    pub wr_count: u32,
    pub sge_count: u32,
    pub wqe_size: u32,
}

/// Numbers of those commands (`enum ib_uverbs_write_cmds`), and the size of the work requests there
/// are none of, which the kernel checks nevertheless.
pub mod doorbell {
    pub const POST_SEND: (u32, u32) = (28, 56);
    pub const POST_RECV: (u32, u32) = (29, 16);
    pub const POST_SRQ_RECV: (u32, u32) = (36, 16);
}

/// The commands' sizes in C, for the tests.
#[cfg(test)]
pub const COMMANDS: &[(&str, usize)] = &[
    ("struct ibv_alloc_pd", size_of::<AllocPdRequest>()),
    ("struct ibv_reg_mr", size_of::<RegMrRequest>()),
    ("struct ibv_rereg_mr", size_of::<ReregMrRequest>()),
    ("struct ibv_alloc_mw", size_of::<AllocMwRequest>()),
    ("struct ibv_resize_cq", size_of::<ResizeCqRequest>()),
    ("struct ibv_modify_srq", size_of::<ModifySrqRequest<()>>()),
    ("struct ibv_query_srq", size_of::<QuerySrqRequest>()),
    ("struct ibv_query_qp", size_of::<QueryQpRequest>()),
    ("struct ibv_modify_qp", size_of::<ModifyQpRequest>()),
    ("struct ibv_query_port", size_of::<QueryPortRequest>()),
    ("struct ibv_post_send", size_of::<DoorbellCommand>()),
    ("struct ibv_post_recv", size_of::<DoorbellCommand>()),
    ("struct ibv_post_srq_recv", size_of::<DoorbellCommand>()),
    ("struct ib_uverbs_send_wr", doorbell::POST_SEND.1 as usize),
    ("struct ib_uverbs_recv_wr", doorbell::POST_RECV.1 as usize),
    ("struct ib_uverbs_get_context_resp", 8),
    (
        "struct ib_uverbs_ex_query_device_resp",
        QueryDeviceExResponse::LEN,
    ),
    ("struct ib_uverbs_alloc_pd_resp", AllocPdResponse::LEN),
    ("struct ib_uverbs_reg_mr_resp", RegMrResponse::LEN),
    ("struct ib_uverbs_rereg_mr_resp", ReregMrResponse::LEN),
    ("struct ib_uverbs_alloc_mw_resp", AllocMwResponse::LEN),
    ("struct ib_uverbs_ex_create_cq_resp", 16),
    ("struct ib_uverbs_resize_cq_resp", 8),
    ("struct ib_uverbs_create_srq_resp", 16),
    ("struct ib_uverbs_ex_create_qp_resp", 40),
    ("struct ib_uverbs_create_ah_resp", 4),
];
