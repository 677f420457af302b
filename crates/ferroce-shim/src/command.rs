// SPDX-License-Identifier: MIT OR Apache-2.0
//! Write commands on a device file (`rdma/ib_user_verbs.h`; for the connection manager's see [`rdma_cm`]).
//!
//! The plug-in carries out all commands that libibverbs leaves to it. libibverbs itself writes one: to
//! make a completion channel.

use core::ffi::{c_int, c_void};

use libc::{size_t, ssize_t};

use crate::device::Device;
use crate::{channel, device, fail, rdma_cm, real, set_errno};

/// `struct ib_uverbs_cmd_hdr`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Header {
    command: u32,
    /// The command's length and its answer's, in words of four bytes.
    in_words: u16,
    out_words: u16,
}

/// A command that is all header and `struct ib_uverbs_create_comp_channel`.
#[derive(Clone, Copy)]
#[repr(C)]
struct CreateCompChannel {
    header: Header,
    /// Where a [`CreateCompChannelResponse`] goes to.
    response: u64,
}

/// `struct ib_uverbs_create_comp_channel_resp`.
#[repr(C)]
struct CreateCompChannelResponse {
    fd: u32,
}

const _: () = {
    assert!(size_of::<Header>() == 8);
    assert!(size_of::<CreateCompChannel>() == 16);
    assert!(size_of::<CreateCompChannelResponse>() == 4);
};

/// `IB_USER_VERBS_CMD_CREATE_COMP_CHANNEL`.
const CREATE_COMP_CHANNEL: u32 = 17;

/// libc's function of this name.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn write(fd: c_int, buffer: *const c_void, count: size_t) -> ssize_t {
    if let Some(device) = device::opened(fd) {
        // SAFETY: By the caller.
        let result = unsafe {
            match device {
                Device::Verbs(_) => run(buffer, count),
                Device::ConnectionManager => rdma_cm::command(fd, buffer, count),
            }
        };
        return match result {
            // The kernel takes a command as a whole.
            Ok(()) => count.cast_signed(),
            Err(errno) => fail(errno) as ssize_t,
        };
    }
    match real::write() {
        // SAFETY: By the caller.
        Some(write) => unsafe { write(fd, buffer, count) },
        None => {
            set_errno(libc::ENOSYS);
            -1
        }
    }
}

/// Carries out a command.
///
/// # Safety
/// There are `count` bytes at the address. If they are a command, the address in it is that of enough room
/// for its answer, as the command's header says.
#[cold]
unsafe fn run(buffer: *const c_void, count: size_t) -> Result<(), c_int> {
    if count < size_of::<Header>() {
        return Err(libc::EINVAL);
    }
    // SAFETY: There are as many bytes.
    let header = unsafe { buffer.cast::<Header>().read_unaligned() };
    if header.command != CREATE_COMP_CHANNEL {
        return Err(libc::EOPNOTSUPP);
    }
    let room = usize::from(header.out_words) * 4;
    let too_short = room < size_of::<CreateCompChannelResponse>();
    if count < size_of::<CreateCompChannel>()
        || usize::from(header.in_words) * 4 != count
        || too_short
    {
        return Err(if too_short {
            libc::ENOSPC
        } else {
            libc::EINVAL
        });
    }
    // SAFETY: There are as many bytes.
    let command = unsafe { buffer.cast::<CreateCompChannel>().read_unaligned() };
    let response = command.response as *mut CreateCompChannelResponse;
    if response.is_null() {
        return Err(libc::EFAULT);
    }
    let fd = channel::create()?.cast_unsigned();
    // SAFETY: By this function's contract.
    unsafe { response.write_unaligned(CreateCompChannelResponse { fd }) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;

    fn command(
        command: u32,
        in_words: u16,
        out_words: u16,
        response: *mut u32,
    ) -> CreateCompChannel {
        CreateCompChannel {
            header: Header {
                command,
                in_words,
                out_words,
            },
            response: response as u64,
        }
    }

    fn ran(command: &CreateCompChannel, count: usize) -> Result<(), c_int> {
        // SAFETY: The command has as many bytes, and room for its answer or no address.
        unsafe { run(ptr::from_ref(command).cast(), count) }
    }

    #[test]
    fn a_completion_channel_is_made() {
        let mut fd = u32::MAX;
        ran(&command(17, 4, 1, &mut fd), 16).unwrap();
        let fd = fd.cast_signed();
        assert!(channel::ferroce_shim_channel(fd) >= 0);
        // SAFETY: Nobody else uses it.
        unsafe { libc::close(fd) };
    }

    #[test]
    fn what_is_no_command_fails_as_in_the_kernel() {
        let mut fd = 0;
        let at = &raw mut fd;
        assert_eq!(ran(&command(17, 4, 1, at), 4), Err(libc::EINVAL));
        assert_eq!(ran(&command(17, 4, 1, at), 8), Err(libc::EINVAL));
        assert_eq!(ran(&command(17, 5, 1, at), 16), Err(libc::EINVAL));
        assert_eq!(ran(&command(17, 4, 0, at), 16), Err(libc::ENOSPC));
        assert_eq!(
            ran(&command(17, 4, 1, ptr::null_mut()), 16),
            Err(libc::EFAULT)
        );
        assert_eq!(ran(&command(3, 4, 1, at), 16), Err(libc::EOPNOTSUPP));
    }
}
