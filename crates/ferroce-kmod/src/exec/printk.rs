// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's way of formatting (lib/vsprintf.c), as far as simple modules
//! use it, and Rust's by way of `%pA`. It runs in the child, and allocates
//! nothing.
#![allow(unsafe_code)]

use std::ffi::{c_char, CStr};
use std::fmt::{self, Write};

/// The arguments of a variadic C function, as `variadic!` saves them: six
/// registers, then the stack. The kernel passes no floating-point numbers.
pub struct Arguments {
    registers: *const u64,
    stack: *const u64,
    used: usize,
}

impl Arguments {
    /// How many integer arguments x86-64's calling convention has registers for.
    const REGISTERS: usize = 6;

    /// # Safety
    ///
    /// `registers` must point to six saved registers, `stack` to the arguments
    /// after them, both for as long as this is used.
    pub unsafe fn new(registers: *const u64, stack: *const u64) -> Self {
        Self {
            registers,
            stack,
            used: 0,
        }
    }

    /// The next argument.
    ///
    /// # Safety
    ///
    /// There must be one: the format says so, and the kernel's compilers check
    /// that formats and arguments agree.
    pub unsafe fn next(&mut self) -> u64 {
        let index = self.used;
        self.used += 1;
        // SAFETY: By the promise of `new` and of this function's caller.
        unsafe {
            match index.checked_sub(Self::REGISTERS) {
                None => *self.registers.add(index),
                Some(index) => *self.stack.add(index),
            }
        }
    }
}

/// A text of bounded length; what is too much is cut off, as the kernel does.
pub struct Text<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> Text<'a> {
    pub fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.room[..self.length.min(self.room.len())]
    }

    /// How long it would be.
    pub fn length(&self) -> usize {
        self.length
    }

    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.room.get_mut(self.length) {
                *place = *byte;
            }
            self.length += 1;
        }
    }
}

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// A conversion: `%-08lx`.
#[derive(Default)]
struct Conversion {
    left: bool,
    zeroes: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
    /// The size of the argument in bytes.
    size: u32,
}

/// Formats as `vsnprintf()` does.
///
/// # Safety
///
/// The arguments must be what the format says that they are.
pub unsafe fn format(out: &mut Text, format: &[u8], arguments: &mut Arguments) {
    let mut rest = format.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            out.push(&[byte]);
            continue;
        }
        let mut conversion = Conversion {
            size: 4,
            ..Conversion::default()
        };
        let mut precise = false;
        let kind = loop {
            let Some(byte) = rest.next() else { return };
            match byte {
                b'-' => conversion.left = true,
                b'+' => conversion.plus = true,
                b' ' => conversion.space = true,
                b'#' => conversion.alternate = true,
                b'0' if !precise && conversion.width == 0 => conversion.zeroes = true,
                b'0'..=b'9' if precise => {
                    let so_far = conversion.precision.unwrap_or(0);
                    conversion.precision = Some(digit(so_far, byte));
                }
                b'0'..=b'9' => conversion.width = digit(conversion.width, byte),
                b'*' => {
                    // SAFETY: The format says that there is one.
                    let number = unsafe { arguments.next() } as i32;
                    match precise {
                        true => conversion.precision = usize::try_from(number).ok(),
                        false => {
                            conversion.left |= number < 0;
                            conversion.width = number.unsigned_abs() as usize;
                        }
                    }
                }
                b'.' => {
                    precise = true;
                    conversion.precision = Some(0);
                }
                b'l' | b'L' | b'z' | b't' | b'j' | b'q' => conversion.size = 8,
                b'h' => conversion.size = if conversion.size == 2 { 1 } else { 2 },
                kind => break kind,
            }
        };
        if kind == b'%' {
            out.push(b"%");
            continue;
        }
        // SAFETY: The format says that there is one.
        let argument = unsafe { arguments.next() };
        match kind {
            b'd' | b'i' | b'u' | b'x' | b'X' | b'o' => number(out, &conversion, kind, argument),
            b'c' => pad(out, &conversion, &[argument as u8]),
            // SAFETY: The format says that it is a text.
            b's' => unsafe { text(out, &conversion, argument) },
            b'p' => {
                let extension = rest.next_if(u8::is_ascii_alphabetic);
                // What follows belongs to it: %pISpc, %pUb.
                while rest.next_if(u8::is_ascii_alphanumeric).is_some() {}
                match extension {
                    // SAFETY: %pA is for `fmt::Arguments` (rust/kernel/print.rs),
                    // and this compiler's are the module's (`same_compiler`).
                    Some(b'A') => unsafe {
                        let arguments = argument as *const fmt::Arguments<'_>;
                        let _ = out.write_fmt(*arguments);
                    },
                    _ => {
                        let _ = write!(out, "{argument:016x}");
                    }
                }
            }
            other => out.push(&[b'%', other]),
        }
    }
}

/// A number with one more digit; far more than any width in use is cut.
fn digit(so_far: usize, byte: u8) -> usize {
    (so_far * 10 + usize::from(byte - b'0')).min(4096)
}

fn pad(out: &mut Text, conversion: &Conversion, bytes: &[u8]) {
    let missing = conversion.width.min(4096).saturating_sub(bytes.len());
    for _ in 0..if conversion.left { 0 } else { missing } {
        out.push(b" ");
    }
    out.push(bytes);
    for _ in 0..if conversion.left { missing } else { 0 } {
        out.push(b" ");
    }
}

/// # Safety
///
/// `address` must be 0 or that of a text with a NUL at its end, or of as many
/// bytes as the conversion's precision.
unsafe fn text(out: &mut Text, conversion: &Conversion, address: u64) {
    if address < 4096 {
        return pad(out, conversion, b"(null)");
    }
    let start = address as *const u8;
    let most = conversion.precision.unwrap_or(usize::MAX);
    let mut length = 0;
    // SAFETY: By the promise of the caller, all up to the NUL can be read.
    while length < most && unsafe { *start.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: As just read.
    pad(out, conversion, unsafe {
        std::slice::from_raw_parts(start, length)
    });
}

fn number(out: &mut Text, conversion: &Conversion, kind: u8, argument: u64) {
    let shift = 64 - conversion.size * 8;
    let signed = matches!(kind, b'd' | b'i');
    let value = (argument << shift) as i64 >> shift;
    let negative = signed && value < 0;
    let magnitude = match signed {
        true => value.unsigned_abs(),
        false => argument << shift >> shift,
    };
    let mut digits = [0; 24];
    let mut digits = Text::new(&mut digits);
    let _ = match kind {
        b'x' => write!(digits, "{magnitude:x}"),
        b'X' => write!(digits, "{magnitude:X}"),
        b'o' => write!(digits, "{magnitude:o}"),
        _ => write!(digits, "{magnitude}"),
    };
    let mut whole = [0; 4200];
    let mut whole = Text::new(&mut whole);
    whole.push(match (negative, conversion.plus, conversion.space) {
        (true, ..) => b"-",
        (_, true, _) if signed => b"+",
        (_, _, true) if signed => b" ",
        _ => b"",
    });
    whole.push(match (kind, conversion.alternate) {
        (b'x', true) => b"0x",
        (b'X', true) => b"0X",
        (b'o', true) => b"0",
        _ => b"",
    });
    let least = match conversion.precision {
        Some(precision) => precision,
        None if conversion.zeroes && !conversion.left => {
            conversion.width.saturating_sub(whole.length())
        }
        None => 0,
    };
    for _ in digits.length()..least.min(4096) {
        whole.push(b"0");
    }
    whole.push(digits.bytes());
    pad(out, conversion, whole.bytes());
}

/// The level and the text of what `_printk()` was given: KERN_SOH and a digit,
/// or `c`, come first (include/linux/kern_levels.h).
pub fn level(text: &[u8]) -> (u8, &[u8]) {
    const DEFAULT: u8 = 4;
    match text {
        [1, level @ b'0'..=b'7', rest @ ..] => (level - b'0', rest),
        [1, b'c', rest @ ..] => (DEFAULT, rest),
        _ => (DEFAULT, text),
    }
}

/// The bytes of a C text.
///
/// # Safety
///
/// It must have a NUL at its end, and stay as it is.
pub unsafe fn c_text<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: By the promise of the caller.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str, arguments: &[u64]) -> String {
        let mut all = [0; 16];
        all[..arguments.len()].copy_from_slice(arguments);
        let mut room = [0; 256];
        let mut out = Text::new(&mut room);
        // SAFETY: Sixteen numbers are there, more than any test asks for, and
        // the addresses among them are of texts that live.
        unsafe {
            let mut arguments = Arguments::new(all.as_ptr(), all[6..].as_ptr());
            format(&mut out, text.as_bytes(), &mut arguments);
        }
        String::from_utf8_lossy(out.bytes()).into_owned()
    }

    #[test]
    fn conversions_are_the_kernels() {
        assert_eq!(formatted("%d %u", &[u64::MAX, u64::MAX]), "-1 4294967295");
        assert_eq!(
            formatted("%ld|%5d|%-5d|%05d", &[u64::MAX, 7, 7, 7]),
            "-1|    7|7    |00007"
        );
        assert_eq!(
            formatted("%#x %08lX %o %hhu", &[255, 255, 8, 257]),
            "0xff 000000FF 10 1"
        );
        assert_eq!(formatted("%*d %.3d %%", &[4, 7, 7]), "   7 007 %");
        let text = c"world".as_ptr() as u64;
        assert_eq!(
            formatted("%s|%7s|%.2s|%s", &[text, text, text, 0]),
            "world|  world|wo|(null)"
        );
        assert_eq!(
            formatted("%d%d%d%d%d%d%d%d", &[1, 2, 3, 4, 5, 6, 7, 8]),
            "12345678"
        );
    }

    #[test]
    fn rusts_arguments_are_formatted_by_rust() {
        let name = "Ada";
        let check = |arguments: fmt::Arguments<'_>| {
            let address = std::ptr::from_ref(&arguments) as u64;
            assert_eq!(formatted("<%pA>", &[address]), "<hello, Ada>");
        };
        check(format_args!("hello, {name}"));
    }

    #[test]
    fn what_is_too_long_is_cut_off() {
        let mut room = [0; 4];
        let mut text = Text::new(&mut room);
        text.push(b"abcdef");
        assert_eq!((text.bytes(), text.length()), (&b"abcd"[..], 6));
    }
}
