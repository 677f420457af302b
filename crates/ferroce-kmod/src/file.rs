// SPDX-License-Identifier: MIT OR Apache-2.0
//! A module's file: read whole, and decompressed if it is compressed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};

/// More than any module has, and less than any machine's memory: a file that
/// is larger, or becomes larger as it is decompressed, is refused.
pub const LARGEST: u64 = 256 << 20;

/// More than decoding needs of any module that `xz -9` made (65 MiB).
const XZ_MEMORY: u64 = 128 << 20;

/// The largest window that zstd frames of the kernel's build ask for is 8 MiB
/// (`zstd -19`, scripts/Makefile.modinst); `--ultra` goes up to this.
const ZSTD_WINDOW: u64 = 128 << 20;

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

    /// What the kernel calls it in /sys/module/compression.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    fn decompress(self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let limit = |reader: &mut dyn Read| read_limited(reader, LARGEST);
        match self {
            Self::Gzip => limit(&mut flate2::read::MultiGzDecoder::new(bytes)),
            Self::Xz => {
                let stream = liblzma::stream::Stream::new_stream_decoder(
                    XZ_MEMORY,
                    liblzma::stream::CONCATENATED,
                )?;
                limit(&mut liblzma::read::XzDecoder::new_stream(bytes, stream))
            }
            Self::Zstd => {
                use ruzstd::decoding::StreamingDecoder;
                let decoder = StreamingDecoder::new_with_max_window_size(bytes, ZSTD_WINDOW);
                limit(&mut decoder.map_err(io::Error::other)?)
            }
        }
    }
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
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::file("open", path))?;
        let bytes = read_limited(file, LARGEST).map_err(Error::file("read", path))?;
        Self::from_bytes(path, bytes)
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
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let what = format!("it is larger than {} MiB, which no module is", limit >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
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
            (b"\x28\xb5\x2f\xfd\x04\0", "zstd"),
        ] {
            let error = ModuleFile::from_bytes("x.ko", magic.to_vec()).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
