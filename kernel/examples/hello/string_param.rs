// SPDX-License-Identifier: GPL-2.0

//! A string as a module parameter.
//!
//! `module!` in Linux 7.2 knows integer parameters only. C modules have had strings for ever, and
//! all of that is data: an entry in the section `__param` that names the parameter and says which
//! functions read and write it, and two texts in the section `.modinfo` for `modinfo -p`.
//! [`string_param!`] emits the same data. The functions are the kernel's own
//! (`param_ops_string`), which copy into a buffer of fixed length and refuse what does not fit, so
//! there is no memory to free and no callback to write here.
//!
//! C header: `include/linux/moduleparam.h` (`module_param_string()`)

use core::cell::UnsafeCell;
use kernel::{bindings, prelude::*, str::CStr};

/// The value of a string parameter: at most `LEN - 1` bytes and a NUL.
///
/// # Invariants
///
/// The kernel writes the bytes only while it parses the load-time parameters, which is before
/// `init_module` and so before any code of this module runs. Afterwards nobody writes them:
/// [`string_param!`] makes the file in sysfs read-only (0444), and this type hands out no `&mut`.
#[repr(transparent)]
pub(crate) struct StringParam<const LEN: usize>(UnsafeCell<[u8; LEN]>);

// SAFETY: By the type invariant there are no writes while the module can have readers.
unsafe impl<const LEN: usize> Sync for StringParam<LEN> {}

impl<const LEN: usize> StringParam<LEN> {
    /// A default that does not fit is a build error, as this runs at build time.
    pub(crate) const fn new(default: &CStr) -> Self {
        let from = default.to_bytes_with_nul();
        assert!(from.len() <= LEN, "the default does not fit");

        let mut bytes = [0; LEN];
        let mut i = 0;
        while i < from.len() {
            bytes[i] = from[i];
            i += 1;
        }
        Self(UnsafeCell::new(bytes))
    }

    pub(crate) fn value(&self) -> &CStr {
        // SAFETY: The pointer is to `self`, so it is valid, and by the type invariant nobody
        // writes the bytes while a function of this module, such as this one, can run.
        let bytes = unsafe { &*self.0.get() };
        CStr::from_bytes_until_nul(bytes).unwrap_or_default()
    }

    #[doc(hidden)]
    pub(crate) const fn target(&'static self) -> Target {
        Target(bindings::kparam_string {
            maxlen: LEN as c_uint,
            string: self.0.get().cast(),
        })
    }
}

/// Tells `param_ops_string` where the value goes and how much room there is.
#[doc(hidden)]
#[repr(transparent)]
pub(crate) struct Target(bindings::kparam_string);

// SAFETY: The fields are private and no method reads them; the C side reads them only.
unsafe impl Sync for Target {}

/// Text as an array, since a `&str` would put a pointer into `.modinfo` instead of the text.
#[doc(hidden)]
pub(crate) const fn to_array<const N: usize>(text: &str) -> [u8; N] {
    match text.as_bytes().first_chunk() {
        Some(bytes) => *bytes,
        None => panic!("N is more than the length of the text"),
    }
}

/// Declares a string parameter of this module.
///
/// ```ignore
/// string_param! {
///     static NAME: StringParam<32> = c"world";
///     name: "name",
///     description: "Whom to greet",
/// }
/// ```
macro_rules! string_param {
    (
        static $value:ident: StringParam<$len:literal> = $default:literal;
        name: $name:literal,
        description: $description:expr $(,)?
    ) => {
        static $value: $crate::string_param::StringParam<$len> =
            $crate::string_param::StringParam::new($default);

        const _: () = {
            static TARGET: $crate::string_param::Target = $value.target();

            // ANCHOR: param
            // The kernel takes this section for an array of `struct kernel_param`, so nothing but
            // that type may go in. `used(compiler)` because no Rust code refers to these statics.
            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam =
                ::kernel::module_param::KernelParam::new(::kernel::bindings::kernel_param {
                    name: concat!($name, "\0").as_ptr().cast(),
                    mod_: &raw mut ::kernel::bindings::__this_module,
                    ops: &raw const ::kernel::bindings::param_ops_string,
                    // `StringParam` relies on this having no write bit.
                    perm: 0o444,
                    // As `module_param()` has it: parsed with the other parameters of a module.
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: ::kernel::bindings::kernel_param__bindgen_ty_1 {
                        arg: (&raw const TARGET).cast_mut().cast(),
                    },
                });
            // ANCHOR_END: param

            const PARM: &str = concat!("parm=", $name, ":", $description, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARM_ENTRY: [u8; PARM.len()] = $crate::string_param::to_array(PARM);

            const PARMTYPE: &str = concat!("parmtype=", $name, ":string\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static PARMTYPE_ENTRY: [u8; PARMTYPE.len()] = $crate::string_param::to_array(PARMTYPE);
        };
    };
}
pub(crate) use string_param;
