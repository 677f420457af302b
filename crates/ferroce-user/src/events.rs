// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events, as a program reads them from a descriptor: of completion channels, and asynchronous ones.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use parking_lot::Mutex;

/// The two ends of a descriptor that events are read from. The one to read from is the program's.
pub struct Events {
    write: OwnedFd,
    /// Where the program reads.
    read: RawFd,
    /// What there was no room for.
    waiting: Mutex<VecDeque<Vec<u8>>>,
}

impl Events {
    /// Those of a socket pair.
    pub fn new(read: RawFd, write: OwnedFd) -> Self {
        Self {
            write,
            read,
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    /// Adds an event. Returns whether there was no room for it: somebody is to [try again](Self::flush).
    pub fn send(&self, event: &[u8]) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() && self.try_send(event) {
            return false;
        }
        waiting.push_back(event.to_vec());
        true
    }

    /// Sends what there was no room for. Returns whether there still is not.
    pub fn flush(&self) -> bool {
        let mut waiting = self.waiting.lock();
        while let Some(event) = waiting.front() {
            if !self.try_send(event) {
                return true;
            }
            waiting.pop_front();
        }
        false
    }

    /// Takes back the events that `is_meant` says. Returns how many that were: the others the program has
    /// read.
    pub fn take_back(&self, is_meant: impl Fn(&[u8]) -> bool) -> u32 {
        let mut waiting = self.waiting.lock();
        let mut kept = VecDeque::new();
        let mut count = 0;
        let mut bytes = [0; 64];
        let mut sort = |event: &[u8]| match is_meant(event) {
            true => count += 1,
            false => kept.push_back(event.to_vec()),
        };
        // In the order in which they were sent. A thread that reads meanwhile gets one or the other.
        loop {
            // SAFETY: There is room for so many bytes. (A descriptor that is none any more is an error.)
            let length = unsafe {
                libc::recv(
                    self.read,
                    bytes.as_mut_ptr().cast(),
                    bytes.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(length) {
                Ok(length @ 1..) => sort(&bytes[..length.min(bytes.len())]),
                _ => break,
            }
        }
        waiting.iter().for_each(|event| sort(event));
        *waiting = kept;
        drop(waiting);
        self.flush();
        count
    }

    /// Whether that worked, or never will.
    fn try_send(&self, event: &[u8]) -> bool {
        // SAFETY: The descriptor is open, and the event is there during the call.
        let sent = unsafe {
            libc::send(
                self.write.as_raw_fd(),
                event.as_ptr().cast(),
                event.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        let is_full = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
        sent >= 0 || !is_full.contains(&io::Error::last_os_error().kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket;

    #[test]
    fn no_event_is_lost_and_those_of_one_object_are_taken_back() {
        let (read, write) = socket::pair().unwrap();
        let events = Events::new(read.as_raw_fd(), write);
        let mut sent = 0_u64;
        while !events.send(&(sent % 3).to_ne_bytes()) {
            sent += 1;
        }
        sent += 1;
        assert!(sent > 10);
        assert!(events.flush(), "there is still no room");
        let read_one = || {
            let mut bytes = [0; 8];
            // SAFETY: There is room for so many bytes.
            let length = unsafe {
                libc::recv(
                    read.as_raw_fd(),
                    bytes.as_mut_ptr().cast(),
                    8,
                    libc::MSG_DONTWAIT,
                )
            };
            (length == 8).then(|| u64::from_ne_bytes(bytes))
        };
        assert_eq!(read_one(), Some(0));
        let taken = events.take_back(|event| event == 1_u64.to_ne_bytes());
        let left: Vec<u64> = core::iter::from_fn(|| {
            events.flush();
            read_one()
        })
        .collect();
        assert!(!left.contains(&1));
        assert_eq!(u64::from(taken) + left.len() as u64 + 1, sent);
    }
}
