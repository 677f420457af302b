// SPDX-License-Identifier: GPL-2.0

//! Network devices, as far as a driver for RDMA over them needs them.
//!
//! C headers: [`include/linux/netdevice.h`](srctree/include/linux/netdevice.h),
//! [`include/linux/notifier.h`](srctree/include/linux/notifier.h)

use super::{
    bindings::{self, net_device},
    rtnl::Rtnl,
    types::{PhysState, PortState},
};
use core::{
    marker::PhantomData,
    net::{IpAddr, Ipv6Addr},
    ptr::NonNull,
};
use kernel::{
    bindings::{kobject, notifier_block},
    error::to_result,
    fmt,
    prelude::*,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        rcu,
    },
    types::Opaque,
};

/// A network device, `struct net_device`.
///
/// # Invariants
///
/// Reference counted with `dev_hold()` and `dev_put()`.
#[repr(transparent)]
pub struct NetDevice(Opaque<net_device>);

// SAFETY: A network device is not tied to a thread.
unsafe impl Send for NetDevice {}
// SAFETY: The methods read single words that others may change at any time, with volatile accesses
// or in C functions made for that.
unsafe impl Sync for NetDevice {}

// SAFETY: dev_hold() keeps the device in memory until dev_put().
unsafe impl AlwaysRefCounted for NetDevice {
    fn inc_ref(&self) {
        // SAFETY: A valid device.
        unsafe { bindings::rdma_helper_dev_hold(self.as_raw()) };
    }

    unsafe fn dec_ref(this: NonNull<Self>) {
        // SAFETY: The caller has a reference to give up.
        unsafe { bindings::rdma_helper_dev_put(this.as_ptr().cast()) };
    }
}

impl NetDevice {
    /// # Safety
    ///
    /// `raw` must point to a network device that stays in memory for `'a`.
    pub(crate) unsafe fn from_raw<'a>(raw: *const net_device) -> &'a Self {
        // SAFETY: By the function's requirements; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// Takes over a reference; `None` for a null pointer.
    ///
    /// # Safety
    ///
    /// `raw` must be null or a network device on which the caller owns a reference.
    pub(super) unsafe fn aref_from_raw(raw: *mut net_device) -> Option<ARef<Self>> {
        // SAFETY: By the function's requirements.
        NonNull::new(raw.cast()).map(|raw| unsafe { ARef::from_raw(raw) })
    }

    pub(super) fn as_raw(&self) -> *mut net_device {
        self.0.get()
    }

    /// The name, such as `eth0`. The administrator may rename the device at any time; only then can it
    /// be neither the name before nor the one after, and [`NetEvent::ChangeName`] follows.
    pub fn name(&self) -> InterfaceName {
        // SAFETY: A valid device, whose name is an array in it. Another thread may be changing it.
        let name = unsafe { &raw const (*self.as_raw()).name }.cast::<u8>();
        let mut copy = [0; IFNAMSIZ];
        // The last one stays zero.
        for (i, to) in copy.iter_mut().enumerate().take(IFNAMSIZ - 1) {
            // SAFETY: The array has `IFNAMSIZ` bytes.
            *to = unsafe { name.add(i).read_volatile() };
            if *to == 0 {
                break;
            }
        }
        // INVARIANT: It ends with a zero, after which there are but zeros.
        InterfaceName(copy)
    }

    /// Index of the interface, unique in its network namespace.
    pub fn ifindex(&self) -> i32 {
        // SAFETY: A valid device.
        unsafe { (&raw const (*self.as_raw()).ifindex).read_volatile() }
    }

    /// Length in bytes of the longest IP packet.
    pub fn mtu(&self) -> u32 {
        // SAFETY: A valid device.
        unsafe { (&raw const (*self.as_raw()).mtu).read_volatile() }
    }

    /// The Ethernet address; `None` for a device whose addresses are of another kind, or that has
    /// none.
    pub fn mac(&self) -> Option<[u8; 6]> {
        let raw = self.as_raw();
        // SAFETY: A valid device, whose type does not change. Its address has at least 32 bytes
        // (`MAX_ADDR_LEN`), lives as long as the device does, and may be changed by others.
        unsafe {
            let is_ether = u32::from((*raw).type_) == bindings::ARPHRD_ETHER
                && u32::from((*raw).addr_len) == bindings::ETH_ALEN;
            let addr = (*raw).dev_addr;
            let mac: [u8; 6] = core::array::from_fn(|i| addr.add(i).read_volatile());
            (is_ether && mac != [0; 6]).then_some(mac)
        }
    }

    /// The network device with an Ethernet address, in the first network namespace.
    pub fn find_by_mac(mac: [u8; 6], _rtnl: &Rtnl) -> Option<ARef<Self>> {
        // SAFETY: The namespace is always there, and the address has the length of its type. The lock is
        // held, as long as which the result stays.
        let found = unsafe {
            bindings::dev_getbyhwaddr(
                &raw mut bindings::init_net,
                bindings::ARPHRD_ETHER as u16,
                mac.as_ptr().cast(),
            )
        };
        // SAFETY: As above.
        (!found.is_null()).then(|| unsafe { Self::from_raw(found) }.into())
    }

    /// Whether the device is registered, and not going.
    pub fn is_registered(&self) -> bool {
        // SAFETY: A valid device.
        let state = unsafe { (&raw const (*self.as_raw()).reg_state).read_volatile() };
        u32::from(state) == bindings::netdev_reg_state_NETREG_REGISTERED
    }

    /// Whether the device is the loopback device of its namespace.
    pub fn is_loopback(&self) -> bool {
        // SAFETY: A valid device.
        let flags = unsafe { bindings::netif_get_flags(self.as_raw()) };
        flags & bindings::net_device_flags_IFF_LOOPBACK != 0
    }

    /// Whether the device is a VLAN of another one.
    pub fn is_vlan(&self) -> bool {
        // SAFETY: A valid device.
        unsafe { bindings::rdma_helper_is_vlan_dev(self.as_raw()) }
    }

    /// Whether the device has been brought up.
    pub fn is_up(&self) -> bool {
        // SAFETY: A valid device.
        unsafe { bindings::rdma_helper_netif_running(self.as_raw()) }
    }

    /// Whether there is a link.
    pub fn has_carrier(&self) -> bool {
        // SAFETY: A valid device.
        unsafe { bindings::rdma_helper_netif_carrier_ok(self.as_raw()) }
    }

    /// The states that an RDMA port over this device has.
    pub fn port_state(&self) -> (PortState, PhysState) {
        match (self.is_up(), self.has_carrier()) {
            (true, true) => (PortState::Active, PhysState::LinkUp),
            (true, false) => (PortState::Down, PhysState::Polling),
            (false, _) => (PortState::Down, PhysState::Disabled),
        }
    }

    /// Its folder in sysfs.
    pub(super) fn kobject(&self) -> *mut kobject {
        // SAFETY: A valid device, which the object is a part of.
        unsafe { &raw mut (*self.as_raw()).dev.kobj }
    }

    /// The network namespace it is in; `None` if that is going.
    pub(crate) fn net(&self) -> Option<Net> {
        let _guard = rcu::read_lock();
        // SAFETY: A valid device, and the read lock is held. The result is null or comes with a
        // reference for us.
        NonNull::new(unsafe { bindings::rdma_helper_dev_get_net(self.as_raw()) }).map(Net)
    }
}

const IFNAMSIZ: usize = bindings::IFNAMSIZ as usize;

/// The name of a network device.
///
/// # Invariants
///
/// It ends with a zero, and all after the first zero are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct InterfaceName([u8; IFNAMSIZ]);

impl InterfaceName {
    /// The name as C has it.
    pub fn as_c_str(&self) -> &CStr {
        // By the type invariants it has one.
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.as_c_str().to_bytes() {
            write!(f, "{}", byte.escape_ascii())?;
        }
        Ok(())
    }
}

/// Looking for devices by their addresses.
impl NetDevice {
    /// The device of the same network namespace that has an address as its own: where IP delivers
    /// what goes there.
    pub fn with_address(&self, addr: IpAddr) -> Option<ARef<Self>> {
        let net = self.net()?;
        match addr {
            // SAFETY: A valid namespace. The result is null or comes with a reference for us.
            IpAddr::V4(addr) => unsafe {
                let addr = u32::from_ne_bytes(addr.octets());
                Self::aref_from_raw(bindings::__ip_dev_find(net.as_raw(), addr, true))
            },
            IpAddr::V6(addr) => {
                let addr = in6(addr);
                let _guard = rcu::read_lock();
                // SAFETY: A valid namespace and a valid address, and the read lock is held, which
                // keeps the result, if there is one, until `ARef::from` has a reference.
                unsafe {
                    let raw = bindings::ipv6_dev_find(net.as_raw(), &addr, core::ptr::null_mut());
                    (!raw.is_null()).then(|| ARef::from(Self::from_raw(raw)))
                }
            }
        }
    }
}

/// An address as C has it.
pub(crate) fn in6(addr: Ipv6Addr) -> bindings::in6_addr {
    // SAFETY: Both are 16 bytes of which any will do.
    unsafe { core::mem::transmute(addr.octets()) }
}

/// What [`NetDevice::find_below`] hands to its callback.
struct Search<'a, R> {
    look: &'a mut dyn FnMut(&NetDevice) -> Option<R>,
    found: Option<R>,
}

/// Devices that others are made of.
impl NetDevice {
    /// Looks at the devices below this one, such as that of a VLAN or those of a bridge, until there
    /// is one for which `look` gives something. `look` must not sleep.
    pub fn find_below<R>(&self, mut look: impl FnMut(&NetDevice) -> Option<R>) -> Option<R> {
        let mut search = Search {
            look: &mut look,
            found: None,
        };
        let mut private = bindings::netdev_nested_priv {
            data: (&raw mut search).cast(),
            ..pin_init::zeroed()
        };
        let _guard = rcu::read_lock();
        // SAFETY: A valid device, and the read lock is held. The callback is for this type of search,
        // which lives until the function returns.
        unsafe {
            bindings::netdev_walk_all_lower_dev_rcu(
                self.as_raw(),
                Some(Self::look_below::<R>),
                &mut private,
            )
        };
        search.found
    }

    /// # Safety
    ///
    /// Only for `netdev_walk_all_lower_dev_rcu()` to call, from `find_below` with the same `R`.
    unsafe extern "C" fn look_below<R>(
        lower: *mut net_device,
        private: *mut bindings::netdev_nested_priv,
    ) -> c_int {
        // SAFETY: By the function's requirements; the device exists at least as long as the read lock
        // is held.
        let (search, lower) = unsafe {
            (
                &mut *(*private).data.cast::<Search<'_, R>>(),
                Self::from_raw(lower),
            )
        };
        search.found = (search.look)(lower);
        search.found.is_some().into()
    }
}

/// A reference to a network namespace.
///
/// # Invariants
///
/// The pointer is to a namespace, and this owns a reference to it.
pub(crate) struct Net(NonNull<kernel::bindings::net>);

impl Net {
    pub(crate) fn as_raw(&self) -> *mut kernel::bindings::net {
        self.0.as_ptr()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::rdma_helper_put_net(self.as_raw()) };
    }
}

/// What has happened to a network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum NetEvent {
    Up,
    Down,
    /// The carrier came or went, among other things.
    Change,
    ChangeMtu,
    ChangeAddr,
    ChangeName,
    /// The device has come, or it has moved to another namespace and is there.
    Register,
    /// The device is going. All references to it must be given up, or the one who removes it waits.
    Unregister,
    /// The device leaves its namespace for another.
    Leave,
    /// Another of the many events, `NETDEV_*`.
    Other(u32),
}

impl From<u32> for NetEvent {
    fn from(raw: u32) -> Self {
        match raw {
            bindings::netdev_cmd_NETDEV_UP => Self::Up,
            bindings::netdev_cmd_NETDEV_DOWN => Self::Down,
            bindings::netdev_cmd_NETDEV_CHANGE => Self::Change,
            bindings::netdev_cmd_NETDEV_CHANGEMTU => Self::ChangeMtu,
            bindings::netdev_cmd_NETDEV_CHANGEADDR => Self::ChangeAddr,
            bindings::netdev_cmd_NETDEV_CHANGENAME => Self::ChangeName,
            bindings::netdev_cmd_NETDEV_REGISTER => Self::Register,
            bindings::netdev_cmd_NETDEV_UNREGISTER => Self::Unregister,
            other => Self::Other(other),
        }
    }
}

/// Who wants to know what happens to network devices.
pub trait NetEvents {
    /// Called for any network device of any namespace.
    ///
    /// Upon registration it is called for all devices that there are, as if they came, and upon
    /// unregistration as if they left.
    fn event(event: NetEvent, dev: &NetDevice, rtnl: &Rtnl);
}

/// A registration of [`NetEvents`].
///
/// # Invariants
///
/// `block` is registered with `register_netdevice_notifier()`.
#[pin_data(PinnedDrop)]
pub struct NetNotifier<T: NetEvents> {
    #[pin]
    block: Opaque<notifier_block>,
    _p: PhantomData<T>,
}

// SAFETY: It may be unregistered on another thread than the one that registered it.
unsafe impl<T: NetEvents> Send for NetNotifier<T> {}
// SAFETY: There is nothing to do with a reference to it.
unsafe impl<T: NetEvents> Sync for NetNotifier<T> {}

impl<T: NetEvents> NetNotifier<T> {
    /// Registers it, until the value is dropped.
    pub fn register() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            block <- Opaque::try_ffi_init(|slot: *mut notifier_block| {
                let block = notifier_block {
                    notifier_call: Some(Self::call),
                    ..pin_init::zeroed()
                };
                // SAFETY: `slot` is valid for writes. It stays where it is, since it is pinned,
                // until `drop` has unregistered it.
                unsafe {
                    slot.write(block);
                    to_result(bindings::register_netdevice_notifier(slot))
                }
            }),
            _p: PhantomData,
        })
    }

    /// # Safety
    ///
    /// Only for the chain of notifiers to call.
    unsafe extern "C" fn call(
        _block: *mut notifier_block,
        event: c_ulong,
        info: *mut c_void,
    ) -> c_int {
        // SAFETY: On this chain the pointer is always to a `netdev_notifier_info`, and its device
        // exists during the call.
        let dev = unsafe { NetDevice::from_raw(bindings::rdma_helper_notifier_to_dev(info)) };
        let event = match NetEvent::from(event as u32) {
            // The same event in C, with the device as registered as ever.
            NetEvent::Unregister if dev.is_registered() => NetEvent::Leave,
            event => event,
        };
        // SAFETY: This chain is called with the lock held.
        T::event(event, dev, unsafe { Rtnl::held() });
        bindings::NOTIFY_DONE as c_int
    }
}

#[pinned_drop]
impl<T: NetEvents> PinnedDrop for NetNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. When the function returns, no call is under way.
        unsafe { bindings::unregister_netdevice_notifier(self.block.get()) };
    }
}
