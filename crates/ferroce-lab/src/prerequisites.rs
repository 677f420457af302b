// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs of others that the lab stands on: which of them this machine
//! lacks, and how they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::backend::{Backend, Flavor};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fetch::apt::KEYRING;
use crate::progress::note;

/// Whether missing programs may be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Install {
    /// Say what is missing, then install it.
    Yes,
    /// Say what would install it, and stop.
    No,
}

/// What a kind of kernel needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To build it.
    Build(Flavor),
    /// To run a guest.
    Run(Backend),
    /// To use RDMA devices in it: the verbs programs of others that the demo
    /// and the tests run.
    Verbs,
    /// To run programs on them that are made for other devices, as the tests do.
    Programs,
    /// To try the kernel's own users of RDMA.
    KernelUsers,
    /// To have virtual machines with disks.
    VirtualMachine,
    /// To make an image with Debian for one, as their tests do.
    DebianImage,
    /// To fetch kernels and compilers of Debian's.
    Debian,
    /// To make Debian packages of ferroce, and to check them.
    Packaging,
    /// To measure without a guest.
    NativeBench,
    /// To build a program in Go.
    Go,
}

/// The versions of LLVM that the kernels build with, best first: what was
/// tried most comes first, and Linux 7.2 asks for at least 17.
const LLVM: [u32; 6] = [19, 20, 21, 18, 17, 22];

/// The version of bindgen to install; any that is found and is not older than
/// what the kernel asks for is used.
const BINDGEN: &str = "0.73.2";

enum Probe {
    Program(&'static str),
    File(&'static str),
}

/// A thing to find, and the Debian package that has it.
struct Need(Probe, &'static str);

const BUILD: [Need; 8] = [
    Need(Probe::Program("make"), "make"),
    Need(Probe::Program("gcc"), "gcc"),
    Need(Probe::Program("flex"), "flex"),
    Need(Probe::Program("bison"), "bison"),
    Need(Probe::Program("bc"), "bc"),
    Need(Probe::File("/usr/include/gelf.h"), "libelf-dev"),
    Need(Probe::File("/usr/include/openssl/opensslv.h"), "libssl-dev"),
    Need(Probe::Program("depmod"), "kmod"),
];
const RUN: [Need; 2] = [
    Need(Probe::Program("modprobe"), "kmod"),
    Need(Probe::Program("ip"), "iproute2"),
];
const PERFTEST: Need = Need(Probe::Program("ib_write_bw"), "perftest");
const UCX: Need = Need(Probe::Program("ucx_perftest"), "ucx-utils");
const VERBS: [Need; 7] = [
    Need(Probe::Program("ibv_rc_pingpong"), "ibverbs-utils"),
    Need(Probe::Program("rping"), "rdmacm-utils"),
    PERFTEST,
    Need(
        Probe::File("/usr/lib/python3/dist-packages/pyverbs"),
        "python3-pyverbs",
    ),
    Need(Probe::Program("rdma"), "iproute2"),
    // To build those of examples/.
    Need(
        Probe::File("/usr/include/infiniband/verbs.h"),
        "libibverbs-dev",
    ),
    // Keys to sign modules with, for the tests.
    Need(Probe::Program("openssl"), "openssl"),
];
const PROGRAMS: [Need; 8] = [
    Need(Probe::Program("mpirun"), "openmpi-bin"),
    Need(Probe::Program("mpicc"), "libopenmpi-dev"),
    UCX,
    Need(Probe::Program("fi_pingpong"), "libfabric-bin"),
    Need(Probe::Program("qperf"), "qperf"),
    Need(Probe::Program("nc.traditional"), "netcat-traditional"),
    // To build Rust crates that bring C code of rdma-core.
    Need(Probe::Program("cmake"), "cmake"),
    // For the packets that the book shows.
    Need(Probe::Program("tshark"), "tshark"),
];
const GO: Need = Need(Probe::Program("go"), "golang-go");
const FIO: Need = Need(Probe::Program("fio"), "fio");
const DEBIAN: [Need; 2] = [
    Need(Probe::Program("apt-get"), "apt"),
    Need(Probe::File(KEYRING), "debian-archive-keyring"),
];
const DEBIAN_IMAGE: [Need; 4] = [
    Need(Probe::Program("mmdebstrap"), "mmdebstrap"),
    Need(Probe::Program("newuidmap"), "uidmap"),
    Need(Probe::Program("fakeroot"), "fakeroot"),
    Need(Probe::Program("mke2fs"), "e2fsprogs"),
];
const PACKAGING: [Need; 4] = [
    Need(Probe::Program("dpkg-buildpackage"), "dpkg-dev"),
    Need(Probe::Program("dh"), "debhelper"),
    Need(Probe::Program("dh_dkms"), "dh-dkms"),
    Need(Probe::Program("lintian"), "lintian"),
];
const RUN_QEMU: [Need; 1] = [Need(
    Probe::Program("qemu-system-x86_64"),
    "qemu-system-x86",
)];

const VIRTUAL_MACHINE: [Need; 3] = [
    Need(Probe::Program("qemu-img"), "qemu-utils"),
    Need(Probe::Program("ssh"), "openssh-client"),
    Need(Probe::Program("ssh-keygen"), "openssh-client"),
];

impl Need {
    fn met(&self) -> bool {
        match self.0 {
            Probe::Program(name) => find_program(name).is_some(),
            Probe::File(path) => Path::new(path).exists(),
        }
    }
}

/// Looks a program up in `PATH`, and where administrators' programs are, which
/// an ordinary user's `PATH` leaves out.
pub fn find_program(name: &str) -> Option<PathBuf> {
    which::which(name)
        .ok()
        .or_else(|| which::which_in(name, Some("/usr/local/sbin:/usr/sbin:/sbin"), "/").ok())
}

/// What is missing, and how it is installed.
#[derive(Debug)]
pub struct Missing {
    /// The names of it.
    pub names: Vec<String>,
    /// The commands that install it, in their order.
    pub commands: Vec<String>,
    /// Whether [`ensure`] can run these.
    pub is_installable: bool,
}

/// What is missing of what is needed for `purposes`, if something is.
pub fn missing(cache: &Cache, purposes: &[Purpose]) -> Option<Missing> {
    let lacks = Lacks::find(cache, purposes);
    (!lacks.is_nothing()).then(|| lacks.describe(cache))
}

/// Makes sure that everything for `purposes` is there.
pub fn ensure(cache: &Cache, purposes: &[Purpose], install: Install) -> Result<()> {
    let lacks = Lacks::find(cache, purposes);
    if lacks.is_nothing() {
        return Ok(());
    }
    let missing = lacks.describe(cache);
    if install == Install::No || !missing.is_installable {
        return Err(Error::Missing {
            missing: missing.names,
            commands: missing.commands,
        });
    }
    let _lock = cache.lock("install", "installing programs")?;
    // The holder of the lock may have installed them.
    let lacks = Lacks::find(cache, purposes);
    if lacks.is_nothing() {
        return Ok(());
    }
    note("Missing", &lacks.names().join(", "));
    for command in lacks.commands(cache) {
        note("Installing", &shell_words::join(&command));
        run(&command)?;
    }
    Ok(())
}

/// What this machine lacks.
struct Lacks {
    rust: bool,
    packages: Vec<String>,
    rust_src: bool,
    bindgen: bool,
}

impl Lacks {
    /// Looks for everything that is needed for `purposes`.
    fn find(cache: &Cache, purposes: &[Purpose]) -> Self {
        let mut packages: Vec<String> = Vec::new();
        let (mut rust, mut rust_src) = (false, false);
        let mut bindgen = false;
        for purpose in purposes {
            let needs: Vec<&Need> = match purpose {
                Purpose::Build(_) => BUILD.iter().collect(),
                Purpose::Run(Backend::Qemu) => RUN.iter().chain(&RUN_QEMU).collect(),
                Purpose::Run(Backend::Uml) => RUN.iter().collect(),
                Purpose::Verbs => VERBS.iter().collect(),
                Purpose::Programs => PROGRAMS.iter().collect(),
                Purpose::KernelUsers => vec![&FIO],
                Purpose::VirtualMachine => RUN_QEMU.iter().chain(&VIRTUAL_MACHINE).collect(),
                Purpose::DebianImage => DEBIAN.iter().chain(&DEBIAN_IMAGE).collect(),
                Purpose::Debian => DEBIAN.iter().collect(),
                Purpose::Packaging => PACKAGING.iter().collect(),
                Purpose::NativeBench => vec![&PERFTEST, &UCX],
                Purpose::Go => vec![&GO],
            };
            packages.extend(needs.iter().filter(|n| !n.met()).map(|n| n.1.to_owned()));
            if let Purpose::Build(flavor) = purpose {
                packages.extend(llvm_packages(flavor.debug));
                rust |= find_program("rustc").is_none();
                rust_src |= !rust_sources().is_some_and(|dir| dir.exists());
                bindgen |= find_bindgen(cache).is_none();
            }
        }
        packages.sort();
        packages.dedup();
        Self {
            rust,
            packages,
            rust_src,
            bindgen,
        }
    }

    fn is_nothing(&self) -> bool {
        self.packages.is_empty() && !self.rust && !self.rust_src && !self.bindgen
    }

    fn describe(&self, cache: &Cache) -> Missing {
        let commands = self.commands(cache);
        Missing {
            names: self.names(),
            commands: commands.iter().map(shell_words::join).collect(),
            is_installable: !self.rust && commands.iter().all(|c| find_program(&c[0]).is_some()),
        }
    }

    fn names(&self) -> Vec<String> {
        let rust = "Rust (https://rustup.rs; or use a lab of another machine: ferroce lab unpack)";
        let mut names: Vec<String> = self.rust.then(|| rust.to_owned()).into_iter().collect();
        names.extend_from_slice(&self.packages);
        names.extend(
            self.rust_src
                .then(|| "rust-src (the source of Rust's library)".to_owned()),
        );
        names.extend(self.bindgen.then(|| "bindgen".to_owned()));
        names
    }

    /// The commands that install it.
    fn commands(&self, cache: &Cache) -> Vec<Vec<String>> {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut commands = Vec::new();
        let sudo = if rustix::process::geteuid().is_root() {
            ""
        } else {
            "sudo "
        };
        if !self.packages.is_empty() {
            if !self.packages.iter().all(|p| apt_offers(p)) {
                commands.push(words(&format!("{sudo}apt-get update")));
            }
            let mut command = words(&format!("{sudo}apt-get install -y --no-install-recommends"));
            // Somebody else may be installing something: the system's updates, say.
            command.extend(words(&format!("-o DPkg::Lock::Timeout={APT_PATIENCE}")));
            command.extend_from_slice(&self.packages);
            commands.push(command);
        }
        if self.rust_src {
            commands.push(words(&match debians_rustc() {
                Some(version) => format!("{sudo}apt-get install -y rust-src={version}"),
                None => "rustup component add rust-src".to_owned(),
            }));
        }
        if self.bindgen {
            let mut command = words(&format!(
                "cargo install --locked bindgen-cli@{BINDGEN} --root"
            ));
            command.push(tools(cache).display().to_string());
            commands.push(command);
        }
        commands
    }
}

/// How long apt waits for another, in seconds.
const APT_PATIENCE: u32 = 600;

fn run(command: &[String]) -> Result<()> {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Output goes to where progress goes: standard output is the guest's.
        .stdout(std::io::stderr())
        .status()
        .map_err(|source| Error::Start {
            program: command[0].clone(),
            source,
        })?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        what: format!("`{}`", shell_words::join(command)),
        status,
        output: String::new(),
    })
}

fn apt_offers(package: &str) -> bool {
    Command::new("apt-cache")
        .args(["show", "--no-all-versions", package])
        .output()
        .is_ok_and(|o| o.status.success() && !o.stdout.is_empty())
}

/// libclang for bindgen, and for a debug kernel the whole of clang: the
/// packages that are missing, of a version that is already begun or offered.
fn llvm_packages(debug: bool) -> Vec<String> {
    let complete = |v: &u32| libclang(*v).is_some() && (!debug || has_clang(*v));
    if LLVM.iter().any(complete) {
        return Vec::new();
    }
    let version = LLVM
        .into_iter()
        .find(|v| libclang(*v).is_some())
        .or_else(|| {
            LLVM.into_iter()
                .find(|v| apt_offers(&format!("libclang-{v}-dev")))
        })
        .unwrap_or(LLVM[0]);
    let mut packages = Vec::new();
    if libclang(version).is_none() {
        packages.push(format!("libclang-{version}-dev"));
    }
    if debug && !has_clang(version) {
        packages.extend(["clang", "lld", "llvm"].map(|p| format!("{p}-{version}")));
    }
    packages
}

fn has_clang(version: u32) -> bool {
    ["clang", "ld.lld", "llvm-ar"]
        .iter()
        .all(|p| find_program(&format!("{p}-{version}")).is_some())
}

/// The folder of libclang of one version of LLVM.
fn libclang(version: u32) -> Option<PathBuf> {
    let dir = PathBuf::from(format!("/usr/lib/llvm-{version}/lib"));
    dir.join("libclang.so").exists().then_some(dir)
}

/// The folder of libclang of the best version that is there.
pub(crate) fn libclang_folder() -> Option<PathBuf> {
    LLVM.into_iter().find_map(libclang)
}

/// Where the kernel's build looks for the source of Rust's `core`.
fn rust_sources() -> Option<PathBuf> {
    let sysroot = output("rustc", &["--print", "sysroot"])?;
    Some(Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs"))
}

/// The version of Debian's package of the compiler, if that is the one in `PATH`.
fn debians_rustc() -> Option<String> {
    let is_rustups = find_program("rustc").is_some_and(|path| path != Path::new("/usr/bin/rustc"));
    let query = ["-W", "-f", "${Version}", "rustc"];
    let version = output("dpkg-query", &query).filter(|_| !is_rustups)?;
    (!version.is_empty()).then_some(version)
}

fn tools(cache: &Cache) -> PathBuf {
    cache.path("tools")
}

/// The bindgen that the lab installed, or one in `PATH` that is not too old.
pub(crate) fn find_bindgen(cache: &Cache) -> Option<(PathBuf, String)> {
    let own = tools(cache).join("bin/bindgen");
    let candidates = own
        .exists()
        .then_some(own)
        .into_iter()
        .chain(which::which("bindgen").ok());
    candidates
        .filter_map(|path| {
            let text = output(path.to_str()?, &["--version"])?;
            let version = text.trim().strip_prefix("bindgen ")?.to_owned();
            (numbers(&version) >= numbers("0.71.1")).then_some((path, version))
        })
        .next()
}

/// The numbers of a version, for comparison.
pub fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a module in Rust is to be compiled, where the kernel's loader does not take what its build makes.
///
/// That is so in User-Mode Linux, and shows at insmod, not before. Without "static", code finds symbols
/// by way of a global offset table, which the loader does not make ("Unknown rela relocation: 9",
/// R_X86_64_GOTPCREL). Without "large", addresses are 32 bits wide, and modules are loaded above what
/// these reach ("overflow in relocation type 11"). C has -mcmodel=large in arch/um/Makefile.
fn rustflags(flavor: Flavor) -> Option<&'static str> {
    match flavor.backend {
        Backend::Uml => Some("-Crelocation-model=static -Ccode-model=large"),
        Backend::Qemu => None,
    }
}

/// The compilers that a kernel is built with.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// What tells one toolchain from another, for the cache.
    pub identity: String,
    bindgen: PathBuf,
    libclang: PathBuf,
    /// The suffix of LLVM's programs where clang compiles the C code.
    llvm: Option<String>,
}

impl Toolchain {
    /// Finds the compilers for a kind of kernel, which [`ensure`] has seen to.
    pub fn find(cache: &Cache, flavor: Flavor) -> Result<Self> {
        let gone = |what: &str| Error::Usage(format!("{what} was here a moment ago and is gone"));
        let (bindgen, bindgen_version) = find_bindgen(cache).ok_or_else(|| gone("bindgen"))?;
        let (version, libclang) = LLVM
            .into_iter()
            .filter(|v| !flavor.debug || has_clang(*v))
            .find_map(|v| Some((v, libclang(v)?)))
            .ok_or_else(|| gone("libclang"))?;
        let rustc = output("rustc", &["-vV"]).ok_or_else(|| gone("rustc"))?;
        let cc = match flavor.debug {
            true => output(&format!("clang-{version}"), &["--version"]),
            false => output("gcc", &["--version"]),
        };
        let cc = cc.ok_or_else(|| gone("the C compiler"))?;
        let cc = cc.lines().next().unwrap_or_default();
        Ok(Self {
            identity: format!("{rustc}\n{cc}\nbindgen {bindgen_version}\nlibclang {version}\n"),
            bindgen,
            libclang,
            llvm: flavor.debug.then(|| format!("-{version}")),
        })
    }

    /// `make` for a kernel of `flavor`, with nothing of the caller's
    /// environment that would change what is built.
    pub fn make(&self, flavor: Flavor) -> Command {
        let mut make = Command::new("make");
        for name in [
            "MAKEFLAGS",
            "MAKELEVEL",
            "MFLAGS",
            "ARCH",
            "SUBARCH",
            "CROSS_COMPILE",
            "LLVM",
            "CC",
            "LD",
            "CFLAGS",
            "KCFLAGS",
            "KRUSTFLAGS",
            "KBUILD_OUTPUT",
            "O",
            "V",
            "LD_LIBRARY_PATH",
            "RUSTFLAGS",
        ] {
            make.env_remove(name);
        }
        make.env("LC_ALL", "C")
            .env("LIBCLANG_PATH", &self.libclang)
            .env("KBUILD_BUILD_USER", "ferroce")
            .env("KBUILD_BUILD_HOST", "lab")
            .args(self.make_arguments(flavor))
            .arg(format!("BINDGEN={}", self.bindgen.display()));
        make
    }

    /// The text of the makefile in a kernel's build folder, for users who build a module there: it has
    /// what the kernel's own makefile has to be told.
    pub fn makefile(&self, flavor: Flavor) -> String {
        let arguments = self.make_arguments(flavor);
        let exports = arguments
            .iter()
            .map(|argument| format!("export {argument}\n"));
        let rust = rustflags(flavor).map(|flags| format!("export KRUSTFLAGS += {flags}\n"));
        exports
            .chain(rust)
            .chain(["include Makefile\n".to_owned()])
            .collect()
    }

    /// What `make` is to be told for a kernel of `flavor`.
    fn make_arguments(&self, flavor: Flavor) -> Vec<String> {
        let llvm = self.llvm.iter().map(|suffix| format!("LLVM={suffix}"));
        std::iter::once(format!("ARCH={}", flavor.backend.arch()))
            .chain(llvm)
            .collect()
    }
}
