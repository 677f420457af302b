// SPDX-License-Identifier: GPL-2.0

//! THIS MODULE CRASHES THE KERNEL BY DESIGN. Load it in a virtual machine only.
//!
//! On load it does the one wrong thing that its parameter `how` names. It tests that the lab
//! notices each kind of report a kernel can make:
//!
//! | `how`             | report                              | needs                          |
//! |-------------------|-------------------------------------|--------------------------------|
//! | `oops`            | invalid address (on UML: a panic)   |                                |
//! | `warn`            | `WARNING: ...`                      |                                |
//! | `bug`             | Rust panic, `BUG` (on UML: a panic) |                                |
//! | `use_after_free`  | `BUG: KASAN: slab-use-after-free`   | `KASAN`                        |
//! | `out_of_bounds`   | `BUG: KASAN: slab-out-of-bounds`    | `KASAN`                        |
//! | `leak`            | `unreferenced object`               | `DEBUG_KMEMLEAK`, see [`leak`] |
//! | `lock_order`      | `possible circular locking ...`     | `PROVE_LOCKING`                |
//! | `sleep_in_atomic` | `BUG: sleeping function called ...` | `DEBUG_ATOMIC_SLEEP`           |
//!
//! Without what it needs, a kernel lets the wrong thing pass and the module loads.

use core::hint::black_box;
use kernel::{
    prelude::*,
    sync::{new_mutex, new_spinlock},
};

#[path = "../../examples/hello/string_param.rs"]
mod string_param;
use string_param::string_param;

module! {
    type: Crash,
    name: "crash",
    authors: ["The ferroce authors"],
    description: "Crashes the kernel on purpose, to test that this is noticed",
    license: "GPL",
}

/// One list of the ways, for the table, for the log and for `modinfo -p`.
macro_rules! ways {
    ($($way:ident)*) => {
        const WAYS: &[(&str, fn() -> Result)] = &[$((stringify!($way), $way)),*];
        const CHOICES: &str = concat!($(" ", stringify!($way)),*);

        string_param! {
            static HOW: StringParam<32> = c"";
            name: "how",
            description: concat!("What to do wrong, one of:", $(" ", stringify!($way)),*),
        }
    };
}

ways! {
    oops
    warn
    bug
    use_after_free
    out_of_bounds
    leak
    lock_order
    sleep_in_atomic
}

struct Crash;

impl kernel::Module for Crash {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let how = HOW.value();
        let Some((name, go_wrong)) = WAYS
            .iter()
            .find(|(name, _)| name.as_bytes() == how.to_bytes())
        else {
            pr_err!("how=\"{how}\" is none of:{CHOICES}\n");
            return Err(EINVAL);
        };

        pr_info!("going wrong on purpose: {name}\n");
        go_wrong()?;
        pr_info!("survived: {name}\n");
        Ok(Crash)
    }
}

fn oops() -> Result {
    // In the first page, which is never mapped. Not null itself: a Rust with debug assertions
    // would check for that and panic, which is a different report.
    let nowhere = core::ptr::without_provenance::<u8>(0x10);
    // SAFETY: None, this is the wrong thing to do.
    unsafe { nowhere.read_volatile() };
    Ok(())
}

fn warn() -> Result {
    kernel::warn_on!(true);
    Ok(())
}

fn bug() -> Result {
    panic!("on purpose");
}

fn use_after_free() -> Result {
    let boxed = KBox::new([0u8; 40], GFP_KERNEL)?;
    let byte: *const u8 = boxed.as_ptr();
    drop(boxed);
    // SAFETY: None, this is the wrong thing to do.
    unsafe { byte.read_volatile() };
    Ok(())
}

fn out_of_bounds() -> Result {
    // Not a size that the allocator has: the byte behind is then within the slot, where a kernel
    // without KASAN reads it unharmed and one with KASAN has its red zone.
    let boxed = KBox::new([0u8; 40], GFP_KERNEL)?;
    let behind: *const u8 = boxed.as_ptr().wrapping_add(40);
    // SAFETY: None, this is the wrong thing to do.
    unsafe { behind.read_volatile() };
    Ok(())
}

/// Needs a kernel booted with `slab_debug=F`. kmemleak goes by the pointers it finds in memory, and
/// the allocator's own per-CPU arrays ("sheaves", some 60 objects each) keep stale pointers to what
/// they have handed out. That hides a leak as small as this; `slab_debug` turns sheaves off.
///
/// The report is in `/sys/kernel/debug/kmemleak` after two times `echo scan` into it, at least 5 s
/// from now: kmemleak spares younger objects, and those that changed since the scan before.
fn leak() -> Result {
    // More than one, in case the pointer to one lingers on a stack.
    for _ in 0..16 {
        black_box(KBox::into_raw(KBox::new([0u8; 40], GFP_KERNEL)?));
    }
    Ok(())
}

fn lock_order() -> Result {
    // Two calls of `new_mutex!`, for lockdep tells locks apart by where they are made.
    let first = KBox::pin_init(new_mutex!((), "crash::first"), GFP_KERNEL)?;
    let second = KBox::pin_init(new_mutex!((), "crash::second"), GFP_KERNEL)?;
    {
        let _first = first.lock();
        let _second = second.lock();
    }
    // One thread alone cannot deadlock this way. lockdep warns of the order as such.
    let _second = second.lock();
    let _first = first.lock();
    Ok(())
}

fn sleep_in_atomic() -> Result {
    let lock = KBox::pin_init(new_spinlock!(()), GFP_KERNEL)?;
    let _guard = lock.lock();
    // `GFP_KERNEL` lets the allocator sleep until there is memory. That is enough for the report,
    // and unlike a sleep that does happen it leaves the scheduler in order.
    KBox::new(0u8, GFP_KERNEL)?;
    Ok(())
}
