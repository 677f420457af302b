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
fn zstd(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    use ruzstd::decoding::{errors::FrameDecoderError, StreamingDecoder};
    // ZSTD_ErrorCode in include/linux/zstd_errors.h.
    const CORRUPTED: u32 = 20;
    const CHECKSUM: u32 = 22;
    const WINDOW: u32 = 16;
    const DICTIONARY: u32 = 32;
    let broken = |status: u32, what: String| {
        let what = format!("the kernel cannot decompress it: {what}");
        let line = format!("ZSTD-decompression failed with status {status}");
        Err(failed("zstd data", what, line))
    };
    if Compression::of(bytes) != Some(Compression::Zstd) {
        let what = "the kernel does not take it for zstd data";
        return Err(failed("zstd frame", what, "not a zstd compressed module"));
    }
    let cut = zstd_cut_off(bytes);
    let mut rest = cut.as_deref().unwrap_or(bytes);
    let decoder = StreamingDecoder::new_with_max_window_size(&mut rest, ZSTD_WINDOW);
    let mut decoder = match decoder {
        Ok(decoder) => decoder,
        Err(FrameDecoderError::WindowSizeTooBig { requested, .. })
            if requested <= ZSTD_LARGEST_WINDOW =>
        {
            return broken(WINDOW, format!("its window has {requested} bytes"));
        }
        Err(FrameDecoderError::DictNotProvided { dict_id }) => {
            return broken(DICTIONARY, format!("it needs the dictionary {dict_id}"));
        }
        Err(error) => {
            let line = "ZSTD-compressed data has an incomplete frame header";
            let what = format!("the kernel cannot read its frame's header: {error}");
            return Err(failed("zstd frame", what, line));
        }
    };
    let (all, result) = read_all(&mut decoder);
    let frame = decoder.into_frame_decoder();
    if let Err(error) = result {
        return broken(CORRUPTED, error.to_string());
    }
    let wanted = frame.get_checksum_from_data();
    match wanted.is_some() && wanted != frame.get_calculated_checksum() {
        true => broken(CHECKSUM, "its checksum is wrong".to_owned()),
        false => Ok(all),
    }
}

/// ZSTD_WINDOWLOG_MAX: what zstd_get_frame_header() takes. The decoder itself takes
/// no more than [`ZSTD_WINDOW`].
const ZSTD_LARGEST_WINDOW: u64 = 1 << 31;

/// Where a zstd frame has its descriptor, after the magic (RFC 8878, section 3.1.1.1).
const DESCRIPTOR: usize = 4;

/// The length of a frame's header, if all of it is there.
pub(crate) fn zstd_header(bytes: &[u8]) -> Option<usize> {
    let descriptor = *bytes.get(DESCRIPTOR)?;
    let single_segment = usize::from(descriptor >> 5 & 1);
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = [single_segment, 2, 4, 8][usize::from(descriptor >> 6)];
    let length = DESCRIPTOR + 1 + (1 - single_segment) + dictionary + content_size;
    (length <= bytes.len()).then_some(length)
}

/// A frame that is cut off, with an end where zstd's decoder stops for want of
/// data: it gives whole blocks, and of one that is not compressed what is there
/// (RFC 8878, section 3.1.1). Nothing for a frame that is whole.
pub(crate) fn zstd_cut_off(bytes: &[u8]) -> Option<Vec<u8>> {
    const CHECKSUM: u8 = 1 << 2;
    const BLOCK_HEADER: usize = 3;
    const LAST: u32 = 1;
    const RAW: u32 = 0;
    const RLE: u32 = 1;
    const NO_MORE: [u8; BLOCK_HEADER] = [LAST as u8, 0, 0];

    let mut at = zstd_header(bytes)?;
    let descriptor = bytes[DESCRIPTOR];
    let mut frame = bytes[..at].to_vec();
    frame[DESCRIPTOR] &= !CHECKSUM;
    while let Some([a, b, c]) = bytes.get(at..at + BLOCK_HEADER) {
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let (kind, size) = (header >> 1 & 3, (header >> 3) as usize);
        let start = at + BLOCK_HEADER;
        let end = start + if kind == RLE { 1 } else { size };
        match bytes.get(start..end) {
            Some(_) => frame.extend(&bytes[at..end]),
            None if kind == RAW => {
                let there = &bytes[start..];
                let header = (there.len() as u32) << 3 | RAW << 1;
                frame.extend(&header.to_le_bytes()[..BLOCK_HEADER]);
                frame.extend(there);
                break;
            }
            None => break,
        }
        if header & LAST != 0 {
            let checksum = if descriptor & CHECKSUM == 0 { 0 } else { 4 };
            return (end + checksum > bytes.len()).then_some(frame);
        }
        at = end;
    }
    frame.extend(NO_MORE);
    Some(frame)
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

    /// 9,000 times 7, by `zstd -19 --check`: a block that is compressed, and a checksum.
    const SEVENS: [u8; 22] = [
        0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x28, 0x22, 0x45, 0, 0, 8, 7, 1, 0, 0x24, 0x83, 7, 0x42,
        0x85, 0x55, 0xff, 0xb0,
    ];
    /// `ferroce`, by `zstd --check`: a block that is not compressed.
    const PLAIN: [u8; 20] = *b"\x28\xb5\x2f\xfd\x24\x07\x39\0\0ferroce\x9a\x35\x26\xd2";

    #[test]
    fn zstd_data_has_one_frame_with_its_checksum() {
        let is_sevens = |bytes: &[u8]| {
            assert_eq!(in_kernel(Compression::Zstd, bytes).unwrap(), [7; 9000]);
        };
        is_sevens(&SEVENS);
        is_sevens(&[&SEVENS[..], &SEVENS, b"garbage"].concat());
        let mut other = SEVENS;
        other[21] ^= 1;
        let line = says(Compression::Zstd, &other);
        assert_eq!(line, "ZSTD-decompression failed with status 22");
        // A block of a reserved type.
        let mut other = SEVENS;
        other[7] |= 6;
        let line = says(Compression::Zstd, &other);
        assert_eq!(line, "ZSTD-decompression failed with status 20");
    }

    #[test]
    fn zstd_data_that_is_cut_off_is_taken_as_far_as_it_goes() {
        let read = |bytes: &[u8]| in_kernel(Compression::Zstd, bytes).unwrap();
        // The checksum is not looked at before it is whole.
        assert_eq!(read(&SEVENS[..21]), [7; 9000]);
        assert_eq!(read(&SEVENS[..17]), []);
        assert_eq!(read(&SEVENS[..9]), []);
        assert_eq!(read(&SEVENS[..7]), []);
        assert_eq!(read(&PLAIN), *b"ferroce");
        assert_eq!(read(&PLAIN[..12]), *b"fer");
        let line = says(Compression::Zstd, &SEVENS[..6]);
        assert_eq!(line, "ZSTD-compressed data has an incomplete frame header");
        // Of two blocks the first is whole, however large the window is.
        let numbers = (0..200_000u32).map(|n| n / 50);
        let all: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let packed = ruzstd::encoding::compress_to_vec(&all[..], level);
        let part = read(&packed[..packed.len() / 2]);
        assert!(part.len() > all.len() / 4 && all.starts_with(&part));
        assert_eq!(part.len() % (128 << 10), 0);
    }

    #[test]
    fn zstd_data_has_a_window_of_up_to_128_mib_and_no_dictionary() {
        // A window of 2 to the power of 10 and the upper five bits.
        let window = |log: u8| {
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3];
            frame.extend(&SEVENS[7..18]);
            frame
        };
        assert_eq!(
            in_kernel(Compression::Zstd, &window(27)).unwrap(),
            [7; 9000]
        );
        let line = says(Compression::Zstd, &window(28));
        assert_eq!(line, "ZSTD-decompression failed with status 16");
        let line = says(Compression::Zstd, &window(32));
        assert_eq!(line, "ZSTD-compressed data has an incomplete frame header");
        let dictionary = [&[0x28, 0xb5, 0x2f, 0xfd, 1, 0x50, 9], &SEVENS[7..18]].concat();
        let line = says(Compression::Zstd, &dictionary);
        assert_eq!(line, "ZSTD-decompression failed with status 32");
        assert_eq!(
            says(Compression::Zstd, b"\x28\xb5"),
            "not a zstd compressed module"
        );
    }
}
