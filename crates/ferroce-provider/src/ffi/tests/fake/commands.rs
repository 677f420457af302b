// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands of the libibverbs for tests.

use core::cell::Cell;
use core::ffi::{c_int, c_void, CStr};

use ferroce_core::ring::{
    CqGeometry, QpLayout, RecvQueue, SendQueue, WqGeometry, RECV_HEADER_LEN, SGE_LEN,
};
use ferroce_core::uapi;

use super::{Device, Trouble};
use crate::abi::library::{Common, Library};
use crate::abi::*;

/// # Safety
/// The context is of a [`Device`].
unsafe fn device<'a>(context: *mut IbvContext) -> &'a Device {
    // SAFETY: It is its first field.
    unsafe { &*context.cast::<Device>() }
}

/// Puts the driver's part behind the command's own.
///
/// # Safety
/// `resp` is for `core` bytes and a `D`, which is what `len` says.
unsafe fn respond<D>(resp: *mut c_void, len: usize, core: usize, driver: D) {
    assert_eq!(len, core + size_of::<D>());
    // SAFETY: By this function's contract.
    unsafe { resp.byte_add(core).cast::<D>().write_unaligned(driver) };
}

/// # Safety
/// As the command in C.
unsafe fn create_cq(
    context: *mut IbvContext,
    attr: *const IbvCqInitAttrEx,
    cq: *mut VerbsCq,
    resp: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: By the caller's contract.
    unsafe {
        let device = device(context);
        let handle = match device.create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        let response = cq_response(device, (*attr).cqe);
        (*cq).cq.context = context;
        (*cq).cq.handle = handle;
        (*cq).cq.cqe = response.entries.cast_signed();
        respond(resp, len, 16, response);
    }
    0
}

fn cq_response(device: &Device, cqe: u32) -> uapi::CqResponse {
    let geometry = CqGeometry::new(cqe).unwrap();
    let mut response = uapi::CqResponse {
        ring: device.offer(geometry.len()),
        entries: geometry.entries(),
        reserved: 0,
    };
    if device.nonsense() {
        response.entries = 3;
    }
    device.answer(|answer| answer.cq = response);
    response
}

unsafe extern "C" fn resize_cq(
    cq: *mut IbvCq,
    cqe: c_int,
    _cmd: *mut c_void,
    cmd_size: usize,
    resp: *mut c_void,
    len: usize,
) -> c_int {
    assert_eq!(cmd_size, 24);
    // SAFETY: By the command's contract.
    unsafe {
        let device = device((*cq).context);
        if let Trouble::Fail(errno) = device.trouble.get() {
            return errno;
        }
        let response = cq_response(device, cqe.cast_unsigned());
        (*cq).cqe = response.entries.cast_signed();
        respond(resp, len, 8, response);
    }
    0
}

unsafe extern "C" fn req_notify_cq(cq: *mut IbvCq, _solicited_only: c_int) -> c_int {
    // SAFETY: By the command's contract.
    let device = unsafe { device((*cq).context) };
    device.asked.set(device.asked.get() + 1);
    0
}

/// # Safety
/// As the command in C.
unsafe fn create_qp(
    context: *mut IbvContext,
    qp: *mut VerbsQp,
    attr: *mut IbvQpInitAttrEx,
    resp: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: By the caller's contract.
    unsafe {
        let device = device(context);
        let handle = match device.create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        let cap = &mut (*attr).cap;
        let send =
            WqGeometry::<SendQueue>::new(cap.max_send_wr, cap.max_send_sge, cap.max_inline_data)
                .unwrap();
        let recv = (*attr)
            .srq
            .is_null()
            .then(|| WqGeometry::<RecvQueue>::new(cap.max_recv_wr, cap.max_recv_sge).unwrap());
        cap.max_send_wr = send.entries();
        cap.max_send_sge = send.max_sge();
        cap.max_inline_data = send.max_inline();
        let mut response = uapi::QpResponse {
            rings: device.offer(QpLayout::new(send, recv).len()),
            send: send.descriptor(),
            recv: recv.map(|recv| recv.descriptor()).unwrap_or_default(),
        };
        if device.nonsense() {
            response.recv.stride = 7;
        }
        device.answer(|answer| answer.qp = response);
        let base = &mut (*qp).qp_ex.qp_base;
        base.context = context;
        base.handle = handle;
        base.qp_num = handle + 1000;
        base.qp_type = (*attr).qp_type;
        base.send_cq = (*attr).send_cq;
        base.recv_cq = (*attr).recv_cq;
        respond(resp, len, 40, response);
    }
    0
}

unsafe extern "C" fn create_srq(
    pd: *mut IbvPd,
    srq: *mut IbvSrq,
    attr: *mut IbvSrqInitAttr,
    _cmd: *mut c_void,
    _cmd_size: usize,
    resp: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: By the command's contract.
    unsafe {
        let device = device((*pd).context);
        let handle = match device.create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        let attr = &(*attr).attr;
        let geometry = WqGeometry::<RecvQueue>::new(attr.max_wr, attr.max_sge).unwrap();
        let mut response = uapi::SrqResponse {
            ring: device.offer(geometry.len()),
            recv: geometry.descriptor(),
        };
        if device.nonsense() {
            response.recv.entries = 3;
        }
        device.answer(|answer| answer.srq = response);
        (*srq).context = (*pd).context;
        (*srq).handle = handle;
        respond(resp, len, 16, response);
    }
    0
}

unsafe extern "C" fn modify_srq(
    srq: *mut IbvSrq,
    attr: *mut IbvSrqAttr,
    attr_mask: c_int,
    cmd: *mut c_void,
    cmd_size: usize,
) -> c_int {
    // SAFETY: By the command's contract.
    unsafe {
        let device = device((*srq).context);
        if let Trouble::Fail(errno) = device.trouble.get() {
            return errno;
        }
        if attr_mask & srq_attr_mask::MAX_WR == 0 {
            // Nothing behind it, so that an older driver takes it.
            assert_eq!(cmd_size, 24);
            return 0;
        }
        assert_eq!(cmd_size, 32);
        let request = cmd.cast::<ModifySrqRequest<uapi::ModifySrqRequest>>();
        let address = usize::try_from((*request).driver.response).unwrap();
        if address == 0 {
            return match device.trouble.get() {
                Trouble::FailLater(errno) => errno,
                _ => 0,
            };
        }
        let stride = device.last.get().srq.recv.stride as usize;
        let max_sge = ((stride - RECV_HEADER_LEN) / SGE_LEN) as u32;
        let geometry = WqGeometry::<RecvQueue>::new((*attr).max_wr, max_sge).unwrap();
        let mut response = uapi::SrqResponse {
            ring: device.offer(geometry.len()),
            recv: geometry.descriptor(),
        };
        if device.nonsense() {
            response.recv.entries = 3;
        } else if device.trouble.get() == Trouble::None {
            device.answer(|answer| answer.srq = response);
        }
        core::ptr::with_exposed_provenance_mut::<uapi::SrqResponse>(address).write(response);
    }
    0
}

unsafe extern "C" fn create_ah(
    pd: *mut IbvPd,
    ah: *mut IbvAh,
    _attr: *mut c_void,
    resp: *mut c_void,
    len: usize,
) -> c_int {
    // SAFETY: By the command's contract.
    unsafe {
        let device = device((*pd).context);
        let handle = match device.create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        (*ah).context = (*pd).context;
        (*ah).handle = handle;
        let number = handle + 5000;
        respond(resp, len, 4, uapi::AhResponse { number });
    }
    0
}

unsafe extern "C" fn alloc_pd(
    context: *mut IbvContext,
    pd: *mut IbvPd,
    _cmd: *mut c_void,
    cmd_size: usize,
    _resp: *mut c_void,
    len: usize,
) -> c_int {
    assert_eq!((cmd_size, len), (16, 4));
    // SAFETY: By the command's contract.
    unsafe {
        let handle = match device(context).create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        (*pd).context = context;
        (*pd).handle = handle;
    }
    0
}

/// A command that destroys an object: the context is its first field, whatever it is.
unsafe extern "C" fn destroy(object: *mut *mut IbvContext) -> c_int {
    // SAFETY: By the command's contract.
    unsafe { device(*object) }.destroy()
}

unsafe extern "C" fn modify_qp(
    qp: *mut IbvQp,
    _attr: *mut IbvQpAttr,
    _attr_mask: c_int,
    _cmd: *mut c_void,
    cmd_size: usize,
) -> c_int {
    assert_eq!(cmd_size, 120);
    // SAFETY: By the command's contract.
    match unsafe { device((*qp).context) }.trouble.get() {
        Trouble::Fail(errno) => errno,
        _ => 0,
    }
}

unsafe extern "C" fn query_qp(
    qp: *mut IbvQp,
    attr: *mut IbvQpAttr,
    _attr_mask: c_int,
    _init_attr: *mut IbvQpInitAttr,
    _cmd: *mut c_void,
    cmd_size: usize,
) -> c_int {
    assert_eq!(cmd_size, 24);
    // SAFETY: By the command's contract.
    unsafe { (*attr).qp_state = device((*qp).context).state.get() };
    0
}

/// What the driver answers to Get Context, and how many contexts there are: by thread, since there is
/// no [`Device`] yet.
#[derive(Clone, Copy, Default)]
pub struct Opening {
    pub ring_abi: u32,
    pub errno: c_int,
    pub contexts: u32,
}

thread_local! {
    pub static OPENING: Cell<Opening> = Cell::default();
    pub static REGISTERED: Cell<*const VerbsDeviceOps> = const { Cell::new(core::ptr::null()) };
}

fn opening(change: impl FnOnce(&mut Opening)) -> Opening {
    let mut opening = OPENING.get();
    change(&mut opening);
    OPENING.set(opening);
    opening
}

unsafe extern "C" fn register_driver(ops: *const VerbsDeviceOps) {
    REGISTERED.set(ops);
}

unsafe extern "C" fn init_and_alloc_context(
    device: *mut IbvDevice,
    cmd_fd: c_int,
    alloc_size: usize,
    context_offset: *mut VerbsContext,
    driver_id: u32,
) -> *mut c_void {
    assert_eq!(alloc_size, size_of::<VerbsContext>());
    assert!(context_offset.is_null());
    assert_eq!(driver_id, uapi::DRIVER_ID);
    opening(|opening| opening.contexts += 1);
    // SAFETY: By the function's contract; so much has been allocated.
    unsafe {
        let context = libc::calloc(1, alloc_size).cast::<VerbsContext>();
        (*context).context.device = device;
        (*context).context.cmd_fd = cmd_fd;
        context.cast()
    }
}

unsafe extern "C" fn uninit_context(_context: *mut VerbsContext) {
    opening(|opening| opening.contexts -= 1);
}

unsafe extern "C" fn set_ops(_context: *mut VerbsContext, ops: *const ContextOps) {
    // SAFETY: By the function's contract.
    assert!(unsafe { (*ops).post_send.is_some() });
}

/// # Safety
/// As the command in C.
unsafe fn get_context(context: *mut VerbsContext, resp: *mut c_void, len: usize) -> c_int {
    let opening = OPENING.get();
    let response = uapi::UcontextResponse {
        ring_abi: opening.ring_abi,
        ..uapi::UcontextResponse::default()
    };
    // SAFETY: By the caller's contract.
    unsafe {
        (*context).context.num_comp_vectors = 1;
        respond(resp, len, 8, response);
    }
    opening.errno
}

unsafe extern "C" fn query_context(_context: *mut IbvContext, _driver: *mut c_void) -> c_int {
    OPENING.get().errno
}

unsafe extern "C" fn query_device_any(
    _context: *mut IbvContext,
    _input: *const c_void,
    attr: *mut IbvDeviceAttr,
    _attr_size: usize,
    resp: *mut c_void,
    resp_size: *mut usize,
) -> c_int {
    // SAFETY: By the command's contract.
    unsafe {
        assert_eq!(*resp_size, 304);
        // Version 1.22.333
        resp.cast::<u64>().write(1 << 32 | 22 << 16 | 333);
        (*attr).fw_ver.fill(7);
    }
    0
}

unsafe extern "C" fn reg_mr(
    pd: *mut IbvPd,
    addr: *mut c_void,
    length: usize,
    hca_va: u64,
    access: c_int,
    mr: *mut VerbsMr,
    _cmd: *mut c_void,
    cmd_size: usize,
    _resp: *mut c_void,
    resp_size: usize,
) -> c_int {
    assert_eq!((cmd_size, resp_size), (48, 12));
    assert_eq!((addr.addr(), length, hca_va), (0x1000, 64, 0x2000));
    // SAFETY: By the command's contract.
    unsafe {
        let handle = match device((*pd).context).create() {
            Ok(handle) => handle,
            Err(errno) => return errno,
        };
        (*mr).ibv_mr.context = (*pd).context;
        (*mr).ibv_mr.handle = handle;
        (*mr).access = access;
    }
    0
}

unsafe extern "C" fn absent() {
    panic!("this command is not for tests");
}

fn find(name: &CStr) -> *mut c_void {
    (match name.to_bytes() {
        name if name.starts_with(b"verbs_register_driver_") => register_driver as *const (),
        b"_verbs_init_and_alloc_context" => init_and_alloc_context as *const (),
        b"verbs_uninit_context" => uninit_context as *const (),
        b"verbs_set_ops" => set_ops as *const (),
        b"ibv_cmd_get_context" => specific::get_context as *const (),
        b"ibv_cmd_query_context" => query_context as *const (),
        b"ibv_cmd_query_device_any" => query_device_any as *const (),
        b"ibv_cmd_reg_mr" => reg_mr as *const (),
        b"ibv_cmd_create_cq_ex" => specific::create_cq_ex as *const (),
        b"ibv_cmd_create_qp_ex2" => specific::create_qp_ex2 as *const (),
        b"ibv_cmd_create_srq" => create_srq as *const (),
        b"ibv_cmd_modify_srq" => modify_srq as *const (),
        b"ibv_cmd_create_ah" => create_ah as *const (),
        b"ibv_cmd_alloc_pd" => alloc_pd as *const (),
        b"ibv_cmd_req_notify_cq" => req_notify_cq as *const (),
        b"ibv_cmd_resize_cq" => resize_cq as *const (),
        b"ibv_cmd_modify_qp" => modify_qp as *const (),
        b"ibv_cmd_query_qp" => query_qp as *const (),
        b"ibv_cmd_destroy_cq"
        | b"ibv_cmd_destroy_qp"
        | b"ibv_cmd_destroy_srq"
        | b"ibv_cmd_destroy_ah"
        | b"ibv_cmd_dereg_mr"
        | b"ibv_cmd_dealloc_pd" => destroy as *const (),
        _ => absent as *const (),
    })
    .cast_mut()
    .cast()
}

pub fn library() -> Library {
    // SAFETY: Those that are called are as they are in C; the others end the test.
    unsafe {
        Library {
            common: Common::find(&find).unwrap(),
            specific: Specific::find(&find).unwrap(),
        }
    }
}

mod specific {
    use super::*;

    pub unsafe extern "C" fn get_context(
        context: *mut VerbsContext,
        _cmd: *mut c_void,
        _cmd_size: usize,
        #[cfg(feature = "abi57")] _fd_arr: *mut c_void,
        resp: *mut c_void,
        resp_size: usize,
    ) -> c_int {
        // SAFETY: By the command's contract.
        unsafe { super::get_context(context, resp, resp_size) }
    }

    pub unsafe extern "C" fn create_cq_ex(
        context: *mut IbvContext,
        attr: *const IbvCqInitAttrEx,
        #[cfg(feature = "abi59")] _prov_attr: *mut c_void,
        cq: *mut VerbsCq,
        _cmd: *mut c_void,
        _cmd_size: usize,
        resp: *mut c_void,
        resp_size: usize,
        _cmd_flags: u32,
    ) -> c_int {
        // SAFETY: By the command's contract.
        unsafe { create_cq(context, attr, cq, resp, resp_size) }
    }

    pub unsafe extern "C" fn create_qp_ex2(
        context: *mut IbvContext,
        qp: *mut VerbsQp,
        attr: *mut IbvQpInitAttrEx,
        _cmd: *mut c_void,
        _cmd_size: usize,
        resp: *mut c_void,
        resp_size: usize,
        #[cfg(feature = "abi64")] _driver: *mut c_void,
    ) -> c_int {
        // SAFETY: By the command's contract.
        unsafe { create_qp(context, qp, attr, resp, resp_size) }
    }
}

/// This thread's errno.
pub fn errno() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap()
}
