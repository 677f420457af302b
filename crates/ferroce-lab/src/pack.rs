// SPDX-License-Identifier: MIT OR Apache-2.0
//! A lab in a file: a kernel with its modules and this program, for machines that have nothing to build
//! them with.
//!
//! The file is a `.tar.gz`, so that tar(1) gets the program out of it: [`PROGRAM`] comes first, then
//! `lab.json`, then the kernel and its modules.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use flate2::Compression;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::cache::{Cache, Found, Seal};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::modules::files_below;
use crate::progress::{Task, Unit};

/// The name of this program in the file.
pub const PROGRAM: &str = "ferroce";
/// What the file has, as JSON.
const RECORD: &str = "lab.json";
/// The kernel.
const KERNEL: &str = "kernel";
/// The folder that is to be /lib/modules/RELEASE.
const MODULES: &str = "modules";
/// The folder of the modules that an initramfs takes, each with its place in their order before its name.
const EARLY: &str = "early";

/// The folder of the cache with what was unpacked.
const PLACE: &str = "packed";
/// Changes with what an older program would not understand.
const FORMAT: u32 = 1;

/// What there is to know of an [`Image`], beside its files.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    /// The version of the program that has written it.
    version: String,
    name: String,
    backend: Backend,
    debug: bool,
    release: String,
    /// The names below [`EARLY`], in the order in which they are loaded.
    early: Option<Vec<String>>,
    stack: Vec<String>,
}

impl Record {
    /// The image, whose files are in a folder.
    fn image(self, folder: &Path) -> Image {
        let early = |names: Vec<String>| {
            let names = names.into_iter();
            names.map(|name| folder.join(EARLY).join(name)).collect()
        };
        Image {
            name: self.name,
            backend: self.backend,
            debug: self.debug,
            release: self.release,
            file: folder.join(KERNEL),
            early: self.early.map(early),
            modules: folder.join(MODULES),
            stack: self.stack,
        }
    }
}

/// Writes an image, and this program, into a file.
pub fn pack(image: &Image, output: &Path) -> Result<()> {
    let program = std::env::current_exe().map_err(Error::file("find", PROGRAM))?;
    let early: Option<Vec<(String, &PathBuf)>> = image.early.as_ref().map(|files| {
        let numbered = files.iter().enumerate();
        numbered
            .map(|(at, file)| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                (format!("{at:02}-{name}"), file)
            })
            .collect()
    });
    let record = Record {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: image.name.clone(),
        backend: image.backend,
        debug: image.debug,
        release: image.release.clone(),
        early: early
            .as_ref()
            .map(|files| files.iter().map(|(name, _)| name.clone()).collect()),
        stack: image.stack.clone(),
    };
    let record = serde_json::to_vec_pretty(&record).expect("plain data");

    let mut files = vec![(PathBuf::from(KERNEL), image.file.clone())];
    let early = early.into_iter().flatten();
    files.extend(early.map(|(name, file)| (Path::new(EARLY).join(name), file.clone())));
    files.extend(modules(&image.modules)?);

    let folder = match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let wrap = |source| Error::file("write", output)(source);
    let mut task = Task::start(
        "Packing",
        &format!("{image} into {}", output.display()),
        Unit::Steps,
        files.len() as u64,
    );
    let staged = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(wrap)?;
    let mut tar = tar::Builder::new(GzEncoder::new(staged, Compression::default()));
    tar.mode(tar::HeaderMode::Deterministic);
    tar.append_path_with_name(&program, PROGRAM).map_err(wrap)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(record.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, RECORD, &*record)
        .map_err(wrap)?;
    for (name, file) in files {
        tar.append_path_with_name(&file, &name)
            .map_err(Error::file("read", &file))?;
        task.step(&name.display().to_string());
    }
    let staged = tar.into_inner().and_then(GzEncoder::finish).map_err(wrap)?;
    staged.as_file().sync_all().map_err(wrap)?;
    staged.persist(output).map_err(|e| wrap(e.error))?;
    Ok(())
}

/// The files of a folder for /lib/modules/RELEASE, each with its name in the file that is packed. Links to
/// where the kernel was built are left out; others lead to the modules of a distribution's kernel.
fn modules(folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut files = Vec::new();
    let read = Error::file("read", folder);
    for entry in fs::read_dir(folder).map_err(read)?.flatten() {
        let name = Path::new(MODULES).join(entry.file_name());
        let is_builds = ["build", "source"]
            .iter()
            .any(|link| *link == entry.file_name());
        // What a link leads to.
        let Ok(place) = entry.path().canonicalize() else {
            continue;
        };
        match place.is_dir() {
            _ if is_builds => {}
            false => files.push((name, place)),
            true => {
                for file in files_below(&place)? {
                    let inner = file.strip_prefix(&place).unwrap_or(&file);
                    files.push((name.join(inner), file.clone()));
                }
            }
        }
    }
    Ok(files)
}

/// Puts what [`pack`] has written into the cache, in place of what was unpacked before for the same kind of
/// kernel.
pub fn unpack(cache: &Cache, input: &Path) -> Result<Image> {
    let file = File::open(input).map_err(Error::file("open", input))?;
    let _lock = cache.lock(PLACE, "unpacking a lab")?;
    let parent = cache.path(PLACE);
    fs::create_dir_all(&parent).map_err(Error::file("create", &parent))?;
    let staging = tempfile::Builder::new()
        .prefix("unpacking-")
        .tempdir_in(&parent)
        .map_err(Error::file("create a folder in", &parent))?;
    let record = read(file, staging.path()).map_err(Error::file("unpack", input))?;
    let wrong = |what: &str| Error::Usage(format!("{} is no lab: {what}", input.display()));
    let record = record.ok_or_else(|| wrong("it has no lab.json that this ferroce understands"))?;
    if !staging.path().join(KERNEL).is_file() || !staging.path().join(MODULES).is_dir() {
        return Err(wrong("it has no kernel, or no modules"));
    }
    let folder = parent.join(&record.name);
    let products = files_below(staging.path())?;
    let names = products
        .iter()
        .filter_map(|file| Some(file.strip_prefix(staging.path()).ok()?.to_owned()));
    Seal::write(staging.path(), names)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    fs::rename(staging.path(), &folder).map_err(Error::file("create", &folder))?;
    Ok(record.image(&folder))
}

/// Unpacks all but the program. `None` if it begins with something else than [`pack`] writes.
fn read(file: impl Read, folder: &Path) -> io::Result<Option<Record>> {
    let mut tar = tar::Archive::new(GzDecoder::new(file));
    let mut record = None;
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let is_file = entry.header().entry_type().is_file();
        match (name.to_str(), &record) {
            (Some(PROGRAM), None) => continue,
            (Some(RECORD), None) if is_file => {
                record = understand(&mut entry)?;
                if record.is_none() {
                    return Ok(None);
                }
                let text = serde_json::to_vec_pretty(&record)?;
                File::create(folder.join(RECORD))?.write_all(&text)?;
                continue;
            }
            (_, None) => return Ok(None),
            (_, Some(_)) => {}
        }
        let is_ours = [KERNEL, MODULES, EARLY]
            .iter()
            .any(|top| name.starts_with(top));
        let stays_inside = name.components().all(|c| matches!(c, Component::Normal(_)));
        if !is_file || !is_ours || !stays_inside {
            return Err(io::Error::other(format!(
                "it has {}, which no lab has",
                name.display()
            )));
        }
        let place = folder.join(name);
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        entry.unpack(place)?;
    }
    Ok(record)
}

/// The record, if it is of this format, and its names are such.
fn understand(entry: &mut impl Read) -> io::Result<Option<Record>> {
    /// More than any has.
    const LONGEST: u64 = 1 << 20;
    let mut text = Vec::new();
    entry.take(LONGEST).read_to_end(&mut text)?;
    let Ok(record) = serde_json::from_slice::<Record>(&text) else {
        return Ok(None);
    };
    let is_name = |name: &String| {
        let mut parts = Path::new(name).components();
        matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
    };
    let early = record.early.iter().flatten();
    let is_whole = [&record.name, &record.release]
        .into_iter()
        .chain(early)
        .all(is_name);
    Ok((record.format == FORMAT && is_whole).then_some(record))
}

/// What was unpacked of that name ("uml", "qemu-debug", "debian"), if it is whole.
pub fn find(cache: &Cache, name: &str) -> Option<Image> {
    let folder = cache.path(PLACE).join(name);
    let text = fs::read(folder.join(RECORD)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (Seal::check(&folder, |_| true) == Found::Whole).then(|| record.image(&folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these entries.
    fn archive(entries: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        for (name, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, *bytes).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn record(name: &str, format: u32) -> Vec<u8> {
        let record = Record {
            format,
            version: "0".to_owned(),
            name: name.to_owned(),
            backend: Backend::Uml,
            debug: false,
            release: "7.2.12".to_owned(),
            early: None,
            stack: Vec::new(),
        };
        serde_json::to_vec(&record).unwrap()
    }

    fn unpacked(entries: &[(&str, &[u8])]) -> std::result::Result<Image, String> {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let result = unpack(&cache, archive(entries).path());
        if result.is_err() {
            let left = fs::read_dir(cache.path(PLACE)).unwrap().count();
            assert_eq!(left, 0, "something is left of what was refused");
        }
        result.map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_lab_is_refused_and_leaves_nothing() {
        let good = record("uml", FORMAT);
        let kernel = ("kernel", &b"k"[..]);
        let module = ("modules/a.ko", &b"m"[..]);
        for (entries, why) in [
            (vec![kernel, module], "has no lab.json"),
            (
                vec![("lab.json", &b"{}"[..]), kernel, module],
                "has no lab.json",
            ),
            (
                vec![("lab.json", &*record("uml", 2)), kernel, module],
                "has no lab.json",
            ),
            (
                vec![("lab.json", &*record("../x", 1)), kernel, module],
                "has no lab.json",
            ),
            (
                vec![("lab.json", &*good), kernel],
                "no kernel, or no modules",
            ),
            (
                vec![("lab.json", &*good), ("etc/passwd", b"")],
                "which no lab has",
            ),
            (
                vec![("lab.json", &*good), kernel, ("modules/../../x", b"")],
                "which no lab has",
            ),
        ] {
            let error = unpacked(&entries).unwrap_err();
            assert!(error.contains(why), "{error}, not: {why}");
        }
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(&Cache::at(dir.path()), Path::new("/etc/passwd")).unwrap_err();
        assert!(
            error.to_string().contains("cannot unpack /etc/passwd"),
            "{error}"
        );
    }

    #[test]
    fn what_was_unpacked_is_found_until_it_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let text = record("uml", FORMAT);
        let entries = [
            ("ferroce", &b"program"[..]),
            ("lab.json", &*text),
            ("kernel", b"k"),
            ("modules/a.ko", b"m"),
        ];
        assert!(find(&cache, "uml").is_none());
        // The second time in place of the first.
        for _ in 0..2 {
            let image = unpack(&cache, archive(&entries).path()).unwrap();
            assert_eq!(fs::read(&image.file).unwrap(), b"k");
        }
        let image = find(&cache, "uml").unwrap();
        assert_eq!((&*image.name, &*image.release), ("uml", "7.2.12"));
        assert!(find(&cache, "qemu").is_none());
        fs::write(image.modules.join("a.ko"), "x").unwrap();
        assert!(find(&cache, "uml").is_none());
    }
}
