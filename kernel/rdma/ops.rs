// SPDX-License-Identifier: GPL-2.0

//! What a driver does.

use super::{
    ah, bindings, cq, dm, eopnotsupp, mmap, mr, mw, pd, qp, srq, stats, stats::CounterDesc,
    types::*, ucontext, udata::Udata, Device,
};
// For their constants.
use super::{
    cq::Operations as _, dm::Operations as _, mr::Operations as _, mw::Operations as _,
    qp::Operations as _, srq::Operations as _,
};
use core::marker::PhantomData;
use kernel::{
    error::{from_result, to_result, VTABLE_DEFAULT_ERROR},
    prelude::*,
    ThisModule,
};

/// Attributes of a device: plain numbers, to be filled in by the driver.
pub use super::bindings::ib_device_attr as DeviceAttr;

/// What of a port stays the same as long as the device is registered.
pub use super::bindings::ib_port_immutable as PortImmutable;

/// Attributes of a port: plain numbers, to be filled in by the driver.
pub use super::bindings::ib_port_attr as PortAttr;

/// What is to change of a port (`ib_modify_port()`).
pub struct PortModify {
    /// To be added to what the port can do.
    pub set_caps: PortCaps,
    /// To be taken from it.
    pub clear_caps: PortCaps,
    /// The counter of Q_Key violations is to start from zero.
    pub reset_qkey_violations: bool,
    /// Something else is to change as well.
    pub has_others: bool,
}

/// Commands of `ib_uverbs` that are off unless the driver asks for them: those that take a system
/// call for what most devices do by memory that they share with user space.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum UserCommand {
    PollCq = bindings::ib_uverbs_write_cmds_IB_USER_VERBS_CMD_POLL_CQ,
    ReqNotifyCq = bindings::ib_uverbs_write_cmds_IB_USER_VERBS_CMD_REQ_NOTIFY_CQ,
    PostSend = bindings::ib_uverbs_write_cmds_IB_USER_VERBS_CMD_POST_SEND,
    PostRecv = bindings::ib_uverbs_write_cmds_IB_USER_VERBS_CMD_POST_RECV,
    PostSrqRecv = bindings::ib_uverbs_write_cmds_IB_USER_VERBS_CMD_POST_SRQ_RECV,
}

/// A driver. To be implemented by its data for one device.
///
/// The operations on the objects of a device are with the types of these objects.
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The module that the driver is in: `this_module!()`.
    const MODULE: &'static ThisModule;

    /// Number of the driver, which no other driver may have.
    ///
    /// Those of the drivers in the kernel are in `enum rdma_driver_id`. Zero will not do: it means
    /// "any driver" to the functions that look for a device of a driver.
    const DRIVER_ID: u32;

    /// Version of the interface between the driver and its half in user space.
    const ABI_VERSION: u32;

    /// What a device is, in words of up to 63 bytes.
    const NODE_DESC: &'static str;

    /// Number of ports; they are numbered from 1 on.
    const PORTS: u32 = 1;

    /// Which of the commands that are off by default are on.
    const USER_COMMANDS: &'static [UserCommand] = &[];

    /// The counters of a device.
    const DEVICE_COUNTERS: &'static [CounterDesc] = &[];

    /// The counters of each port.
    const PORT_COUNTERS: &'static [CounterDesc] = &[];

    /// The driver's data for user contexts, or [`Unsupported`](super::Unsupported).
    type Ucontext: ucontext::Operations<Device = Self>;
    /// The driver's data for protection domains, or [`Unsupported`](super::Unsupported).
    type Pd: pd::Operations<Device = Self>;
    /// The driver's data for address handles, or [`Unsupported`](super::Unsupported).
    type Ah: ah::Operations<Device = Self>;
    /// The driver's data for completion queues, or [`Unsupported`](super::Unsupported).
    type Cq: cq::Operations<Device = Self>;
    /// The driver's data for shared receive queues, or [`Unsupported`](super::Unsupported).
    type Srq: srq::Operations<Device = Self>;
    /// The driver's data for queue pairs, or [`Unsupported`](super::Unsupported).
    type Qp: qp::Operations<Device = Self>;
    /// The driver's data for memory regions, or [`Unsupported`](super::Unsupported).
    type Mr: mr::Operations<Device = Self>;
    /// The driver's data for memory windows, or [`Unsupported`](super::Unsupported).
    type Mw: mw::Operations<Device = Self>;
    /// The driver's data for device memory, or [`Unsupported`](super::Unsupported).
    type Dm: dm::Operations<Device = Self>;

    /// Fills in the attributes of a device. They are zero to begin with.
    fn query_device(device: &Device<Self>, attr: &mut DeviceAttr) -> Result;

    /// Fills in the attributes of a port. They are zero to begin with.
    fn query_port(device: &Device<Self>, port: u32, attr: &mut PortAttr) -> Result;

    /// Changes a port. `EOPNOTSUPP` for what cannot be changed.
    fn modify_port(_device: &Device<Self>, _port: u32, _change: &PortModify) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Fills in what of a port does not change. It is zero to begin with. Called once for each port,
    /// when the device is registered.
    fn port_immutable(device: &Device<Self>, port: u32, immutable: &mut PortImmutable) -> Result;

    /// The link layer of a port.
    fn link_layer(device: &Device<Self>, port: u32) -> LinkLayer;

    /// An entry of a port's table of partition keys.
    fn query_pkey(device: &Device<Self>, port: u32, index: u16) -> Result<u16>;

    /// Reads the counters of a port, or of the device itself: `values` are to be those of
    /// [`Self::PORT_COUNTERS`] or [`Self::DEVICE_COUNTERS`].
    fn read_counters(_device: &Device<Self>, _port: Option<u32>, _values: &mut [u64]) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The version of the firmware, or of what takes its place, in words of up to 31 bytes.
    fn firmware_version(_device: &Device<Self>) -> &'static str {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called when the device is registered, and before anybody can use it; and again when it has been
    /// moved to another network namespace, for which it is taken away from all who use it.
    fn enable(_device: &Device<Self>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called when the device is to be unregistered, by the administrator (`rdma link delete`) or by the driver,
    /// before anything is taken away from those who use it.
    fn unregistering(_device: &Device<Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called when a GID has left a port's table, and [`Device::find_gid`] finds it no more. Nothing is
    /// said of those that come: they may be found as soon as somebody asks.
    fn gid_removed(_device: &Device<Self>, _port: u32) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A callback, if the driver has the operation.
macro_rules! op {
    ($has:expr, $callback:expr) => {
        if $has {
            Some($callback)
        } else {
            None
        }
    };
}

/// The operations in the form that `ib_core` takes.
pub(super) struct VTable<T: Operations>(PhantomData<T>);

impl<T: Operations> VTable<T> {
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_device` of a device of the driver `T`.
    unsafe extern "C" fn query_device(
        device: *mut bindings::ib_device,
        attr: *mut bindings::ib_device_attr,
        udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device and attributes that nobody else uses, and
            // the call's udata, if any.
            unsafe {
                if !udata.is_null() {
                    Udata::from_raw(udata).none()?;
                }
                attr.write(pin_init::zeroed());
                T::query_device(Device::from_raw(device), &mut *attr)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_port` of a device of the driver `T`.
    unsafe extern "C" fn query_port(
        device: *mut bindings::ib_device,
        port: u32,
        attr: *mut bindings::ib_port_attr,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device and attributes that nobody else uses.
            unsafe {
                attr.write(pin_init::zeroed());
                T::query_port(Device::from_raw(device), port, &mut *attr)?;
            }
            Ok(0)
        })
    }

    /// In units of 100 Mbit/s, as of mlx5: what the attributes say, or zero if the port is down.
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_port_speed` of a device of the driver `T`.
    unsafe extern "C" fn query_port_speed(
        device: *mut bindings::ib_device,
        port: u32,
        speed: *mut u64,
    ) -> c_int {
        from_result(|| {
            let mut attr: PortAttr = pin_init::zeroed();
            let mut info: bindings::ib_port_speed_info = pin_init::zeroed();
            // SAFETY: `ib_core` passes a valid device.
            T::query_port(unsafe { Device::from_raw(device) }, port, &mut attr)?;
            // SAFETY: Valid attributes, and a structure for the function to fill in.
            to_result(unsafe { bindings::ib_port_attr_to_speed_info(&mut attr, &mut info) })?;
            let rate = match attr.state == PortState::Down.as_raw() {
                true => 0,
                false => u64::try_from(info.rate)?,
            };
            // SAFETY: `ib_core` passes a place for the answer.
            unsafe { speed.write(rate) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `modify_port` of a device of the driver `T`.
    unsafe extern "C" fn modify_port(
        device: *mut bindings::ib_device,
        port: u32,
        mask: c_int,
        change: *mut bindings::ib_port_modify,
    ) -> c_int {
        from_result(|| {
            let reset = bindings::ib_port_modify_flags_IB_PORT_RESET_QKEY_CNTR as c_int;
            // SAFETY: `ib_core` passes a valid device and what is to change.
            unsafe {
                let change = PortModify {
                    set_caps: PortCaps::from_bits((*change).set_port_cap_mask),
                    clear_caps: PortCaps::from_bits((*change).clr_port_cap_mask),
                    reset_qkey_violations: mask & reset != 0,
                    has_others: mask & !reset != 0,
                };
                T::modify_port(Device::from_raw(device), port, &change)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `get_port_immutable` of a device of the driver `T`.
    unsafe extern "C" fn port_immutable(
        device: *mut bindings::ib_device,
        port: u32,
        immutable: *mut bindings::ib_port_immutable,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device and a structure that nobody else uses.
            unsafe { T::port_immutable(Device::from_raw(device), port, &mut *immutable)? };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `get_link_layer` of a device of the driver `T`.
    unsafe extern "C" fn link_layer(
        device: *mut bindings::ib_device,
        port: u32,
    ) -> bindings::rdma_link_layer {
        // SAFETY: `ib_core` passes a valid device.
        T::link_layer(unsafe { Device::from_raw(device) }, port).as_raw()
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `query_pkey` of a device of the driver `T`.
    unsafe extern "C" fn query_pkey(
        device: *mut bindings::ib_device,
        port: u32,
        index: u16,
        pkey: *mut u16,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device and a place for the result.
            unsafe { *pkey = T::query_pkey(Device::from_raw(device), port, index)? };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `get_dev_fw_str` of a device of the driver `T`.
    unsafe extern "C" fn firmware_version(device: *mut bindings::ib_device, to: *mut c_char) {
        // Shorter by one, which stays zero.
        const MAX: usize = bindings::IB_FW_VERSION_NAME_MAX as usize - 1;
        // SAFETY: `ib_core` passes a valid device.
        let version = T::firmware_version(unsafe { Device::from_raw(device) });
        let len = version.len().min(MAX);
        // SAFETY: `ib_core` passes room for `IB_FW_VERSION_NAME_MAX` bytes.
        unsafe {
            core::ptr::copy_nonoverlapping(version.as_ptr(), to.cast(), len);
            to.add(len).write(0);
        }
    }

    /// Has the administrator describe the device in other words; there is nothing to it that the
    /// driver would have to know.
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `modify_device` of a device of the driver `T`.
    unsafe extern "C" fn modify_device(
        device: *mut bindings::ib_device,
        mask: c_int,
        change: *mut bindings::ib_device_modify,
    ) -> c_int {
        if mask != bindings::ib_device_modify_flags_IB_DEVICE_MODIFY_NODE_DESC as c_int {
            return eopnotsupp().to_errno();
        }
        // SAFETY: `ib_core` passes a valid device and what is to be changed. Who reads or writes the
        // description at the same time does so with plain accesses as well, as `ib_core` does; any
        // bytes will do.
        unsafe { (&raw mut (*device).node_desc).write_volatile((*change).node_desc) };
        0
    }

    /// What the device says that its type of link does.
    pub(super) const LINK_OPS: &'static bindings::rdma_link_ops = &bindings::rdma_link_ops {
        dellink: op!(T::HAS_UNREGISTERING, Self::unregistering),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dellink` of the link of a device of the driver `T`.
    unsafe extern "C" fn unregistering(device: *mut bindings::ib_device) -> c_int {
        // SAFETY: `ib_core` passes a valid device.
        T::unregistering(unsafe { Device::from_raw(device) });
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `enable_driver` of a device of the driver `T`.
    unsafe extern "C" fn enable(device: *mut bindings::ib_device) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device.
            T::enable(unsafe { Device::from_raw(device) })?;
            Ok(0)
        })
    }

    /// `ib_core` tells of no GID that goes unless it can tell of those that come.
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, as `add_gid` of a device of the driver `T`.
    unsafe extern "C" fn gid_added(
        _attr: *const bindings::ib_gid_attr,
        _context: *mut *mut c_void,
    ) -> c_int {
        0
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `del_gid` of a device of the driver `T`.
    unsafe extern "C" fn gid_removed(
        attr: *const bindings::ib_gid_attr,
        _context: *mut *mut c_void,
    ) -> c_int {
        // SAFETY: `ib_core` passes the attributes of an entry of a valid device's table.
        unsafe { T::gid_removed(Device::from_raw((*attr).device), (*attr).port_num) };
        0
    }

    const VTABLE: bindings::ib_device_ops = bindings::ib_device_ops {
        owner: T::MODULE.as_ptr(),
        driver_id: {
            assert!(T::DRIVER_ID != 0, "zero stands for any driver");
            T::DRIVER_ID
        },
        uverbs_abi_ver: T::ABI_VERSION,

        query_device: Some(Self::query_device),
        query_port: Some(Self::query_port),
        query_port_speed: Some(Self::query_port_speed),
        modify_port: op!(T::HAS_MODIFY_PORT, Self::modify_port),
        alloc_hw_device_stats: op!(
            !T::DEVICE_COUNTERS.is_empty(),
            stats::Callbacks::<T>::alloc_device
        ),
        alloc_hw_port_stats: op!(
            !T::PORT_COUNTERS.is_empty(),
            stats::Callbacks::<T>::alloc_port
        ),
        get_hw_stats: op!(T::HAS_READ_COUNTERS, stats::Callbacks::<T>::get),

        modify_device: Some(Self::modify_device),
        get_dev_fw_str: op!(T::HAS_FIRMWARE_VERSION, Self::firmware_version),
        get_port_immutable: Some(Self::port_immutable),
        get_link_layer: Some(Self::link_layer),
        query_pkey: Some(Self::query_pkey),
        add_gid: op!(T::HAS_GID_REMOVED, Self::gid_added),
        del_gid: op!(T::HAS_GID_REMOVED, Self::gid_removed),
        enable_driver: op!(T::HAS_ENABLE, Self::enable),
        dealloc_driver: Some(Device::<T>::dealloc),

        size_ib_ucontext: ucontext::Ucontext::<T::Ucontext>::SIZE,
        alloc_ucontext: Some(ucontext::Callbacks::<T::Ucontext>::alloc),
        dealloc_ucontext: Some(ucontext::Callbacks::<T::Ucontext>::dealloc),
        query_ucontext: Some(ucontext::Callbacks::<T::Ucontext>::query),
        disassociate_ucontext: Some(ucontext::Callbacks::<T::Ucontext>::disassociate),
        mmap: Some(mmap::mmap),
        mmap_free: Some(mmap::free),

        size_ib_pd: pd::Pd::<T::Pd>::SIZE,
        alloc_pd: Some(pd::Callbacks::<T::Pd>::alloc),
        dealloc_pd: Some(pd::Callbacks::<T::Pd>::dealloc),

        size_ib_ah: ah::Ah::<T::Ah>::SIZE,
        create_ah: Some(ah::Callbacks::<T::Ah>::create),
        create_user_ah: Some(ah::Callbacks::<T::Ah>::create),
        destroy_ah: Some(ah::Callbacks::<T::Ah>::destroy),

        size_ib_cq: cq::Cq::<T::Cq>::SIZE,
        create_cq: op!(T::Cq::SUPPORTED, cq::Callbacks::<T::Cq>::create),
        destroy_cq: op!(T::Cq::SUPPORTED, cq::Callbacks::<T::Cq>::destroy),
        pre_destroy_cq: op!(T::Cq::HAS_PRE_DESTROY, cq::Callbacks::<T::Cq>::pre_destroy),
        post_destroy_cq: op!(T::Cq::HAS_PRE_DESTROY, cq::Callbacks::<T::Cq>::post_destroy),
        resize_user_cq: op!(T::Cq::HAS_RESIZE, cq::Callbacks::<T::Cq>::resize),
        poll_cq: op!(T::Cq::HAS_POLL, cq::Callbacks::<T::Cq>::poll),
        req_notify_cq: op!(
            T::Cq::HAS_REQUEST_NOTIFY,
            cq::Callbacks::<T::Cq>::request_notify
        ),

        size_ib_srq: srq::Srq::<T::Srq>::SIZE,
        create_srq: op!(T::Srq::SUPPORTED, srq::Callbacks::<T::Srq>::create),
        destroy_srq: op!(T::Srq::SUPPORTED, srq::Callbacks::<T::Srq>::destroy),
        modify_srq: op!(T::Srq::SUPPORTED, srq::Callbacks::<T::Srq>::modify),
        query_srq: op!(T::Srq::SUPPORTED, srq::Callbacks::<T::Srq>::query),
        post_srq_recv: op!(T::Srq::HAS_POST_RECV, srq::Callbacks::<T::Srq>::post_recv),

        size_ib_qp: qp::Qp::<T::Qp>::SIZE,
        create_qp: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::create),
        destroy_qp: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::destroy),
        modify_qp: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::modify),
        query_qp: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::query),
        post_send: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::post_send),
        post_recv: op!(T::Qp::SUPPORTED, qp::Callbacks::<T::Qp>::post_recv),
        attach_mcast: op!(
            T::Qp::HAS_ATTACH_MCAST,
            qp::Callbacks::<T::Qp>::attach_mcast
        ),
        detach_mcast: op!(
            T::Qp::HAS_DETACH_MCAST,
            qp::Callbacks::<T::Qp>::detach_mcast
        ),

        reg_user_mr: op!(T::Mr::SUPPORTED, mr::Callbacks::<T::Mr>::reg_user),
        rereg_user_mr: op!(T::Mr::HAS_REREG_USER, mr::Callbacks::<T::Mr>::rereg_user),
        get_dma_mr: op!(T::Mr::SUPPORTED, mr::Callbacks::<T::Mr>::get_dma),
        alloc_mr: op!(T::Mr::SUPPORTED, mr::Callbacks::<T::Mr>::alloc),
        map_mr_sg: op!(T::Mr::HAS_MAP_START, mr::Callbacks::<T::Mr>::map_sg),
        advise_mr: op!(T::Mr::HAS_ADVISE, mr::Callbacks::<T::Mr>::advise),
        dereg_mr: op!(T::Mr::SUPPORTED, mr::Callbacks::<T::Mr>::dereg),

        fill_res_cq_entry: op!(T::Cq::HAS_DETAILS, cq::Callbacks::<T::Cq>::details),
        fill_res_srq_entry: op!(T::Srq::HAS_DETAILS, srq::Callbacks::<T::Srq>::details),
        fill_res_qp_entry: op!(T::Qp::HAS_DETAILS, qp::Callbacks::<T::Qp>::details),
        fill_res_mr_entry: op!(T::Mr::HAS_DETAILS, mr::Callbacks::<T::Mr>::details),

        size_ib_mw: mw::Mw::<T::Mw>::SIZE,
        alloc_mw: op!(T::Mw::SUPPORTED, mw::Callbacks::<T::Mw>::alloc),
        dealloc_mw: op!(T::Mw::SUPPORTED, mw::Callbacks::<T::Mw>::dealloc),

        alloc_dm: op!(T::Dm::SUPPORTED, dm::Callbacks::<T::Dm>::alloc),
        dealloc_dm: op!(T::Dm::SUPPORTED, dm::Callbacks::<T::Dm>::dealloc),
        reg_dm_mr: op!(T::Dm::SUPPORTED, mr::Callbacks::<T::Mr>::reg_dm),

        ..pin_init::zeroed()
    };

    /// The driver's own attributes of methods.
    pub(super) const UAPI: *const bindings::uapi_definition = match T::Dm::SUPPORTED {
        true => (&raw const bindings::rdma_helper_uapi).cast(),
        false => core::ptr::null(),
    };

    pub(super) const fn build() -> &'static bindings::ib_device_ops {
        &Self::VTABLE
    }
}
