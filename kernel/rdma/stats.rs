// SPDX-License-Identifier: GPL-2.0

//! Counters of devices and ports, which the administrator reads: `rdma statistic show` has those of
//! ports, and the folders `hw_counters` in `/sys/class/infiniband/DEVICE` and in `ports/PORT` below it
//! have both.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h) (`struct rdma_hw_stats`)

use super::{bindings, Device, Operations};
use kernel::{error::from_result, prelude::*, str::as_char_ptr_in_const_context};

/// A counter, by its name.
#[repr(transparent)]
pub struct CounterDesc(bindings::rdma_stat_desc);

// SAFETY: The pointers in it are to strings that live for ever, or null.
unsafe impl Sync for CounterDesc {}

impl CounterDesc {
    /// A counter of that name; where other drivers count the same, it should be theirs.
    pub const fn new(name: &'static CStr) -> Self {
        Self(bindings::rdma_stat_desc {
            name: as_char_ptr_in_const_context(name),
            ..pin_init::zeroed()
        })
    }

    /// Counters of these names.
    pub const fn of<const N: usize>(names: [&'static CStr; N]) -> [Self; N] {
        let mut descs = [const { Self::new(c"") }; N];
        let mut at = 0;
        while at < N {
            descs[at] = Self::new(names[at]);
            at += 1;
        }
        descs
    }
}

/// An enumeration of counters: `Variant = "name"`. The numbers of its variants are the places of the
/// values, and `DESCS` are the [`CounterDesc`]s in that order.
macro_rules! counters {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $name {
            $($(#[$vmeta])* $variant,)*
        }

        impl $name {
            /// What there is, for the RDMA core.
            $vis const DESCS: &'static [$crate::rdma::stats::CounterDesc] =
                &[$($crate::rdma::stats::CounterDesc::new($text),)*];
        }
    };
}

pub(crate) use counters;

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(core::marker::PhantomData<T>);

impl<T: Operations> Callbacks<T> {
    fn alloc(descs: &'static [CounterDesc]) -> *mut bindings::rdma_hw_stats {
        // SAFETY: The descriptions live for ever, and their type is transparent.
        unsafe {
            bindings::rdma_alloc_hw_stats_struct(
                descs.as_ptr().cast(),
                descs.len() as c_int,
                bindings::RDMA_HW_STATS_DEFAULT_LIFESPAN as c_ulong,
            )
        }
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_hw_device_stats` of a device of the driver `T`.
    pub(super) unsafe extern "C" fn alloc_device(
        _device: *mut bindings::ib_device,
    ) -> *mut bindings::rdma_hw_stats {
        Self::alloc(T::DEVICE_COUNTERS)
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_hw_port_stats` of a device of the driver `T`.
    pub(super) unsafe extern "C" fn alloc_port(
        _device: *mut bindings::ib_device,
        _port: u32,
    ) -> *mut bindings::rdma_hw_stats {
        Self::alloc(T::PORT_COUNTERS)
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `get_hw_stats` of a device of the driver `T`.
    pub(super) unsafe extern "C" fn get(
        device: *mut bindings::ib_device,
        stats: *mut bindings::rdma_hw_stats,
        port: u32,
        _index: c_int,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid device, and what `alloc` has made for the device, if
            // the port is zero, or for the port, locked. It has as many values as descriptions.
            unsafe {
                let count = (*stats).num_counters;
                let values = (&raw mut (*stats).value).cast::<u64>();
                let values = core::slice::from_raw_parts_mut(values, count as usize);
                let port = (port != 0).then_some(port);
                T::read_counters(Device::from_raw(device), port, values)?;
                // All of them, whichever was asked for.
                Ok(count)
            }
        })
    }
}
