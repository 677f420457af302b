// SPDX-License-Identifier: MIT OR Apache-2.0
//! Malformed files are the normal case: whatever is in one, there is an answer,
//! and it names the place.

mod sample;

use std::io::Write;
use std::path::Path;

use ferroce_kmod::check::{check, check_bytes, Reason, Request, Stage, Verdict};
use ferroce_kmod::exec::{exec, ExecError};
use ferroce_kmod::file::{ModuleFile, LARGEST};
use ferroce_kmod::info::Info;
use ferroce_kmod::kernel::Kernel;
use ferroce_kmod::Error;

/// All that looks at a file without a kernel.
fn look(bytes: &[u8]) -> Result<Info, Error> {
    let info = Info::of(&ModuleFile::from_bytes(
        Path::new("sample.ko"),
        bytes.to_vec(),
    )?)?;
    // What is shown of it must not panic either.
    info.fields();
    Ok(info)
}

#[test]
fn a_whole_module_is_read_whole() {
    let info = look(&sample::module()).unwrap();
    assert_eq!(info.linkage.name, "sample");
    assert_eq!(info.linkage.imports[0].name, "_printk");
    assert_eq!(info.linkage.exports[0].name, "sample_call");
    assert_eq!(info.linkage.exports[0].gpl_only, Some(true));
    assert_eq!(info.linkage.exports[0].namespace.as_deref(), Some("SAMPLE"));
    assert_eq!(info.params[0].name, "level");
    assert_eq!(info.params[0].kind.describe(), "0 to 255");
    assert_eq!(info.relocations.iter().map(|r| r.count).sum::<u64>(), 9);
}

#[test]
fn a_module_that_is_cut_off_anywhere_is_refused_and_the_place_named() {
    let whole = sample::module();
    for length in 0..whole.len() {
        match look(&whole[..length]) {
            Err(Error::Malformed { reason, .. }) => {
                assert!(!reason.field.is_empty(), "at {length}: {reason}");
                assert!(reason.offset <= whole.len() as u64, "at {length}: {reason}");
            }
            other => panic!("cut off at {length}: {other:?}"),
        }
    }
}

#[test]
fn any_changed_byte_has_an_answer() {
    let mut module = sample::module();
    for index in 0..module.len() {
        let byte = module[index];
        for other in [0, 1, 0x7f, 0x80, 0xff, byte ^ 1, byte ^ 0x80] {
            module[index] = other;
            let _ = look(&module);
            let file = ModuleFile::from_bytes("sample.ko", module.clone());
            if let Ok(file) = file {
                check_bytes(&Kernel::default(), file);
            }
        }
        module[index] = byte;
    }
}

#[test]
fn all_compressions_are_seen_through() {
    let whole = sample::module();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&whole).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(
        whole.as_slice(),
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    for (name, bytes) in [
        ("gzip", gzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
        ("zstd", zstd),
    ] {
        let info = look(&bytes).unwrap();
        assert_eq!(info.compression.unwrap().name(), name);
        assert_eq!(info.size, whole.len() as u64);
        // Cut off, it is an error and nothing worse; zstd does not miss a checksum.
        for length in (0..bytes.len() - 4).step_by(7) {
            assert!(look(&bytes[..length]).is_err(), "{name} at {length}");
        }
    }
}

/// What insmod of kmod 30 does with each, in a guest.
#[test]
fn several_streams_are_one_file_and_what_follows_them_is_judged_by_format() {
    let whole = sample::module();
    let gzip = |data: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(data).unwrap();
        gzip.finish().unwrap()
    };
    let xz = |data: &[u8]| {
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(data).unwrap();
        xz.finish().unwrap()
    };
    let zstd = |data: &[u8]| {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(data, level)
    };
    let skippable = b"\x50\x2a\x4d\x18\x04\0\0\0abcd";
    let (first, second) = whole.split_at(whole.len() / 2);
    for bytes in [
        [gzip(first), gzip(second)].concat(),
        [&gzip(&whole)[..], b"garbage"].concat(),
        [&gzip(&whole)[..], &[0; 512]].concat(),
        [xz(first), xz(second)].concat(),
        [zstd(first), zstd(second)].concat(),
        [&zstd(&whole)[..], skippable].concat(),
        [&zstd(first)[..], skippable, &zstd(second)].concat(),
        [&zstd(&whole)[..], &skippable[..9]].concat(),
        [&zstd(&whole)[..], &skippable[..3]].concat(),
        [&zstd(&whole)[..], &zstd(&whole)[..20]].concat(),
        [&zstd(&whole)[..], &zstd(&whole)[..2]].concat(),
    ] {
        assert_eq!(look(&bytes).unwrap().size, whole.len() as u64);
    }
    for bytes in [
        [&xz(&whole)[..], b"garbage"].concat(),
        [&zstd(&whole)[..], b"garbage"].concat(),
        [&zstd(&whole)[..], b"g"].concat(),
        [&gzip(&whole)[..], &gzip(&whole)[..20]].concat(),
    ] {
        assert!(matches!(look(&bytes), Err(Error::Compressed { .. })));
    }
}

#[test]
fn an_xz_dictionary_may_be_larger_than_any_module() {
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(1536 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let stream =
        liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32);
    let whole = sample::module();
    let mut xz = liblzma::write::XzEncoder::new_stream(Vec::new(), stream.unwrap());
    xz.write_all(&whole).unwrap();
    assert_eq!(
        look(&xz.finish().unwrap()).unwrap().size,
        whole.len() as u64
    );
}

/// A symbol that is in no section: `st_shndx` of the symbol `level`.
#[test]
fn a_symbol_without_a_section_is_refused_at_symbols() {
    for (shndx, reason, line) in [
        (
            0xfff2_u16,
            Reason::CommonSymbol,
            "sample: please compile with -fno-common",
        ),
        (
            0xffff,
            Reason::SymbolSection,
            "sample: Symbol level has an invalid section index 65535 (max ",
        ),
        (
            0xff00,
            Reason::SymbolSection,
            "sample: Symbol level has an invalid section index 65280 (max ",
        ),
    ] {
        let mut module = sample::module();
        sample::set_shndx(&mut module, b"level", shndx);
        let file = ModuleFile::from_bytes("sample.ko", module.clone()).unwrap();
        let report = check_bytes(&Kernel::default(), file);
        let refusal = report.modules[0]
            .findings()
            .find(|(_, f)| f.reason == reason);
        let (stage, finding) = refusal.unwrap_or_else(|| panic!("{report:#?}"));
        assert_eq!(stage, Stage::Symbols);
        assert_eq!(finding.errno.as_deref(), Some("ENOEXEC"));
        assert!(finding.kernel_says.as_deref().unwrap().starts_with(line));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.ko");
        std::fs::write(&path, module).unwrap();
        let error = exec(&path, &[]).unwrap_err();
        assert!(matches!(error, ExecError::NotSimple(_)), "{error}");
    }
    // A live patch's symbols are resolved later.
    let mut module = sample::module();
    sample::set_shndx(&mut module, b"level", 0xff20);
    let file = ModuleFile::from_bytes("sample.ko", module).unwrap();
    let report = check_bytes(&Kernel::default(), file);
    let mut findings = report.modules[0].findings();
    assert!(!findings.any(|(_, f)| f.reason == Reason::SymbolSection));
}

#[test]
fn a_bomb_is_put_out() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), LARGEST + 1),
        &mut gzip,
    )
    .unwrap();
    let bomb = gzip.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let error = look(&bomb).unwrap_err();
    assert!(error.to_string().contains("larger than 256 MiB"), "{error}");
}

#[test]
fn symbols_of_which_nothing_is_known_are_one_line() {
    let file = ModuleFile::from_bytes("sample.ko", sample::module()).unwrap();
    let report = check_bytes(&Kernel::default(), file);
    let symbols = report.modules[0].findings();
    let symbols: Vec<_> = symbols.filter(|(s, _)| *s == Stage::Symbols).collect();
    let [(_, finding)] = symbols[..] else {
        panic!("{symbols:#?}")
    };
    assert!(finding.what.contains("2 of the symbols"), "{finding:?}");
}

#[test]
fn what_is_not_there_is_refused_as_the_kernel_would() {
    let report = check(&Kernel::default(), &[Request::new("/nowhere/x.ko")]);
    assert_eq!(report.verdict(), Verdict::Refused);
    let (stage, finding) = report.modules[0].refusal().unwrap();
    assert_eq!(
        (stage, finding.reason),
        (Stage::CopyAndCheck, Reason::Unreadable)
    );
    assert_eq!(finding.errno.as_deref(), Some("ENOENT"));
}
