// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed modules, on a kernel that decompresses none itself: they come to
//! it by `init_module(2)`, which says less than `finit_module(2)`. And on Debian's,
//! which decompresses xz; `strict.rs` has one that decompresses zstd.

use std::fs;
use std::io::Write;

use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::kernel::Kernel;

use crate::distribution::folder;
use crate::loader::{cases_of, said_of, Built};
use crate::mutants::{lib0, Mutation};
use crate::support::{ferroce, Flavor, Test};
use crate::sweep::{agrees, Agreement, Sweep};

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

pub const DEBIAN_TESTS: &[Test] = &[(
    "debian: of modules that the kernel itself decompresses by xz, what is said is what it does",
    by_debian,
)];

type Compressor = fn(&[u8]) -> Vec<u8>;

const COMPRESSORS: [(&str, Compressor); 3] = [("gz", gzip), ("xz", xz), ("zst", zstd)];

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With CRC64, which no kernel knows.
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// With CRC32, as the kernel's build has it.
fn xz_crc32(bytes: &[u8]) -> Vec<u8> {
    let stream =
        liblzma::stream::Stream::new_easy_encoder(1, liblzma::stream::Check::Crc32).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
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

fn by_debian(flavor: &Flavor) {
    let (folder, _) = folder();
    let kernel = Kernel::find(folder.to_str().unwrap()).unwrap();
    let own = folder.join("kernel/drivers/net/dummy.ko.xz");
    let base = ModuleFile::read(&own).unwrap().bytes;
    let whole = xz_crc32(&base);
    let changed = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        ("as Debian has it", fs::read(&own).unwrap()),
        ("with CRC64", xz(&base)),
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("without its end", whole[..whole.len() - 12].to_vec()),
        ("changed inside", changed(whole.len() / 2)),
        ("with another version", changed(6)),
        ("cut off inside", xz_crc32(&base[..1000])),
        ("more behind it", [&whole[..], b"garbage"].concat()),
        ("twice", [&whole[..], &whole].concat()),
        // Which kmod decompresses, not the kernel.
        ("by gzip", gzip(&base)),
        ("by zstd", zstd(&base)),
    ];
    let errnos = compare(&kernel, "dummy", &cases, |script| {
        flavor.sh(&format!("{script}true")).ends_with(0).stdout
    });
    const INVALID: Option<&str> = Some("EINVAL");
    let expected = [
        None,
        INVALID,
        INVALID,
        INVALID,
        INVALID,
        INVALID,
        Some("ENOEXEC"),
        None,
        None,
        None,
        None,
    ];
    assert_eq!(
        errnos.iter().map(Option::as_deref).collect::<Vec<_>>(),
        expected
    );
}

/// Holds what is said of files, all of one module, against what a guest's kernel does with them. `run` runs a
/// script in the guest and gives what that prints. Returns the errno that each is refused with.
pub fn compare(
    kernel: &Kernel,
    module: &str,
    cases: &[(&str, Vec<u8>)],
    run: impl FnOnce(&str) -> String,
) -> Vec<Option<String>> {
    let dir = tempfile::tempdir().unwrap();
    let ferroce = ferroce().get_program().display().to_string();
    let mut script = String::new();
    let mut reports = Vec::new();
    for (index, (name, bytes)) in cases.iter().enumerate() {
        let path = dir.path().join(format!("{index}.ko"));
        fs::write(&path, bytes).unwrap();
        reports.push((name, said_of(kernel, &path, &[])));
        script += &format!(
            "echo; echo 'case {name}'; dmesg -C; {ferroce} module load {} 2>&1; \
             {ferroce} module unload {module} 2>/dev/null; dmesg --color=never\n",
            path.display()
        );
    }
    let printed = run(&script);
    let mut errnos = Vec::new();
    for (name, report) in reports {
        let said = printed.split(&format!("\ncase {name}\n")).nth(1);
        let said = said.unwrap_or_else(|| panic!("no {name} in {printed}"));
        let said = said.split("\ncase ").next().unwrap_or_default();
        match report.refusal() {
            Some((_, finding)) => {
                agrees(&report, said).unwrap_or_else(|what| panic!("{name}: {what}: {said}"));
                errnos.push(finding.errno.clone());
            }
            None => {
                let loaded = said.contains(&format!("loaded {module}\n"));
                assert!(loaded, "{name}: foretold to load: {said}");
                errnos.push(None);
            }
        }
    }
    errnos
}
