// SPDX-License-Identifier: MIT OR Apache-2.0
//! The driver for kernels that the lab has not built, and its installation: into folders that stand for a
//! system's root.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ferroce_kmod::check::{check, Request, Verdict};
use ferroce_kmod::kernel::Kernel;

use crate::support::{ferroce, ran, Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    (
        "what is in the way of the driver is told, with what helps",
        obstacles,
    ),
    (
        "the driver is installed for a kernel, found by modprobe, and uninstalled",
        round_trip,
    ),
    (
        "the driver is built for Debian's kernel, which would load it",
        debian,
    ),
];

/// A configuration with all that the driver needs.
const CONFIG: &str = "CONFIG_X86_64=y\nCONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_INFINIBAND=m\n\
     CONFIG_INFINIBAND_USER_ACCESS=m\nCONFIG_INFINIBAND_ON_DEMAND_PAGING=y\n\
     CONFIG_RUSTC_VERSION_TEXT=\"rustc 1.0.0 (of nobody)\"\n";

/// A system's root with nothing but a kernel.
struct Root(tempfile::TempDir);

impl Root {
    fn new(release: &str, config: &str) -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(root.headers(release)).unwrap();
        fs::create_dir_all(root.path("lib/modules").join(release).join("kernel")).unwrap();
        let link = root.path("lib/modules").join(release).join("build");
        symlink(format!("/usr/src/linux-headers-{release}"), link).unwrap();
        fs::write(root.headers(release).join(".config"), config).unwrap();
        fs::write(root.headers(release).join("Makefile"), "").unwrap();
        root
    }

    fn headers(&self, release: &str) -> PathBuf {
        self.path(&format!("usr/src/linux-headers-{release}"))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn check(&self, release: &str) -> Ran {
        self.run(release, &["--check"])
    }

    fn run(&self, release: &str, more: &[&str]) -> Ran {
        let mut ran = ran(ferroce()
            .args(["install", "--kernel", release, "--destdir"])
            .arg(self.0.path())
            .args(more));
        // Texts are broken at the width.
        ran.stderr = ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        ran
    }
}

fn obstacles(_: &Flavor) {
    let refused = |root: &Root, release: &str, what: &str, help: &str| {
        let ran = root.check(release).ends_with(1).says(what).says(help);
        let refusals = ran.stderr.matches(" > ").count();
        assert_eq!(refusals, 1, "{ran:#?}");
        assert!(!root
            .path("lib/modules")
            .join(release)
            .join("updates")
            .exists());
    };
    let debian = "apt-get install -t trixie-backports linux-image-amd64";
    let headers = "apt-get install linux-headers-";

    let old = "6.12.1+deb13-amd64";
    refused(
        &Root::new(old, CONFIG),
        old,
        "Linux 6.12.1+deb13-amd64 is too old: the driver is for Linux 7.2 and later",
        debian,
    );
    let release = "7.3.9+deb13-amd64";
    for (without, text) in [
        (
            "CONFIG_RUST=y\n",
            "was built without CONFIG_RUST, so it takes no driver in Rust",
        ),
        (
            "CONFIG_INFINIBAND_ON_DEMAND_PAGING=y\n",
            "was built without CONFIG_INFINIBAND_ON_DEMAND_PAGING",
        ),
    ] {
        let root = Root::new(release, &CONFIG.replace(without, ""));
        refused(&root, release, text, debian);
    }
    for (config, file, text, why) in [
        (
            "CONFIG_MODULE_SIG_FORCE=y\n",
            "tmp/nothing",
            "",
            "it was built with CONFIG_MODULE_SIG_FORCE",
        ),
        (
            "",
            "sys/module/module/parameters/sig_enforce",
            "Y\n",
            "module.sig_enforce is on",
        ),
        (
            "",
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
            "it is locked down (integrity), as it is where Secure Boot is on",
        ),
    ] {
        let root = Root::new(release, &(CONFIG.to_owned() + config));
        root.write(file, text);
        let what = format!("Linux {release} loads signed modules only: {why}");
        let text = root.check(release).ends_with(1).says(&what);
        let text = text
            .says("mokutil --import ferroce.der")
            .says("--sign-key ferroce.key");
        assert_eq!(text.stderr.matches(" > ").count(), 1);
    }
    // What lets modules in without a signature is not in the way.
    let root = Root::new(release, CONFIG);
    root.write("sys/module/module/parameters/sig_enforce", "N\n");
    root.write(
        "sys/kernel/security/lockdown",
        "[none] integrity confidentiality\n",
    );
    // Nobody has such a kernel, and so no source of it.
    root.check(release)
        .ends_with(1)
        .says("Debian's trixie trixie-backports have no linux-headers-7.3.9+deb13-amd64");

    let other = "7.3.9-fantasy";
    refused(
        &Root::new(other, CONFIG),
        other,
        "lack the metadata of the kernel's Rust crates (rust/libkernel.rmeta)",
        "on Ubuntu linux-lib-rust",
    );
    let root = Root::new(other, CONFIG);
    fs::remove_file(root.headers(other).join("Makefile")).unwrap();
    refused(
        &root,
        other,
        "the headers of Linux 7.3.9-fantasy are not installed",
        headers,
    );
    let root = Root::new(other, CONFIG);
    let headers_file = |name: &str| format!("usr/src/linux-headers-{other}/{name}");
    root.write(&headers_file("rust/libkernel.rmeta"), "");
    refused(
        &root,
        other,
        "they lack rust/Makefile and rust/bindgen_parameters",
        "from the kernel's source of the same release",
    );
    root.write(&headers_file("rust/Makefile"), "");
    root.check(other)
        .ends_with(1)
        .says("was built by \"rustc 1.0.0 (of nobody)\", and its metadata is for no other compiler")
        .says("Install the distribution's own");
    fs::remove_dir_all(root.headers(other)).unwrap();
    root.check(other)
        .ends_with(1)
        .says("the configuration of Linux 7.3.9-fantasy is not to be found")
        .says(headers);
    root.check("7.3.10-absent")
        .ends_with(1)
        .says("Linux 7.3.10-absent is not installed")
        .says("(installed are 7.3.9-fantasy)");
    // All of them at once.
    let root = Root::new("6.1.0-old", "CONFIG_MODULE_SIG_FORCE=y\n");
    let all = root.check("6.1.0-old").ends_with(1);
    assert_eq!(all.stderr.matches(" > ").count(), 5, "{all:#?}");
    for wrong in ["../7.3", "-o", "7.3/x", ""] {
        ran(ferroce().args(["install", "--check", &format!("--kernel={wrong}")])).ends_with(2);
    }
}

/// The build folder of the lab's kernel, and the folder of its modules.
fn lab_kernel(flavor: &Flavor) -> (PathBuf, PathBuf) {
    let built = ran(ferroce().args(["lab", "build"]).args(flavor.args)).ends_with(0);
    let after = |mark: &str| {
        let (_, rest) = built.stderr.split_once(mark).unwrap();
        PathBuf::from(rest.split_whitespace().next().unwrap())
    };
    let updates = after("Modules ");
    (after("make -C "), updates.parent().unwrap().to_owned())
}

fn round_trip(flavor: &Flavor) {
    let (build, modules) = lab_kernel(flavor);
    let release = fs::read_to_string(build.join("include/config/kernel.release")).unwrap();
    let release = release.trim();
    let root = Root(tempfile::tempdir().unwrap());
    let place = root.path("lib/modules").join(release);
    fs::create_dir_all(&place).unwrap();
    let mut copy = std::process::Command::new("cp");
    copy.arg("-rL");
    copy.args(["kernel", "modules.order", "modules.builtin"].map(|name| modules.join(name)));
    ran(copy.arg(&place)).ends_with(0);
    symlink(&build, place.join("build")).unwrap();
    root.check(release)
        .ends_with(0)
        .says(&format!("Possible to build the driver for Linux {release}"));
    assert!(!place.join("updates").exists());

    let module = place.join("updates/ferroce/ferroce.ko");
    let rule = root.path("etc/udev/rules.d/60-ferroce.rules");
    let ran = root.run(release, &[]).ends_with(0);
    let ran = ran.says(&format!("Checked Linux {release} would load it"));
    let ran = ran.says(&format!("Installed {}", module.display()));
    ran.says(&format!("Installed {}", rule.display()))
        .says("libibverbs.d/ferroce.driver");
    let index = || fs::read_to_string(place.join("modules.dep")).unwrap();
    assert!(
        index().contains("updates/ferroce/ferroce.ko: "),
        "{}",
        index()
    );
    let rule_text = fs::read_to_string(&rule).unwrap();
    assert!(rule_text.contains("MODE=\"0666\""), "{rule_text}");

    // Headers of another build than the kernel: told before anything is built.
    let other = tempfile::tempdir().unwrap();
    for name in [
        ".config",
        "Makefile",
        "Module.symvers",
        "rust",
        "scripts",
        "source",
    ] {
        symlink(build.join(name), other.path().join(name)).unwrap();
    }
    let generated = other.path().join("include/generated");
    fs::create_dir_all(&generated).unwrap();
    let text = "#define UTS_RELEASE \"7.3.99-other\"\n";
    fs::write(generated.join("utsrelease.h"), text).unwrap();
    fs::remove_file(place.join("build")).unwrap();
    symlink(other.path(), place.join("build")).unwrap();
    root.check(release)
        .ends_with(1)
        .says("are of another build than Linux")
        .says("of its module ib_core");

    let uninstall = || ran_uninstall(&root);
    uninstall()
        .ends_with(0)
        .says(&format!("Removed {}", module.display()))
        .says(&format!("Removed {}", rule.display()));
    assert!(!place.join("updates").exists() && !rule.exists());
    assert!(!index().contains("ferroce"), "{}", index());
    uninstall().ends_with(0).says("there was nothing to remove");
}

fn ran_uninstall(root: &Root) -> Ran {
    ran(ferroce()
        .args(["uninstall", "--destdir"])
        .arg(root.0.path()))
}

fn debian(_: &Flavor) {
    let built =
        ran(ferroce().args(["lab", "build", "--kernel", "debian", "--driver"])).ends_with(0);
    let after = |mark: &str| {
        let lines = built.stderr.lines().rev();
        let mut found = lines.filter_map(|line| line.trim().strip_prefix(mark));
        PathBuf::from(
            found
                .next()
                .unwrap_or_else(|| panic!("no {mark} in {built:#?}")),
        )
    };
    let modules = after("Modules ");
    // As it is where the headers are installed too: in the packages the symbols are with these.
    let system = Root(tempfile::tempdir().unwrap());
    let installed = system
        .path("lib/modules")
        .join(modules.file_name().unwrap());
    fs::create_dir_all(&installed).unwrap();
    for entry in fs::read_dir(&modules).unwrap().flatten() {
        symlink(entry.path(), installed.join(entry.file_name())).unwrap();
    }
    symlink(after("Headers "), installed.join("build")).unwrap();
    let kernel = Kernel::installed(&installed).unwrap();
    let report = check(&kernel, &[Request::new(after("Driver "))]);
    assert_eq!(report.verdict(), Verdict::Loads, "{report:#?}");

    // Into a package, signed, for a kernel that is not there.
    let release = modules.file_name().unwrap().to_str().unwrap();
    let root = Root(tempfile::tempdir().unwrap());
    let key = root.path("key.pem");
    let certificate = root.path("certificate.der");
    let mut openssl = std::process::Command::new("openssl");
    openssl.args(
        "req -new -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test/ -outform DER".split(' '),
    );
    ran(openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate))
    .ends_with(0);
    let sign = [
        "--sign-key",
        key.to_str().unwrap(),
        "--sign-cert",
        certificate.to_str().unwrap(),
    ];
    let installed = root.run(release, &sign).ends_with(0);
    let module = root
        .path("lib/modules")
        .join(release)
        .join("updates/ferroce/ferroce.ko");
    installed.says(&format!("Installed {}", module.display()));
    assert!(is_signed(&module));
    ran_uninstall(&root).ends_with(0).says("ferroce.ko");
    assert!(!module.exists());
}

fn is_signed(module: &Path) -> bool {
    fs::read(module)
        .unwrap()
        .ends_with(b"~Module signature appended~\n")
}
