// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lock between processes, whose holder may die at any instruction.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

/// A lock in shared memory. It holds the serial number (`registry`) of the process that has it.
///
/// It is for a few instructions: nobody waits for anything else while it has one, and no thread takes one
/// twice.
#[derive(Debug)]
#[repr(transparent)]
pub struct Lock(pub AtomicU32);

/// How often to look again before others run. A holder that runs is done by then.
const SPINS: u32 = 200;

/// How often others run before this thread sleeps: the holder was interrupted.
const YIELDS: u32 = 100;

/// How long to sleep before looking again, and at whether the holder is still there.
const LOOK: Duration = Duration::from_micros(50);

/// Who takes locks, and who is alive.
pub trait Owner {
    /// The serial number of this process, below 2^31 and not zero.
    fn serial(&self) -> u32;

    /// Whether the process of that serial number is alive.
    fn is_alive(&self, serial: u32) -> bool;
}

/// A lock that is held.
pub struct Guard<'a> {
    lock: &'a Lock,
    /// The serial number of the process that had it before and has died with it: what the lock protects may be
    /// half done.
    pub dead_holder: Option<u32>,
}

impl Lock {
    /// The serial number of the process that has it, for others to look at.
    pub fn holder(&self) -> Option<u32> {
        let holder = self.0.load(Ordering::Relaxed);
        (holder != 0).then_some(holder)
    }

    /// Takes the lock.
    pub fn lock(&self, owner: &impl Owner) -> Guard<'_> {
        let me = owner.serial();
        // Acquire: pairs with the release of its last holder.
        match self
            .0
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Guard {
                lock: self,
                dead_holder: None,
            },
            Err(_) => self.lock_slowly(owner, me),
        }
    }

    /// Takes the lock if it is free, or if its holder has ended.
    pub fn look(&self, owner: &impl Owner) -> Option<Guard<'_>> {
        let me = owner.serial();
        let holder = self.0.load(Ordering::Relaxed);
        let is_dead = holder != 0 && holder != me && !owner.is_alive(holder);
        if holder != 0 && !is_dead {
            return None;
        }
        let taken = self
            .0
            .compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then(|| Guard {
            lock: self,
            dead_holder: is_dead.then_some(holder),
        })
    }

    #[cold]
    fn lock_slowly(&self, owner: &impl Owner, me: u32) -> Guard<'_> {
        for _ in 0..SPINS {
            if self.0.load(Ordering::Relaxed) == 0
                && self
                    .0
                    .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return Guard {
                    lock: self,
                    dead_holder: None,
                };
            }
            core::hint::spin_loop();
        }
        let mut looks = 0;
        loop {
            if let Some(guard) = self.look(owner) {
                return guard;
            }
            match looks < YIELDS {
                true => std::thread::yield_now(),
                false => std::thread::sleep(LOOK),
            }
            looks += 1;
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Release: pairs with the acquire of its next holder. Nobody is to be woken, so a store will do: an
        // exchange would be a good part of what a short message costs.
        self.lock.0.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::UnsafeCell;
    use std::sync::atomic::AtomicBool;

    struct Process(u32, AtomicBool);

    impl Owner for Process {
        fn serial(&self) -> u32 {
            self.0
        }

        fn is_alive(&self, serial: u32) -> bool {
            serial != 9 || self.1.load(Ordering::Relaxed)
        }
    }

    struct Counted(Lock, UnsafeCell<u64>);
    // SAFETY: The number is only touched with the lock held.
    unsafe impl Sync for Counted {}

    #[test]
    fn one_thread_at_a_time_has_it() {
        let counted = Counted(Lock(AtomicU32::new(0)), UnsafeCell::new(0));
        std::thread::scope(|scope| {
            for serial in 1..=4 {
                let counted = &counted;
                scope.spawn(move || {
                    let process = Process(serial, AtomicBool::new(true));
                    for _ in 0..20_000 {
                        let _guard = counted.0.lock(&process);
                        // SAFETY: The lock is held.
                        unsafe { *counted.1.get() += 1 };
                    }
                });
            }
        });
        assert_eq!(counted.1.into_inner(), 80_000);
    }

    #[test]
    fn the_lock_of_a_dead_process_is_inherited() {
        let process = Process(1, AtomicBool::new(true));
        let lock = Lock(AtomicU32::new(9));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.lock(&process).dead_holder);
            std::thread::sleep(Duration::from_millis(5));
            assert!(!waiter.is_finished());
            process.1.store(false, Ordering::Relaxed);
            assert_eq!(waiter.join().unwrap(), Some(9));
        });
        assert_eq!(lock.lock(&process).dead_holder, None);
    }
}
