// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's packages, fetched by apt itself: its mirrors, proxies, keys and
//! checks are the machine's own. A private state folder keeps the machine's
//! package lists as they are.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::prerequisites::find_program;
use crate::progress::{self, Task, Unit};

/// The keys of Debian's archive, as the package debian-archive-keyring has them.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A Debian mirror, and the keyring that the machine trusts it with.
#[derive(Debug)]
pub struct Mirror {
    uri: String,
    keyring: String,
}

impl Mirror {
    /// The machine's own, or Debian's where it has none, as on Ubuntu.
    pub fn find() -> Result<Self> {
        let default = || {
            Path::new(KEYRING).is_file().then(|| Self {
                uri: "http://deb.debian.org/debian".to_owned(),
                keyring: KEYRING.to_owned(),
            })
        };
        let mirror = find_program("apt-get").and_then(|_| Self::configured().or_else(default));
        mirror.ok_or_else(|| {
            let lack =
                "Debian's packages are fetched by apt, and checked with the keys of the package \
                        debian-archive-keyring, which this machine does not have";
            Error::Usage(lack.to_owned())
        })
    }

    /// Its address.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The file of its keys.
    pub fn keyring(&self) -> &str {
        &self.keyring
    }

    fn configured() -> Option<Self> {
        let format = "$(REPO_URI)|$(COMPONENT)|$(ORIGIN)|$(SIGNED_BY)";
        let output = Command::new("apt-get")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.lines().find_map(|line| {
            let mut fields = line.split('|');
            let uri = fields.next()?;
            let (component, origin, signed_by) = (fields.next()?, fields.next()?, fields.next()?);
            // The origin is known only once the lists were fetched; third parties'
            // repositories have paths of their own, and so has the security archive.
            let debians = origin == "Debian" || uri.trim_end_matches('/').ends_with("/debian");
            if !debians || component != "main" || uri.contains("security") {
                return None;
            }
            // apt leaves a field that it does not know as it stands.
            let keyrings = [signed_by, KEYRING];
            let keyring = keyrings.into_iter().find(|k| Path::new(k).is_file())?;
            Some(Self {
                uri: uri.to_owned(),
                keyring: keyring.to_owned(),
            })
        })
    }
}

/// apt for one suite of a mirror, with folders of its own.
#[derive(Debug)]
pub struct Apt {
    config: PathBuf,
}

/// A package that a suite has.
#[derive(Debug)]
pub struct Offer {
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The package's size in bytes.
    pub size: u64,
    /// What it depends on, as its control file has it.
    pub depends: String,
}

impl Apt {
    /// Sets up its folders below `root`.
    pub fn new(root: &Path, mirror: &Mirror, suite: &str) -> Result<Self> {
        let Mirror { uri, keyring } = mirror;
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::write(&path, text).map_err(Error::file("write", path))
        };
        for dir in ["lists/partial", "archives/partial", "state"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        }
        write("state/status", "")?;
        write(
            "suite.sources",
            &format!(
                "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
            ),
        )?;
        let root = root.display();
        write(
            "apt.conf",
            &format!(
                "Dir::Etc::SourceList \"{root}/suite.sources\";\n\
                 Dir::Etc::SourceParts \"-\";\n\
                 Dir::State \"{root}/state\";\n\
                 Dir::State::Lists \"{root}/lists\";\n\
                 Dir::State::Status \"{root}/state/status\";\n\
                 Dir::Cache \"{root}\";\n\
                 APT::Architecture \"amd64\";\n\
                 APT::Sandbox::User \"{}\";\n\
                 Acquire::Retries \"2\";\n\
                 Acquire::Languages \"none\";\n",
                // The private folder is ours alone: apt's own user cannot write there.
                if rustix::process::geteuid().is_root() {
                    "root"
                } else {
                    ""
                },
            ),
        )?;
        Ok(Self {
            config: Path::new(&format!("{root}/apt.conf")).to_owned(),
        })
    }

    pub(super) fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn output(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = self
            .command(program, args)
            .output()
            .map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Fetches the suite's list of packages; the error is apt's last line.
    pub fn update(&self) -> Result<(), String> {
        self.output("apt-get", &["update", "-qq", "--error-on=any"])
            .map(|_| ())
            .map_err(|e| last_line(&e).to_owned())
    }

    /// The newest version of a package, if the suite has it.
    pub fn offer(&self, package: &str) -> Option<Offer> {
        let text = self
            .output("apt-cache", &["show", "--no-all-versions", package])
            .ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Offer {
            package: package.to_owned(),
            version: field("Version")?.to_owned(),
            size: field("Size")?.parse().ok()?,
            depends: field("Depends").unwrap_or_default().to_owned(),
        })
    }

    /// The names of all packages that begin with `prefix`.
    pub fn names(&self, prefix: &str) -> Vec<String> {
        let text = self.output("apt-cache", &["pkgnames", prefix]);
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Has apt fetch the package into a folder that has nothing else, and shows how far it is. Returns
    /// the package's file.
    pub fn download(&self, offer: &Offer, dir: &Path) -> Result<PathBuf> {
        fs::create_dir_all(dir).map_err(Error::file("create", dir))?;
        let package = &offer.package;
        let what = format!(
            "{package} {} ({})",
            offer.version,
            progress::bytes(offer.size)
        );
        let mut apt = self.command("apt-get", &["download", "-qq", package]);
        apt.current_dir(dir);
        match fetch(apt, dir, &what, offer.size)? {
            Ok(()) => only_file(dir, "deb"),
            Err((status, output)) => Err(Error::Failed {
                what: format!("fetching {package} with apt-get"),
                status,
                output,
            }),
        }
    }
}

/// How a program that failed has ended, and what it has complained of.
pub(super) type Failure = (ExitStatus, String);

/// Runs apt-get, which fetches `size` bytes into a folder, and shows how far it is.
pub(super) fn fetch(
    mut apt: Command,
    folder: &Path,
    what: &str,
    size: u64,
) -> Result<std::result::Result<(), Failure>> {
    let begun = size_of_files(folder);
    let mut task = Task::start("Fetching", what, Unit::Bytes, size);
    let mut apt = apt
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start {
            program: "apt-get".to_owned(),
            source,
        })?;
    let status = loop {
        if let Some(status) = apt.try_wait().map_err(Error::file("read", folder))? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(100));
        task.set(size_of_files(folder).saturating_sub(begun).min(size));
    };
    if status.success() {
        return Ok(Ok(()));
    }
    let mut output = String::new();
    if let Some(mut stderr) = apt.stderr.take() {
        let _ = stderr.read_to_string(&mut output);
    }
    Ok(Err((status, output)))
}

fn only_file(dir: &Path, extension: &str) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir)
        .map_err(Error::file("read", dir))?
        .flatten();
    entries
        .find(|e| e.path().extension().is_some_and(|x| x == extension))
        .map(|e| e.path())
        .ok_or_else(|| {
            Error::file("find the fetched package in", dir)(std::io::ErrorKind::NotFound.into())
        })
}

fn size_of_files(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.len())
        .sum()
}

pub(super) fn last_line(text: &str) -> &str {
    text.lines()
        .rfind(|l| !l.trim().is_empty())
        .unwrap_or("it failed")
}
