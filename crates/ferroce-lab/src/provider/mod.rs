// SPDX-License-Identifier: MIT OR Apache-2.0
//! The plug-in by which libibverbs knows ferroce's devices, for the libibverbs
//! that is installed, and put where that one looks.

mod libibverbs;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::progress::note;
pub use libibverbs::Libibverbs;

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
}

const ABIS: [Abi; 5] = [
    Abi {
        number: 34,
        releases: "36 to 56",
    },
    Abi {
        number: 57,
        releases: "57 and 58",
    },
    Abi {
        number: 59,
        releases: "59 to 63",
    },
    Abi {
        number: 64,
        releases: "64",
    },
    Abi {
        number: 65,
        releases: "65",
    },
];

impl Abi {
    fn check(libibverbs: &Libibverbs) -> Result<()> {
        if ABIS.iter().any(|abi| abi.number == libibverbs.abi) {
            return Ok(());
        }
        let known: Vec<String> = ABIS
            .iter()
            .map(|abi| format!("{} (rdma-core {})", abi.number, abi.releases))
            .collect();
        Err(Error::Usage(format!(
            "{} has the private interface {}, for which ferroce has no plug-in: the \
                     interface changes with some of rdma-core's releases. ferroce has plug-ins \
                     for {}. Install one of these releases of rdma-core, or a ferroce that knows \
                     {}",
            libibverbs.file.display(),
            libibverbs.abi,
            known.join(", "),
            libibverbs.abi,
        )))
    }
}

impl Libibverbs {
    /// Itself, if there is a plug-in for its private interface.
    pub fn known(&self) -> Result<&Self> {
        Abi::check(self).map(|()| self)
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

    /// The plug-in for the guests, whose libibverbs is this machine's: `find` has
    /// it for a private interface that is known.
    ///
    /// `None` if there is none, or one of another private interface, which is
    /// said: a guest is of use without.
    pub fn for_guests<E>(
        find: impl FnOnce(&Libibverbs) -> std::result::Result<Self, E>,
    ) -> std::result::Result<Option<Self>, E> {
        let found = Libibverbs::find().and_then(|found| {
            found.as_ref().map(Libibverbs::known).transpose()?;
            Ok(found)
        });
        match found {
            Ok(found) => found.as_ref().map(find).transpose(),
            Err(error) => {
                note("Without", &format!("a plug-in for libibverbs: {error}"));
                Ok(None)
            }
        }
    }

    /// A plug-in that was built before.
    pub fn given(library: &Path, libibverbs: &Libibverbs) -> Result<Self> {
        libibverbs.known()?;
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
    // libibverbs' own folders are among the usual ones.
    files.sort();
    files.dedup();
    for file in files {
        if is_left(&file) {
            continue;
        }
        match fs::remove_file(&file) {
            Ok(()) => tell(&file),
            // Or a folder was looked through twice, by two names.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::file("remove", file)(e)),
        }
    }
    Ok(())
}

/// The package of Debian's that a file belongs to, if there is one.
pub fn package_of(file: &Path) -> Option<String> {
    if !file.exists() {
        return None;
    }
    // Where there is no dpkg-query, there are no such packages.
    let mut query = Command::new("dpkg-query");
    let query = query.arg("--search").arg(file).env("LC_ALL", "C").output();
    let query = query.ok().filter(|query| query.status.success())?;
    let text = String::from_utf8_lossy(&query.stdout).into_owned();
    let (package, _) = text.split_once(": ")?;
    Some(package.to_owned())
}

/// Whether a file belongs to a package of Debian's, which then is what removes it. Says so.
pub fn is_left(file: &Path) -> bool {
    let Some(package) = package_of(file) else {
        return false;
    };
    let what = format!("{}: apt-get remove {package} does that", file.display());
    note("Left", &what);
    true
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
pub fn write(place: &Path, contents: &[u8]) -> Result<()> {
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
