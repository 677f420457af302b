// SPDX-License-Identifier: MIT OR Apache-2.0
//! The standard library's `core`, but with atomics that are loom's.
//!
//! An atomic here is as large as the real one, so that the layout of a ring is what it is. It holds the
//! number of one of loom's, which are in a list beside it.

pub use ::core::*;

/// As `core::hint`.
pub mod hint {
    pub use ::core::hint::*;
    // Others run: a thread that looks again and again is not to have all orders of that tried.
    pub use loom::hint::spin_loop;
}

/// As `core::sync`.
pub mod sync {
    pub use ::core::sync::*;

    /// As `core::sync::atomic`.
    pub mod atomic {
        pub use loom::sync::atomic::{fence, Ordering};

        use std::cell::{RefCell, UnsafeCell};
        use std::rc::Rc;
        use std::thread::LocalKey;

        /// All atomics of one type. loom runs the threads of a model on one thread of the machine.
        type List<A> = LocalKey<RefCell<Vec<Rc<A>>>>;

        fn add<A>(list: &'static List<A>, atomic: A) -> usize {
            list.with_borrow_mut(|list| {
                list.push(Rc::new(atomic));
                list.len() - 1
            })
        }

        fn get<A>(list: &'static List<A>, number: usize) -> Rc<A> {
            list.with_borrow(|list| Rc::clone(&list[number]))
        }

        macro_rules! accesses {
            ($name:ident, $value:ty) => {
                impl $name {
                    pub fn load(&self, order: Ordering) -> $value {
                        self.atomic().load(order)
                    }

                    pub fn store(&self, value: $value, order: Ordering) {
                        self.atomic().store(value, order);
                    }

                    pub fn swap(&self, value: $value, order: Ordering) -> $value {
                        self.atomic().swap(value, order)
                    }

                    pub fn compare_exchange(
                        &self,
                        current: $value,
                        new: $value,
                        success: Ordering,
                        failure: Ordering,
                    ) -> Result<$value, $value> {
                        self.atomic().compare_exchange(current, new, success, failure)
                    }

                    pub fn compare_exchange_weak(
                        &self,
                        current: $value,
                        new: $value,
                        success: Ordering,
                        failure: Ordering,
                    ) -> Result<$value, $value> {
                        let atomic = self.atomic();
                        atomic.compare_exchange_weak(current, new, success, failure)
                    }
                }
            };
        }

        macro_rules! atomics {
            ($($name:ident, $value:ty, $number:ty, $list:ident;)*) => {$(
                std::thread_local! {
                    static $list: RefCell<Vec<Rc<loom::sync::atomic::$name>>> =
                        const { RefCell::new(Vec::new()) };
                }

                /// As that of `core`. Its number does not change.
                #[derive(Debug)]
                #[repr(transparent)]
                pub struct $name(UnsafeCell<$number>);

                // SAFETY: What it holds does not change, and is looked at by one thread of the machine.
                unsafe impl Sync for $name {}

                impl $name {
                    /// Makes another one of loom's. To be called by a thread that all others are started
                    /// after.
                    pub fn new(value: $value) -> Self {
                        let number = add(&$list, loom::sync::atomic::$name::new(value));
                        Self(UnsafeCell::new(number as $number))
                    }

                    /// # Safety
                    /// An atomic that [`new`](Self::new) made is at `at`, as long as `'a`.
                    pub unsafe fn from_ptr<'a>(at: *mut $value) -> &'a Self {
                        // SAFETY: By this function's contract.
                        unsafe { &*at.cast() }
                    }

                    fn atomic(&self) -> Rc<loom::sync::atomic::$name> {
                        // SAFETY: Nobody writes to it.
                        get(&$list, unsafe { *self.0.get() } as usize)
                    }
                }

                accesses!($name, $value);
            )*

                /// Forgets all atomics. To be called where a model begins.
                pub fn forget() {
                    $($list.with_borrow_mut(Vec::clear);)*
                    forget_small();
                }
            };
        }

        atomics! {
            AtomicU32, u32, u32, WORDS;
            AtomicU64, u64, u64, LONG_WORDS;
        }

        /// What a byte holds in place of a number, before there is one of loom's: the value.
        const NUMBERED: u8 = 0x80;

        macro_rules! small_atomics {
            ($($name:ident, $value:ty, $list:ident, $of_byte:expr;)*) => {$(
                std::thread_local! {
                    static $list: RefCell<Vec<Rc<loom::sync::atomic::$name>>> =
                        const { RefCell::new(Vec::new()) };
                }

                /// As that of `core`, with values below 128. A constant can hold it: the first access makes
                /// one of loom's. That is to be one of a thread that all others are started after.
                #[derive(Debug)]
                #[repr(transparent)]
                pub struct $name(UnsafeCell<u8>);

                // SAFETY: What it holds is looked at by one thread of the machine.
                unsafe impl Sync for $name {}

                impl $name {
                    pub const fn new(value: $value) -> Self {
                        Self(UnsafeCell::new(value as u8))
                    }

                    fn atomic(&self) -> Rc<loom::sync::atomic::$name> {
                        // SAFETY: One thread of the machine looks at it and writes to it, here alone.
                        let held = unsafe { *self.0.get() };
                        if held & NUMBERED != 0 {
                            return get(&$list, usize::from(held & !NUMBERED));
                        }
                        let number = add(&$list, loom::sync::atomic::$name::new($of_byte(held)));
                        // SAFETY: As above.
                        unsafe { *self.0.get() = u8::try_from(number).unwrap() | NUMBERED };
                        get(&$list, number)
                    }
                }

                accesses!($name, $value);
            )*

                fn forget_small() {
                    $($list.with_borrow_mut(Vec::clear);)*
                }
            };
        }

        small_atomics! {
            AtomicBool, bool, BOOLS, |byte| byte != 0;
            AtomicU8, u8, BYTES, |byte| byte;
        }

        impl AtomicBool {
            pub fn fetch_or(&self, value: bool, order: Ordering) -> bool {
                self.atomic().fetch_or(value, order)
            }
        }

        impl AtomicU32 {
            pub fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
                self.atomic().fetch_add(value, order)
            }

            pub fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
                self.atomic().fetch_sub(value, order)
            }

            pub fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
                self.atomic().fetch_or(value, order)
            }
        }

        impl AtomicU64 {
            pub fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
                self.atomic().fetch_add(value, order)
            }

            pub fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
                self.atomic().fetch_sub(value, order)
            }
        }
    }
}
