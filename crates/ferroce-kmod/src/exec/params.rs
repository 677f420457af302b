// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets parameters: `parse_args()` for a module in user space.

use super::image::Image;
use super::ExecError;
use crate::elf::Elf;
use crate::modinfo::Modinfo;
use crate::params::{self, Kind};

/// `arg` in `struct kernel_param`, and the size of that; `string` in `struct
/// kparam_string` (include/linux/moduleparam.h).
const ARG: u64 = 32;
const SIZE: u64 = 40;
const STRING: u64 = 8;

/// Writes values where the module has its parameters.
pub fn set(
    image: &mut Image,
    elf: &Elf,
    modinfo: &Modinfo,
    given: &[(String, Option<String>)],
) -> Result<(), ExecError> {
    let known = params::of(elf, modinfo);
    for (name, value) in given {
        let refuse = |what: String| Err(ExecError::NotSimple(format!("parameter {name}: {what}")));
        let Some(index) = known.iter().position(|p| p.name == *name) else {
            return refuse("it has no such parameter".to_owned());
        };
        let kind = &known[index].kind;
        if let Err(bad) = kind.check(value.as_deref()) {
            return refuse(bad.what);
        }
        let place = place(elf, index, kind);
        let written = place.and_then(|(section, offset)| {
            let bytes = bytes(image, kind, value.as_deref())?;
            let room = image.data(section, offset, bytes.len())?;
            room.copy_from_slice(&bytes);
            Some(())
        });
        if written.is_none() {
            return refuse(format!(
                "one that takes {} cannot be set here",
                kind.describe()
            ));
        }
    }
    Ok(())
}

/// Where a parameter's value is: section and offset.
fn place(elf: &Elf, index: usize, kind: &Kind) -> Option<(usize, u64)> {
    let section = elf.allocated("__param")?;
    let argument = elf.relocation_at(section.index, index as u64 * SIZE + ARG)?;
    let (target, offset) = elf.pointee(&argument)?;
    if !matches!(kind, Kind::String(_)) {
        return Some((target.index, offset));
    }
    let string = elf.relocation_at(target.index, offset.checked_add(STRING)?)?;
    let (target, offset) = elf.pointee(&string)?;
    Some((target.index, offset))
}

/// What is to be written for a value that was checked.
fn bytes(image: &mut Image, kind: &Kind, value: Option<&str>) -> Option<Vec<u8>> {
    match (kind, value) {
        (Kind::Integer(least, most), Some(text)) => {
            let bits = 128 - most.leading_zeros() + u32::from(*least < 0);
            let number = params::integer(text)?;
            Some(number.to_le_bytes()[..bits as usize / 8].to_vec())
        }
        (Kind::Bool, value) => Some(vec![u8::from(value.is_none_or(is_yes))]),
        (Kind::InvertedBool, Some(text)) => Some(vec![u8::from(!is_yes(text))]),
        (Kind::String(_), Some(text)) => Some([text.as_bytes(), &[0]].concat()),
        (Kind::CharPointer, Some(text)) => Some(image.keep_text(text).to_le_bytes().to_vec()),
        _ => None,
    }
}

fn is_yes(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.starts_with(['y', 't', '1']) || lower.starts_with("on")
}
