// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands in for the kernel's exports: a small table, for modules that
//! print, allocate, and take parameters.
//!
//! They run in the child, where no memory may be allocated by the usual means
//! and no system call made but to report.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void, CStr};
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::child::report_line;
use super::printk::{self, c_text, Arguments, Text};

/// What an import is resolved to.
#[derive(Debug, Clone, Copy)]
pub enum StandIn {
    /// A function of this program's, by its address.
    Function(usize),
    /// Code of its own, that needs no aligned stack.
    Code(&'static [u8]),
    /// Data, and how much of it at least.
    Data(&'static [u8], usize),
}

impl StandIn {
    /// How much room its data takes.
    pub fn cell_size(&self) -> usize {
        match self {
            Self::Data(data, size) => data.len().max(*size).next_multiple_of(16),
            _ => 0,
        }
    }
}

/// `ret`, and `xor eax, eax; ret`.
const RETURN: StandIn = StandIn::Code(&[0xc3]);
const RETURN_ZERO: StandIn = StandIn::Code(&[0x31, 0xc0, 0xc3]);
/// Room for a table of functions that are never called.
const UNUSED_TABLE: StandIn = StandIn::Data(&[], 64);

/// The stand-in for a symbol.
pub fn find(name: &str) -> Option<StandIn> {
    match name.starts_with("_R") {
        true => rust(&format!("{:#}", rustc_demangle::demangle(name))),
        false => c(name),
    }
}

/// The symbols that [`find`] knows by their whole names, for people: those of C,
/// then those of Rust by their paths.
const NAMES: [&str; 65] = [
    "__cond_resched",
    "__fentry__",
    "kfree",
    "kfree_sensitive",
    "kmalloc",
    "__kmalloc",
    "__kmalloc_cache_noprof",
    "kmalloc_caches",
    "__kmalloc_noprof",
    "kmalloc_trace",
    "krealloc",
    "krealloc_node_align_noprof",
    "krealloc_noprof",
    "kvfree",
    "memcmp",
    "__memcpy",
    "memcpy",
    "__memmove",
    "memmove",
    "memset",
    "__memset",
    "__mutex_init",
    "mutex_lock",
    "mutex_lock_interruptible",
    "mutex_unlock",
    "param_array_ops",
    "_printk",
    "_raw_spin_lock",
    "_raw_spin_lock_irqsave",
    "_raw_spin_unlock",
    "_raw_spin_unlock_irqrestore",
    "__ref_stack_chk_guard",
    "rust_helper___mutex_init",
    "rust_helper___spin_lock_init",
    "rust_helper_atomic64_fetch_add_relaxed",
    "rust_helper_atomic64_read",
    "rust_helper_kmalloc",
    "rust_helper_krealloc",
    "rust_helper_krealloc_node_align",
    "rust_helper_mutex_assert_is_held",
    "rust_helper_spin_assert_is_held",
    "rust_helper_spin_lock",
    "rust_helper_spin_unlock",
    "scnprintf",
    "snprintf",
    "sprintf",
    "__stack_chk_fail",
    "__stack_chk_guard",
    "strcmp",
    "strlen",
    "strncmp",
    "strnlen",
    "vfree",
    "vmalloc_noprof",
    "vzalloc_noprof",
    "__x86_return_thunk",
    "kernel::print::call_printk",
    "kernel::print::call_printk_cont",
    "<core::ffi::c_str::CStr>::from_bytes_until_nul",
    "<core::fmt::Formatter>::write_str",
    "<core::fmt::Formatter>::pad",
    "core::fmt::write",
    "core::panicking::panic_fmt",
    "core::panicking::panic",
    "core::panicking::panic_bounds_check",
];

/// What there is more of, each for several symbols.
const FAMILIES: [&str; 4] = [
    "param_ops_*",
    "__x86_indirect_thunk_*",
    "kernel::print::format_strings::*",
    "<T as core::fmt::Display>::fmt of whole numbers, bool, char, str and CStr",
];

/// All stand-ins, for people.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain(FAMILIES)
}

macro_rules! function {
    ($function:expr => $type:ty) => {
        StandIn::Function($function as $type as usize)
    };
}

/// Symbols of the kernel's C code.
fn c(name: &str) -> Option<StandIn> {
    type Pointer = *mut c_void;
    Some(match name {
        "_printk" => StandIn::Function(variadic_printk as *const () as usize),
        "snprintf" => StandIn::Function(variadic_snprintf as *const () as usize),
        "scnprintf" => StandIn::Function(variadic_scnprintf as *const () as usize),
        "sprintf" => StandIn::Function(variadic_sprintf as *const () as usize),
        "memcpy" | "__memcpy" => {
            function!(libc::memcpy => unsafe extern "C" fn(Pointer, *const c_void, usize) -> Pointer)
        }
        "memmove" | "__memmove" => {
            function!(libc::memmove => unsafe extern "C" fn(Pointer, *const c_void, usize) -> Pointer)
        }
        "memset" | "__memset" => {
            function!(libc::memset => unsafe extern "C" fn(Pointer, c_int, usize) -> Pointer)
        }
        "memcmp" => {
            function!(libc::memcmp => unsafe extern "C" fn(*const c_void, *const c_void, usize) -> c_int)
        }
        "strlen" => function!(libc::strlen => unsafe extern "C" fn(*const c_char) -> usize),
        "strnlen" => {
            function!(libc::strnlen => unsafe extern "C" fn(*const c_char, usize) -> usize)
        }
        "strcmp" => {
            function!(libc::strcmp => unsafe extern "C" fn(*const c_char, *const c_char) -> c_int)
        }
        "strncmp" => {
            function!(libc::strncmp => unsafe extern "C" fn(*const c_char, *const c_char, usize) -> c_int)
        }
        "__kmalloc_noprof"
        | "__kmalloc"
        | "kmalloc"
        | "vmalloc_noprof"
        | "vzalloc_noprof"
        | "rust_helper_kmalloc" => function!(kmalloc => extern "C" fn(usize) -> usize),
        "__kmalloc_cache_noprof" | "kmalloc_trace" => {
            function!(kmalloc_cache => extern "C" fn(usize, usize, usize) -> usize)
        }
        "krealloc_noprof"
        | "krealloc"
        | "rust_helper_krealloc"
        | "krealloc_node_align_noprof"
        | "rust_helper_krealloc_node_align" => {
            function!(krealloc => unsafe extern "C" fn(usize, usize) -> usize)
        }
        // What is allocated stays so until the process ends.
        "kfree" | "vfree" | "kvfree" | "kfree_sensitive" => RETURN,
        "kmalloc_caches" => StandIn::Data(&[], 8192),
        "rust_helper_atomic64_read" => {
            // mov rax, [rdi]; ret
            StandIn::Code(&[0x48, 0x8b, 0x07, 0xc3])
        }
        "rust_helper_atomic64_fetch_add_relaxed" => {
            // mov rax, rdi; lock xadd [rsi], rax; ret
            StandIn::Code(&[0x48, 0x89, 0xf8, 0xf0, 0x48, 0x0f, 0xc1, 0x06, 0xc3])
        }
        // There is nobody to lock out.
        "mutex_lock"
        | "mutex_unlock"
        | "__mutex_init"
        | "_raw_spin_lock"
        | "_raw_spin_unlock"
        | "_raw_spin_unlock_irqrestore"
        | "rust_helper___mutex_init"
        | "rust_helper___spin_lock_init"
        | "rust_helper_spin_lock"
        | "rust_helper_spin_unlock"
        | "rust_helper_mutex_assert_is_held"
        | "rust_helper_spin_assert_is_held" => RETURN,
        "_raw_spin_lock_irqsave" | "__cond_resched" | "mutex_lock_interruptible" => RETURN_ZERO,
        // Compilers' own: tracing, returns and indirect calls, the stack's guard.
        "__fentry__" | "__x86_return_thunk" => RETURN,
        "__stack_chk_fail" => function!(stack_smashed => extern "C" fn() -> !),
        "__stack_chk_guard" | "__ref_stack_chk_guard" => StandIn::Data(&[], 8),
        _ if name.starts_with("param_ops_") || name == "param_array_ops" => UNUSED_TABLE,
        _ => StandIn::Code(indirect_thunk(name.strip_prefix("__x86_indirect_thunk_")?)?),
    })
}

/// `jmp *REGISTER`.
fn indirect_thunk(register: &str) -> Option<&'static [u8]> {
    Some(match register {
        "rax" => &[0xff, 0xe0],
        "rcx" => &[0xff, 0xe1],
        "rdx" => &[0xff, 0xe2],
        "rbx" => &[0xff, 0xe3],
        "rbp" => &[0xff, 0xe5],
        "rsi" => &[0xff, 0xe6],
        "rdi" => &[0xff, 0xe7],
        "r8" => &[0x41, 0xff, 0xe0],
        "r9" => &[0x41, 0xff, 0xe1],
        "r10" => &[0x41, 0xff, 0xe2],
        "r11" => &[0x41, 0xff, 0xe3],
        "r12" => &[0x41, 0xff, 0xe4],
        "r13" => &[0x41, 0xff, 0xe5],
        "r14" => &[0x41, 0xff, 0xe6],
        "r15" => &[0x41, 0xff, 0xe7],
        _ => return None,
    })
}

/// Symbols of Rust's `core` and of the `kernel` crate, by their paths. Their
/// calling convention is that of this compiler, which was seen to be the
/// module's.
fn rust(path: &str) -> Option<StandIn> {
    type Display<T> = fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result;
    type DisplayText = fn(&str, &mut fmt::Formatter<'_>) -> fmt::Result;
    type DisplayCStr = fn(&CStr, &mut fmt::Formatter<'_>) -> fmt::Result;
    macro_rules! display {
        ($($type:ty),*) => {
            [$((stringify!($type), function!(<$type as fmt::Display>::fmt => Display<$type>))),*]
        };
    }
    if let Some(level) = path.strip_prefix("kernel::print::format_strings::") {
        return format_string(level);
    }
    // `<T as Display>::fmt`, of core or of the kernel.
    let shown = path
        .strip_suffix(">::fmt")
        .and_then(|p| p.strip_prefix('<'));
    if let Some((shown, of)) = shown.and_then(|s| s.split_once(" as "))
        && matches!(of, "core::fmt::Display" | "kernel::fmt::Display")
    {
        return match shown {
            "str" => Some(function!(<str as fmt::Display>::fmt => DisplayText)),
            "core::ffi::c_str::CStr" => Some(function!(display_c_str => DisplayCStr)),
            _ => {
                display![bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize]
                    .iter()
                    .find(|(name, _)| *name == shown)
                    .map(|(_, standin)| *standin)
            }
        };
    }
    Some(match path {
        "kernel::print::call_printk" => {
            function!(call_printk => unsafe fn(&[u8; 10], &[u8], fmt::Arguments<'_>))
        }
        "kernel::print::call_printk_cont" => {
            function!(call_printk_cont => fn(fmt::Arguments<'_>))
        }
        "<core::ffi::c_str::CStr>::from_bytes_until_nul" => {
            type From = fn(&[u8]) -> Result<&CStr, std::ffi::FromBytesUntilNulError>;
            function!(CStr::from_bytes_until_nul => From)
        }
        "<core::fmt::Formatter>::write_str" => {
            type WriteStr = for<'a> fn(&mut fmt::Formatter<'a>, &str) -> fmt::Result;
            function!(|f, text| fmt::Formatter::write_str(f, text) => WriteStr)
        }
        "<core::fmt::Formatter>::pad" => {
            type Pad = for<'a> fn(&mut fmt::Formatter<'a>, &str) -> fmt::Result;
            function!(|f, text| fmt::Formatter::pad(f, text) => Pad)
        }
        "core::fmt::write" => {
            type WriteTo = fn(&mut dyn fmt::Write, fmt::Arguments<'_>) -> fmt::Result;
            function!(fmt::write => WriteTo)
        }
        "core::panicking::panic_fmt" => {
            function!(panic_fmt => fn(fmt::Arguments<'_>) -> !)
        }
        "core::panicking::panic" => function!(panic => fn(&str) -> !),
        "core::panicking::panic_bounds_check" => {
            function!(panic_bounds_check => fn(usize, usize) -> !)
        }
        _ => return None,
    })
}

/// The texts of `rust/kernel/print.rs`.
fn format_string(level: &str) -> Option<StandIn> {
    let text: &[u8; 10] = match level {
        "EMERG" => b"\x010%s: %pA\0",
        "ALERT" => b"\x011%s: %pA\0",
        "CRIT" => b"\x012%s: %pA\0",
        "ERR" => b"\x013%s: %pA\0",
        "WARNING" => b"\x014%s: %pA\0",
        "NOTICE" => b"\x015%s: %pA\0",
        "INFO" => b"\x016%s: %pA\0",
        "DEBUG" => b"\x017%s: %pA\0",
        "CONT" => b"\x01c%pA\0\0\0\0\0",
        _ => return None,
    };
    Some(StandIn::Data(text, 10))
}

/// What the kernel cuts a message at (PRINTKRB_RECORD_MAX).
const MESSAGE: usize = 1024;

unsafe fn call_printk(format: &[u8; 10], module: &[u8], arguments: fmt::Arguments<'_>) {
    let mut room = [0; MESSAGE];
    let mut text = Text::new(&mut room);
    text.push(&format[..2]);
    text.push(module.strip_suffix(b"\0").unwrap_or(module));
    text.push(b": ");
    let _ = text.write_fmt(arguments);
    report(&text);
}

fn call_printk_cont(arguments: fmt::Arguments<'_>) {
    let mut room = [0; MESSAGE];
    let mut text = Text::new(&mut room);
    text.push(b"\x01c");
    let _ = text.write_fmt(arguments);
    report(&text);
}

fn report(text: &Text) {
    let (level, text) = printk::level(text.bytes());
    report_line(level, text);
}

/// As the kernel shows a `CStr`: what is not printable ASCII is escaped
/// (rust/kernel/str.rs).
fn display_c_str(text: &CStr, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.to_bytes() {
        match byte {
            b' '..=b'~' => f.write_char(char::from(*byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    Ok(())
}

fn panic_fmt(arguments: fmt::Arguments<'_>) -> ! {
    let mut room = [0; MESSAGE];
    let mut text = Text::new(&mut room);
    let _ = write!(text, "\x010rust_kernel: panicked: {arguments}");
    report(&text);
    std::process::abort()
}

fn panic(what: &str) -> ! {
    panic_fmt(format_args!("{what}"))
}

fn panic_bounds_check(index: usize, length: usize) -> ! {
    panic_fmt(format_args!(
        "index out of bounds: the len is {length} but the index is {index}"
    ))
}

extern "C" fn stack_smashed() -> ! {
    report_line(0, b"stack-protector: Kernel stack is corrupted");
    std::process::abort()
}

/// The memory that allocations come from: the next free byte, and the end.
static NEXT: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);

/// Says where allocations are to come from: memory that is all zero.
pub fn give_arena(start: usize, size: usize) {
    NEXT.store(start, Ordering::Relaxed);
    END.store(start + size, Ordering::Relaxed);
}

/// Memory that is all zero, after its size; 0 if there is none left. One
/// thread allocates, so no two see the same `NEXT`.
pub fn allocate(size: usize) -> usize {
    const HEADER: usize = 16;
    let start = NEXT.load(Ordering::Relaxed).next_multiple_of(HEADER);
    let end = start.checked_add(HEADER).and_then(|s| s.checked_add(size));
    match end {
        Some(end) if end <= END.load(Ordering::Relaxed) => {
            NEXT.store(end, Ordering::Relaxed);
            // SAFETY: `start` is aligned, and in the memory that was given.
            unsafe { *(start as *mut usize) = size };
            start + HEADER
        }
        _ => 0,
    }
}

extern "C" fn kmalloc(size: usize) -> usize {
    allocate(size)
}

/// `__kmalloc_cache_noprof(cache, flags, size)`.
extern "C" fn kmalloc_cache(_cache: usize, _flags: usize, size: usize) -> usize {
    allocate(size)
}

/// # Safety
///
/// `old` must be 0, ZERO_SIZE_PTR (16) or what [`allocate`] returned.
unsafe extern "C" fn krealloc(old: usize, size: usize) -> usize {
    if size == 0 {
        return 0;
    }
    let new = allocate(size);
    if old > 16 && new != 0 {
        // SAFETY: The size is in front of what was allocated, and of both
        // pieces so many bytes are there; they are apart.
        unsafe {
            let length = *((old - 16) as *const usize);
            std::ptr::copy_nonoverlapping(old as *const u8, new as *mut u8, length.min(size));
        }
    }
    new
}

/// A function of C with a variable number of arguments: saves the registers
/// that they come in, and has `$function` look at them and at the stack. It is
/// entered by way of `image::call`, which leaves `rbp` below the return address.
macro_rules! variadic {
    ($name:ident => $function:path) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            std::arch::naked_asm!(
                "sub rsp, 56",
                "mov [rsp], rdi",
                "mov [rsp + 8], rsi",
                "mov [rsp + 16], rdx",
                "mov [rsp + 24], rcx",
                "mov [rsp + 32], r8",
                "mov [rsp + 40], r9",
                "mov rdi, rsp",
                "lea rsi, [rbp + 16]",
                "call {function}",
                "add rsp, 56",
                "ret",
                function = sym $function,
            )
        }
        #[cfg(not(target_arch = "x86_64"))]
        unsafe extern "C" fn $name() {}
    };
}

variadic!(variadic_printk => printk);
variadic!(variadic_snprintf => snprintf);
variadic!(variadic_scnprintf => scnprintf);
variadic!(variadic_sprintf => sprintf);

/// # Safety
///
/// As `_printk()`, with its arguments as [`Arguments::new`] wants them.
unsafe extern "C" fn printk(registers: *const u64, stack: *const u64) -> c_int {
    let mut room = [0; MESSAGE];
    let mut text = Text::new(&mut room);
    // SAFETY: By the promise of the caller, the first argument is the format,
    // and the others are what it says.
    unsafe {
        let mut arguments = Arguments::new(registers, stack);
        let format = c_text(arguments.next() as *const c_char);
        printk::format(&mut text, format, &mut arguments);
    }
    report(&text);
    text.length() as c_int
}

/// # Safety
///
/// As `snprintf()`, with its arguments as [`Arguments::new`] wants them.
unsafe extern "C" fn snprintf(registers: *const u64, stack: *const u64) -> c_int {
    // SAFETY: As the caller promises.
    unsafe {
        let mut arguments = Arguments::new(registers, stack);
        let (room, size) = (arguments.next(), arguments.next());
        print_to(room, size as usize, &mut arguments) as c_int
    }
}

/// # Safety
///
/// As [`snprintf`].
unsafe extern "C" fn scnprintf(registers: *const u64, stack: *const u64) -> c_int {
    // SAFETY: As the caller promises.
    unsafe {
        let size = *registers.add(1) as c_int;
        snprintf(registers, stack)
            .min(size.saturating_sub(1))
            .max(0)
    }
}

/// # Safety
///
/// As [`snprintf`], with enough room for the text.
unsafe extern "C" fn sprintf(registers: *const u64, stack: *const u64) -> c_int {
    // SAFETY: As the caller promises.
    unsafe {
        let mut arguments = Arguments::new(registers, stack);
        let room = arguments.next();
        print_to(room, MESSAGE, &mut arguments) as c_int
    }
}

/// Formats into a buffer, with a NUL at the end; tells how long the text is.
///
/// # Safety
///
/// Up to `size` bytes must be writable at `room`, as far as the text goes, and
/// the next argument must be the format, and the others what it says.
unsafe fn print_to(room: u64, size: usize, arguments: &mut Arguments) -> usize {
    let mut text = [0; MESSAGE];
    let mut text = Text::new(&mut text);
    // SAFETY: As the caller promises; no more than the text and a NUL is written.
    unsafe {
        let format = c_text(arguments.next() as *const c_char);
        printk::format(&mut text, format, arguments);
        if let Some(most) = size.checked_sub(1) {
            let bytes = text.bytes();
            let bytes = &bytes[..bytes.len().min(most)];
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), room as *mut u8, bytes.len());
            *(room as *mut u8).add(bytes.len()) = 0;
        }
    }
    text.length()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_in_the_list_has_a_stand_in() {
        for name in NAMES {
            let found = match name.contains("::") {
                true => rust(name),
                false => c(name),
            };
            assert!(found.is_some(), "{name}");
        }
    }

    /// The arms of `c`, by this file's own text.
    #[test]
    fn each_stand_in_is_in_the_list() {
        let text = include_str!("standins.rs");
        let start = text.find("\nfn c(name").unwrap();
        let end = text.find("\nfn indirect_thunk").unwrap();
        let names = text[start..end].split('"').skip(1).step_by(2);
        let whole = names.filter(|name| !name.ends_with('_') && *name != "C");
        let mut count = 0;
        for name in whole {
            assert!(NAMES.contains(&name), "{name}");
            count += 1;
        }
        assert!(count > 50, "{count}");
    }
}
