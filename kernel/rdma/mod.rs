// SPDX-License-Identifier: GPL-2.0

//! RDMA devices: safe abstractions over the kernel's `ib_core`.
//!
//! # The life of a driver
//!
//! 1. The module registers three things: a type of link, so that the administrator can make devices
//!    ([`LinkRegistration`]); itself as a driver ([`DriverRegistration`]); and that it wants to know
//!    what happens to network devices ([`NetNotifier`]).
//! 2. For `rdma link add`, [`LinkOps::newlink`] makes a [`NewDevice`], sets its network device, and
//!    registers it. [`device`] has the steps.
//! 3. `ib_core` calls the driver's [`Operations`], and those of the objects of a device.
//! 4. The device is unregistered: by `rdma link delete`, with its network device, or with the module.
//!    `ib_core` destroys what is left of its objects, and then drops the driver's data.
//!
//! # Objects
//!
//! For each kind of object there is a module, with a trait `Operations` that the driver implements for
//! its own data of such an object, and a type that is the object: `ib_core`'s structure with that data
//! behind it, to which it dereferences.
//!
//! | | object | made by | goes |
//! |---|---|---|---|
//! | user context | [`Ucontext`] | a process that opens the device | when all else of the process has gone |
//! | protection domain | [`Pd`] | user space, kernel | when nothing is in it |
//! | address handle | [`Ah`] | user space, kernel | at any time |
//! | completion queue | [`Cq`] | user space, kernel | when no queue pair uses it |
//! | shared receive queue | [`Srq`] | user space, kernel | when no queue pair uses it |
//! | queue pair | [`Qp`] | user space, kernel | at any time |
//! | memory region | [`Mr`] | user space, kernel | at any time, if no window is bound to it |
//! | memory window | [`Mw`] | user space | at any time |
//! | device memory | [`Dm`] | user space | when no region is over it |
//!
//! The rules are the same for all:
//!
//! - The driver makes its data in a function `create` (or `alloc`, or `reg_*`), which gets the object
//!   without the data, [`New`], and returns an initializer for the data. Where others can find objects
//!   by a number, a function `created` follows, which gets the object complete: there the driver
//!   publishes it.
//! - Functions get `&T`, from any number of threads at the same time. What changes has a lock.
//! - `ib_core` keeps the order of the last column, and calls nothing for an object that it destroys.
//!   So from an object the driver can go to those that it depends on, such as [`Qp::pd`], by plain
//!   references.
//! - What is not called by `ib_core` - a packet that comes, a timer, another queue pair - holds on to an
//!   object with an [`ARef`], all but address handles. Destruction waits until the last is gone. So the
//!   driver takes the object out of its tables in `destroy` (or `dealloc`, or `dereg`), and keeps a
//!   reference no longer than it takes.
//! - The kernel's own users post and poll in any context, and so they make and destroy address handles:
//!   these functions must not sleep, and take locks as [`SpinLockIrqSave`] alone. They must not call a
//!   user's handler either, see [`Cq::notify`].
//! - A call comes from user space, then there is a [`UserCall`] that leads to the [`Ucontext`], or from
//!   within the kernel.
//!
//! # Memory
//!
//! [`Umem`] is memory of a process, pinned or had on demand, or of the kernel, for the device to reach it.
//! [`SharedPages`] are the driver's own, and with a [`UserMapping`] a process can map them.
//!
//! # Safety
//!
//! With three exceptions a driver needs no `unsafe` for what is here:
//!
//! - It vouches for its plain structures in [`Udata`], that all their bytes are initialised, or that any
//!   will do ([`AsBytes`], [`FromBytes`]).
//! - Whether memory of the kernel is there, its user says by what it asks for. That it was asked for, the
//!   driver vouches for ([`Umem::kernel`], [`PageList::open`](umem::PageList::open)).
//! - Who wants more of [`SharedPages`] than atomic words has a pointer.
//!
//! C headers: [`include/rdma/`](srctree/include/rdma/)
//!
//! [`ARef`]: kernel::sync::aref::ARef
//! [`AsBytes`]: kernel::transmute::AsBytes
//! [`FromBytes`]: kernel::transmute::FromBytes
//! [`Qp::pd`]: object::Object::pd

use kernel::{error::Error, prelude::*};

#[macro_use]
mod macros;

pub(crate) mod bindings;

pub mod ah;
pub mod bar;
pub mod compat;
pub mod cq;
pub mod details;
pub mod device;
pub mod dm;
pub mod gid;
pub mod link;
pub mod lock;
pub mod memcg;
pub mod mmap;
pub mod mr;
pub mod mw;
pub mod net;
pub mod object;
pub mod ops;
pub mod pd;
pub mod qp;
pub mod qp_attr;
pub mod rcu;
pub mod rtnl;
pub mod srq;
pub mod stats;
pub mod sysfs;
pub mod thread;
pub mod types;
pub mod ucontext;
pub mod udata;
pub mod umem;
pub mod unsupported;
pub mod verbs;
pub mod wc;
pub mod workqueue;
pub mod wr;

pub use self::{
    ah::{AddressVector, Ah, AhAttr, NewAh},
    bar::BarMemory,
    compat::Count,
    cq::{Cq, CqFlags, CqInitAttr, NewCq},
    details::Details,
    device::{Device, DeviceRef, DriverRegistration, NewDevice, PortEvent, WeakDevice},
    dm::{Dm, NewDm},
    gid::{Gid, GidAttr},
    link::{LinkOps, LinkRegistration},
    lock::SpinLockIrqSave,
    memcg::MemCgroup,
    mmap::{SharedPages, UserMapping},
    mr::{Mr, NewMr, Rereg, UserMemory},
    mw::{Mw, NewMw},
    net::{NetDevice, NetEvent, NetEvents, NetNotifier},
    object::{New, Object},
    ops::{DeviceAttr, Operations, PortAttr, PortImmutable, PortModify, UserCommand},
    pd::{NewPd, Pd},
    qp::{NewQp, Qp, QpEvent},
    qp_attr::{QpAttr, QpAttrOut, QpCap, QpInitAttr},
    rtnl::Rtnl,
    srq::{NewSrq, Srq, SrqAttr, SrqEvent},
    stats::CounterDesc,
    types::*,
    ucontext::{NewUcontext, Ucontext},
    udata::{Udata, UserCall},
    umem::Umem,
    unsupported::Unsupported,
    verbs::*,
    wc::{Wc, WcBuffer},
    wr::{RecvWr, RecvWrs, SendWr, SendWrs, Sge},
};

pub(crate) use compat::this_module;

/// "Operation not supported", by the device, as user space knows it. (`ENOTSUPP`, which the `kernel`
/// crate has, is another error that user space does not know.)
pub fn eopnotsupp() -> Error {
    Error::from_errno(-(kernel::bindings::EOPNOTSUPP as i32))
}

/// The time of `CLOCK_MONOTONIC`, in nanoseconds.
pub fn clock() -> u64 {
    // SAFETY: In any context but that of an NMI.
    unsafe { kernel::bindings::ktime_get() as u64 }
}

/// Bytes that nobody can foretell.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: The array has this length. In any context.
    unsafe { kernel::bindings::get_random_bytes(bytes.as_mut_ptr().cast(), N) };
    bytes
}

/// Whether this is a bottom half, or these are off: nothing may sleep.
pub fn in_bottom_half() -> bool {
    // SAFETY: In any context.
    unsafe { bindings::rdma_helper_in_softirq() }
}

/// Whether this thread has been killed: what it does is for nobody any more.
pub fn is_killed() -> bool {
    // SAFETY: Any thread may call it.
    unsafe { bindings::rdma_helper_is_killed() }
}

/// Whether the current process may have more than is one user's share (`CAP_SYS_RESOURCE`).
pub fn may_exceed_limits() -> bool {
    // SAFETY: The current thread has credentials.
    unsafe { kernel::bindings::capable(kernel::bindings::CAP_SYS_RESOURCE as c_int) }
}

/// Lets another thread run, if one should. Not where sleeping is forbidden.
pub fn cond_resched() {
    // SAFETY: Any thread may call it; where it must not, the kernel says so.
    unsafe { bindings::rdma_helper_cond_resched() };
}
