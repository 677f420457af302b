// SPDX-License-Identifier: MIT OR Apache-2.0
//! The smallest provider: that of the driver `kernel/examples/tiny3`.
//!
//! A program can open the device, ask for its attributes, and allocate protection domains.

use core::ffi::{c_int, c_void};
use core::ptr;

use super::device::{
    alloc_device, free_context, open, query_device_ex, query_port, row, uninit_device, DeviceOps,
    MatchTable,
};
use super::{domain, Failure};
use crate::abi::library::Library;
use crate::abi::{
    match_kind, ContextOps, GetContextResponse, IbvDevice, VerbsContext, VerbsDeviceOps, VerbsMatch,
};

// ANCHOR: match
/// The number that the driver says is its own: `DRIVER_ID` there.
pub const DRIVER_ID: u32 = u32::from_be_bytes(*b"TIN3");

static MATCH_TABLE: MatchTable<2> = MatchTable([
    row(
        match_kind::DRIVER_ID,
        VerbsMatch {
            driver_id: DRIVER_ID as u64,
        },
    ),
    row(match_kind::SENTINEL, VerbsMatch { driver_id: 0 }),
]);

pub static DEVICE_OPS: DeviceOps = DeviceOps(VerbsDeviceOps {
    name: c"tiny".as_ptr(),
    match_min_abi_version: 1,
    match_max_abi_version: 1,
    match_table: MATCH_TABLE.0.as_ptr(),
    static_providers: ptr::null_mut(),
    match_device: None,
    alloc_context: Some(alloc_context),
    import_context: None,
    alloc_device: Some(alloc_device),
    uninit_device: Some(uninit_device),
});
// ANCHOR_END: match

// ANCHOR: open
unsafe extern "C" fn alloc_context(
    device: *mut IbvDevice,
    cmd_fd: c_int,
    _private_data: *mut c_void,
) -> *mut VerbsContext {
    // SAFETY: By the contract of the verbs.
    unsafe {
        open(device, cmd_fd, DRIVER_ID, context_ops, |context| {
            let mut response = GetContextResponse::new();
            let (pointer, len) = (response.as_mut_ptr(), response.len());
            // SAFETY: The context is new, and the response has room for what the driver adds.
            Failure::check(Library::get().specific.get_context(context, pointer, len))
        })
    }
}

fn context_ops(library: &Library) -> ContextOps {
    library.specific.ops(ContextOps {
        free_context: Some(free_context),
        query_device_ex: Some(query_device_ex),
        query_port: Some(query_port),
        alloc_pd: Some(domain::alloc_pd),
        dealloc_pd: Some(domain::dealloc_pd),
        ..ContextOps::default()
    })
}
// ANCHOR_END: open
