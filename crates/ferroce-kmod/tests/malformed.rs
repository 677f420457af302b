// SPDX-License-Identifier: MIT OR Apache-2.0
//! Malformed files are the normal case: whatever is in one, there is an answer,
//! and it names the place.

mod sample;

use std::io::Write;
use std::path::Path;

use ferroce_kmod::check::{check, check_bytes, Reason, Request, Stage, Verdict};
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
    assert_eq!(info.relocations.iter().map(|r| r.count).sum::<u64>(), 5);
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
        // Cut off, it is an error and nothing worse.
        for length in (0..bytes.len()).step_by(7) {
            assert!(look(&bytes[..length]).is_err(), "{name} at {length}");
        }
    }
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
