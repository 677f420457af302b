// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where atomics decide: nobody waits in vain, and nothing is left undone, in any order of the accesses.

mod arming;
mod destroy;
mod doorbell;
mod lock;
mod memory;
mod mutex;
mod published;
mod turn;
mod users;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Runs a model in all orders that there are, and says how many those were. With `preemptions`, those in
/// which threads are preempted more often are left out.
fn model(preemptions: Option<usize>, run: impl Fn() + Sync + Send + 'static) {
    let orders = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check({
        let orders = orders.clone();
        move || {
            orders.fetch_add(1, Ordering::Relaxed);
            ferroce_device_loom::atomic::forget();
            run();
        }
    });
    println!("{orders:?} orders");
}
