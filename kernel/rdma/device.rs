// SPDX-License-Identifier: GPL-2.0

//! RDMA devices.
//!
//! A device comes to be in these steps, the same for any driver:
//!
//! 1. [`NewDevice::new`] allocates it, with the driver's data behind it, and tells `ib_core` the
//!    driver's [`Operations`] (`ib_alloc_device()`, `ib_set_device_ops()`).
//! 2. The driver fills in what is particular to the device: its GUID, its interrupt vectors.
//! 3. [`NewDevice::set_netdev`] associates a port with its network device, of which it gets its
//!    addresses (`ib_device_set_netdev()`).
//! 4. [`NewDevice::register`] hands it to `ib_core` (`ib_register_device()`). From now on the
//!    operations are called, and the device shows in `/sys/class/infiniband` and
//!    `/dev/infiniband`. `ib_core` owns it.
//!
//! It goes when somebody unregisters it: the administrator (`rdma link delete`), the driver
//! ([`DeviceRef::unregister`]), or the end of the module ([`DriverRegistration`]). `ib_core`
//! then takes away from the users what they have, waits for the last call of an operation to return,
//! and has the driver's data dropped.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings, compat,
    gid::{Gid, GidAttr},
    net::{Net, NetDevice},
    ops::VTable,
    types::GidType,
    Operations,
};
use core::{
    any::TypeId,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
};
use kernel::{
    bindings::ARCH_KMALLOC_MINALIGN,
    error::{from_err_ptr, to_result},
    fmt,
    prelude::*,
    str::CStrExt,
    sync::aref::ARef,
    types::Opaque,
};

/// An RDMA device with the driver's data `T`.
///
/// It dereferences to the driver's data.
///
/// # Invariants
///
/// `ib` is an `ib_device`, and `parent` and `data` are initialised, from [`NewDevice::new`] until `ib_core` calls
/// [`Device::dealloc`]. `type_id` is that of `T`.
#[repr(C)]
pub struct Device<T> {
    // First, as `ib_core` requires: it takes a pointer to the one for a pointer to the other.
    ib: Opaque<bindings::ib_device>,
    type_id: TypeId,
    parent: Opaque<Option<ARef<kernel::device::Device>>>,
    data: Opaque<T>,
}

// SAFETY: `ib_core` does not tie a device to a thread.
unsafe impl<T: Send> Send for Device<T> {}
// SAFETY: The methods on `&Device` that reach `ib` only read what stays the same while the device
// exists, or call functions of `ib_core` that any number of threads may call.
unsafe impl<T: Sync> Sync for Device<T> {}

impl<T> Deref for Device<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants `data` is initialised, and it is only ever shared.
        unsafe { &*self.data.get() }
    }
}

/// The `struct device` in an `ib_device`.
///
/// # Safety
///
/// `raw` must point to an `ib_device`.
unsafe fn device_of(raw: *mut bindings::ib_device) -> *mut kernel::bindings::device {
    // SAFETY: By the function's requirements. All fields of the union begin with it.
    unsafe { (&raw mut (*raw).__bindgen_anon_1).cast() }
}

/// The name of a device, for messages.
pub struct DeviceName([u8; bindings::IB_DEVICE_NAME_MAX as usize]);

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        for byte in name {
            write!(f, "{}", byte.escape_ascii())?;
        }
        Ok(())
    }
}

/// What has happened to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum PortEvent {
    Active = bindings::ib_event_type_IB_EVENT_PORT_ACTIVE,
    Error = bindings::ib_event_type_IB_EVENT_PORT_ERR,
    LidChange = bindings::ib_event_type_IB_EVENT_LID_CHANGE,
    PkeyChange = bindings::ib_event_type_IB_EVENT_PKEY_CHANGE,
    GidChange = bindings::ib_event_type_IB_EVENT_GID_CHANGE,
}

impl<T: Operations> Device<T> {
    const SIZE: usize = {
        // ib_core allocates with kzalloc(), which guarantees no more for an arbitrary size.
        assert!(
            align_of::<Self>() <= ARCH_KMALLOC_MINALIGN,
            "the driver's data must not need more alignment than kmalloc() gives"
        );
        size_of::<Self>()
    };

    /// # Safety
    ///
    /// `raw` must point to the `ib` of a `Device<T>` whose invariants hold for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *const bindings::ib_device) -> &'a Self {
        // SAFETY: By the function's requirements.
        unsafe { &*raw.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::ib_device {
        self.ib.get()
    }

    /// The name, such as `fr0`. The administrator may rename the device at any time.
    pub fn name(&self) -> DeviceName {
        // SAFETY: A valid device, whose name is an array in it. Another thread may be changing it.
        let name = unsafe { &raw const (*self.as_raw()).name };
        DeviceName(core::array::from_fn(|i| {
            // SAFETY: The array has this length.
            unsafe { name.cast::<u8>().add(i).read_volatile() }
        }))
    }

    /// The device as the driver model knows it.
    pub fn as_device(&self) -> &kernel::device::Device {
        // SAFETY: A valid device, whose `struct device` is initialised with the rest, and lives as long.
        unsafe { kernel::device::Device::from_raw(device_of(self.as_raw())) }
    }

    /// Keeps the device registered as long as the result exists; `None` if it no longer is.
    pub fn try_get(&self) -> Option<DeviceRef<T>> {
        // SAFETY: A valid device. If the function returns true, there is a reference to give up.
        unsafe {
            bindings::rdma_helper_ib_device_try_get(self.as_raw())
                .then(|| DeviceRef(NonNull::from(self)))
        }
    }

    /// The registered device of this driver over a network device, if there is one.
    pub fn from_netdev(netdev: &NetDevice) -> Option<DeviceRef<T>> {
        // SAFETY: A valid network device. The result is null or a device that stays registered until
        // the reference is given up.
        let raw = unsafe { bindings::ib_device_get_by_netdev(netdev.as_raw(), T::DRIVER_ID) };
        if raw.is_null() {
            return None;
        }
        // Another driver may have the same ID, by accident or since it has none of its own. Those
        // devices that have our function are `Device`s, and `type_id` tells of which `T`.
        // SAFETY: A valid device. If it is one of ours, `type_id` is initialised.
        let ours = unsafe {
            matches!((*raw).ops.dealloc_driver, Some(dealloc)
                if ptr::fn_addr_eq(dealloc, Self::dealloc as unsafe extern "C" fn(_)))
                && (*raw.cast::<Self>()).type_id == TypeId::of::<T>()
        };
        if !ours {
            // SAFETY: The reference from above.
            unsafe { bindings::ib_device_put(raw) };
            return None;
        }
        // SAFETY: Not null, and we own a reference.
        Some(DeviceRef(unsafe { NonNull::new_unchecked(raw.cast()) }))
    }

    /// The network device of a port.
    pub fn netdev(&self, port: u32) -> Option<ARef<NetDevice>> {
        // SAFETY: A valid device. The result is null or comes with a reference for us.
        unsafe { NetDevice::aref_from_raw(bindings::ib_device_get_netdev(self.as_raw(), port)) }
    }

    /// Whether those who are in the network namespace of `netdev` may use the device: it is in that
    /// namespace, or devices are everybody's (`rdma system set netns shared`, the default).
    ///
    /// This changes when the administrator moves one of the two (`rdma dev set DEVICE netns`), upon
    /// which [`Operations::enable`] or [`NetEvents::event`](super::NetEvents::event) are called.
    pub fn shares_netns(&self, netdev: &NetDevice) -> bool {
        let net = netdev.net();
        // SAFETY: A valid device and a valid namespace.
        net.is_some_and(|net| unsafe {
            bindings::rdma_dev_access_netns(self.as_raw(), net.as_raw())
        })
    }

    /// The entry of a port's GID table.
    pub fn gid(&self, port: u32, index: u32) -> Result<ARef<GidAttr>> {
        // SAFETY: A valid device. The function checks port and index. The result comes with a
        // reference for us.
        unsafe {
            let attr = bindings::rdma_get_gid_attr(self.as_raw(), port, index as c_int);
            Ok(GidAttr::aref_from_raw(from_err_ptr(attr.cast_mut())?))
        }
    }

    /// Looks for one of this device's own GIDs.
    pub fn find_gid(&self, gid: &Gid, gid_type: GidType, port: u32) -> Option<ARef<GidAttr>> {
        // SAFETY: A valid device and a valid GID. The result comes with a reference for us.
        unsafe {
            let attr = bindings::rdma_find_gid_by_port(
                self.as_raw(),
                gid.as_raw(),
                gid_type.as_raw(),
                port,
                ptr::null_mut(),
            );
            let attr = from_err_ptr(attr.cast_mut()).ok()?;
            Some(GidAttr::aref_from_raw(attr))
        }
    }

    /// Tells all who listen that a port has gone up or down with its network device, if it has.
    ///
    /// `ib_core` does this by itself for all network devices but bonds and those in one.
    pub fn dispatch_port_state(&self, netdev: &NetDevice) {
        // SAFETY: Both are valid. The function finds the port itself.
        unsafe { bindings::ib_dispatch_port_state_event(self.as_raw(), netdev.as_raw()) };
    }

    /// Tells all who listen, in the kernel and in user space, of an event.
    pub fn dispatch_port_event(&self, port: u32, event: PortEvent) {
        let event = bindings::ib_event {
            device: self.as_raw(),
            element: bindings::ib_event__bindgen_ty_1 { port_num: port },
            event: event as u32,
        };
        // SAFETY: A valid event. It is copied.
        unsafe { bindings::ib_dispatch_event(&event) };
    }

    /// Drops the driver's data, and what else is behind `ib`. `dealloc_driver` of `struct ib_device_ops`.
    ///
    /// # Safety
    ///
    /// Only for `ib_core` to call, once, when the device is unregistered or never was registered.
    pub(super) unsafe extern "C" fn dealloc(raw: *mut bindings::ib_device) {
        let this = raw.cast::<Self>();
        // SAFETY: By the type invariants `data` is initialised. `ib_core` calls no other operation
        // after this one, so there is no reference to it any more. (It may keep `ib` for longer.)
        unsafe {
            ptr::drop_in_place(Opaque::cast_into(&raw const (*this).data));
            // From here on `ib_core` looks at it for messages alone.
            (*device_of(raw)).parent = ptr::null_mut();
            ptr::drop_in_place(Opaque::cast_into(&raw const (*this).parent));
        }
    }
}

/// A device that is not registered yet.
///
/// # Invariants
///
/// `device` points to a valid `Device` that nobody else knows of.
pub struct NewDevice<T: Operations> {
    device: NonNull<Device<T>>,
    netdevs: KVec<ARef<NetDevice>>,
    // `ib_core` holds none, and must not be without before the device is registered.
    _net: Net,
}

impl<T: Operations> NewDevice<T> {
    /// Allocates a device, in the network namespace of `netdev`.
    pub fn new(netdev: &NetDevice, data: impl PinInit<T, Error>) -> Result<Self> {
        let net = netdev.net().ok_or(ENODEV)?;
        // SAFETY: A valid namespace. The memory is freed with ib_dealloc_device().
        let raw = unsafe { bindings::_ib_alloc_device(Device::<T>::SIZE, net.as_raw()) };
        let this = NonNull::new(raw.cast::<Device<T>>()).ok_or(ENOMEM)?;

        // SAFETY: The memory is ours, as large as a `Device<T>`, and stays where it is.
        let init = unsafe {
            (&raw mut (*this.as_ptr()).type_id).write(TypeId::of::<T>());
            Opaque::cast_into(&raw const (*this.as_ptr()).parent).write(None);
            compat::init(Opaque::cast_into(&raw const (*this.as_ptr()).data), data)
        };
        if let Err(err) = init {
            // SAFETY: Allocated above. Without operations the data is not dropped.
            unsafe { bindings::ib_dealloc_device(raw) };
            return Err(err);
        }

        // SAFETY: The device is ours. The operations are copied.
        unsafe {
            bindings::ib_set_device_ops(raw, VTable::<T>::build());
            // Nobody writes to it.
            (*raw).link_ops = VTable::<T>::LINK_OPS;
            (*raw).node_type = bindings::RDMA_NODE_IB_CA as u8;
            (*raw).phys_port_cnt = T::PORTS;
            (*raw).num_comp_vectors = 1;
            (*raw).driver_def = VTable::<T>::UAPI;
            for command in T::USER_COMMANDS {
                (*raw).uverbs_cmd_mask |= 1 << *command as u32;
            }
            let desc = &mut (*raw).node_desc;
            // Shorter by one, which stays zero.
            let max = desc.len() - 1;
            for (to, from) in desc[..max].iter_mut().zip(T::NODE_DESC.as_bytes()) {
                *to = *from;
            }
        }
        // INVARIANT: All is initialised, and it is still only ours.
        Ok(Self {
            device: this,
            netdevs: KVec::new(),
            _net: net,
        })
    }

    fn as_raw(&self) -> *mut bindings::ib_device {
        self.device.as_ptr().cast()
    }

    /// Sets the GUID, a number that no other device in the world has, in network byte order.
    pub fn set_node_guid(&mut self, guid: [u8; 8]) {
        // SAFETY: By the type invariants the device is ours.
        unsafe { (*self.as_raw()).node_guid = u64::from_ne_bytes(guid) };
    }

    /// Sets how many completion vectors a completion queue can choose from; one if not set.
    pub fn set_comp_vectors(&mut self, count: u32) {
        // SAFETY: By the type invariants the device is ours.
        unsafe { (*self.as_raw()).num_comp_vectors = count as c_int };
    }

    /// Sets the device that it is below of in sysfs. Without one it is with the virtual devices.
    ///
    /// The driver must have it registered as long as the RDMA device is: until its data is dropped.
    pub fn set_parent(&mut self, parent: &kernel::device::Device) {
        let this = self.device.as_ptr();
        // SAFETY: By the type invariants the device is ours, and `parent` is initialised. The reference
        // in it keeps what `ib_core` has a pointer to.
        unsafe {
            *Opaque::cast_into(&raw const (*this).parent) = Some(ARef::from(parent));
            (*device_of(self.as_raw())).parent = ptr::from_ref(parent).cast_mut().cast();
        }
    }

    /// Associates a port with a network device. `ib_core` holds a reference on that until the RDMA
    /// device is unregistered.
    ///
    /// The driver must unregister the RDMA device when the network device goes, see
    /// [`NetEvent::Unregister`](super::NetEvent::Unregister). That the network device moves to another
    /// namespace is no reason to: the addresses that it has there are then the port's.
    pub fn set_netdev(&mut self, port: u32, netdev: &NetDevice) -> Result {
        self.netdevs.push(ARef::from(netdev), GFP_KERNEL)?;
        // SAFETY: Both are valid. The function checks the port.
        to_result(unsafe { bindings::ib_device_set_netdev(self.as_raw(), netdev.as_raw(), port) })
    }

    /// How to find the device when it is registered.
    pub fn downgrade(&self) -> WeakDevice<T> {
        // SAFETY: By the type invariants the device is initialised, and so its `struct device`.
        let this: &kernel::device::Device =
            unsafe { kernel::device::Device::from_raw(device_of(self.as_raw())) };
        // INVARIANT: The reference is to that of the device.
        WeakDevice {
            device: self.device,
            _memory: this.into(),
        }
    }

    /// Registers the device, with a name of the user's choice; or with the first number that is free where
    /// the name has `%d`.
    ///
    /// There is no handle to the device in return: it can be gone already.
    pub fn register(self, name: &CStr) -> Result {
        // SAFETY: By the type invariants. The name is copied. There is no device for DMA: addresses
        // in the work requests of kernel users are then virtual ones.
        to_result(unsafe {
            if !name.to_bytes().contains(&b'%') {
                bindings::rdma_helper_mark_name_assigned_by_user(self.as_raw());
            }
            bindings::ib_register_device(self.as_raw(), name.as_char_ptr(), ptr::null_mut())
        })?;
        // `ib_core` owns the device now. The rest is still ours.
        let this = ManuallyDrop::new(self);
        // SAFETY: Both are read once, and not dropped with `this`.
        let (netdevs, _net) = unsafe { (ptr::read(&this.netdevs), ptr::read(&this._net)) };

        // If a network device went before the RDMA device was registered, its notifier did not find the
        // RDMA device.
        for netdev in netdevs.iter().filter(|netdev| !netdev.is_registered()) {
            if let Some(device) = Device::<T>::from_netdev(netdev) {
                device.unregister_queued();
            }
        }
        Ok(())
    }
}

impl<T: Operations> Drop for NewDevice<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the device is ours, and it is not registered. This calls
        // `Device::dealloc`.
        unsafe { bindings::ib_dealloc_device(self.as_raw()) };
    }
}

/// Keeps a device registered.
///
/// Unregistering the device waits until the last of these is gone, so they are not to be kept.
///
/// # Invariants
///
/// The pointer is to a registered device, and this owns a reference of `ib_device_try_get()`.
pub struct DeviceRef<T: Operations>(NonNull<Device<T>>);

// SAFETY: A reference may be given up by another thread than the one that took it.
unsafe impl<T: Operations> Send for DeviceRef<T> {}
// SAFETY: As for `&Device`.
unsafe impl<T: Operations> Sync for DeviceRef<T> {}

impl<T: Operations> DeviceRef<T> {
    /// Has the device unregistered soon, by a thread of `ib_core`'s. For use where locks are held.
    ///
    /// The module must have a [`DriverRegistration`], which waits for this to be done.
    pub fn unregister_queued(&self) {
        self.tell_unregistering();
        // SAFETY: A registered device, with a `dealloc_driver`, as all of `NewDevice::new`.
        unsafe { bindings::ib_unregister_device_queued(self.as_raw()) };
    }

    fn tell_unregistering(&self) {
        if T::HAS_UNREGISTERING {
            T::unregistering(self);
        }
    }

    /// Unregisters the device, and returns when its users have lost it. It may sleep.
    pub fn unregister(self) {
        self.tell_unregistering();
        let this = ManuallyDrop::new(self);
        // SAFETY: A registered device; the function gives up the reference.
        unsafe { bindings::ib_unregister_device_and_put(this.as_raw()) };
    }
}

impl<T: Operations> Deref for DeviceRef<T> {
    type Target = Device<T>;

    fn deref(&self) -> &Device<T> {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Operations> Drop for DeviceRef<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants there is a reference to give up.
        unsafe { bindings::ib_device_put(self.as_raw()) };
    }
}

/// A device that may not be registered any more, for who is not to keep it from going.
///
/// # Invariants
///
/// `_memory` is the `struct device` of `device`, which keeps the memory of all of it. What is in the driver's
/// data may be gone.
pub struct WeakDevice<T: Operations> {
    device: NonNull<Device<T>>,
    _memory: ARef<kernel::device::Device>,
}

// SAFETY: As for `DeviceRef`.
unsafe impl<T: Operations> Send for WeakDevice<T> {}
// SAFETY: As for `DeviceRef`.
unsafe impl<T: Operations> Sync for WeakDevice<T> {}

impl<T: Operations> WeakDevice<T> {
    /// The device, if it is registered.
    pub fn upgrade(&self) -> Option<DeviceRef<T>> {
        // SAFETY: By the type invariants the memory is there. If the function returns true, the device is
        // registered, and there is a reference to give up.
        unsafe { bindings::rdma_helper_ib_device_try_get(self.device.as_ptr().cast()) }
            .then(|| DeviceRef(self.device))
    }
}

/// Stands for the driver in its module: when it is dropped, all devices of the driver are
/// unregistered, and no code of the driver runs any more.
///
/// By then the module must have stopped to make new devices.
pub struct DriverRegistration<T: Operations>(PhantomData<fn() -> T>);

impl<T: Operations> DriverRegistration<T> {
    /// There is nothing to be done at the beginning.
    pub fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: Operations> Default for DriverRegistration<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Operations> Drop for DriverRegistration<T> {
    fn drop(&mut self) {
        // SAFETY: All devices with this ID have a `dealloc_driver`: `Operations::DRIVER_ID` says
        // that no other driver has the ID.
        unsafe { bindings::ib_unregister_driver(T::DRIVER_ID) };
    }
}
