// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding and opening devices.

use core::ffi::CStr;
use core::ptr;

use ferroce_core::{ring, uapi};

use super::fake::{self, errno, Opening, OPENING, REGISTERED};
use crate::abi::*;
use crate::ffi::device::{free_context, query_device_ex, DEVICE_OPS, REGISTER};
use crate::ffi::tiny;

fn open() -> Result<*mut VerbsContext, i32> {
    fake::put_library();
    // SAFETY: The functions for tests do not look at the device.
    let context =
        unsafe { DEVICE_OPS.0.alloc_context.unwrap()(ptr::null_mut(), 5, ptr::null_mut()) };
    if context.is_null() {
        Err(errno())
    } else {
        Ok(context)
    }
}

/// # Safety
/// It is open.
unsafe fn close(context: *mut VerbsContext) {
    // SAFETY: By this function's contract.
    unsafe { free_context(&raw mut (*context).context) };
}

fn good() -> Opening {
    Opening {
        ring_abi: ring::ABI_VERSION,
        ..Opening::default()
    }
}

#[test]
fn loading_the_library_registers_it() {
    fake::put_library();
    REGISTER();
    assert!(ptr::eq(REGISTERED.get(), &DEVICE_OPS.0));
}

#[test]
fn devices_are_found_by_their_drivers_number_or_their_modalias() {
    let ops = &DEVICE_OPS.0;
    // SAFETY: They are constants.
    let (name, table) = unsafe {
        (
            CStr::from_ptr(ops.name),
            std::slice::from_raw_parts(ops.match_table, 3),
        )
    };
    assert_eq!(name, c"ferroce");
    assert_eq!([table[0].kind, table[1].kind, table[2].kind], [3, 2, 0]);
    // SAFETY: Each row's kind says which of the two it is.
    let (driver, modalias) = unsafe { (table[0].u.driver_id, CStr::from_ptr(table[1].u.modalias)) };
    assert_eq!(driver, 0x4645_5252);
    assert_eq!(modalias, c"ferroce:user");
    let versions = (ops.match_min_abi_version, ops.match_max_abi_version);
    assert_eq!(versions, (uapi::UVERBS_ABI, uapi::UVERBS_ABI));
    // SAFETY: The function does not look at what the system knows of the device.
    unsafe {
        let device = ops.alloc_device.unwrap()(ptr::null_mut());
        // libibverbs asserts it.
        assert!((*device).device.obsolete.iter().all(|op| op.is_null()));
        ops.uninit_device.unwrap()(device);
    }
}

#[test]
fn the_example_drivers_devices_have_a_provider_of_their_own() {
    let ops = &tiny::DEVICE_OPS.0;
    // SAFETY: It is a constant, of two rows, of which the first is of a number.
    let table = unsafe { std::slice::from_raw_parts(ops.match_table, 2) };
    assert_eq!([table[0].kind, table[1].kind], [3, 0]);
    // SAFETY: The row's kind says that it is the number.
    assert_eq!(unsafe { table[0].u.driver_id }, tiny::DRIVER_ID.into());
}

#[test]
fn a_context_is_opened_and_closed() {
    OPENING.set(good());
    let context = open().unwrap();
    assert_eq!(OPENING.get().contexts, 1);
    // SAFETY: It is open.
    unsafe {
        assert_eq!((*context).context.num_comp_vectors, 1);
        close(context);
    }
    assert_eq!(OPENING.get().contexts, 0);
}

#[test]
fn a_driver_with_other_rings_is_not_worked_with() {
    OPENING.set(Opening {
        ring_abi: ring::ABI_VERSION + 1,
        ..Opening::default()
    });
    assert_eq!(open(), Err(libc::EPROTONOSUPPORT));
    // What an older driver does not fill in is zero.
    OPENING.set(Opening::default());
    assert_eq!(open(), Err(libc::EPROTONOSUPPORT));
    assert_eq!(OPENING.get().contexts, 0);
}

#[test]
fn a_context_that_the_kernel_refuses_is_not_left_behind() {
    OPENING.set(Opening {
        errno: libc::EMFILE,
        ..good()
    });
    assert_eq!(open(), Err(libc::EMFILE));
    assert_eq!(OPENING.get().contexts, 0);
}

#[test]
fn a_file_that_is_open_already_can_be_imported() {
    fake::put_library();
    OPENING.set(good());
    let import = DEVICE_OPS.0.import_context.unwrap();
    // SAFETY: The functions for tests do not look at the device.
    unsafe {
        let context = import(ptr::null_mut(), 5);
        assert!(!context.is_null());
        close(context);
    }
    OPENING.set(Opening {
        errno: libc::EOPNOTSUPP,
        ..good()
    });
    // SAFETY: As above.
    let context = unsafe { import(ptr::null_mut(), 5) };
    assert_eq!((context.is_null(), errno()), (true, libc::EOPNOTSUPP));
    assert_eq!(OPENING.get().contexts, 0);
}

#[test]
fn the_firmware_version_is_the_drivers() {
    fake::put_library();
    // SAFETY: All bytes zero are valid attributes.
    let mut attr: IbvDeviceAttr = unsafe { core::mem::zeroed() };
    // SAFETY: The functions for tests do not look at the context.
    let result = unsafe { query_device_ex(ptr::null_mut(), ptr::null(), &mut attr, 400) };
    assert_eq!(result, 0);
    // SAFETY: It ends within its 64 bytes, of which the rest is zero.
    let version = unsafe { CStr::from_ptr(attr.fw_ver.as_ptr()) };
    assert_eq!(version, c"1.22.333");
}
