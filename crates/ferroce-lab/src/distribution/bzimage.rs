// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's file as distributions have it, `vmlinuz`: a bzImage
//! (Documentation/arch/x86/boot.rst), which has the kernel compressed in it.

use std::path::Path;

use ferroce_kmod::file::ModuleFile;
use object::read::elf::{FileHeader, ProgramHeader};
use object::Endianness;

use crate::error::{Error, Result};

/// The bytes of a bzImage.
pub struct BzImage(Vec<u8>);

/// Where the fields of the header are that are read here.
mod field {
    pub const SETUP_SECTS: usize = 0x1f1;
    pub const BOOT_FLAG: usize = 0x1fe;
    pub const HEADER: usize = 0x202;
    pub const VERSION: usize = 0x206;
    pub const KERNEL_VERSION: usize = 0x20e;
    pub const PAYLOAD_OFFSET: usize = 0x248;
    pub const PAYLOAD_LENGTH: usize = 0x24c;
}

/// The version of the boot protocol that came with the payload's fields.
const PAYLOAD_SINCE: u16 = 0x0208;

impl BzImage {
    /// Reads one.
    pub fn read(path: &Path) -> Result<Self> {
        let image = Self(std::fs::read(path).map_err(Error::file("read", path))?);
        match image.is_one() {
            true => Ok(image),
            false => Err(Error::Usage(format!(
                "{} is no kernel for x86-64: a bzImage is expected, as /boot/vmlinuz-VERSION is",
                path.display()
            ))),
        }
    }

    fn is_one(&self) -> bool {
        self.u16_at(field::BOOT_FLAG) == Some(0xaa55)
            && self.0.get(field::HEADER..field::VERSION) == Some(b"HdrS")
    }

    /// What `uname -r` says in it.
    pub fn release(&self) -> Option<&str> {
        let start = usize::from(self.u16_at(field::KERNEL_VERSION)?) + 0x200;
        let text = self.0.get(start..)?;
        let end = text.iter().position(|byte| *byte == b' ' || *byte == 0)?;
        let release = std::str::from_utf8(text.get(..end)?).ok()?;
        // It becomes part of paths.
        (!release.is_empty() && !release.starts_with('.') && !release.contains('/'))
            .then_some(release)
    }

    /// The kernel itself, an ELF file, if it is compressed in a way that is known here, and has the entry
    /// point that QEMU starts such a file at (PVH).
    pub fn vmlinux(&self) -> Option<Vec<u8>> {
        if self.u16_at(field::VERSION)? < PAYLOAD_SINCE {
            return None;
        }
        let sectors = match self.0.get(field::SETUP_SECTS)? {
            0 => 4,
            sectors => usize::from(*sectors),
        };
        let start = ((sectors + 1) * 512).checked_add(self.u32_at(field::PAYLOAD_OFFSET)?)?;
        let end = start.checked_add(self.u32_at(field::PAYLOAD_LENGTH)?)?;
        let payload = self.0.get(start..end)?;
        let decompress = |bytes: &[u8]| ModuleFile::from_bytes("vmlinuz", bytes.to_vec());
        // All but gzip's, which has it anyhow, are followed by the size that comes out
        // (size_append in scripts/Makefile.lib).
        let whole = decompress(payload).ok();
        let whole =
            whole.or_else(|| decompress(payload.get(..payload.len().checked_sub(4)?)?).ok());
        let elf = whole?.bytes;
        has_pvh_entry(&elf).then_some(elf)
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u16::from_le_bytes(*bytes))
    }

    fn u32_at(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    }
}

/// XEN_ELFNOTE_PHYS32_ENTRY of include/xen/interface/elfnote.h.
const PHYS32_ENTRY: u32 = 18;

fn has_pvh_entry(elf: &[u8]) -> bool {
    let find = || -> object::read::Result<bool> {
        let header = object::elf::FileHeader64::<Endianness>::parse(elf)?;
        let endian = header.endian()?;
        for segment in header.program_headers(endian, elf)? {
            let Some(mut notes) = segment.notes(endian, elf)? else {
                continue;
            };
            while let Some(note) = notes.next()? {
                if note.name() == b"Xen" && note.n_type(endian).0 == PHYS32_ENTRY {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    find().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header that says what follows it, with a kernel of so many bytes.
    fn image(length: u32) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
        put(field::SETUP_SECTS, &[1]);
        put(field::BOOT_FLAG, &0xaa55_u16.to_le_bytes());
        put(field::HEADER, b"HdrS");
        put(field::VERSION, &0x020f_u16.to_le_bytes());
        put(field::KERNEL_VERSION, &0x100_u16.to_le_bytes());
        put(0x300, b"7.3.4+deb13-amd64 (debian-kernel) #1\0");
        put(field::PAYLOAD_OFFSET, &16_u32.to_le_bytes());
        put(field::PAYLOAD_LENGTH, &length.to_le_bytes());
        bytes
    }

    #[test]
    fn a_kernel_says_its_release() {
        let image = BzImage(image(100));
        assert!(image.is_one());
        assert_eq!(image.release(), Some("7.3.4+deb13-amd64"));
    }

    #[test]
    fn numbers_that_lie_are_no_kernel_and_no_panic() {
        for length in [0, 3, 100, 5000, u32::MAX] {
            assert!(BzImage(image(length)).vmlinux().is_none());
        }
        for cut in [0, 0x1f1, 0x200, 0x20f, 0x24d] {
            let mut bytes = image(100);
            bytes.truncate(cut);
            let image = BzImage(bytes);
            assert!(image.release().is_none() && image.vmlinux().is_none());
        }
    }
}
