// SPDX-License-Identifier: MIT OR Apache-2.0
//! A seccomp filter, as containers have one.

/// What Docker's default profile refuses a container without capabilities, of what might be of use here.
pub const REFUSED: [libc::c_long; 12] = [
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_pidfd_getfd,
    libc::SYS_ptrace,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_open_by_handle_at,
];

/// Installs a filter that refuses these system calls.
pub fn refuse(refused: &[libc::c_long]) -> std::io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let instruction = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    // The number is the first field of `struct seccomp_data`.
    let mut filter = vec![instruction(LOAD, 0, 0)];
    for (index, call) in refused.iter().enumerate() {
        let to_end = (refused.len() - index) as u8;
        filter.push(instruction(EQUALS, to_end, *call as u32));
    }
    filter.push(instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW));
    let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    filter.push(instruction(RETURN, 0, refused));
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: The filter is there during the calls.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) != 0
    };
    match failed {
        true => Err(std::io::Error::last_os_error()),
        false => Ok(()),
    }
}
