// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module's parameters, as its section `__param` has them, and what values
//! the kernel takes for them (kernel/params.c).

use serde::Serialize;

use crate::elf::{self, Elf};
use crate::modinfo::Modinfo;

/// `struct kernel_param` in include/linux/moduleparam.h.
mod field {
    pub const NAME: u64 = 0;
    pub const OPS: u64 = 16;
    pub const PERM: u64 = 24;
    pub const FLAGS: u64 = 27;
    pub const ARG: u64 = 32;
    pub const SIZE: u64 = 40;
    /// `ops` in `struct kparam_array`.
    pub const ARRAY_OPS: u64 = 16;
}

/// A parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// What it is for, as `modinfo` shows it.
    pub description: Option<String>,
    /// Its type, as `module_param()` was given it (`parmtype`).
    pub type_name: Option<String>,
    /// What values it takes.
    pub kind: Kind,
    /// The permissions of its file in /sys/module/NAME/parameters; 0: none.
    pub perm: u16,
    /// Whether setting it taints the kernel (`module_param_unsafe()`).
    pub is_unsafe: bool,
}

/// What sets a parameter's value, `param_ops_*` in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A whole number, from and to.
    Integer(i128, i128),
    /// `y`, `n`, `1`, `0`, `on`, `off`; without a value: yes.
    Bool,
    /// The opposite, and the value must be given.
    InvertedBool,
    /// A text that the kernel allocates.
    CharPointer,
    /// A text that is copied to a buffer of this many bytes, one of them a NUL.
    String(u32),
    /// Up to so many values, separated by commas.
    Array(u32, Box<Kind>),
    /// The module's own function, which may take anything.
    Custom,
}

/// Why the kernel refuses a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadValue {
    /// What is wrong with it.
    pub what: String,
    /// `EINVAL`, `ERANGE` or `ENOSPC`.
    pub errno: rustix::io::Errno,
}

/// The longest text that `param_set_charp()` takes.
const LONGEST_TEXT: usize = 1024;

impl Kind {
    /// By the name of the operations' table.
    fn of_ops(name: &str) -> Self {
        let integer = |bits: u32, signed: bool| match signed {
            true => Self::Integer(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            false => Self::Integer(0, (1 << bits) - 1),
        };
        match name.strip_prefix("param_ops_").unwrap_or_default() {
            "byte" => integer(8, false),
            "short" => integer(16, true),
            "ushort" => integer(16, false),
            "int" => integer(32, true),
            "uint" | "hexint" => integer(32, false),
            "long" => integer(64, true),
            "ulong" | "ullong" => integer(64, false),
            "bool" | "bool_enable_only" | "bint" => Self::Bool,
            "invbool" => Self::InvertedBool,
            "charp" => Self::CharPointer,
            _ => Self::Custom,
        }
    }

    /// What the kernel would say to a value; nothing is known of [`Kind::Custom`].
    pub fn check(&self, value: Option<&str>) -> Result<(), BadValue> {
        let bad = |what: String, errno| Err(BadValue { what, errno });
        use rustix::io::Errno;
        let Some(text) = value else {
            return match self {
                Self::Bool | Self::Custom => Ok(()),
                _ => bad("it needs a value".to_owned(), Errno::INVAL),
            };
        };
        match self {
            Self::Integer(least, most) => match integer(text) {
                None => bad(format!("`{text}' is no whole number"), Errno::INVAL),
                // kstrtoull() knows no minus sign.
                Some(_) if *least == 0 && text.starts_with('-') => {
                    bad(format!("`{text}' has a sign, and must not"), Errno::INVAL)
                }
                Some(number) if !(*least..=*most).contains(&number) => {
                    bad(format!("{text} is not in {least}..={most}"), Errno::RANGE)
                }
                Some(_) => Ok(()),
            },
            Self::Bool | Self::InvertedBool => match text.as_bytes() {
                [b'y' | b'Y' | b't' | b'T' | b'1' | b'n' | b'N' | b'f' | b'F' | b'0', ..]
                | [b'o' | b'O', b'n' | b'N' | b'f' | b'F', ..] => Ok(()),
                _ => bad(format!("`{text}' is neither yes nor no"), Errno::INVAL),
            },
            Self::CharPointer if text.len() > LONGEST_TEXT => {
                let what = format!("{} bytes are more than {LONGEST_TEXT}", text.len());
                bad(what, Errno::NOSPC)
            }
            Self::String(room) if text.len() as u64 + 1 > u64::from(*room) => {
                let most = room.saturating_sub(1);
                bad(
                    format!("{} bytes are more than {most}", text.len()),
                    Errno::NOSPC,
                )
            }
            Self::Array(most, kind) => {
                let values: Vec<&str> = text.split(',').collect();
                if values.len() > *most as usize {
                    let what = format!("{} values are more than {most}", values.len());
                    return bad(what, Errno::INVAL);
                }
                values.iter().try_for_each(|value| kind.check(Some(value)))
            }
            Self::CharPointer | Self::String(_) | Self::Custom => Ok(()),
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Integer(0, most) if *most > i128::from(u32::MAX) => "0 or more".to_owned(),
            Self::Integer(least, _) if *least < i128::from(i32::MIN) => "a whole number".to_owned(),
            Self::Integer(least, most) => format!("{least} to {most}"),
            Self::Bool => "yes or no".to_owned(),
            Self::InvertedBool => "no or yes".to_owned(),
            Self::CharPointer => "text".to_owned(),
            Self::String(room) => format!("text of up to {} bytes", room.saturating_sub(1)),
            Self::Array(most, kind) => format!("up to {most}, each {}", kind.describe()),
            Self::Custom => "what the module's own function takes".to_owned(),
        }
    }
}

/// A number as `kstrtoint()` and its like read it, with base 0.
pub(crate) fn integer(text: &str) -> Option<i128> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (digits, base) = match digits.as_bytes() {
        [b'0', b'x' | b'X', next, ..] if next.is_ascii_hexdigit() => (&digits[2..], 16),
        [b'0', ..] => (digits, 8),
        _ => (digits, 10),
    };
    if !digits.bytes().next()?.is_ascii_hexdigit() {
        return None;
    }
    let number = match u128::from_str_radix(digits, base) {
        Ok(number) => i128::try_from(number).unwrap_or(i128::MAX),
        Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => i128::MAX,
        Err(_) => return None,
    };
    Some(if negative { -number } else { number })
}

/// The parameters of a module, in the order of `__param`.
pub fn of(elf: &Elf, modinfo: &Modinfo) -> Vec<Param> {
    let Some(section) = elf.allocated("__param") else {
        return Vec::new();
    };
    let entries = section.data().chunks_exact(field::SIZE as usize);
    let params = entries.enumerate().filter_map(|(index, bytes)| {
        let start = index as u64 * field::SIZE;
        let name = text_at(elf, section.index, start + field::NAME)?;
        let of_this = |key| {
            let texts = modinfo.all(key);
            let mut texts = texts.filter_map(|t| t.split_once(':'));
            texts.find(|(n, _)| *n == name).map(|(_, t)| t.to_owned())
        };
        let at = |field: u64| bytes[field as usize];
        Some(Param {
            description: of_this("parm"),
            type_name: of_this("parmtype"),
            kind: kind_at(elf, section.index, start),
            perm: u16::from_le_bytes([at(field::PERM), at(field::PERM + 1)]),
            is_unsafe: at(field::FLAGS) & 1 != 0,
            name,
        })
    });
    params.collect()
}

/// The text that a field points to.
fn text_at(elf: &Elf, section: usize, offset: u64) -> Option<String> {
    let (target, start) = elf.pointee(&elf.relocation_at(section, offset)?)?;
    let data = match target.kind() {
        // Zeroes in memory.
        object::elf::SHT_NOBITS if start < target.size() => &[],
        _ => target.data().get(usize::try_from(start).ok()?..)?,
    };
    Some(elf::text(elf::until_nul(data)).into_owned())
}

/// The kind of the parameter at a place in `__param`.
fn kind_at(elf: &Elf, section: usize, start: u64) -> Kind {
    let symbol = |section, offset| {
        let relocation = elf.relocation_at(section, offset)?;
        Some(elf.symbol(relocation.symbol)?.name())
    };
    let known = || {
        let ops = symbol(section, start + field::OPS)?;
        if ops != "param_ops_string" && ops != "param_array_ops" {
            return Some(Kind::of_ops(&ops));
        }
        // Both begin with a number: the room, or the most that the array holds.
        let argument = elf.relocation_at(section, start + field::ARG)?;
        let (target, at) = elf.pointee(&argument)?;
        let number = target.data().get(usize::try_from(at).ok()?..)?;
        let number = u32::from_le_bytes(*number.first_chunk()?);
        if ops == "param_ops_string" {
            return Some(Kind::String(number));
        }
        let of = symbol(target.index, at.checked_add(field::ARRAY_OPS)?)?;
        Some(Kind::Array(number, Box::new(Kind::of_ops(&of))))
    };
    known().unwrap_or(Kind::Custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_the_kernel_reads_them() {
        assert_eq!(integer("10"), Some(10));
        assert_eq!(integer("+0x1F"), Some(31));
        assert_eq!(integer("010\n"), Some(8));
        assert_eq!(integer("-1"), Some(-1));
        for text in ["", "-", "abc", "1 2", "08", "0x", "+-1"] {
            assert_eq!(integer(text), None, "{text:?}");
        }
    }

    #[test]
    fn values_are_refused_with_the_kernels_errno() {
        use rustix::io::Errno;
        let errno = |kind: &Kind, value: Option<&str>| kind.check(value).unwrap_err().errno;
        let byte = Kind::of_ops("param_ops_byte");
        assert_eq!(errno(&byte, Some("256")), Errno::RANGE);
        assert_eq!(errno(&byte, Some(&"9".repeat(99))), Errno::RANGE);
        assert_eq!(errno(&byte, Some("-1")), Errno::INVAL);
        assert_eq!(errno(&byte, Some("x")), Errno::INVAL);
        assert_eq!(errno(&byte, None), Errno::INVAL);
        assert!(Kind::Bool.check(None).is_ok());
        assert!(Kind::Bool.check(Some("off")).is_ok());
        assert_eq!(errno(&Kind::Bool, Some("maybe")), Errno::INVAL);
        assert!(Kind::String(4).check(Some("abc")).is_ok());
        assert_eq!(errno(&Kind::String(4), Some("abcd")), Errno::NOSPC);
        let array = Kind::Array(2, Box::new(byte));
        assert!(array.check(Some("1,2")).is_ok());
        assert_eq!(errno(&array, Some("1,2,3")), Errno::INVAL);
    }
}
