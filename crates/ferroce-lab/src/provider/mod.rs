// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plug-in by which libibverbs knows ferroce's devices: built once for the
//! libibverbs that is installed, and put where that one looks.

mod libibverbs;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::cache::{hex, Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::modules::files_below;
use crate::progress::note;
pub use libibverbs::Libibverbs;

/// What cargo calls the plug-in, and the package that it is in.
const LIBRARY: &str = "libferroce_provider.so";
const PACKAGE: &str = "ferroce-provider";
/// How it is built.
const PROFILE: &str = "plugin";

/// The file that tells libibverbs to load the plug-in.
const DRIVER: &str = "ferroce.driver";
const DRIVER_TEXT: &str = include_str!("../../../ferroce-provider/ferroce.driver");

/// Where libibverbs has its plug-ins in the distributions that are known.
const FOLDERS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/libibverbs",
    "/usr/lib64/libibverbs",
    "/usr/lib/libibverbs",
];
const SETTINGS: &str = "/etc/libibverbs.d";

/// A private interface of libibverbs' that the plug-in can be built for.
struct Abi {
    number: u32,
    /// The releases of rdma-core that have it.
    releases: &'static str,
    /// The feature of the plug-in's crate that stands for it.
    feature: &'static str,
}

const ABIS: [Abi; 5] = [
    Abi {
        number: 34,
        releases: "36 to 56",
        feature: "",
    },
    Abi {
        number: 57,
        releases: "57 and 58",
        feature: "abi57",
    },
    Abi {
        number: 59,
        releases: "59 to 63",
        feature: "abi59",
    },
    Abi {
        number: 64,
        releases: "64",
        feature: "abi64",
    },
    Abi {
        number: 65,
        releases: "65",
        feature: "abi65",
    },
];

impl Abi {
    fn of(libibverbs: &Libibverbs) -> Result<&'static Self> {
        ABIS.iter()
            .find(|abi| abi.number == libibverbs.abi)
            .ok_or_else(|| {
                let known: Vec<String> = ABIS
                    .iter()
                    .map(|abi| format!("{} (rdma-core {})", abi.number, abi.releases))
                    .collect();
                Error::Usage(format!(
                    "{} has the private interface {}, for which ferroce has no plug-in: the \
                     interface changes with some of rdma-core's releases. ferroce has plug-ins \
                     for {}. Install one of these releases of rdma-core, or a ferroce that knows \
                     {}",
                    libibverbs.file.display(),
                    libibverbs.abi,
                    known.join(", "),
                    libibverbs.abi,
                ))
            })
    }
}

impl Libibverbs {
    /// Whether there is a plug-in for its private interface.
    pub fn check(&self) -> Result<()> {
        Abi::of(self).map(|_| ())
    }
}

/// The plug-in, and where it belongs.
#[derive(Debug, Clone)]
pub struct Provider {
    /// The shared object.
    pub library: PathBuf,
    /// The path at which libibverbs looks for it.
    pub place: PathBuf,
    /// The path of the file that names it.
    pub driver: PathBuf,
}

impl Provider {
    fn new(library: PathBuf, libibverbs: &Libibverbs) -> Self {
        Self {
            library,
            place: libibverbs
                .plugins
                .join(format!("libferroce-rdmav{}.so", libibverbs.abi)),
            driver: libibverbs.settings.join(DRIVER),
        }
    }

    /// The plug-in for the guests, whose libibverbs is this machine's.
    ///
    /// `None` if there is none, or one of another private interface, which is
    /// said: a guest is of use without.
    pub fn for_guests(cache: &Cache, workspace: &Path) -> Result<Option<Self>> {
        let found = Libibverbs::find().and_then(|found| {
            found.as_ref().map(Abi::of).transpose()?;
            Ok(found)
        });
        match found {
            Ok(Some(libibverbs)) => Self::ensure(cache, workspace, &libibverbs).map(Some),
            Ok(None) => Ok(None),
            Err(error) => {
                note("Without", &format!("a plug-in for libibverbs: {error}"));
                Ok(None)
            }
        }
    }

    /// A plug-in that was built before.
    pub fn given(library: &Path, libibverbs: &Libibverbs) -> Result<Self> {
        Abi::of(libibverbs)?;
        let bytes = fs::read(library).map_err(Error::file("read", library))?;
        let name = format!("{}{}\0", libibverbs::REGISTER, libibverbs.abi);
        let fits =
            libibverbs::is_ours(&bytes) && bytes.windows(name.len()).any(|w| w == name.as_bytes());
        if !fits {
            return Err(Error::Usage(format!(
                "{} is no plug-in for libibverbs' private interface {}",
                library.display(),
                libibverbs.abi
            )));
        }
        Ok(Self::new(library.to_owned(), libibverbs))
    }

    /// Finds the plug-in for a libibverbs in the cache, or builds it.
    ///
    /// `workspace` is the folder with the crates.
    pub fn ensure(cache: &Cache, workspace: &Path, libibverbs: &Libibverbs) -> Result<Self> {
        let abi = Abi::of(libibverbs)?;
        let all = cache.path("provider");
        let dir = all.join(&sources_key(workspace, abi)?[..12]);
        let found = Self::new(dir.join(LIBRARY), libibverbs);
        if Seal::check(&dir, |_| true) == Found::Whole {
            return Ok(found);
        }
        let _lock = cache.lock("provider", "building the plug-in for libibverbs")?;
        if Seal::check(&dir, |_| true) == Found::Whole {
            return Ok(found);
        }
        note("Building", "the plug-in for libibverbs");
        let built = build(workspace, &all.join(target_of(workspace)), abi)?;
        fs::create_dir_all(&dir).map_err(Error::file("create", &dir))?;
        fs::copy(built, &found.library).map_err(Error::file("create", &found.library))?;
        Seal::write(&dir, [PathBuf::from(LIBRARY)])?;
        Ok(found)
    }

    /// Installs it, below a folder that stands for the root, and tells of each
    /// file.
    ///
    /// The file that names the plug-in comes last: libibverbs warns of one that
    /// it does not find.
    pub fn install(&self, root: &Path, mut tell: impl FnMut(&Path)) -> Result<()> {
        let library = fs::read(&self.library).map_err(Error::file("read", &self.library))?;
        for (place, contents) in [
            (&self.place, library.as_slice()),
            (&self.driver, DRIVER_TEXT.as_bytes()),
        ] {
            let place = below(root, place);
            write(&place, contents)?;
            tell(&place);
        }
        Ok(())
    }
}

/// Removes what [`Provider::install`] made, of any private interface, and
/// tells of each file.
///
/// It works without a libibverbs too: that may have been removed since.
pub fn remove(
    root: &Path,
    libibverbs: Option<&Libibverbs>,
    mut tell: impl FnMut(&Path),
) -> Result<()> {
    let mut settings = vec![PathBuf::from(SETTINGS)];
    settings.extend(libibverbs.map(|l| l.settings.clone()));
    let mut folders: Vec<PathBuf> = FOLDERS.map(PathBuf::from).to_vec();
    folders.extend(libibverbs.map(|l| l.plugins.clone()));

    let mut files: Vec<PathBuf> = settings
        .iter()
        .map(|dir| below(root, dir).join(DRIVER))
        .collect();
    for folder in folders {
        let Ok(entries) = fs::read_dir(below(root, &folder)) else {
            continue;
        };
        files.extend(entries.flatten().map(|e| e.path()).filter(|p| is_plugin(p)));
    }
    for file in files {
        match fs::remove_file(&file) {
            Ok(()) => tell(&file),
            // Or a folder was looked through twice, by two names.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file("remove", file)(e)),
        }
    }
    Ok(())
}

fn is_plugin(path: &Path) -> bool {
    path.file_name()
        .and_then(|n| n.to_str()?.strip_prefix("libferroce-rdmav"))
        .and_then(|n| n.strip_suffix(".so"))
        .is_some_and(|n| n.parse::<u32>().is_ok())
}

/// An absolute path, in a folder that stands for the root.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Writes a file so that at any time the old one or the new one is there.
fn write(place: &Path, contents: &[u8]) -> Result<()> {
    let wrap = |source| Error::file("write", place)(source);
    let folder = place.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(Error::file("create", folder))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrap)?;
    file.write_all(contents).map_err(wrap)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))
        .map_err(wrap)?;
    file.as_file().sync_all().map_err(wrap)?;
    file.persist(place).map_err(|e| wrap(e.error))?;
    Ok(())
}

/// Tells one state of the sources from another.
fn sources_key(workspace: &Path, abi: &Abi) -> Result<String> {
    let mut files = vec![workspace.join("Cargo.lock"), workspace.join("Cargo.toml")];
    for package in [PACKAGE, "ferroce-core"] {
        files.extend(files_below(&workspace.join("crates").join(package))?);
    }
    files.sort();
    let mut hasher = Sha256::new();
    hasher.update(abi.number.to_le_bytes());
    for file in &files {
        let text = fs::read(file).map_err(Error::file("read", file))?;
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    Ok(hex(&hasher.finalize()))
}

/// The folder that cargo builds it in: one for each checkout. In a folder of two, cargo takes what the other
/// has built last for what this one has, as the library's name tells nothing of where it is from.
fn target_of(workspace: &Path) -> String {
    let hash = Sha256::digest(workspace.as_os_str().as_encoded_bytes());
    format!("target-{}", &hex(&hash)[..12])
}

/// Has cargo build it, and returns where it is.
fn build(workspace: &Path, target: &Path, abi: &Abi) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "--quiet", "--locked", "--profile", PROFILE])
        .args(["--package", PACKAGE])
        .arg("--features")
        .arg(abi.feature)
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .stdin(Stdio::null());
    let output = cargo.output().map_err(|source| Error::Start {
        program: "cargo".to_owned(),
        source,
    })?;
    if !output.status.success() {
        return Err(Error::Failed {
            what: format!(
                "building {}",
                workspace.join("crates").join(PACKAGE).display()
            ),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(target.join(PROFILE).join(LIBRARY))
}
