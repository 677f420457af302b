// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checksums, signatures and decompression, which the lab's kernels do without: with a
//! small kernel of the tests' own that has all three.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferroce_kmod::check::{check, Reason, Request, Stage, Verdict};
use ferroce_kmod::kernel::{Kernel, Running};
use ferroce_lab::backend::Backend;
use ferroce_lab::cache::{hex, Cache, Found, Seal};
use ferroce_lab::kernel::Kernel as LabKernel;
use sha2::{Digest, Sha256};

use crate::broken::replace;
use crate::compressed;
use crate::support::{ferroce, kernel_dir, ran, Flavor, Test};

pub const TESTS: &[Test] = &[
    (
        "wrong checksums and untrusted signatures are foretold, and the kernel refuses",
        refusals,
    ),
    (
        "of modules that the kernel itself decompresses by zstd, what is said is what it does",
        decompressed,
    ),
];

const CONFIG: &str = include_str!("strict.config");

/// One that exports, and one that imports.
const BASE: &str = r#"
#include <linux/module.h>
int strict_base(int n) { return n + 1; }
EXPORT_SYMBOL_NS_GPL(strict_base, "STRICT");
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("exports");
"#;
const USER: &str = r#"
#include <linux/module.h>
int strict_base(int n);
static int __init user_init(void) { return strict_base(1) == 2 ? 0 : -EINVAL; }
static void __exit user_exit(void) {}
module_init(user_init);
module_exit(user_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("imports");
MODULE_IMPORT_NS("STRICT");
"#;

/// The kernel's build folder; it is built once.
fn kernel() -> (PathBuf, LabKernel) {
    let flavor = ferroce_lab::backend::Flavor {
        backend: Backend::Uml,
        debug: false,
        series: ferroce_lab::backend::Series::NEWEST,
    };
    let cache = Cache::open().unwrap();
    let lab = LabKernel::ensure(&cache, &kernel_dir(), flavor).unwrap();
    let key = Sha256::digest([CONFIG, &lab.name()].concat());
    let name = format!("strict-{}", &hex(&key)[..12]);
    let dir = cache.path("kernel").join(&name);
    let _lock = cache.lock(&name, "building the strict kernel").unwrap();
    if Seal::check(&dir, |_| true) == Found::Whole {
        return (dir, lab);
    }
    fs::create_dir_all(&dir).unwrap();
    let config = dir.join("ferroce.config");
    fs::write(&config, CONFIG).unwrap();
    for target in [&["allnoconfig"][..], &["linux", "modules"]] {
        let mut make = lab.make();
        make.current_dir(&lab.source.dir)
            .env("KCONFIG_ALLCONFIG", &config)
            .arg(format!("O={}", dir.display()))
            .arg(format!(
                "-j{}",
                std::thread::available_parallelism().unwrap()
            ))
            .args(target);
        ran(&mut make).ends_with(0);
    }
    let made = fs::read_to_string(dir.join(".config")).unwrap();
    for line in CONFIG.lines().filter(|l| l.starts_with("CONFIG_")) {
        assert!(
            made.lines().any(|l| l == line),
            "the kernel's configuration lost {line}"
        );
    }
    let products = [
        "linux",
        "Module.symvers",
        ".config",
        "certs/signing_key.x509",
    ];
    Seal::write(&dir, products.map(PathBuf::from)).unwrap();
    (dir, lab)
}

/// Boots it with a script as its first process; tells what that printed.
fn boot(dir: &Path, work: &Path, option: &str, script: &str) -> String {
    let init = work.join("init.sh");
    // The end of the first process ends the machine, one way or another.
    let script = format!(
        "#!/bin/sh\nPATH=/sbin:/usr/sbin:$PATH\nmount -t proc none /proc\n\
         mount -t sysfs none /sys\ncd {}\n{script}\npoweroff -f\n",
        work.display()
    );
    fs::write(&init, script).unwrap();
    ran(Command::new("chmod").arg("+x").arg(&init)).ends_with(0);
    let command = format!(
        "ulimit -c 0; exec timeout 120 {}/linux mem=128M rootfstype=hostfs root=/dev/root ro \
         {option} init={} con=null con0=fd:0,fd:1 quiet < /dev/null 2> /dev/null",
        dir.display(),
        init.display()
    );
    // A terminal's lines end with two characters.
    ran(Command::new("sh").arg("-c").arg(command))
        .stdout
        .replace('\r', "")
}

/// Makes all the modules; what is signed has `signed` or `other` in its name.
fn make_modules(dir: &Path, lab: &LabKernel, work: &Path) {
    fs::write(work.join("Kbuild"), "obj-m := base.o user.o\n").unwrap();
    fs::write(work.join("base.c"), BASE).unwrap();
    fs::write(work.join("user.c"), USER).unwrap();
    let mut make = lab.make();
    make.current_dir(dir)
        .arg(format!("M={}", work.display()))
        .arg("modules");
    ran(&mut make).ends_with(0);

    let user = fs::read(work.join("user.ko")).unwrap();
    let write = |name: &str, bytes: Vec<u8>| fs::write(work.join(name), bytes).unwrap();
    write("crc.ko", other_crc(user.clone(), "_printk", "strict_base"));
    write(
        "layout.ko",
        other_crc(user.clone(), "module_layout", "module_layout"),
    );
    write(
        "namespace.ko",
        replace(user.clone(), b"import_ns=STRICT", b"import_ns=STRUCT"),
    );
    write(
        "versions.ko",
        replace(user, b"\0__versions\0", b"\0__verzions\0"),
    );

    // A key that nobody knows, as the kernel's own is made (certs/Makefile).
    ran(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=Somebody",
        ])
        .args([
            "-outform",
            "DER",
            "-keyout",
            "other.pem",
            "-out",
            "other.x509",
        ])
        .current_dir(work))
    .ends_with(0);
    let certs = dir.join("certs");
    let own = (
        certs.join("signing_key.pem"),
        certs.join("signing_key.x509"),
    );
    let other = (work.join("other.pem"), work.join("other.x509"));
    for (from, to, (key, certificate)) in [
        ("base.ko", "base_signed.ko", &own),
        ("user.ko", "signed.ko", &own),
        ("user.ko", "other.ko", &other),
    ] {
        ran(Command::new(dir.join("scripts/sign-file"))
            .arg("sha512")
            .args([key, certificate])
            .args([work.join(from), work.join(to)]))
        .ends_with(0);
    }
}

/// Changes the checksum of the first of some symbols that has one.
fn other_crc(mut bytes: Vec<u8>, symbol: &str, or: &str) -> Vec<u8> {
    const NAME: usize = 8;
    let original = bytes.clone();
    let elf = ferroce_kmod::elf::Elf::parse(&original).unwrap();
    let versions = elf.section("__versions").unwrap();
    let is =
        |entry: &[u8], name: &str| entry[NAME..].starts_with(&[name.as_bytes(), b"\0"].concat());
    let entries = versions.data().chunks(64);
    let index = entries
        .clone()
        .position(|entry| is(entry, symbol) || is(entry, or));
    bytes[versions.offset() as usize + index.expect("it is there") * 64] ^= 1;
    bytes
}

fn refusals(_: &Flavor) {
    let (dir, lab) = kernel();
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    make_modules(&dir, &lab, work);
    headers_with_other_checksums(&dir, work);

    use Stage::{CopyAndCheck, Symbols};
    let lenient = [
        ("crc", Some((Symbols, Reason::Version))),
        ("layout", Some((CopyAndCheck, Reason::Version))),
        ("namespace", Some((Symbols, Reason::Namespace))),
        ("versions", Some((CopyAndCheck, Reason::NoVersion))),
        ("user", None),
        ("signed", None),
        ("other", None),
    ];
    let enforcing = [
        ("user", Some((CopyAndCheck, Reason::Signature))),
        ("other", Some((CopyAndCheck, Reason::Signature))),
        ("signed", None),
    ];
    for (enforce, base, cases) in [
        (false, "base", &lenient[..]),
        (true, "base_signed", &enforcing[..]),
    ] {
        let mut script = format!("insmod {base}.ko\n");
        for (name, _) in cases {
            script += &format!(
                "echo; echo case {name}; dmesg -C; insmod {name}.ko && rmmod user; \
                 echo status $?; dmesg --color=never\n"
            );
        }
        let option = if enforce { "module.sig_enforce=1" } else { "" };
        let printed = boot(&dir, work, option, &script);
        for (name, expected) in cases {
            let mut kernel = Kernel::find(dir.to_str().unwrap()).unwrap();
            kernel.running = Some(Running {
                sig_enforce: Some(enforce),
                ..Running::default()
            });
            let requests = [format!("{name}.ko"), format!("{base}.ko")];
            let requests = requests.map(|file| Request::new(work.join(file)));
            let report = check(&kernel, &requests);
            let report = report.modules.iter().find(|m| m.name == "user").unwrap();
            let said = printed.split(&format!("\ncase {name}\n")).nth(1);
            let said = said.unwrap_or_else(|| panic!("no {name} in {printed}"));
            let said = said.split("\ncase ").next().unwrap();
            match (report.refusal(), expected) {
                (None, None) => {
                    assert_eq!(report.verdict(), Verdict::Loads);
                    assert!(said.contains("status 0\n"), "{name}: {said}");
                }
                (Some((stage, finding)), Some(expected)) => {
                    assert_eq!((stage, finding.reason), *expected, "{name}: {report:#?}");
                    assert!(said.contains("status 1\n"), "{name}: {said}");
                    let line = finding.kernel_says.as_deref().unwrap_or_default();
                    assert!(said.contains(line), "{name}: {line:?} foretold: {said}");
                }
                _ => panic!("{name}: {report:#?}"),
            }
        }
    }
}

/// That the headers are not the kernel's, by the checksums in a module that came with it, is told before
/// the driver is built against them.
fn headers_with_other_checksums(headers: &Path, work: &Path) {
    let release = fs::read_to_string(headers.join("include/config/kernel.release")).unwrap();
    let release = release.trim();
    let root = work.join("root");
    let modules = root.join("lib/modules").join(release);
    fs::create_dir_all(modules.join("kernel")).unwrap();
    std::os::unix::fs::symlink(headers, modules.join("build")).unwrap();
    let another_build = format!("are of another build than Linux {release}");
    for (module, is_other) in [("user", false), ("layout", true)] {
        let from = work.join(format!("{module}.ko"));
        fs::copy(from, modules.join("kernel/ib_core.ko")).unwrap();
        let ran = ran(ferroce()
            .args(["install", "--check", "--kernel", release])
            .env("DESTDIR", &root));
        // This kernel has no CONFIG_RUST anyhow.
        let ran = ran.ends_with(1).says("without CONFIG_RUST");
        let said = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(said.contains(&another_build), is_other, "{module}: {said}");
    }
}

fn decompressed(_: &Flavor) {
    let (dir, lab) = kernel();
    let work = tempfile::tempdir().unwrap();
    let work = work.path();
    make_modules(&dir, &lab, work);
    let base = fs::read(work.join("base.ko")).unwrap();
    let whole = compressed::zstd(&base);
    // The magic and a byte.
    let header = 5;
    let changed = |at: usize, bits: u8| {
        let mut bytes = whole.clone();
        bytes[at] ^= bits;
        bytes
    };
    let cases = [
        ("whole", whole.clone()),
        ("cut off", whole[..whole.len() / 2].to_vec()),
        ("without its checksum", whole[..whole.len() - 2].to_vec()),
        ("wrong checksum", changed(whole.len() - 1, 1)),
        ("cut off in the header", whole[..header].to_vec()),
        ("more behind it", [&whole[..], b"garbage"].concat()),
        ("twice", [&whole[..], &whole].concat()),
        ("cut off inside", compressed::zstd(&base[..1000])),
        // Which kmod decompresses, not the kernel.
        ("by gzip", compressed::gzip(&base)),
        ("by xz", compressed::xz(&base)),
    ];
    let kernel = Kernel::find(dir.to_str().unwrap()).unwrap();
    let errnos = compressed::compare(&kernel, "base", &cases, |script| {
        boot(&dir, work, "", script)
    });
    const INVALID: Option<&str> = Some("EINVAL");
    const FORMAT: Option<&str> = Some("ENOEXEC");
    let expected = [
        None, FORMAT, None, INVALID, INVALID, None, None, FORMAT, None, None,
    ];
    assert_eq!(
        errnos.iter().map(Option::as_deref).collect::<Vec<_>>(),
        expected
    );
}
