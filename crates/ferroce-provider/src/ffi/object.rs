// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects that C holds by a pointer to their first part, which is libibverbs' own.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

use crate::abi::device_memory::VerbsDm;
use crate::abi::{IbvAh, IbvMw, IbvPd, IbvTd, VerbsCq, VerbsDevice, VerbsMr, VerbsQp, VerbsSrq};

/// Structures of C.
///
/// # Safety
/// All bytes zero are a valid value.
pub unsafe trait Zeroed {}

// SAFETY: These consist of integers, pointers, optional functions, and a mutex and a condition
// variable of C.
unsafe impl Zeroed for VerbsDevice {}
// SAFETY: As above.
unsafe impl Zeroed for IbvPd {}
// SAFETY: As above.
unsafe impl Zeroed for IbvTd {}
// SAFETY: As above.
unsafe impl Zeroed for VerbsDm {}
// SAFETY: As above.
unsafe impl Zeroed for IbvAh {}
// SAFETY: As above.
unsafe impl Zeroed for IbvMw {}
// SAFETY: As above.
unsafe impl Zeroed for VerbsMr {}
// SAFETY: As above.
unsafe impl Zeroed for VerbsCq {}
// SAFETY: As above.
unsafe impl Zeroed for VerbsSrq {}
// SAFETY: As above.
unsafe impl Zeroed for VerbsQp {}

/// libibverbs' part `V` of an object, and behind it this provider's, `D`.
///
/// C has pointers to `V` and uses it as it likes, other threads included: it is in an `UnsafeCell`,
/// and no reference to it is ever made here. `D` is only ever shared.
#[repr(C)]
pub struct Object<V, D = ()> {
    verbs: UnsafeCell<V>,
    data: D,
}

impl<V: Zeroed, D> Object<V, D> {
    /// A new object, of which libibverbs' part is all zero, and this provider's is not there yet: it
    /// comes from the kernel's answer to a command that has the object's address in it.
    pub fn make() -> NewObject<V, D> {
        NewObject(Box::new(Object {
            // SAFETY: By the trait's contract.
            verbs: UnsafeCell::new(unsafe { MaybeUninit::zeroed().assume_init() }),
            data: MaybeUninit::uninit(),
        }))
    }

    /// The object that C has by this pointer.
    ///
    /// # Safety
    /// The pointer is from [`NewObject::finish`] of this type, cast or not, and the object has not been
    /// [dropped](Self::drop) and is not while the reference is in use.
    pub unsafe fn from_ptr<'a, P>(pointer: *mut P) -> &'a Self {
        // SAFETY: By this function's contract it points to the object, whose first part is at its
        // beginning.
        unsafe { &*pointer.cast() }
    }

    /// This provider's part.
    pub const fn data(&self) -> &D {
        &self.data
    }

    /// Drops the object.
    ///
    /// # Safety
    /// As [`from_ptr`](Self::from_ptr), and nobody uses the object any more.
    pub unsafe fn drop<P>(pointer: *mut P) {
        // SAFETY: By this function's contract; `finish` has given the box away.
        drop(unsafe { Box::<Self>::from_raw(pointer.cast()) });
    }
}

/// An object in the making.
pub struct NewObject<V, D>(Box<Object<V, MaybeUninit<D>>>);

impl<V, D> NewObject<V, D> {
    /// Libibverbs' part. It stays where it is.
    pub fn verbs(&self) -> *mut V {
        self.0.verbs.get()
    }

    /// Completes the object and gives it to C.
    pub fn finish(mut self, data: D) -> *mut V {
        self.0.data.write(data);
        // `Object<V, MaybeUninit<D>>` and `Object<V, D>` have the same layout: both are `repr(C)`, and
        // so do their parts. The pointer is good for all of the object.
        Box::into_raw(self.0).cast()
    }
}
