// SPDX-License-Identifier: MIT OR Apache-2.0
//! Devices: how libibverbs finds and opens them, and what they are asked.

use core::ffi::{c_int, c_void};
use core::ptr;
use std::io::Write as _;

use ferroce_core::{ring, uapi};

use super::object::Object;
use super::{context_ops, status, tiny, Failure};
use crate::abi::library::Library;
use crate::abi::{
    match_kind, ContextOps, GetContextResponse, IbvContext, IbvDevice, IbvDeviceAttr, IbvValuesEx,
    QueryDeviceExResponse, QueryPortRequest, VerbsContext, VerbsDevice, VerbsDeviceOps, VerbsMatch,
    VerbsMatchEnt, VerbsSysfsDev, IBV_VALUES_MASK_RAW_CLOCK,
};
use crate::user;

/// Which devices are ferroce's: in the kernel those whose driver has its number. libibverbs asks netlink
/// for that. Those that `ferroce run` shows are in sysfs alone, where each has a parent with this modalias.
static MATCH_TABLE: MatchTable<3> = MatchTable([
    row(
        match_kind::DRIVER_ID,
        VerbsMatch {
            driver_id: uapi::DRIVER_ID as u64,
        },
    ),
    row(
        match_kind::MODALIAS,
        VerbsMatch {
            modalias: uapi::USER_MODALIAS.as_ptr(),
        },
    ),
    row(match_kind::SENTINEL, VerbsMatch { driver_id: 0 }),
]);

/// By what libibverbs finds the provider of a device. The last row is a sentinel.
pub struct MatchTable<const N: usize>(pub [VerbsMatchEnt; N]);

// SAFETY: The pointers in it are null, or to constants.
unsafe impl<const N: usize> Sync for MatchTable<N> {}

/// A row of the table.
pub const fn row(kind: u8, u: VerbsMatch) -> VerbsMatchEnt {
    VerbsMatchEnt {
        driver_data: ptr::null_mut(),
        u,
        vendor: 0,
        device: 0,
        kind,
    }
}

/// What libibverbs needs to know to begin with.
pub struct DeviceOps(pub VerbsDeviceOps);

// SAFETY: The pointers in it are to constants, or null.
unsafe impl Sync for DeviceOps {}

pub static DEVICE_OPS: DeviceOps = DeviceOps(VerbsDeviceOps {
    name: c"ferroce".as_ptr(),
    match_min_abi_version: uapi::UVERBS_ABI,
    match_max_abi_version: uapi::UVERBS_ABI,
    match_table: MATCH_TABLE.0.as_ptr(),
    static_providers: ptr::null_mut(),
    match_device: None,
    alloc_context: Some(alloc_context),
    import_context: Some(import_context),
    alloc_device: Some(alloc_device),
    uninit_device: Some(uninit_device),
});

/// Called by the dynamic linker when libibverbs loads this library: the way in, there is no other.
#[cfg_attr(not(test), used, unsafe(link_section = ".init_array"))]
pub static REGISTER: extern "C" fn() = register;

extern "C" fn register() {
    match Library::load() {
        // SAFETY: They are statics.
        Ok(library) => unsafe {
            library
                .specific
                .register_driver(&raw const tiny::DEVICE_OPS.0);
            library.specific.register_driver(&raw const DEVICE_OPS.0);
        },
        Err(error) => say(&format!("not loaded: {error}")),
    }
}

/// Tells the user something that a verb's errno cannot.
fn say(what: &str) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "libferroce: {what}");
}

pub unsafe extern "C" fn alloc_device(_sysfs: *mut VerbsSysfsDev) -> *mut VerbsDevice {
    Object::<VerbsDevice>::make().finish(())
}

pub unsafe extern "C" fn uninit_device(device: *mut VerbsDevice) {
    // SAFETY: By the contract of the verbs; the last reference to the device is gone.
    unsafe { Object::<VerbsDevice>::drop(device) };
}

unsafe extern "C" fn alloc_context(
    device: *mut IbvDevice,
    cmd_fd: c_int,
    _private_data: *mut c_void,
) -> *mut VerbsContext {
    // SAFETY: By the contract of the verbs.
    unsafe {
        open(device, cmd_fd, uapi::DRIVER_ID, context_ops, |context| {
            let mut response = GetContextResponse::new();
            let (pointer, len) = (response.as_mut_ptr(), response.len());
            // SAFETY: The context is new, and the response has room for what the driver adds.
            Failure::check(Library::get().specific.get_context(context, pointer, len))?;
            check_ring_abi(response.driver.ring_abi)
        })
    }
}

/// Opens a device file that another process, or another part of this one, has opened before.
unsafe extern "C" fn import_context(device: *mut IbvDevice, cmd_fd: c_int) -> *mut VerbsContext {
    // SAFETY: By the contract of the verbs.
    unsafe {
        open(device, cmd_fd, uapi::DRIVER_ID, context_ops, |context| {
            // The rings' version is what it was when the file was opened: by a provider, which has
            // checked it.
            let library = Library::get();
            // SAFETY: The context is new; no attributes are added to the command.
            Failure::check((library.common.ibv_cmd_query_context)(
                context.byte_add(library.specific.context_offset()).cast(),
                ptr::null_mut(),
            ))
        })
    }
}

/// Makes a context with the verbs `ops` and has the kernel fill it in.
///
/// # Safety
/// The device is one of libibverbs', of the driver with this number, and the file is open.
pub unsafe fn open(
    device: *mut IbvDevice,
    cmd_fd: c_int,
    driver_id: u32,
    ops: fn(&Library) -> ContextOps,
    fill_in: impl FnOnce(*mut VerbsContext) -> Result<(), Failure>,
) -> *mut VerbsContext {
    let library = Library::get();
    // SAFETY: By this function's contract. The context is at offset zero of what is allocated, and
    // nothing else is in it. The file is closed by this function if it fails.
    let context = unsafe {
        (library.common._verbs_init_and_alloc_context)(
            device,
            cmd_fd,
            size_of::<VerbsContext>(),
            ptr::null_mut(),
            driver_id,
        )
    }
    .cast::<VerbsContext>();
    if context.is_null() {
        return ptr::null_mut();
    }
    if let Err(failure) = fill_in(context) {
        // SAFETY: The context has just been made, and nobody else has it.
        unsafe { free(context) };
        status(Err(failure));
        return ptr::null_mut();
    }
    let ops = ops(library);
    // SAFETY: The context is new.
    unsafe { library.specific.set_ops(context, &ops) };
    context
}

/// Whether the driver's rings are what this provider was built for.
fn check_ring_abi(driver: u32) -> Result<(), Failure> {
    if driver == ring::ABI_VERSION {
        return Ok(());
    }
    say(&format!(
        "the driver shares queues of version {driver}, this library of version {}: \
         install the ferroce module and library of one release",
        ring::ABI_VERSION
    ));
    Err(Failure(libc::EPROTONOSUPPORT))
}

/// # Safety
/// The context was made by [`open`], and nobody uses it any more.
unsafe fn free(context: *mut VerbsContext) {
    // SAFETY: By this function's contract. libibverbs has allocated it, with `calloc`.
    unsafe {
        (Library::get().common.verbs_uninit_context)(context);
        libc::free(context.cast());
    }
}

pub unsafe extern "C" fn free_context(context: *mut IbvContext) {
    // SAFETY: By the contract of the verbs it is the last field of a context made by `open`.
    unsafe {
        if user::is_here() {
            user::close(context);
        }
        let offset = Library::get().specific.context_offset();
        free(context.byte_sub(offset).cast());
    }
}

pub unsafe extern "C" fn query_device_ex(
    context: *mut IbvContext,
    input: *const c_void,
    attr: *mut IbvDeviceAttr,
    attr_size: usize,
) -> c_int {
    let mut response = QueryDeviceExResponse::new();
    let mut len = response.len();
    // SAFETY: By the contract of the verbs; the response has room for `len` bytes.
    let result = unsafe {
        (Library::get().common.ibv_cmd_query_device_any)(
            context,
            input,
            attr,
            attr_size,
            response.as_mut_ptr(),
            &raw mut len,
        )
    };
    if result != 0 {
        return result;
    }
    // The first number of the answer is the driver's version, 16 bits each for its three parts.
    let version = response.first_u64();
    let [.., major, minor, patch] = [48, 32, 16, 0].map(|shift| (version >> shift) as u16);
    let text = format!("{major}.{minor}.{patch}");
    // SAFETY: By the contract of the verbs the attributes are there to be written.
    let fw_ver = unsafe { &mut (*attr).fw_ver };
    fw_ver.fill(0);
    // Three numbers of five digits fit, with a NUL behind.
    for (place, byte) in fw_ver.iter_mut().zip(text.bytes()) {
        *place = byte.cast_signed();
    }
    0
}

pub unsafe extern "C" fn query_port(
    context: *mut IbvContext,
    port_num: u8,
    attr: *mut c_void,
) -> c_int {
    let mut request = QueryPortRequest::new();
    let (pointer, len) = (request.as_mut_ptr(), request.len());
    // SAFETY: By the contract of the verbs.
    unsafe { (Library::get().common.ibv_cmd_query_port)(context, port_num, attr, pointer, len) }
}

pub unsafe extern "C" fn query_rt_values(
    _context: *mut IbvContext,
    values: *mut IbvValuesEx,
) -> c_int {
    // SAFETY: By the contract of the verbs the structure is there to be read and written.
    let values = unsafe { &mut *values };
    if values.comp_mask & !IBV_VALUES_MASK_RAW_CLOCK != 0 {
        return status(Err(Failure::NOT_SUPPORTED));
    }
    if values.comp_mask & IBV_VALUES_MASK_RAW_CLOCK != 0 {
        // The device's clock is a count, like the timestamps of completions, and not seconds and
        // nanoseconds: it is all in the one field.
        values.raw_clock.tv_sec = 0;
        values.raw_clock.tv_nsec = clock_nanos(libc::CLOCK_MONOTONIC).cast_signed();
    }
    0
}

/// A clock of the system, in nanoseconds. `CLOCK_MONOTONIC` is the device's.
pub fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: The structure is there to be written.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec)
        .cast_unsigned()
}
