// SPDX-License-Identifier: GPL-2.0

//! Objects that `ib_core` allocates, with the driver's data behind them.
//!
//! For most objects `ib_core` allocates the memory of its own structure and of the driver's data in
//! one piece, of the size that the driver gives in `size_ib_*` of `struct ib_device_ops`. It zeroes
//! the memory, fills in its own part, and calls the driver to create the object. It calls the driver
//! again to destroy the object, and then frees the memory.
//!
//! [`Object`] is that piece of memory, and [`New`] is the same before the driver's part is
//! initialised.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h) (`INIT_RDMA_OBJ_SIZE`)

use super::compat;
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{self, NonNull},
};
use kernel::{
    bindings::ARCH_KMALLOC_MINALIGN,
    prelude::*,
    sync::{aref::AlwaysRefCounted, Completion, Refcount},
    types::Opaque,
};

/// An object of the RDMA core, `C`, and the driver's data for it, `T`.
///
/// It dereferences to the driver's data.
///
/// # Invariants
///
/// `core` is a `C` that `ib_core` has initialised, and `users` and `data` are initialised, from the
/// success of the driver's callback that creates the object to the callback that destroys it.
#[repr(C)]
pub struct Object<C, T> {
    // First, as `ib_core` requires: it takes a pointer to the one for a pointer to the other.
    core: Opaque<C>,
    users: Opaque<Users>,
    data: Opaque<T>,
}

// SAFETY: `ib_core` does not tie an object to a thread.
unsafe impl<C, T: Send> Send for Object<C, T> {}
// SAFETY: The methods on `&Object` that reach `core` only read what stays the same while the object
// exists, or call functions of `ib_core` that any number of threads may call.
unsafe impl<C, T: Sync> Sync for Object<C, T> {}

/// Who still uses an object; the object itself counts as one until it is to be destroyed.
#[pin_data]
struct Users {
    count: Refcount,
    #[pin]
    gone: Completion,
}

impl Users {
    fn put(&self) {
        if self.count.dec_and_test() {
            self.gone.complete_all();
        }
    }
}

impl<C, T> Object<C, T> {
    /// The value of `size_ib_*`.
    pub(super) const SIZE: usize = {
        // The RDMA core allocates with kzalloc(), which guarantees no more for an arbitrary size.
        assert!(
            align_of::<Self>() <= ARCH_KMALLOC_MINALIGN,
            "the driver's data must not need more alignment than kmalloc() gives"
        );
        size_of::<Self>()
    };

    /// Initialises the driver's part. If that fails, nothing is left initialised.
    ///
    /// # Safety
    ///
    /// `core` must be the beginning of an allocation of at least [`Self::SIZE`] bytes. The caller
    /// must have it to itself, and the driver's part must not be initialised.
    pub(super) unsafe fn init<'a>(
        core: *mut C,
        data: impl PinInit<T, Error>,
    ) -> Result<&'a Object<C, T>> {
        let this = core.cast::<Self>();
        // SAFETY: By the function's requirements the fields are valid for writes, and nobody moves
        // them, since `ib_core` does not move its objects.
        unsafe {
            compat::init(Opaque::cast_into(&raw const (*this).data), data)?;
            let users = pin_init!(Users {
                count: Refcount::new(1),
                gone <- Completion::new(),
            });
            let Ok(()) = compat::init(Opaque::cast_into(&raw const (*this).users), users);
        }
        // INVARIANT: All is initialised now.
        // SAFETY: As above.
        Ok(unsafe { &*this })
    }

    /// # Safety
    ///
    /// `core` must point to the `core` of an `Object<C, T>` whose invariants hold for `'a`.
    pub(super) unsafe fn from_raw<'a>(core: *const C) -> &'a Self {
        // SAFETY: By the function's requirements.
        unsafe { &*core.cast() }
    }

    /// The `ib_core` part.
    pub(super) fn as_raw(&self) -> *mut C {
        self.core.get()
    }

    /// Drops the driver's part, for an object that has no users but the caller.
    ///
    /// # Safety
    ///
    /// `core` must point to the `core` of an `Object<C, T>` whose invariants hold, and they need not
    /// hold any longer. There must be no other reference to the object.
    pub(super) unsafe fn drop_data(core: *mut C) {
        let this = core.cast::<Self>();
        // SAFETY: By the invariants `data` is initialised; by the function's requirements nobody
        // uses it any more. (`users` has nothing to drop.)
        unsafe { ptr::drop_in_place(Opaque::cast_into(&raw const (*this).data)) };
    }
}

impl<C, T> Deref for Object<C, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariants `data` is initialised, and it is only ever shared.
        unsafe { &*self.data.get() }
    }
}

/// Objects that others than `ib_core` can hold on to, with an [`ARef`](kernel::sync::aref::ARef).
///
/// # Safety
///
/// The callback that destroys the object must be [`Object::destroy`], and be called from where it
/// may sleep.
pub unsafe trait Shared {}

impl<C: Shared, T> Object<C, T> {
    /// Destroys the object: waits until the last `ARef` to it is gone, and drops the driver's data.
    ///
    /// # Safety
    ///
    /// As [`Object::drop_data`], save that an `ARef` may exist.
    pub(super) unsafe fn destroy(core: *mut C) {
        {
            // SAFETY: By the function's requirements.
            let this = unsafe { Self::from_raw(core) };
            this.users().put();
            this.users().gone.wait_for_completion();
        }
        // SAFETY: Nobody has a reference any more: the count is zero, so no `ARef` is left to make
        // another from, and the caller has none either.
        unsafe { Self::drop_data(core) };
    }

    fn users(&self) -> &Users {
        // SAFETY: By the type invariants.
        unsafe { &*self.users.get() }
    }
}

// SAFETY: `ib_core` keeps the object until `destroy` returns, and that waits until the count is zero.
unsafe impl<C: Shared, T> AlwaysRefCounted for Object<C, T> {
    fn inc_ref(&self) {
        self.users().count.inc();
    }

    unsafe fn dec_ref(this: NonNull<Self>) {
        // SAFETY: The caller has a reference, so the object exists. The last access to it is that of
        // complete_all(), which holds the completion's lock until it is done, and the one who waits
        // takes that lock before it goes on.
        unsafe { this.as_ref() }.users().put();
    }
}

/// An object in the making: `ib_core`'s part is there, the driver's data is not.
///
/// # Invariants
///
/// The pointer is to a `C` that `ib_core` has initialised as it does before it calls the driver to
/// create the object, and that nobody else uses for `'a`. The object is of a device whose driver has
/// the type `T` for these objects.
pub struct New<'a, C, T> {
    core: NonNull<C>,
    _core: PhantomData<&'a mut C>,
    _data: PhantomData<fn() -> T>,
}

impl<C, T> New<'_, C, T> {
    /// # Safety
    ///
    /// As the type invariants.
    pub(super) unsafe fn from_raw(core: *mut C) -> Self {
        Self {
            // SAFETY: By the type invariants it is a valid pointer.
            core: unsafe { NonNull::new_unchecked(core) },
            _core: PhantomData,
            _data: PhantomData,
        }
    }

    pub(super) fn as_raw(&self) -> *mut C {
        self.core.as_ptr()
    }
}
