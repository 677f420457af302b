// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decompression by the kernel itself (CONFIG_MODULE_DECOMPRESS,
//! `kernel/module/decompress.c`), which takes less than kmod does in user
//! space, and checks less.

use std::io::{self, Read};

use liblzma::stream::{Error as XzError, Stream};

use crate::error::Malformed;
use crate::file::{Compression, LARGEST, ZSTD_WINDOW};

/// What the loader gets of a file that `finit_module(2)` is given with
/// MODULE_INIT_COMPRESSED_FILE. The system call returns EINVAL for all errors.
pub fn in_kernel(compression: Compression, bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    match compression {
        Compression::Gzip => gzip(bytes),
        Compression::Xz => xz(bytes),
        Compression::Zstd => zstd(bytes),
    }
}

fn failed(field: &str, what: impl Into<String>, says: impl Into<String>) -> Malformed {
    Malformed::new(0, field, what).says(says)
}

/// `module_gzip_decompress()`: one member, without its checksum; of what may be
/// in the header it knows the file's name alone.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    const LENGTH: usize = 10;
    const NAME: u8 = 8;
    let none = || {
        let what = "the kernel does not take it for gzip data";
        failed("gzip header", what, "not a gzip compressed module")
    };
    let (header, mut rest) = bytes.split_at_checked(LENGTH).ok_or_else(none)?;
    if header[..3] != [0x1f, 0x8b, 8] {
        return Err(none());
    }
    if header[3] & NAME != 0 {
        let end = rest.iter().position(|byte| *byte == 0).ok_or_else(none)?;
        rest = &rest[end + 1..];
    }
    let (all, result) = read_all(flate2::bufread::DeflateDecoder::new(rest));
    result.map(|()| all).map_err(|error| {
        // Z_BUF_ERROR and Z_DATA_ERROR.
        let status = match error.kind() {
            io::ErrorKind::UnexpectedEof => -5,
            _ => -3,
        };
        let line = format!("decompression failed with status {status}");
        failed(
            "gzip data",
            format!("the kernel cannot inflate it: {error}"),
            line,
        )
    })
}

/// `module_xz_decompress()`: one stream, with no other check than CRC32.
fn xz(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    // enum xz_ret in include/linux/xz.h.
    const OK: i32 = 0;
    const FORMAT: i32 = 5;
    const OPTIONS: i32 = 6;
    const DATA: i32 = 7;
    const CRC32: u8 = 1;
    let refused = |status: i32, what: String| {
        let line = format!("decompression failed with status {status}");
        failed("xz data", what, line)
    };
    // After the magic: zero, and the kind of check.
    if let [_, _, _, _, _, _, 0, check, ..] = bytes
        && *check > CRC32
    {
        let what = format!(
            "its check is of type {check} (4 is CRC64, what xz makes by default), and the kernel \
             knows CRC32 alone: compress it with xz --check=crc32"
        );
        return Err(refused(OPTIONS, what));
    }
    let stream = Stream::new_stream_decoder(u64::MAX, 0);
    let stream = stream.map_err(|error| refused(DATA, error.to_string()))?;
    let (all, result) = read_all(liblzma::read::XzDecoder::new_stream(bytes, stream));
    let Err(error) = result else {
        return Ok(all);
    };
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    let status = match inner {
        Some(XzError::Format) => FORMAT,
        Some(XzError::Options) => OPTIONS,
        Some(_) => DATA,
        // The end comes too early: nothing is wrong yet.
        None => OK,
    };
    Err(refused(
        status,
        format!("the kernel cannot decompress it: {error}"),
    ))
}

/// `module_zstd_decompress()`: one frame; what is there of one that is cut off
/// goes on to the loader.
fn zstd(mut bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    use ruzstd::decoding::StreamingDecoder;
    let broken = |what: String| {
        let line = "ZSTD-decompression failed with status";
        Err(failed(
            "zstd data",
            format!("the kernel cannot decompress it: {what}"),
            line,
        ))
    };
    if Compression::of(bytes) != Some(Compression::Zstd) {
        let what = "the kernel does not take it for zstd data";
        return Err(failed("zstd frame", what, "not a zstd compressed module"));
    }
    let decoder = StreamingDecoder::new_with_max_window_size(&mut bytes, ZSTD_WINDOW);
    let mut decoder = match decoder {
        Ok(decoder) => decoder,
        Err(error) => {
            let line = "ZSTD-compressed data has an incomplete frame header";
            let what = format!("the kernel cannot read its frame's header: {error}");
            return Err(failed("zstd frame", what, line));
        }
    };
    let (all, result) = read_all(&mut decoder);
    let frame = decoder.into_frame_decoder();
    if let Err(error) = result {
        return match bytes.is_empty() {
            true => Ok(all),
            false => broken(error.to_string()),
        };
    }
    let wanted = frame.get_checksum_from_data();
    match wanted.is_some() && wanted != frame.get_calculated_checksum() {
        true => broken("its checksum is wrong".to_owned()),
        false => Ok(all),
    }
}

/// What can be read, and the error that ended it.
fn read_all(reader: impl Read) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let result = reader.take(LARGEST + 1).read_to_end(&mut all);
    let result = match result {
        Ok(_) if all.len() as u64 > LARGEST => Err(io::ErrorKind::FileTooLarge.into()),
        result => result.map(drop),
    };
    (all, result)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn says(compression: Compression, bytes: &[u8]) -> String {
        let error = in_kernel(compression, bytes).unwrap_err();
        error.kernel_says.unwrap()
    }

    fn packed_xz(check: liblzma::stream::Check) -> Vec<u8> {
        let stream = Stream::new_easy_encoder(6, check).unwrap();
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(&[7; 9000]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn xz_data_has_one_stream_and_no_check_but_crc32() {
        use liblzma::stream::Check;
        let packed = packed_xz(Check::Crc32);
        assert_eq!(in_kernel(Compression::Xz, &packed).unwrap(), [7; 9000]);
        let twice = [&packed[..], &packed[..]].concat();
        assert_eq!(in_kernel(Compression::Xz, &twice).unwrap(), [7; 9000]);
        let line = says(Compression::Xz, &packed_xz(Check::Crc64));
        assert_eq!(line, "decompression failed with status 6");
        let line = says(Compression::Xz, &packed[..packed.len() - 20]);
        assert_eq!(line, "decompression failed with status 0");
    }

    #[test]
    fn gzip_data_has_one_member_and_a_plain_header() {
        let mut encoder = flate2::GzBuilder::new()
            .filename("x.ko")
            .write(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 9000]).unwrap();
        let mut packed = encoder.finish().unwrap();
        assert_eq!(in_kernel(Compression::Gzip, &packed).unwrap(), [7; 9000]);
        // The checksum is not looked at.
        let end = packed.len() - 6;
        packed[end] ^= 1;
        assert_eq!(in_kernel(Compression::Gzip, &packed).unwrap(), [7; 9000]);
        let line = says(Compression::Gzip, &packed[..packed.len() - 12]);
        assert_eq!(line, "decompression failed with status -5");
        assert_eq!(
            says(Compression::Gzip, b"\x1f\x8b\x09"),
            "not a gzip compressed module"
        );
    }
}
