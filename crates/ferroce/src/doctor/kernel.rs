// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the running kernel has for the driver.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::{Finding, State};

pub fn findings() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let folder = Path::new("/lib/modules").join(release);
    vec![
        running(release, &folder),
        loading(),
        headers(&folder),
        driver(&folder),
    ]
}

/// The configuration of a kernel, from where distributions put it.
fn config(release: &str, folder: &Path) -> Option<(PathBuf, String)> {
    if let Ok(file) = File::open("/proc/config.gz") {
        let mut text = String::new();
        GzDecoder::new(file).read_to_string(&mut text).ok()?;
        return Some(("/proc/config.gz".into(), text));
    }
    [
        PathBuf::from(format!("/boot/config-{release}")),
        folder.join("config"),
        folder.join("build/.config"),
    ]
    .into_iter()
    .find_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)))
}

fn running(release: &str, folder: &Path) -> Finding {
    let name = "kernel";
    let Some((file, config)) = config(release, folder) else {
        let text = format!("Linux {release}; its configuration is not to be found");
        return Finding::new(name, State::None, text);
    };
    let has = |option: &str| config.lines().any(|line| line == format!("{option}=y"));
    let compiler = config
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_RUSTC_VERSION_TEXT="));
    let file = file.display();
    if !has("CONFIG_MODULES") {
        let text = format!("Linux {release} takes no modules (no CONFIG_MODULES in {file})");
        return Finding::new(name, State::None, text).remedy("use ferroce run, or the lab");
    }
    match has("CONFIG_RUST") {
        true => {
            let compiler = compiler.unwrap_or("an unknown compiler").trim_matches('"');
            let text = format!("Linux {release} takes modules in Rust ({file}), of {compiler}");
            Finding::new(name, State::Works, text)
        }
        false => {
            let text =
                format!("Linux {release} takes no modules in Rust (no CONFIG_RUST in {file})");
            Finding::new(name, State::None, text).remedy("use ferroce run, or the lab")
        }
    }
}

/// Whether the kernel would take any module from this user.
fn loading() -> Finding {
    let name = "loading";
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut obstacles = Vec::new();
    if read("/proc/sys/kernel/modules_disabled").trim() == "1" {
        obstacles.push("it is switched off until the next boot (kernel.modules_disabled)");
    }
    if read("/sys/module/module/parameters/sig_enforce").trim() == "Y" {
        obstacles.push("modules must be signed by a key that the kernel knows (sig_enforce)");
    }
    let lockdown = read("/sys/kernel/security/lockdown");
    if ["[integrity]", "[confidentiality]"]
        .iter()
        .any(|mode| lockdown.contains(mode))
    {
        obstacles.push("lockdown is on, so that modules must be signed");
    }
    if !Path::new("/proc/modules").exists() {
        obstacles.push("the kernel takes no modules (there is no /proc/modules)");
    }
    match obstacles.is_empty() {
        true => Finding::new(
            name,
            State::Works,
            "root may load modules without a signature",
        ),
        false => Finding::new(name, State::None, obstacles.join("; ")),
    }
}

fn headers(folder: &Path) -> Finding {
    let name = "headers";
    let build = folder.join("build");
    let Ok(found) = build.canonicalize() else {
        return Finding::new(
            name,
            State::None,
            format!("{} is not here", build.display()),
        )
        .remedy("on Debian and Ubuntu: sudo apt-get install linux-headers-$(uname -r)");
    };
    let has_metadata = found.join("rust/libkernel.rmeta").exists();
    let text = match has_metadata {
        true => format!("{}, with Rust's metadata", found.display()),
        false => format!("{}, without Rust's metadata", found.display()),
    };
    Finding::new(name, State::Works, text)
}

fn driver(folder: &Path) -> Finding {
    let name = "driver";
    if Path::new("/sys/module/ferroce").exists() {
        return Finding::new(name, State::Works, "ferroce.ko is loaded");
    }
    let index = fs::read_to_string(folder.join("modules.dep")).unwrap_or_default();
    let file = index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, _)| file)
        .find(|file| {
            let name = file.rsplit('/').next().unwrap_or_default();
            name.starts_with("ferroce.ko")
        });
    match file {
        Some(file) => Finding::new(
            name,
            State::Works,
            format!("{file} is installed, not loaded"),
        )
        .remedy("sudo modprobe ferroce"),
        None => {
            Finding::new(name, State::None, "not installed").remedy("see: ferroce install --help")
        }
    }
}
