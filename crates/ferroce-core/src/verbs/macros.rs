// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two shapes the verbs are full of: numbered enumerations and sets of bits.
//!
//! The core has no dependencies, so these stand in for `num_enum` and `bitflags`.

/// An enumeration whose numbers are part of an ABI, with a checked conversion from `u32`.
macro_rules! numbered {
    ($(#[$meta:meta])* $vis:vis enum $name:ident, $what:literal {
        $($(#[$variant_meta:meta])* $variant:ident = $number:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant = $number,)+
        }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number Linux gives this value.
            pub const fn number(self) -> u8 {
                self as u8
            }
        }

        impl TryFrom<u32> for $name {
            type Error = $crate::verbs::InvalidValue;

            fn try_from(number: u32) -> Result<Self, Self::Error> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err($crate::verbs::InvalidValue { what: $what, value: number }),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(value: $name) -> u32 {
                u32::from(value.number())
            }
        }
    };
}

/// A set of bits that are part of an ABI, with a checked conversion from `u32`.
macro_rules! bit_flags {
    ($(#[$meta:meta])* $vis:vis struct $name:ident, $what:literal {
        $($(#[$flag_meta:meta])* $flag:ident = $bits:expr,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        #[repr(transparent)]
        $vis struct $name(u32);

        impl $name {
            $($(#[$flag_meta])* pub const $flag: Self = Self($bits);)+

            /// No bit.
            pub const EMPTY: Self = Self(0);
            /// Every bit that has a meaning.
            pub const ALL: Self = Self(0 $(| $bits)+);

            /// The bits, as Linux numbers them.
            pub const fn bits(self) -> u32 {
                self.0
            }

            /// Keeps bits that have no meaning here, so that a later check can refuse them.
            pub const fn from_bits_retain(bits: u32) -> Self {
                Self(bits)
            }

            /// The bits that have a meaning here: the rest is dropped.
            pub const fn from_bits_truncate(bits: u32) -> Self {
                Self(bits & Self::ALL.0)
            }

            /// Whether every bit of `other` is in `self`.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether `self` and `other` share a bit.
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The bits in either (`const`, which `|` is not).
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The bits of `self` that are not in `other`.
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Whether there is no bit.
            pub const fn is_empty(self) -> bool {
                self.0 == 0
            }
        }

        impl TryFrom<u32> for $name {
            type Error = $crate::verbs::InvalidValue;

            fn try_from(bits: u32) -> Result<Self, Self::Error> {
                if bits & !Self::ALL.0 == 0 {
                    Ok(Self(bits))
                } else {
                    Err($crate::verbs::InvalidValue { what: $what, value: bits })
                }
            }
        }

        impl core::ops::BitOr for $name {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                self.union(other)
            }
        }

        impl core::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) {
                *self = self.union(other);
            }
        }

        impl core::ops::BitAnd for $name {
            type Output = Self;

            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}({:#x}", stringify!($name), self.0)?;
                $(if self.contains(Self::$flag) {
                    f.write_str(concat!(" ", stringify!($flag)))?;
                })+
                f.write_str(")")
            }
        }
    };
}

pub(crate) use {bit_flags, numbered};
