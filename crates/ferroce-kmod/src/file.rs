// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module's file: read whole, and decompressed if it is compressed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::decompress;
use crate::error::{Error, Result};

/// More than any module has, and less than any machine's memory: a file that
/// is larger, or becomes larger as it is decompressed, is refused.
pub const LARGEST: u64 = 256 << 20;

/// No limit, as in kmod: a dictionary may have up to 4 GiB (`xz --lzma2=dict=`),
/// and of those only the pages are touched that data is decompressed to.
const XZ_MEMORY: u64 = u64::MAX;

/// The largest window that zstd frames of the kernel's build ask for is 8 MiB
/// (`zstd -19`, scripts/Makefile.modinst); `--ultra` goes up to this.
pub(crate) const ZSTD_WINDOW: u64 = 128 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip(1), `.ko.gz`.
    Gzip,
    /// xz(1), `.ko.xz`.
    Xz,
    /// zstd(1), `.ko.zst`.
    Zstd,
}

impl Compression {
    /// Tells by the first bytes, as the file's name may say anything.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Compression); 3] = [
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
        ];
        let known = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic));
        known.map(|(_, compression)| *compression)
    }

    /// All of them, in the order in which the kernel's build asks for one.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Xz, Self::Zstd];

    /// The option of a kernel whose modules are compressed so.
    pub fn option(self) -> &'static str {
        match self {
            Self::Gzip => "CONFIG_MODULE_COMPRESS_GZIP",
            Self::Xz => "CONFIG_MODULE_COMPRESS_XZ",
            Self::Zstd => "CONFIG_MODULE_COMPRESS_ZSTD",
        }
    }

    /// What the kernel calls it in /sys/module/compression.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// As insmod(8) and modprobe(8) do by kmod's library: several streams or
    /// frames are one file. What follows them that is none is an error, but in
    /// gzip data, where it is ignored (gzread() of zlib).
    fn decompress(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => gzip(bytes),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY,
                    liblzma::stream::CONCATENATED,
                )?;
                let decoder = liblzma::read::XzDecoder::new_stream(bytes, stream);
                read_limited(decoder, LARGEST)
            }
            Self::Zstd => zstd(bytes),
        }
    }
}

/// All members of gzip data (RFC 1952, section 2.2).
fn gzip(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while Compression::of(rest) == Some(Compression::Gzip) {
        let mut decoder = flate2::bufread::GzDecoder::new(rest);
        append_limited(&mut decoder, &mut all)?;
        rest = decoder.into_inner();
    }
    Ok(all)
}

/// All frames of zstd data (RFC 8878, section 3.1). kmod takes what is there of a last
/// one that is cut off, as the kernel does.
fn zstd(mut rest: &[u8]) -> io::Result<Vec<u8>> {
    use ruzstd::decoding::StreamingDecoder;
    let mut all = Vec::new();
    while !rest.is_empty() && !is_part_of_header(rest) {
        if let Some(after) = skippable(rest) {
            rest = after;
            continue;
        }
        let cut = decompress::zstd_cut_off(rest);
        let mut data = cut.as_deref().unwrap_or(rest);
        let decoder = StreamingDecoder::new_with_max_window_size(&mut data, ZSTD_WINDOW);
        let mut decoder = decoder.map_err(io::Error::other)?;
        append_limited(&mut decoder, &mut all)?;
        let frame = decoder.into_frame_decoder();
        let wanted = frame.get_checksum_from_data();
        if wanted.is_some() && wanted != frame.get_calculated_checksum() {
            return Err(io::Error::other("the checksum of a frame is wrong"));
        }
        let left = data.len();
        rest = match cut {
            Some(_) => &[],
            None => &rest[rest.len() - left..],
        };
    }
    Ok(all)
}

/// Whether that may go on as a frame's header, skippable or not.
fn is_part_of_header(rest: &[u8]) -> bool {
    let magic = &rest[..rest.len().min(4)];
    let skippable = |first: u8| [first, 0x2a, 0x4d, 0x18].starts_with(magic);
    let short = [0x28, 0xb5, 0x2f, 0xfd].starts_with(magic);
    short && decompress::zstd_header(rest).is_none()
        || (0x50..0x60).any(skippable) && rest.len() < 8
}

/// What follows a skippable frame (RFC 8878, section 3.1.2), if it is one:
/// nothing after one that is cut off.
fn skippable(bytes: &[u8]) -> Option<&[u8]> {
    const MAGIC: u32 = 0x184d_2a50;
    let number = |bytes: &[u8]| Some(u32::from_le_bytes(*bytes.first_chunk()?));
    if number(bytes)? & !0xf != MAGIC {
        return None;
    }
    let size = number(bytes.get(4..)?)? as usize;
    Some(bytes[8..].get(size..).unwrap_or_default())
}

/// A module's file in memory.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// Where it was read.
    pub path: PathBuf,
    /// How it is compressed on disk.
    pub compression: Option<Compression>,
    /// What is in it, decompressed.
    pub bytes: Vec<u8>,
}

impl ModuleFile {
    /// Reads and decompresses a file, up to [`LARGEST`] bytes of either.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        Self::read_for(path, None)
    }

    /// The same for a kernel that itself decompresses what is compressed so:
    /// insmod(8) and modprobe(8) give it such a file as it is.
    pub fn read_for(path: impl AsRef<Path>, kernel: Option<Compression>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::file("open", path))?;
        let bytes = read_limited(file, LARGEST).map_err(Error::file("read", path))?;
        let compression = Compression::of(&bytes);
        match compression {
            Some(known) if compression == kernel => Ok(Self {
                path: path.to_owned(),
                compression,
                bytes: decompress::in_kernel(known, &bytes).map_err(Error::malformed(path))?,
            }),
            _ => Self::from_bytes(path, bytes),
        }
    }

    /// The same of bytes that came from elsewhere.
    pub fn from_bytes(path: impl AsRef<Path>, bytes: Vec<u8>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let compression = Compression::of(&bytes);
        let bytes = match compression {
            None => bytes,
            Some(compression) => match compression.decompress(&bytes) {
                Ok(bytes) => bytes,
                Err(e) => {
                    let reason = format!("{e} ({} data)", compression.name());
                    return Err(Error::Compressed { path, reason });
                }
            },
        };
        Ok(Self {
            path,
            compression,
            bytes,
        })
    }
}

/// Reads to the end, but never more than a limit.
fn read_limited(reader: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_more(reader, limit, &mut bytes)?;
    Ok(bytes)
}

/// Adds what a reader has, up to [`LARGEST`] bytes with what is there.
fn append_limited(reader: impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    read_more(reader, LARGEST, bytes)
}

fn read_more(reader: impl Read, limit: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let room = limit.saturating_sub(bytes.len() as u64);
    reader.take(room + 1).read_to_end(bytes)?;
    if bytes.len() as u64 > limit {
        let what = format!("it is larger than {} MiB, which no module is", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_expands_beyond_the_limit_is_refused() {
        let error = read_limited(io::repeat(0), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read_limited(&b"abc"[..], 3).unwrap(), b"abc");
    }

    #[test]
    fn broken_compression_is_an_error_that_names_it() {
        for (magic, name) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip"),
            (b"\xfd7zXZ\0\0\x04", "xz"),
            (b"\x28\xb5\x2f\xfd\x04\0\x07\0\0", "zstd"),
        ] {
            let error = ModuleFile::from_bytes("x.ko", magic.to_vec()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
