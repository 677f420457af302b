// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the kernel's own reports of trouble in its log.

/// A report: an oops, a panic, a warning, or what a checker found.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// Its first line.
    pub title: String,
    /// The part of the log that belongs to it.
    pub text: String,
}

/// What the first line of a report contains, and where the kernel prints it.
const BEGINNINGS: [&str; 19] = [
    "Kernel panic - not syncing",         // kernel/panic.c
    "WARNING: ",                          // kernel/panic.c, lib/bug.c, kernel/locking/lockdep.c
    "BUG: ",                              // KASAN, lockdep, scheduling while atomic, NULL pointers
    "kernel BUG at ",                     // lib/bug.c
    "Oops: ",                             // arch/x86/kernel/dumpstack.c
    "Kernel mode fault at addr",          // arch/um/kernel/trap.c
    "Kernel tried to access user memory", // arch/um/kernel/trap.c
    "general protection fault",           // arch/x86/kernel/traps.c
    "Unable to handle kernel",            // other architectures
    "rust_kernel: panicked",              // rust/kernel/lib.rs
    "UBSAN: ",                            // lib/ubsan.c
    "ODEBUG: ",                           // lib/debugobjects.c
    "INFO: task ",                        // kernel/hung_task.c
    "rcu: INFO: ",                        // kernel/rcu/tree_stall.h
    "INFO: possible ",                    // older lockdep
    "soft lockup",                        // kernel/watchdog.c
    "DEADLOCK",                           // kernel/locking/lockdep.c
    "refcount_t: ",                       // lib/refcount.c
    "list_add corruption",                // lib/list_debug.c
];

/// The most lines of a report that are shown.
const LINES: usize = 60;

/// Finds the first report in a kernel's log.
pub fn find(log: &str) -> Option<Report> {
    let lines: Vec<&str> = log.lines().collect();
    let first = lines.iter().position(|line| begins(line))?;
    let title = message(lines[first]).trim().to_owned();
    let mut last = lines.len().min(first + LINES);
    if let Some(end) = lines[first..last]
        .iter()
        .position(|l| l.contains("---[ end "))
    {
        last = first + end + 1;
    }
    Some(Report {
        title,
        text: lines[first..last].join("\n"),
    })
}

/// The taint flags that the kernel sets with a report: machine check (4), bad
/// page (5), oops (7), warning (9), soft lockup (14).
/// Documentation/admin-guide/tainted-kernels.rst.
pub fn tainted(flags: u64) -> bool {
    const REPORTS: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 9 | 1 << 14;
    flags & REPORTS != 0
}

/// The end of a log, for when a guest ends without a word.
pub fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn begins(line: &str) -> bool {
    let message = message(line);
    BEGINNINGS.iter().any(|b| message.contains(b))
}

/// A line of the log without its time.
fn message(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
        Some((time, message)) if time.trim().parse::<f64>().is_ok() => message,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_cut_out_of_the_log_up_to_its_end() {
        let log = "[    0.1] booting\n[    1.0] ------------[ cut here ]------------\n\
            [    1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:1\n[    1.0] Call Trace:\n\
            [    1.0] ---[ end trace 0000000000000000 ]---\n[    2.0] later\n";
        let report = find(log).unwrap();
        assert_eq!(report.title, "WARNING: CPU: 0 PID: 1 at kernel/x.c:1");
        assert!(report
            .text
            .ends_with("---[ end trace 0000000000000000 ]---"));
        assert!(!report.text.contains("later"));
    }

    #[test]
    fn an_ordinary_log_has_no_report() {
        assert_eq!(
            find("[    0.1] Linux version 7.2\n[    0.2] rdma_rxe: loaded\n"),
            None
        );
    }

    #[test]
    fn a_forced_or_unsigned_module_is_no_report_but_a_warning_is() {
        assert!(!tainted(1 << 12 | 1 << 13));
        assert!(tainted(1 << 9));
    }
}
