// SPDX-License-Identifier: GPL-2.0

//! Memory on board of a PCI device, behind one of its base address registers (BARs): whoever reads and
//! writes it, kernel and processes, reaches the device.
//!
//! C headers: [`include/linux/pci.h`](srctree/include/linux/pci.h),
//! [`include/linux/io.h`](srctree/include/linux/io.h) (`memremap()`)

use core::ptr::{self, NonNull};
use kernel::{
    bindings::{
        memremap, memunmap, pci_dev, pci_release_region, pci_request_region, MEMREMAP_WB, PAGE_SIZE,
    },
    device::Core,
    error::to_result,
    new_mutex, pci,
    prelude::*,
    str::CStrExt,
    sync::{aref::ARef, Arc, Completion, Mutex, UniqueArc},
};

/// The memory of a BAR, all of which behaves as memory does (it is prefetchable), mapped in the kernel.
///
/// # Invariants
///
/// `start` is where the BAR, of `len` bytes, is mapped, by `memremap()`. The BAR is requested for this driver.
#[pin_data(PinnedDrop)]
pub struct BarMemory {
    start: NonNull<u8>,
    len: usize,
    reserved: usize,
    physical: u64,
    bar: c_int,
    device: ARef<pci::Device>,
    /// Of each page, whether it is allocated.
    #[pin]
    allocated: Mutex<KVVec<bool>>,
    gone: Arc<Completion>,
}

// SAFETY: The mapping is not tied to a thread, and may be taken away by any.
unsafe impl Send for BarMemory {}
// SAFETY: The methods only read what stays the same, or take the lock.
unsafe impl Sync for BarMemory {}

impl BarMemory {
    /// Maps a BAR of a device whose memory is enabled. The first `reserved` bytes will not be allocated.
    ///
    /// `gone` is completed when the memory is unmapped, which is when nobody has it, nor any part of it, any
    /// more. The driver must wait for that before it lets go of the device.
    pub fn map(
        device: &pci::Device<Core<'_>>,
        bar: u8,
        reserved: usize,
        name: &'static CStr,
        gone: Arc<Completion>,
    ) -> Result<Arc<Self>> {
        let physical = device.resource_start(bar.into())?;
        let len = usize::try_from(device.resource_len(bar.into())?)?;
        if len <= reserved {
            return Err(ENODEV);
        }
        let mut allocated = KVVec::from_elem(false, len / PAGE_SIZE, GFP_KERNEL)?;
        for page in allocated.iter_mut().take(reserved.div_ceil(PAGE_SIZE)) {
            *page = true;
        }
        let device: ARef<pci::Device> = (&**device).into();
        let bar = c_int::from(bar);
        // Before there is anything to be undone.
        let slot = UniqueArc::new_uninit(GFP_KERNEL)?;
        // SAFETY: A valid device, and a string that stays.
        to_result(unsafe { pci_request_region(raw(&device), bar, name.as_char_ptr()) })?;
        // SAFETY: The range is this driver's, as requested above.
        let start = unsafe { memremap(physical, len, MEMREMAP_WB as c_ulong) };
        let Some(start) = NonNull::new(start.cast()) else {
            // SAFETY: Requested above.
            unsafe { pci_release_region(raw(&device), bar) };
            return Err(ENOMEM);
        };
        // INVARIANT: As mapped above.
        let Ok(memory) = slot.pin_init_with(pin_init!(Self {
            start,
            len,
            reserved,
            physical,
            bar,
            device,
            allocated <- new_mutex!(allocated, "BarMemory::allocated"),
            gone,
        }));
        Ok(memory.into())
    }

    /// How many bytes may be allocated.
    pub fn available(&self) -> usize {
        self.len - self.reserved
    }

    /// Copies what it begins with. `EINVAL` if it is shorter.
    pub fn read_header(&self, to: &mut [u8]) -> Result {
        if to.len() > self.len {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants there are as many bytes. It is the device that they come from: by
        // the C function, so that the compiler takes nothing for granted of them.
        unsafe {
            kernel::bindings::memcpy(to.as_mut_ptr().cast(), self.start.as_ptr().cast(), to.len())
        };
        Ok(())
    }

    /// Allocates at least `len` bytes, one after the other, in whole pages, and zeroes them. `ENOMEM` if there is
    /// no place where as many are free.
    pub fn allocate(self: &Arc<Self>, len: usize) -> Result<BarPart> {
        let count = len.div_ceil(PAGE_SIZE).max(1);
        let mut allocated = self.allocated.lock();
        let mut free = 0;
        let end = allocated.iter().position(|is_allocated| {
            free = if *is_allocated { 0 } else { free + 1 };
            free == count
        });
        let place = end.ok_or(ENOMEM)? + 1 - count;
        allocated[place..][..count].fill(true);
        drop(allocated);
        let part = BarPart {
            memory: self.clone(),
            place,
            count,
        };
        // SAFETY: The pages are the new part's alone.
        unsafe { part.as_ptr().write_bytes(0, part.len()) };
        Ok(part)
    }
}

#[pinned_drop]
impl PinnedDrop for BarMemory {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. There are no parts of it, which keep it.
        unsafe {
            memunmap(self.start.as_ptr().cast());
            pci_release_region(raw(&self.device), self.bar);
        }
        self.gone.complete_all();
    }
}

/// The C structure of a device.
fn raw(device: &pci::Device) -> *mut pci_dev {
    // The type is a transparent wrapper of it.
    ptr::from_ref(device).cast_mut().cast()
}

/// A part of [`BarMemory`], which nobody else has.
pub struct BarPart {
    memory: Arc<BarMemory>,
    /// In pages.
    place: usize,
    count: usize,
}

impl BarPart {
    /// Where it is in the kernel.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: A part is within the memory.
        unsafe { self.memory.start.as_ptr().add(self.place * PAGE_SIZE) }
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.count * PAGE_SIZE
    }

    /// Its first page, as processors number them all.
    pub(super) fn page_frame(&self) -> usize {
        self.memory.physical as usize / PAGE_SIZE + self.place
    }
}

impl Drop for BarPart {
    fn drop(&mut self) {
        self.memory.allocated.lock()[self.place..][..self.count].fill(false);
    }
}
