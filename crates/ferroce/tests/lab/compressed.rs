// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed modules, on a kernel that decompresses none itself: they come to
//! it by `init_module(2)`, which says less than `finit_module(2)`.

use std::fs;
use std::io::Write;

use crate::loader::{cases_of, said_of, Built};
use crate::mutants::{lib0, Mutation};
use crate::support::{Flavor, Test};
use crate::sweep::{Agreement, Sweep};

pub const TESTS: &[Test] = &[
    (
        "of compressed modules, what is said is what the kernel does",
        whole_and_mangled,
    ),
    (
        "of broken compressed modules, what is said is what insmod does",
        broken,
    ),
];

type Compressor = fn(&[u8]) -> Vec<u8>;

const COMPRESSORS: [(&str, Compressor); 3] = [("gz", gzip), ("xz", xz), ("zst", zstd)];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With CRC64, which no kernel knows.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn whole_and_mangled(flavor: &Flavor) {
    let built = Built::of(flavor);
    let dir = tempfile::tempdir().unwrap();
    let base = lib0(&built, dir.path());
    let wrong_type = Mutation::Header(16, 2).of(&base);
    let cases: [(&str, &[u8]); 5] = [
        ("whole", &base),
        ("of another type", &wrong_type),
        ("cut off", &base[..1000]),
        ("too short for a header", &base[..63]),
        ("empty", &[]),
    ];
    let mut modules = Vec::new();
    for (ending, compress) in COMPRESSORS {
        for (name, bytes) in cases {
            modules.push((format!("{ending}, {name}"), compress(bytes)));
        }
        let (first, second) = base.split_at(1000);
        let streams = [compress(first), compress(second)].concat();
        modules.push((format!("{ending}, two streams"), streams));
    }
    let tried = Sweep::new(flavor, &built, dir.path(), modules).run();
    tried.agree();
    tried.deaths_are_foretold();
}

/// What cannot be decompressed does not come to the kernel: it is kmod that says so.
fn broken(flavor: &Flavor) {
    let built = Built::of(flavor);
    let kernel = built.kernel();
    let dir = tempfile::tempdir().unwrap();
    let base = lib0(&built, dir.path());
    let (xz, zstd) = (xz(&base), zstd(&base));
    let and = |bytes: &[u8], more: &[u8]| [bytes, more].concat();
    const INVALID: Option<&str> = Some("Invalid parameters");
    const FORMAT: Option<&str> = Some("Invalid module format");
    // Not all builds of kmod know gzip.
    let cases = [
        ("whole.ko.xz", xz.clone(), None),
        ("cut.ko.xz", xz[..xz.len() / 2].to_vec(), INVALID),
        ("more.ko.xz", and(&xz, b"garbage"), INVALID),
        ("whole.ko.zst", zstd.clone(), None),
        ("cut.ko.zst", zstd[..zstd.len() / 2].to_vec(), FORMAT),
        ("no-checksum.ko.zst", zstd[..zstd.len() - 2].to_vec(), None),
        ("more.ko.zst", and(&zstd, b"garbage"), INVALID),
        ("two.ko.zst", and(&zstd, &zstd[..99]), None),
    ];
    let mut script = String::new();
    for (name, bytes, error) in &cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let report = said_of(&kernel, &path, &[]);
        let errno = report.refusal().and_then(|(_, f)| f.errno.as_deref());
        let expected = error.map(|error| match error {
            "Invalid parameters" => "EINVAL",
            _ => "ENOEXEC",
        });
        assert_eq!(errno, expected, "{name}: {report:#?}");
        script += &format!(
            "echo; echo 'case {name}'; insmod {} 2>&1 && rmmod lib0\n",
            path.display()
        );
    }
    let ran = flavor.sh(&format!("{script}true")).ends_with(0);
    let said = cases_of(&ran);
    for (name, _, error) in cases {
        match error {
            Some(error) => assert!(said[name].contains(error), "{name}: {ran:#?}"),
            None => assert_eq!(said[name].trim(), "", "{name}: {ran:#?}"),
        }
    }
}
