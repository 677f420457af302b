// SPDX-License-Identifier: GPL-2.0

//! What must be.

/// Fails the test, and says why, if something is not so.
macro_rules! check {
    ($so:expr, $($what:tt)+) => {
        if !$so {
            ::kernel::pr_err!("{}:{}: {}\n", file!(), line!(), ::kernel::prelude::fmt!($($what)+));
            return Err(::kernel::error::code::EIO);
        }
    };
}

/// Fails the test, and says what there is, if two values are not the same.
macro_rules! check_eq {
    ($is:expr, $must:expr) => {{
        let (is, must) = ($is, $must);
        check!(
            is == must,
            "{} is {:?}, not {:?}",
            stringify!($is),
            is,
            must
        );
    }};
}
