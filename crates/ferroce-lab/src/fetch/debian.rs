// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debian's package of the kernel's source, fetched by apt itself: its mirrors,
//! proxies, keys and checks are the machine's own. A private state folder keeps
//! the machine's package lists as they are.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{unpack, Source, SERIES};
use crate::error::{Error, Result};
use crate::prerequisites::find_program;
use crate::progress::{self, Task, Unit};

/// The suites that carry new kernels, the most settled first.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

/// Fetches and unpacks the newest supported source on offer; `None`, with the
/// reasons added to `tried`, where there is none.
pub fn fetch(dir: &Path, tried: &mut Vec<String>) -> Result<Option<Source>> {
    let Some((mirror, keyring)) = mirror() else {
        tried.push("apt: this machine has no Debian mirror configured".to_owned());
        return Ok(None);
    };
    for suite in SUITES {
        let apt = Apt::new(&dir.join(format!("apt-{suite}")), &mirror, &keyring, suite)?;
        progress::note("Looking", &format!("for a kernel source in Debian {suite}"));
        if let Err(e) = apt.output("apt-get", &["update", "-qq", "--error-on=any"]) {
            tried.push(format!("apt, {suite}: {}", last_line(&e)));
            continue;
        }
        for series in SERIES {
            let package = format!("linux-source-{series}");
            let Some(offer) = apt.offer(&package) else {
                continue;
            };
            return apt.fetch(&package, &offer, suite, dir).map(Some);
        }
        tried.push(format!(
            "apt, {suite}: no package linux-source-{}",
            SERIES.join(" or -")
        ));
    }
    Ok(None)
}

/// The machine's own Debian mirror, and the keyring that it trusts it with.
fn mirror() -> Option<(String, String)> {
    find_program("apt-get")?;
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
        let keyrings = [signed_by, "/usr/share/keyrings/debian-archive-keyring.gpg"];
        let keyring = keyrings.into_iter().find(|k| Path::new(k).is_file())?;
        Some((uri.to_owned(), keyring.to_owned()))
    })
}

struct Apt {
    config: PathBuf,
}

struct Offer {
    version: String,
    size: u64,
}

impl Apt {
    fn new(root: &Path, mirror: &str, keyring: &str, suite: &str) -> Result<Self> {
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
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"
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

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("APT_CONFIG", &self.config)
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        command
    }

    fn output(&self, program: &str, args: &[&str]) -> Result<String, String> {
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

    fn offer(&self, package: &str) -> Option<Offer> {
        let text = self
            .output("apt-cache", &["show", "--no-all-versions", package])
            .ok()?;
        let field = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
        };
        Some(Offer {
            version: field("Version")?.to_owned(),
            size: field("Size")?.parse().ok()?,
        })
    }

    fn fetch(&self, package: &str, offer: &Offer, suite: &str, dir: &Path) -> Result<Source> {
        let download = dir.join("download");
        fs::create_dir_all(&download).map_err(Error::file("create", &download))?;
        self.download(package, offer, &download)?;
        let deb = only_file(&download, "deb")?;

        let tree = dir.join("tree");
        fs::create_dir_all(&tree).map_err(Error::file("create", &tree))?;
        let mut dpkg = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&deb)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start {
                program: "dpkg-deb".to_owned(),
                source,
            })?;
        let name = format!("Linux {}", offer.version);
        let unpacked = unpack_inner(dpkg.stdout.take().expect("piped"), &deb, &tree, &name);
        // A failed unpacking closes the pipe: dpkg-deb's own complaint about
        // that is of no interest.
        let status = dpkg.wait().map_err(|source| Error::Start {
            program: "dpkg-deb".to_owned(),
            source,
        })?;
        unpacked?;
        if !status.success() {
            let what = format!("unpacking {}", deb.display());
            return Err(Error::Failed {
                what,
                status,
                output: String::new(),
            });
        }
        Ok(Source {
            version: offer.version.clone(),
            origin: format!("Debian's package {package}, suite {suite}"),
            dir: tree,
        })
    }

    /// Has apt fetch the package, and shows how far it is.
    fn download(&self, package: &str, offer: &Offer, dir: &Path) -> Result<()> {
        let what = format!(
            "{package} {} ({})",
            offer.version,
            progress::bytes(offer.size)
        );
        let mut task = Task::start("Fetching", &what, Unit::Bytes, offer.size);
        let mut apt = self
            .command("apt-get", &["download", "-qq", package])
            .current_dir(dir)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start {
                program: "apt-get".to_owned(),
                source,
            })?;
        let status = loop {
            if let Some(status) = apt.try_wait().map_err(Error::file("read", dir))? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(100));
            task.set(size_of_files(dir).min(offer.size));
        };
        if status.success() {
            return Ok(());
        }
        let mut output = String::new();
        if let Some(mut stderr) = apt.stderr.take() {
            let _ = stderr.read_to_string(&mut output);
        }
        Err(Error::Failed {
            what: format!("fetching {package} with apt-get"),
            status,
            output,
        })
    }
}

/// Finds the archive within the package's files, and unpacks it.
fn unpack_inner(files: impl Read, deb: &Path, tree: &Path, name: &str) -> Result<()> {
    let mut tar = tar::Archive::new(files);
    let wrap = Error::file("unpack", deb);
    let entries = match tar.entries() {
        Ok(entries) => entries,
        Err(e) => return Err(wrap(e)),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => return Err(wrap(e)),
        };
        if entry
            .path()
            .is_ok_and(|p| p.to_string_lossy().ends_with(".tar.xz"))
        {
            let size = entry.size();
            return unpack(entry, size, tree, name);
        }
    }
    Err(wrap(std::io::Error::other("it holds no .tar.xz")))
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

fn last_line(text: &str) -> &str {
    text.lines()
        .rfind(|l| !l.trim().is_empty())
        .unwrap_or("it failed")
}
