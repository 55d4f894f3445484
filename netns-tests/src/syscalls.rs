//! Which system calls change nothing but the program that makes them.
use std::fs;

use nix::libc;
use nix::unistd::Pid;

/// Whether the system call that a stopped program is about to make leaves no trace
/// once the program is dead. When in doubt, it does leave one.
pub(crate) fn is_traceless(pid: Pid) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/syscall")) else {
        return false;
    };
    let mut words = text.split_whitespace();
    let number = words.next().and_then(|number| number.parse().ok());
    let arguments: Vec<u64> = words.map_while(hexadecimal).collect();
    number.is_some_and(|number| leaves_nothing(number, &arguments))
}

fn leaves_nothing(number: i64, arguments: &[u64]) -> bool {
    let creates = |flags: usize| {
        let create = libc::O_CREAT | libc::O_TRUNC;
        arguments
            .get(flags)
            .is_none_or(|flags| flags & u64::from(create.unsigned_abs()) != 0)
    };
    match number {
        libc::SYS_openat => !creates(2),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => !creates(1),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll | libc::SYS_readlink | libc::SYS_arch_prctl => true,
        number => TRACELESS.contains(&number),
    }
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// Locks, descriptors, memory and where a thread is end with the program.
const TRACELESS: [i64; 38] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_setns,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_socket,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_uname,
    libc::SYS_getsockopt,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_a_file_leaves_a_trace_only_if_it_may_make_one() {
        let open = |flags: i32| {
            leaves_nothing(
                libc::SYS_openat,
                &[0, 0, u64::from(flags.unsigned_abs()), 0],
            )
        };
        assert!(open(libc::O_RDONLY | libc::O_CLOEXEC) && open(libc::O_WRONLY));
        assert!(!open(libc::O_WRONLY | libc::O_CREAT) && !open(libc::O_WRONLY | libc::O_TRUNC));
        assert!(!leaves_nothing(libc::SYS_openat, &[]));
    }

    #[test]
    fn what_writes_sends_links_or_is_unknown_leaves_a_trace() {
        for number in [
            libc::SYS_write,
            libc::SYS_sendto,
            libc::SYS_linkat,
            libc::SYS_unlinkat,
            libc::SYS_mount,
            -1,
        ] {
            assert!(!leaves_nothing(number, &[]));
        }
    }
}
