// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `NAME=VALUE` texts of the section `.modinfo`.

use std::borrow::Cow;

use crate::elf::{self, Elf};

/// What a module says of itself.
#[derive(Debug, Clone, Default)]
pub struct Modinfo<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Modinfo<'a> {
    /// Reads it; a module without the section says nothing. As in
    /// `get_next_modinfo()`, a text that begins in the section may end behind it,
    /// and the section's type does not matter.
    pub fn of(elf: &Elf<'a>) -> Self {
        let Some(section) = elf.section(elf::MODINFO) else {
            return Self::default();
        };
        let (bytes, size) = (elf.from(&section), section.size());
        let mut pairs = Vec::new();
        let mut at = 0;
        loop {
            let text = elf::until_nul(&bytes[at..]);
            if let Some(equals) = text.iter().position(|b| *b == b'=') {
                pairs.push((elf::text(&text[..equals]), elf::text(&text[equals + 1..])));
            }
            at += text.len();
            at += bytes[at..].iter().take_while(|b| **b == 0).count();
            if at as u64 >= size || at >= bytes.len() {
                return Self { pairs };
            }
        }
    }

    /// The first value of that name, the one that the kernel uses.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.pairs.iter().find(|(n, _)| n == name);
        pair.map(|(_, value)| value.as_ref())
    }

    /// All values of that name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s str> {
        let pairs = self.pairs.iter().filter(move |(n, _)| n == name);
        pairs.map(|(_, value)| value.as_ref())
    }

    /// All of it, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(n, v)| (n.as_ref(), v.as_ref()))
    }

    /// Whether it says that it comes with the GPL, in one of the spellings that
    /// the kernel takes for that (`license_is_gpl_compatible()`).
    pub fn is_gpl_compatible(&self) -> bool {
        const LICENSES: [&str; 6] = [
            "GPL",
            "GPL v2",
            "GPL and additional rights",
            "Dual BSD/GPL",
            "Dual MIT/GPL",
            "Dual MPL/GPL",
        ];
        self.get("license").is_some_and(|l| LICENSES.contains(&l))
    }

    /// The names of the modules that it needs, as modpost found them.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        let all = self.get("depends").unwrap_or_default();
        all.split(',').filter(|name| !name.is_empty())
    }
}
