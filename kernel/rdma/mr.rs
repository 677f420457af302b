// SPDX-License-Identifier: GPL-2.0

//! Memory regions.
//!
//! Unlike other objects, a memory region is allocated and freed by the driver, so here by the
//! callbacks below.
//!
//! C header: [`include/rdma/ib_verbs.h`](srctree/include/rdma/ib_verbs.h)

use super::{
    bindings,
    details::{self, Details},
    dm::Dm,
    eopnotsupp,
    object::{New, Object, Shared},
    ops,
    udata::UserCall,
    umem::MappedPage,
    verbs::{AccessFlags, MrAdvice, MrType},
    wr::Sge,
    Device, Pd,
};
use core::{marker::PhantomData, mem::MaybeUninit, ptr};
use kernel::{
    alloc::flags::__GFP_ZERO,
    alloc::Flags,
    error::{from_result, VTABLE_DEFAULT_ERROR},
    prelude::*,
};

/// A memory region with the driver's data `T`.
///
/// There is no function for its protection domain: user space can change that, so the driver keeps
/// note of it itself, in a way of its own.
pub type Mr<T> = Object<bindings::ib_mr, T>;

/// A memory region in the making.
pub type NewMr<'a, T> = New<'a, bindings::ib_mr, T>;

/// Memory of a process, and where in the region it is to be.
#[derive(Clone, Copy, Debug)]
pub struct UserMemory {
    /// Address in the process.
    pub start: u64,
    /// Length in bytes, which user space may give as zero.
    pub length: u64,
    /// Address by which it is known in work requests. It has the same offset into a page.
    pub virt_addr: u64,
}

/// What is to be changed of a memory region.
pub struct Rereg<'a, P> {
    /// Other memory.
    pub memory: Option<UserMemory>,
    /// Another protection domain.
    pub pd: Option<&'a P>,
    /// Other uses.
    pub access: Option<AccessFlags>,
}

/// A part of device memory.
pub struct DmPart<'a, D> {
    /// The memory.
    pub dm: &'a D,
    /// Where in it the part begins. `ib_core` has checked that it is within.
    pub offset: u64,
    /// Length in bytes, which can be zero.
    pub length: u64,
}

type DmOf<T> = Dm<<<T as Operations>::Device as ops::Operations>::Dm>;

type PdOf<T> = Pd<<<T as Operations>::Device as ops::Operations>::Pd>;

/// What a driver does for memory regions. To be implemented by the driver's data for one.
///
/// The function that makes one sets its keys, with [`NewMr::set_keys`].
#[vtable]
pub trait Operations: Sized + Send + Sync + 'static {
    /// The driver.
    type Device: ops::Operations<Mr = Self>;

    /// Whether there are such. If not, the other functions are not called.
    const SUPPORTED: bool = true;

    /// Registers memory of the current process. `ib_core` has checked that the flags of `access` are
    /// known, and that those that let others write come with [`AccessFlags::LOCAL_WRITE`].
    fn reg_user(
        mr: &mut NewMr<'_, Self>,
        pd: &PdOf<Self>,
        memory: UserMemory,
        access: AccessFlags,
        call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result<impl PinInit<Self, Error>>;

    /// As [`Self::created`](super::qp::Operations::created) of queue pairs, however the region was made.
    fn created(_mr: &Mr<Self>) -> Result {
        Ok(())
    }

    /// Changes a registration. If it fails, the region must be as before.
    fn rereg_user(
        _mr: &Mr<Self>,
        _change: &Rereg<'_, PdOf<Self>>,
        _call: Option<&UserCall<'_, Self::Device>>,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Registers all memory of the kernel, for the kernel. In a device without DMA, addresses in this
    /// region are the kernel's virtual ones.
    fn get_dma(
        mr: &mut NewMr<'_, Self>,
        pd: &PdOf<Self>,
        access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Allocates a region for the kernel to map memory in later, up to `max_pages` pages.
    fn alloc(
        mr: &mut NewMr<'_, Self>,
        pd: &PdOf<Self>,
        mr_type: MrType,
        max_pages: u32,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Registers a part of device memory, whose first byte has the address zero.
    fn reg_dm(
        mr: &mut NewMr<'_, Self>,
        pd: &PdOf<Self>,
        part: &DmPart<'_, DmOf<Self>>,
        access: AccessFlags,
    ) -> Result<impl PinInit<Self, Error>>;

    /// Begins to map memory in a region of [`Self::alloc`], in pages of `page_size` bytes. What was
    /// mapped before is no longer. For each page, [`Self::map_page`] follows.
    fn map_start(_mr: &Mr<Self>, _page_size: u32) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Maps the next page. `ENOMEM` if there are too many; those before stay mapped.
    fn map_page(_mr: &Mr<Self>, _page: MappedPage) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Has memory ready that work requests will name by these local keys (`ibv_advise_mr(3)`). Returns
    /// when that is done, as any user may expect who asks for it.
    fn advise(_pd: &PdOf<Self>, _advice: MrAdvice, _sges: &[Sge]) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Called before the region goes. The driver has to give up what references to the region it
    /// keeps: it goes when there is none. If it fails the region stays as it is; it should not, save
    /// that memory windows are bound to it.
    fn dereg(_mr: &Mr<Self>) -> Result {
        Ok(())
    }

    /// Writes what there is to say of the state of a region, for people, see [`details`](super::details).
    /// Others may use it at the same time.
    fn details(_mr: &Mr<Self>, _details: &mut Details<'_>) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

// SAFETY: See `Callbacks::dereg`; `ib_core` calls it where it may sleep.
unsafe impl Shared for bindings::ib_mr {}

has_device!(ib_mr);

impl<T: Operations> NewMr<'_, T> {
    /// Sets the keys by which work requests, and the other side's, name the region.
    pub fn set_keys(&mut self, lkey: u32, rkey: u32) {
        // SAFETY: By the type invariants nobody else uses the object.
        unsafe {
            (*self.as_raw()).lkey = lkey;
            (*self.as_raw()).rkey = rkey;
        }
    }
}

impl<T: Operations> Mr<T> {
    /// The key by which work requests name the region.
    pub fn lkey(&self) -> u32 {
        // SAFETY: A valid object. A kernel user changes the key with `ib_update_fast_reg_key()`.
        unsafe { (&raw const (*self.as_raw()).lkey).read_volatile() }
    }

    /// The key by which the other side's work requests name the region.
    pub fn rkey(&self) -> u32 {
        // SAFETY: As in `lkey`.
        unsafe { (&raw const (*self.as_raw()).rkey).read_volatile() }
    }

    /// Whether it is over device memory.
    pub fn is_dm(&self) -> bool {
        // SAFETY: A valid object. `ib_core` sets the field when the driver has made the region.
        unsafe { !(&raw const (*self.as_raw()).dm).read_volatile().is_null() }
    }

    /// What the first byte of a region of [`Operations::alloc`] has as its address, and the length in
    /// bytes. Valid when memory has been mapped in it.
    pub fn mapped(&self) -> (u64, u64) {
        // SAFETY: A valid object. Only who maps memory in the region changes the fields.
        unsafe {
            (
                (&raw const (*self.as_raw()).iova).read_volatile(),
                (&raw const (*self.as_raw()).length).read_volatile(),
            )
        }
    }
}

/// The callbacks for `struct ib_device_ops`.
pub(super) struct Callbacks<T>(PhantomData<T>);

type Memory<T> = KBox<MaybeUninit<Mr<T>>>;

impl<T: Operations> Callbacks<T> {
    /// Allocates a region and has `init` initialise it.
    ///
    /// # Safety
    ///
    /// If `init`, which gets the memory for an `Mr<T>`, succeeds, it must have initialised the
    /// driver's part.
    unsafe fn make(
        pd: &PdOf<T>,
        flags: Flags,
        init: impl FnOnce(*mut bindings::ib_mr) -> Result,
    ) -> Result<*mut bindings::ib_mr> {
        // All zeroes is what `ib_core` expects of an `ib_mr` where it does not set the fields.
        let mut memory: Memory<T> = KBox::new_uninit(flags | __GFP_ZERO)?;
        let mr: *mut bindings::ib_mr = memory.as_mut_ptr().cast();
        // SAFETY: The memory is ours. `ib_core` sets the field as well, but not before it has the
        // region, and the driver wants to know.
        unsafe { (*mr).device = pd.device().as_raw() };
        init(mr)?;
        // SAFETY: By the function's requirements it is initialised. If `created` fails, nobody has a
        // reference to the object, or gives it up soon.
        unsafe { T::created(Mr::from_raw(mr)).inspect_err(|_| Mr::<T>::destroy(mr))? };
        // It is freed in `dereg`.
        let _ = KBox::into_raw(memory);
        Ok(mr)
    }

    fn made(mr: Result<*mut bindings::ib_mr>) -> *mut bindings::ib_mr {
        mr.unwrap_or_else(|err| err.to_ptr())
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `reg_user_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn reg_user(
        pd: *mut bindings::ib_pd,
        start: u64,
        length: u64,
        virt_addr: u64,
        access: c_int,
        dmah: *mut bindings::ib_dmah,
        udata: *mut bindings::ib_udata,
    ) -> *mut bindings::ib_mr {
        if !dmah.is_null() {
            return eopnotsupp().to_ptr();
        }
        // SAFETY: `ib_core` passes a valid domain, and the call's udata, if any.
        let (pd, call) = unsafe { (Pd::from_raw(pd), UserCall::from_raw(udata)) };
        let memory = UserMemory {
            start,
            length,
            virt_addr,
        };
        let access = AccessFlags::from_bits(access as u32);
        // SAFETY: The memory is large enough, and only ours. The region is initialised.
        Self::made(unsafe {
            Self::make(pd, UserCall::flags(call.as_ref()), |mr| {
                let mut new = NewMr::from_raw(mr);
                let data = T::reg_user(&mut new, pd, memory, access, call.as_ref())?;
                Mr::init(mr, data)?;
                Ok(())
            })
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `get_dma_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn get_dma(
        pd: *mut bindings::ib_pd,
        access: c_int,
    ) -> *mut bindings::ib_mr {
        // SAFETY: `ib_core` passes a valid domain.
        let pd = unsafe { Pd::from_raw(pd) };
        let access = AccessFlags::from_bits(access as u32);
        // SAFETY: The memory is large enough, and only ours. The region is initialised.
        Self::made(unsafe {
            Self::make(pd, GFP_KERNEL, |mr| {
                let mut new = NewMr::from_raw(mr);
                let data = T::get_dma(&mut new, pd, access)?;
                Mr::init(mr, data)?;
                Ok(())
            })
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `alloc_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn alloc(
        pd: *mut bindings::ib_pd,
        mr_type: bindings::ib_mr_type,
        max_pages: u32,
    ) -> *mut bindings::ib_mr {
        // SAFETY: `ib_core` passes a valid domain.
        let pd = unsafe { Pd::from_raw(pd) };
        // SAFETY: The memory is large enough, and only ours. The region is initialised.
        Self::made(unsafe {
            Self::make(pd, GFP_KERNEL, |mr| {
                let mut new = NewMr::from_raw(mr);
                let data = T::alloc(&mut new, pd, mr_type.try_into()?, max_pages)?;
                Mr::init(mr, data)?;
                Ok(())
            })
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `reg_dm_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn reg_dm(
        pd: *mut bindings::ib_pd,
        dm: *mut bindings::ib_dm,
        attr: *mut bindings::ib_dm_mr_attr,
        _attrs: *mut bindings::uverbs_attr_bundle,
    ) -> *mut bindings::ib_mr {
        // SAFETY: `ib_core` passes a valid domain, valid memory, and the attributes.
        let (pd, dm, attr) = unsafe { (Pd::from_raw(pd), Dm::from_raw(dm), &*attr) };
        let part = DmPart {
            dm,
            offset: attr.offset,
            length: attr.length,
        };
        let access = AccessFlags::from_bits(attr.access_flags);
        // SAFETY: The memory is large enough, and only ours. The region is initialised.
        Self::made(unsafe {
            Self::make(pd, GFP_KERNEL_ACCOUNT, |mr| {
                let mut new = NewMr::from_raw(mr);
                let data = T::reg_dm(&mut new, pd, &part, access)?;
                Mr::init(mr, data)?;
                Ok(())
            })
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `rereg_user_mr` of a device of the driver `T::Device`.
    #[allow(clippy::too_many_arguments)] // C has that many.
    pub(super) unsafe extern "C" fn rereg_user(
        mr: *mut bindings::ib_mr,
        flags: c_int,
        start: u64,
        length: u64,
        virt_addr: u64,
        access: c_int,
        pd: *mut bindings::ib_pd,
        udata: *mut bindings::ib_udata,
    ) -> *mut bindings::ib_mr {
        let has = |flag: u32| flags as u32 & flag != 0;
        // SAFETY: `ib_core` passes a valid region, the domain, and the call's udata, if any.
        let (mr, pd, call) = unsafe {
            (
                Mr::from_raw(mr),
                Pd::from_raw(pd),
                UserCall::from_raw(udata),
            )
        };
        let change = Rereg {
            memory: has(bindings::ib_mr_rereg_flags_IB_MR_REREG_TRANS).then_some(UserMemory {
                start,
                length,
                virt_addr,
            }),
            pd: has(bindings::ib_mr_rereg_flags_IB_MR_REREG_PD).then_some(pd),
            access: has(bindings::ib_mr_rereg_flags_IB_MR_REREG_ACCESS)
                .then_some(AccessFlags::from_bits(access as u32)),
        };
        match T::rereg_user(mr, &change, call.as_ref()) {
            // There is no new region.
            Ok(()) => ptr::null_mut(),
            Err(err) => err.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `map_mr_sg` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn map_sg(
        mr: *mut bindings::ib_mr,
        list: *mut kernel::bindings::scatterlist,
        len: c_int,
        offset: *mut c_uint,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a valid region, whose `page_size` it has set, and a mapped
            // list that it takes itself.
            unsafe {
                T::map_start(Mr::from_raw(mr), (*mr).page_size)?;
                Ok(bindings::ib_sg_to_pages(
                    mr,
                    list,
                    len,
                    offset,
                    Some(Self::map_page),
                ))
            }
        })
    }

    /// # Safety
    ///
    /// Only for `ib_sg_to_pages()` to call, with the region of [`Self::map_sg`].
    unsafe extern "C" fn map_page(mr: *mut bindings::ib_mr, addr: u64) -> c_int {
        from_result(|| {
            // SAFETY: By the function's requirements the address is one of the list that a kernel user
            // maps (`ib_map_mr_sg()`).
            unsafe { T::map_page(Mr::from_raw(mr), MappedPage::new(addr)?)? };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `advise_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn advise(
        pd: *mut bindings::ib_pd,
        advice: bindings::ib_uverbs_advise_mr_advice,
        _flags: u32,
        sges: *mut bindings::ib_sge,
        len: u32,
        _attrs: *mut bindings::uverbs_attr_bundle,
    ) -> c_int {
        from_result(|| {
            let advice = MrAdvice::try_from(advice).map_err(|_| eopnotsupp())?;
            // SAFETY: `ib_core` passes a valid domain, and a list of that many entries, which is not
            // empty.
            unsafe {
                let sges = core::slice::from_raw_parts(sges, len as usize);
                T::advise(Pd::from_raw(pd), advice, sges)?;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `dereg_mr` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn dereg(
        mr: *mut bindings::ib_mr,
        _udata: *mut bindings::ib_udata,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `ib_core` passes a region that `make` has made, and calls this until it
            // succeeds, when no call that uses the region is left. It does not use it afterwards.
            unsafe {
                T::dereg(Mr::from_raw(mr))?;
                Mr::<T>::destroy(mr);
                drop(Memory::<T>::from_raw(mr.cast()));
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Only for `ib_core` to call, as `fill_res_mr_entry` of a device of the driver `T::Device`.
    pub(super) unsafe extern "C" fn details(
        msg: *mut kernel::bindings::sk_buff,
        mr: *mut bindings::ib_mr,
    ) -> c_int {
        // SAFETY: `ib_core` passes a message that it is writing, and a region that is not destroyed
        // before this returns.
        unsafe { details::fill(msg, |details| T::details(Mr::from_raw(mr), details)) }
    }
}
