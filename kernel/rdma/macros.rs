// SPDX-License-Identifier: GPL-2.0

//! Macros for what the types of this folder have in common.

/// A C enumeration as a Rust one: `C value = Variant`.
///
/// Each can be made from what C has with `TryFrom`, which fails with `EINVAL` for values that are not
/// listed, and back with `as_raw`.
macro_rules! c_enum {
    ($(#[$meta:meta])* $name:ident : $raw:ty { $($(#[$vmeta:meta])* $variant:ident = $value:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $name {
            $($(#[$vmeta])* #[allow(missing_docs)] $variant = bindings::$value,)*
        }

        impl $name {
            /// The value in C.
            pub const fn as_raw(self) -> $raw {
                self as $raw
            }
        }

        impl TryFrom<$raw> for $name {
            type Error = ::kernel::error::Error;

            fn try_from(raw: $raw) -> ::kernel::error::Result<Self> {
                match raw {
                    $(bindings::$value => Ok(Self::$variant),)*
                    _ => Err(::kernel::error::code::EINVAL),
                }
            }
        }
    };
}

/// Bits of a C enumeration, as a set.
macro_rules! c_flags {
    ($(#[$meta:meta])* $name:ident { $($flags:tt)* }) => {
        c_flags! { $(#[$meta])* $name: u32 { $($flags)* } }
    };
    ($(#[$meta:meta])* $name:ident: $raw:ty { $($(#[$vmeta:meta])* $flag:ident = $value:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            $($(#[$vmeta])* #[allow(missing_docs)]
            pub const $flag: Self = Self(bindings::$value as $raw);)*

            /// No flag at all.
            pub const NONE: Self = Self(0);

            /// From the bits that C has, whether there are names for them here or not.
            pub const fn from_bits(bits: $raw) -> Self {
                Self(bits)
            }

            /// The bits as in C.
            pub const fn bits(self) -> $raw {
                self.0
            }

            /// Whether all flags of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }

        impl ::core::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl ::core::ops::BitAnd for $name {
            type Output = Self;

            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }
    };
}

/// The device of an object, where the structure in C has a field `device`.
macro_rules! has_device {
    ($core:ident) => {
        impl<T: Operations> Object<bindings::$core, T> {
            /// The device.
            pub fn device(&self) -> &Device<T::Device> {
                // SAFETY: `ib_core` sets the field before it calls the driver. The device is of the
                // driver `T::Device`, since no other has such objects, and outlives its objects.
                unsafe { Device::from_raw((*self.as_raw()).device) }
            }
        }

        impl<T: Operations> New<'_, bindings::$core, T> {
            /// The device.
            pub fn device(&self) -> &Device<T::Device> {
                // SAFETY: As above.
                unsafe { Device::from_raw((*self.as_raw()).device) }
            }
        }
    };
}

/// What the kernel's log says of an object, where the structure in C has the fields `device` and `res`.
macro_rules! has_log {
    ($core:ident) => {
        impl<T: Operations> Object<bindings::$core, T> {
            /// Writes a line to the kernel's log, with the device, and the process that has the object; not
            /// if there have been many of late.
            pub fn warn(&self, text: kernel::fmt::Arguments<'_>) {
                let core = self.as_raw();
                // SAFETY: `ib_core` sets both fields before it calls the driver, and the reference to the
                // process stays as long as the object. `%pA` takes a pointer to arguments of this type.
                unsafe {
                    bindings::rdma_helper_warn(
                        (*core).device,
                        &raw const (*core).res,
                        core::ptr::from_ref(&text).cast(),
                    );
                }
            }
        }
    };
}

/// The protection domain of an object, where the structure in C has a field `pd`.
macro_rules! has_pd {
    ($core:ident) => {
        impl<T: Operations> Object<bindings::$core, T> {
            /// The protection domain.
            pub fn pd(&self) -> &Pd<<T::Device as ops::Operations>::Pd> {
                // SAFETY: `ib_core` sets the field before it calls the driver. A domain outlives
                // what is in it.
                unsafe { Pd::from_raw((*self.as_raw()).pd) }
            }
        }

        impl<T: Operations> New<'_, bindings::$core, T> {
            /// The protection domain.
            pub fn pd(&self) -> &Pd<<T::Device as ops::Operations>::Pd> {
                // SAFETY: As above.
                unsafe { Pd::from_raw((*self.as_raw()).pd) }
            }
        }
    };
}

/// Whose an object is, where the structure in C has a field `uobject`.
macro_rules! has_owner {
    ($core:ident) => {
        impl<T: Operations> Object<bindings::$core, T> {
            /// Whether it belongs to a process, and not to the kernel.
            pub fn is_user(&self) -> bool {
                // SAFETY: `ib_core` sets the field once, when it creates the object.
                unsafe { !(*self.as_raw()).uobject.is_null() }
            }
        }
    };
}
