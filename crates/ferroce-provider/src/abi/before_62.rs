// SPDX-License-Identifier: MIT OR Apache-2.0
//! Private ABI 59 before rdma-core 62.
//!
//! rdma-core 62 kept the number 59, and put `dm_export_dmabuf_fd` into the middle of the table of
//! verbs and at the beginning of `verbs_context`, and `query_port_speed` into the table. One plug-in
//! has to do for both: a distribution's upgrade replaces libibverbs and leaves the plug-in. Only the
//! later libibverbs has `ibv_cmd_query_port_speed`, which tells them apart.

use core::mem::offset_of;
use core::ptr;

use super::private::Unused;
use super::verbs::{ContextOps, VerbsContext};

/// Length of a function's pointer in bytes.
const WORD: usize = size_of::<Unused>();

/// Number of functions in the table of 62.
const WORDS: usize = size_of::<ContextOps>() / WORD;

/// The functions that came with 62, as offsets in its table.
const ADDED: [usize; 2] = [
    offset_of!(ContextOps, dm_export_dmabuf_fd),
    offset_of!(ContextOps, query_port_speed),
];

/// Where `context` is in the older `verbs_context`: the field that came with 62 is before it.
pub const CONTEXT_OFFSET: usize = offset_of!(VerbsContext, context) - WORD;

/// The offset in the older table of the function that has `offset` in the table of 62, or `None` if
/// the older table does not have it.
const fn offset_before(offset: usize) -> Option<usize> {
    let [first, second] = ADDED;
    if offset == first || offset == second {
        return None;
    }
    let before = (offset > first) as usize + (offset > second) as usize;
    Some(offset - before * WORD)
}

/// The older table.
#[repr(C)]
pub struct Table([Unused; WORDS - ADDED.len()]);

impl Table {
    /// Takes the functions out of the table of 62.
    pub fn new(ops: &ContextOps) -> Self {
        let mut table = [None; WORDS - ADDED.len()];
        let words: *const [Unused; WORDS] = ptr::from_ref(ops).cast();
        // SAFETY: The table is all pointers to functions, or null; here they are not called.
        for (index, function) in unsafe { &*words }.iter().enumerate() {
            let index = offset_before(index * WORD).map(|offset| offset / WORD);
            if let Some(place) = index.and_then(|index| table.get_mut(index)) {
                *place = *function;
            }
        }
        Self(table)
    }
}

/// States offsets in the older structures, as `layouts!` does.
macro_rules! layouts_before_62 {
    (
        VerbsContext: $context_size:literal { context: $context:literal }
        ContextOps: $size:literal { $($field:ident: $offset:literal),* $(,)? }
    ) => {
        #[cfg(all(target_arch = "x86_64", target_env = "gnu", target_pointer_width = "64"))]
        const _: () = {
            assert!(size_of::<VerbsContext>() - WORD == $context_size);
            assert!(CONTEXT_OFFSET == $context);
            assert!(size_of::<Table>() == $size);
            $(assert!(
                matches!(offset_before(offset_of!(ContextOps, $field)), Some($offset)),
                stringify!($field)
            );)*
        };

        /// What is stated here.
        #[cfg(test)]
        pub const LAYOUTS: &[super::layout::Layout] = &[
            super::layout::Layout {
                name: "struct verbs_context",
                size: $context_size,
                fields: &[("context", $context)],
            },
            super::layout::Layout {
                name: "struct verbs_context_ops",
                size: $size,
                fields: &[$((stringify!($field), $offset)),*],
            },
        ];
    };
}

layouts_before_62! {
    VerbsContext: 672 { context: 344 }
    ContextOps: 632 {
        advise_mr: 0, alloc_dm: 8, alloc_mw: 24, alloc_parent_domain: 40, alloc_pd: 48, alloc_td: 56,
        attach_mcast: 80, bind_mw: 88, create_ah: 112, create_cq: 128, create_cq_ex: 136,
        create_qp: 160, create_qp_ex: 168, create_srq: 184, dealloc_mw: 216, dealloc_pd: 224,
        dealloc_td: 232, dereg_mr: 240, destroy_ah: 248, destroy_cq: 264, destroy_qp: 288,
        destroy_srq: 304, detach_mcast: 320, free_context: 328, free_dm: 336, import_mr: 360, import_pd: 368,
        modify_qp: 392, modify_srq: 408, poll_cq: 440, post_recv: 448, post_send: 456,
        post_srq_recv: 472, query_device_ex: 480, query_port: 496, query_qp: 504,
        query_rt_values: 520, query_srq: 528, reg_dm_mr: 544, reg_dmabuf_mr: 552, reg_mr: 560, req_notify_cq: 576,
        rereg_mr: 584, resize_cq: 592, unimport_mr: 616, unimport_pd: 624,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::specific::Specific;
    use crate::ffi::tests::fake::{put_library, Device};

    #[test]
    fn a_function_moves_to_where_an_older_libibverbs_looks_for_it() {
        put_library();
        let ops = Device::ops();
        let Table(table) = Table::new(&ops);
        let at = |offset: usize| table[offset / WORD].map(|f| f as *const ());
        assert_eq!(at(0), ops.advise_mr.map(|f| f as *const ()));
        // The last before what was added, and the first and the last behind it.
        assert_eq!(at(320), ops.detach_mcast.map(|f| f as *const ()));
        assert_eq!(at(328), ops.free_context.map(|f| f as *const ()));
        assert_eq!(at(496), ops.query_port.map(|f| f as *const ()));
        assert_eq!(at(504), ops.query_qp.map(|f| f as *const ()));
        assert_eq!(at(624), ops.unimport_pd.map(|f| f as *const ()));
        let kept = table.iter().flatten().count();
        let words: *const [Unused; WORDS] = ptr::from_ref(&ops).cast();
        // SAFETY: The table is all pointers to functions, or null.
        let all = unsafe { &*words }.iter().flatten().count();
        assert_eq!(kept, all - 1, "all but query_port_speed");
    }

    #[test]
    fn a_libibverbs_is_known_by_its_functions() {
        let has = |missing: &'static core::ffi::CStr| {
            let find = move |name: &core::ffi::CStr| {
                if name == missing {
                    ptr::null_mut()
                } else {
                    ptr::dangling_mut()
                }
            };
            // SAFETY: None of them is called.
            unsafe { Specific::find(&find) }.map(|library| library.context_offset())
        };
        assert_eq!(has(c"none"), Ok(CONTEXT_OFFSET + WORD));
        assert_eq!(has(c"ibv_cmd_query_port_speed"), Ok(CONTEXT_OFFSET));
        let name = c"ibv_cmd_get_context";
        assert_eq!(has(name), Err(name));
    }
}
