// SPDX-License-Identifier: MIT OR Apache-2.0
//! All modules of Debian's kernels: each of them is one that its own kernel
//! loads. The packages are fetched by apt, some 200 MB for two suites, into
//! ~/.cache/ferroce/debian:
//!
//! ```sh
//! cargo test --release -p ferroce-kmod --test debian -- --ignored --nocapture
//! ```
//!
//! `FERROCE_SUITES="sid forky"` has other suites than trixie and trixie-backports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ferroce_kmod::check::{check, Request, Severity, Verdict};
use ferroce_kmod::kernel::Kernel;

#[test]
#[ignore = "fetches 100 MB for each suite"]
fn each_module_of_a_distribution_is_one_that_its_kernel_loads() {
    let suites = std::env::var("FERROCE_SUITES");
    let suites = suites.unwrap_or_else(|_| "trixie trixie-backports".to_owned());
    let mut wrong = Vec::new();
    for suite in suites.split_whitespace() {
        let root = Suite::new(suite).unpacked();
        let folder = only_folder(&root.join("usr/lib/modules"));
        let kernel = Kernel::find(folder.to_str().unwrap()).unwrap();
        assert!(
            kernel.knows_exports(),
            "{} has no Module.symvers",
            kernel.name
        );
        let requests: Vec<Request> = modules(&folder).iter().map(Request::new).collect();
        assert!(requests.len() > 1000, "{suite}: {}", requests.len());
        let report = check(&kernel, &requests);
        let loads = report
            .modules
            .iter()
            .filter(|m| m.verdict() == Verdict::Loads);
        println!(
            "{suite}, {}: {} modules, {} would load",
            kernel.name,
            requests.len(),
            loads.count()
        );
        for module in &report.modules {
            for (stage, finding) in module.findings() {
                if finding.severity != Severity::Note {
                    wrong.push(format!(
                        "{}, {}: {}",
                        module.name,
                        stage.name(),
                        finding.what
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} findings:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A suite's packages, by an apt with folders of its own.
struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    fn new(name: &str) -> Self {
        let cache = std::env::var_os("FERROCE_CACHE").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/ferroce");
        let dir = cache.unwrap_or_else(home).join("debian").join(name);
        for folder in ["lists/partial", "archives/partial", "state", "debs"] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let write = |file: &str, text: String| fs::write(dir.join(file), text).unwrap();
        write("state/status", String::new());
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        write(
            "suite.sources",
            format!(
                "Types: deb\nURIs: {}\nSuites: {name}\nComponents: main\nSigned-By: {keyring}\n",
                mirror()
            ),
        );
        let root = dir.display();
        write(
            "apt.conf",
            format!(
                "Dir::Etc::SourceList \"{root}/suite.sources\";\nDir::Etc::SourceParts \"-\";\n\
                 Dir::State \"{root}/state\";\nDir::State::Lists \"{root}/lists\";\n\
                 Dir::State::Status \"{root}/state/status\";\nDir::Cache \"{root}\";\n\
                 APT::Sandbox::User \"root\";\nAPT::Architecture \"amd64\";\n\
                 Acquire::Languages \"none\";\n"
            ),
        );
        let name = name.to_owned();
        let suite = Self { name, dir };
        suite
            .apt("apt-get", &["update", "-qq"])
            .expect("apt-get update");
        suite
    }

    fn apt(&self, program: &str, args: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        let command = command.args(args).current_dir(self.dir.join("debs"));
        let output = command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .output();
        let output = output.expect("this machine has apt");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    /// The folder with the newest kernel's packages unpacked.
    fn unpacked(&self) -> PathBuf {
        let show = |package: &str| self.apt("apt-cache", &["show", "--no-all-versions", package]);
        let image = show("linux-image-amd64").expect("the suite has a kernel");
        let depends = image.lines().find(|line| line.starts_with("Depends:"));
        let mut words = depends.unwrap().split([' ', ',']);
        let release = words.find_map(|word| {
            let release = word.strip_prefix("linux-image-")?;
            release
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(release)
        });
        let release = release.expect("it depends on the image");
        let root = self.dir.join(release);
        let whole = root.join("whole");
        if whole.exists() {
            return root;
        }
        println!("{}: fetching Linux {release}", self.name);
        // From 7.3 on the modules and the configuration are in packages of their own.
        for kind in ["image", "modules", "base", "headers"] {
            let package = format!("linux-{kind}-{release}");
            if show(&package).is_none_or(|text| text.is_empty()) {
                continue;
            }
            let fetched = self.apt("apt-get", &["download", "-qq", &package]);
            assert!(fetched.is_some(), "cannot fetch {package}");
            for entry in fs::read_dir(self.dir.join("debs")).unwrap().flatten() {
                let mut dpkg = Command::new("dpkg-deb");
                let status = dpkg.arg("-x").arg(entry.path()).arg(&root).status();
                assert!(status.unwrap().success(), "cannot unpack {package}");
                fs::remove_file(entry.path()).unwrap();
            }
        }
        fs::write(whole, "").unwrap();
        root
    }
}

/// The machine's own mirror, where it has one.
fn mirror() -> String {
    let mut apt = Command::new("apt-get");
    let apt = apt.args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]);
    let output = apt.output().expect("this machine has apt");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_debian = |uri: &&str| uri.trim_end_matches('/').ends_with("/debian");
    let uri = text.lines().find(is_debian);
    uri.unwrap_or("http://deb.debian.org/debian").to_owned()
}

fn only_folder(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap().flatten();
    entries.next().expect("it has a folder").path()
}

fn modules(folder: &Path) -> Vec<PathBuf> {
    let mut modules = Vec::new();
    let mut folders = vec![folder.join("kernel")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => modules.push(entry.path()),
            }
        }
    }
    modules
}
