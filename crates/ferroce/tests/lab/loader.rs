// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ferroce module`: what it says of a module is what the kernel then does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferroce_kmod::check::{check, ModuleReport, Reason, Request, Stage, Verdict};
use ferroce_kmod::file::ModuleFile;
use ferroce_kmod::info::Info;
use ferroce_kmod::kernel::Kernel;

use crate::broken;
use crate::support::{ferroce, kernel_dir, ran, Flavor, Ran, Test};

pub const TESTS: &[Test] = &[
    (
        "what is wrong with a module is foretold, and the kernel refuses for that reason",
        refusals,
    ),
    (
        "position-independent code is foretold to be refused, and is, flag by flag",
        code_models,
    ),
    (
        "each module that is said to load does, and takes the memory that was said",
        all_load,
    ),
    (
        "modules are loaded with those they need, listed, explained and unloaded",
        by_name,
    ),
    ("info says of each module what modinfo says", modinfo_agrees),
    (
        "the lab's kernels have names for module check",
        by_kernels_name,
    ),
    (
        "hello greets in user space, and refuses as in the kernel",
        exec,
    ),
];

pub const QEMU_TESTS: &[Test] = &[
    (
        "qemu: what is wrong with a module is foretold, and the kernel refuses for that reason",
        refusals,
    ),
    (
        "qemu: each module that is said to load does, and takes the memory that was said",
        all_load,
    ),
    (
        "qemu: info says of each module what modinfo says",
        modinfo_agrees,
    ),
    (
        "qemu: hello greets in user space, and refuses as in the kernel",
        exec,
    ),
];

/// Where the lab has a kernel's modules, and the kernel was built.
pub struct Built {
    pub modules: PathBuf,
    pub kernel: PathBuf,
}

impl Built {
    pub fn of(flavor: &Flavor) -> Self {
        let ran = ran(ferroce().args(["lab", "build"]).args(flavor.args)).ends_with(0);
        let after = |label: &str| {
            let line = ran
                .stderr
                .lines()
                .find(|l| l.trim_start().starts_with(label));
            let line = line.unwrap_or_else(|| panic!("no {label} in {ran:#?}"));
            PathBuf::from(line.trim_start().trim_start_matches(label).trim())
        };
        let modules = after("Modules").parent().unwrap().to_owned();
        let kernel = fs::read_link(modules.join("build")).unwrap();
        Self { modules, kernel }
    }

    fn update(&self, name: &str) -> PathBuf {
        self.modules.join(format!("updates/{name}.ko"))
    }

    /// All modules, the kernel's own and the project's.
    fn all(&self) -> Vec<PathBuf> {
        modules_below(&self.modules)
    }

    pub fn kernel(&self) -> Kernel {
        Kernel::find(self.modules.to_str().unwrap()).unwrap()
    }
}

/// All modules' files below a folder.
fn modules_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() && path.to_string_lossy().contains(".ko") => {
                    files.push(path);
                }
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What is said of one module alone.
pub fn said_of(kernel: &Kernel, path: &Path, params: &[(&str, &str)]) -> ModuleReport {
    let request = Request {
        path: path.to_owned(),
        params: params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned())))
            .collect(),
    };
    let mut modules = check(kernel, &[request]).modules;
    modules.retain(|m| m.asked_for);
    modules.remove(0)
}

fn refusals(flavor: &Flavor) {
    let built = Built::of(flavor);
    let kernel = built.kernel();
    let dir = tempfile::tempdir().unwrap();
    let mut script = String::new();
    let mut expected = Vec::new();
    for case in broken::cases() {
        let bytes = fs::read(built.update(case.module)).unwrap();
        let path = dir.path().join(format!("{}.ko", case.name));
        fs::write(&path, (case.break_it)(bytes)).unwrap();
        let report = said_of(&kernel, &path, case.params);
        let (stage, finding) = report.refusal().unwrap_or_else(|| panic!("{report:#?}"));
        assert_eq!(
            (stage, finding.reason),
            (case.stage, case.reason),
            "{report:#?}"
        );
        let params: Vec<String> = case
            .params
            .iter()
            .map(|(n, v)| format!("{n}='{v}'"))
            .collect();
        script += &format!(
            "echo; echo 'case {}'; {} module load {} {} 2>&1\n",
            case.name,
            env!("CARGO_BIN_EXE_ferroce"),
            path.display(),
            params.join(" ")
        );
        expected.push((case.name, finding.clone()));
    }
    let ran = flavor.sh(&format!("{script}true")).ends_with(0);
    let said = cases_of(&ran);
    assert_eq!(said.len(), expected.len(), "{ran:#?}");
    for ((name, finding), case) in expected.iter().zip(broken::cases()) {
        let said = &said[*name];
        let refused = format!("at {}: ", case.stage.name());
        assert!(said.contains(&refused), "{name}: {said}");
        let errno = format!("({})", finding.errno.as_deref().unwrap());
        assert!(said.contains(&errno), "{name}: {errno} foretold: {said}");
        if let Some(line) = &finding.kernel_says {
            assert!(
                said.contains(line.as_str()),
                "{name}: {line:?} foretold: {said}"
            );
        }
    }
}

/// What was printed for each case.
pub fn cases_of(ran: &Ran) -> BTreeMap<String, String> {
    let cases = ran.stdout.split("\ncase ").skip(1);
    let cases = cases.filter_map(|text| text.split_once('\n'));
    cases
        .map(|(name, said)| (name.to_owned(), said.to_owned()))
        .collect()
}

/// hello, built with flags that User-Mode Linux's loader cannot take.
fn code_models(flavor: &Flavor) {
    let built = Built::of(flavor);
    let kernel = built.kernel();
    for (flags, reason, line) in [
        (
            "",
            Reason::UnknownRelocation,
            "hello: Unknown rela relocation: 9",
        ),
        (
            "rustflags-y += -Crelocation-model=static",
            Reason::Overflow,
            "overflow in relocation type 11",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let sources = kernel_dir().join("examples");
        let hello = dir.path().join("hello");
        fs::create_dir(&hello).unwrap();
        fs::copy(
            sources.join("hello/string_param.rs"),
            hello.join("string_param.rs"),
        )
        .unwrap();
        fs::copy(sources.join("hello/hello.rs"), hello.join("hello.rs")).unwrap();
        fs::write(hello.join("Kbuild"), format!("obj-m := hello.o\n{flags}\n")).unwrap();
        ran(Command::new("make")
            .arg("-C")
            .arg(&built.kernel)
            .arg(format!("M={}", hello.display()))
            // Not the flags that the kernel's build folder has for its modules.
            .arg("KRUSTFLAGS=")
            .arg("modules"))
        .ends_with(0);

        let path = hello.join("hello.ko");
        let report = said_of(&kernel, &path, &[]);
        let (stage, finding) = report.refusal().unwrap_or_else(|| panic!("{report:#?}"));
        assert_eq!(
            (stage, finding.reason),
            (Stage::Relocations, reason),
            "{finding:#?}"
        );
        let help = finding.help.as_deref().unwrap();
        assert!(help.contains("-Ccode-model=large"), "{help}");
        let said = flavor
            .sh(&format!(
                "{} module load {} 2>&1",
                env!("CARGO_BIN_EXE_ferroce"),
                path.display()
            ))
            .ends_with(1)
            .prints("at relocations: ")
            .prints(line);
        let foretold = finding.kernel_says.as_deref().unwrap();
        // The address is another one in each guest.
        let foretold = foretold.split(" val ").next().unwrap();
        assert!(said.stdout.contains(foretold), "{foretold:?}: {said:#?}");
    }
}

/// These refuse on their own: nobody says how to crash, or which device to use.
const REFUSE_THEMSELVES: [&str; 2] = ["crash", "kverbs"];

fn all_load(flavor: &Flavor) {
    let built = Built::of(flavor);
    let requests: Vec<Request> = built.all().iter().map(Request::new).collect();
    let report = check(&built.kernel(), &requests);
    assert_eq!(report.modules.len(), requests.len());
    // From none, in the order that was said.
    let mut script = "for round in 1 2 3 4 5; do\n\
                      while read name rest; do rmmod $name; done < /proc/modules 2> /dev/null\n\
                      done; [ -z \"$(cat /proc/modules)\" ] || exit 3\n"
        .to_owned();
    for module in &report.modules {
        let path = module.path.display();
        script += &format!("insmod {path}; echo status {} $?\n", module.name);
    }
    let ran = flavor
        .sh(&format!("{script} cat /proc/modules"))
        .ends_with(0);
    let kernel = built.kernel();
    for module in &report.modules {
        let name = &module.name;
        if REFUSE_THEMSELVES.contains(&name.as_str()) {
            continue;
        }
        let loaded = ran.stdout.contains(&format!("status {name} 0\n"));
        let foretold = module.verdict() == Verdict::Loads;
        assert_eq!(foretold, loaded, "{module:#?} {ran:#?}");
        let file = ModuleFile::read(&module.path).unwrap();
        let elf = ferroce_kmod::elf::Elf::parse(&file.bytes).unwrap();
        let layout = ferroce_kmod::layout::Layout::of(&elf, kernel.layout_options());
        let line = ran
            .stdout
            .lines()
            .find(|l| l.starts_with(&format!("{name} ")));
        let size = line.and_then(|l| l.split(' ').nth(1)).unwrap();
        assert_eq!(size, layout.resident().to_string(), "{name}");
    }
}

fn by_name(flavor: &Flavor) {
    let ferroce = env!("CARGO_BIN_EXE_ferroce");
    flavor
        .sh(&format!(
            "set -e; f={ferroce}; $f module check /lib/modules/*/updates/visitor.ko; \
             $f module load visitor; $f module deps visitor; $f module list | grep greeter; \
             ! $f module unload greeter; ! $f module load hello name=; \
             $f module load hello 'name=two words'; $f module unload visitor greeter hello; \
             $f module log hello; $f module list --json > /dev/null"
        ))
        .ends_with(0)
        .prints("loaded greeter\n")
        .prints("loaded visitor\n  greeter: welcome, visitor\n")
        .prints("greeter: greeter_greet\n")
        .prints("1     O       live   visitor\n")
        .prints("unloaded greeter\n")
        .prints("hello: hello, two words\n")
        .prints("to be loaded in this order: greeter, visitor\n")
        .says("greeter is in use by visitor: unload them first")
        .says("at init: its own init function refused (EINVAL)")
        .says("`name` is empty");
}

fn by_kernels_name(flavor: &Flavor) {
    let hello = Built::of(flavor).update("hello");
    let check = |kernel: &str| {
        ran(ferroce()
            .args(["module", "check", "--kernel", kernel])
            .arg(&hello))
    };
    check("lab").ends_with(0).prints("hello: would load");
    check("lab:uml").ends_with(0).prints("hello: would load");
    check("lab:banana").ends_with(1).says("lab:uml-debug");
}

/// Folders with modules of others, to compare with modinfo: `FERROCE_TEST_MODULES`
/// may name more, separated by colons.
fn installed() -> Vec<PathBuf> {
    let more = std::env::var("FERROCE_TEST_MODULES").unwrap_or_default();
    let more = more.split(':').filter(|f| !f.is_empty()).map(PathBuf::from);
    std::iter::once(PathBuf::from("/lib/modules"))
        .chain(more)
        .collect()
}

fn modinfo_agrees(flavor: &Flavor) {
    let mut files = Built::of(flavor).all();
    assert!(files.len() > 20, "{files:?}");
    let others: Vec<PathBuf> = installed().iter().flat_map(|f| modules_below(f)).collect();
    if others.is_empty() {
        eprintln!("no distribution's modules are installed: compared are the lab's alone");
    }
    files.extend(others);
    let mut compared = 0;
    for files in files.chunks(100) {
        let modinfo = ferroce_lab::prerequisites::find_program("modinfo").unwrap();
        let output = Command::new(modinfo)
            .arg("-0")
            .args(files)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
        let theirs = theirs.split("filename:       ").skip(1);
        for (path, theirs) in files.iter().zip(theirs) {
            let info = Info::of(&ModuleFile::read(path).unwrap()).unwrap();
            let (file, theirs) = theirs.split_once('\0').unwrap();
            assert_eq!(file, info.path);
            let mut theirs = fields(theirs);
            let mut ours: Vec<String> = info
                .fields()
                .into_iter()
                .skip(1)
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            // Parameters come in no order that would mean something.
            theirs.sort();
            ours.sort();
            assert_eq!(ours, theirs, "{}", path.display());
            compared += 1;
        }
    }
    assert_eq!(compared, files.len());
    eprintln!("info agrees with modinfo on {compared} modules");
}

/// What modinfo printed of a module: `NAME=VALUE`, or for a parameter
/// `parm:           VALUE`, each with a NUL; signatures are in lines.
fn fields(text: &str) -> Vec<String> {
    let fields = text.split('\0').filter(|field| !field.trim().is_empty());
    fields
        .map(|field| match field.strip_prefix("parm:           ") {
            Some(param) => format!("parm={param}"),
            None if field.starts_with("signature=") => field.replace("\n\t\t", ""),
            None => field.to_owned(),
        })
        .collect()
}

fn exec(flavor: &Flavor) {
    let built = Built::of(flavor);
    let run = |module: &str, params: &[&str]| {
        let file = built.update(module);
        ran(ferroce().args(["module", "exec"]).arg(file).args(params))
    };
    let hello = run("hello", &["name=Ada"]).ends_with(0);
    assert_eq!(hello.stdout, "hello: hello, Ada\nhello: goodbye, Ada\n");
    run("hello", &["name="])
        .ends_with(1)
        .prints("hello: `name` is empty")
        .says("its init refused: Invalid argument");
    run("hello", &["visitor.ko"])
        .ends_with(1)
        .says("exec runs one module, and visitor.ko is a second one");
    ran(ferroce().args(["module", "exec", "--list"]))
        .ends_with(0)
        .prints("_printk\n");
    let visitor = run("visitor", &[])
        .ends_with(1)
        .says("no stand-in for greeter_greet: it was not run");
    assert_eq!(visitor.stdout, "");
}
