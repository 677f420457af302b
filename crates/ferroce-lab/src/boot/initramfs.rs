// SPDX-License-Identifier: MIT OR Apache-2.0
//! The first root of a kernel that has to load modules before it reaches the
//! host's files: this very program, the libraries that it is linked with, and
//! the modules (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{trailer, Builder, ModeFileType};
use ferroce_kmod::file::ModuleFile;
use object::read::elf::{FileHeader, ProgramHeader};
use object::Endianness;

use crate::error::{Error, Result};
use crate::guest;

/// This program, wherever its file is by now.
const PROGRAM: &str = "/proc/self/exe";

/// Writes one, with modules that are to be loaded in this order.
pub fn write(place: &Path, modules: &[PathBuf]) -> Result<()> {
    let mut files = vec![(PathBuf::from("/init"), read(Path::new(PROGRAM))?)];
    let program = &files[0].1;
    if let Some(interpreter) = interpreter(program) {
        let bytes = read(&interpreter)?;
        files.push((interpreter, bytes));
    }
    for library in libraries()? {
        let bytes = read(&library)?;
        files.push((by_soname(&library, &bytes), bytes));
    }
    for (number, path) in modules.iter().enumerate() {
        // The kernel may not know how to decompress it.
        let module = ModuleFile::read(path).map_err(|e| Error::Usage(e.to_string()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let place = format!("{}/{number:02}-{name}", guest::EARLY_MODULES);
        files.push((place.into(), module.bytes));
    }
    let wrap = |source| Error::file("write", place)(source);
    let file = fs::File::create(place).map_err(wrap)?;
    archive(BufWriter::new(file), &files).map_err(wrap)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::file("read", path))
}

/// The dynamic linker that a program asks for.
fn interpreter(program: &[u8]) -> Option<PathBuf> {
    let header = object::elf::FileHeader64::<Endianness>::parse(program).ok()?;
    let endian = header.endian().ok()?;
    let mut segments = header.program_headers(endian, program).ok()?.iter();
    let path = segments.find_map(|s| s.interpreter(endian, program).ok().flatten())?;
    Some(PathBuf::from(std::str::from_utf8(path).ok()?))
}

/// The shared libraries of this process, the dynamic linker among them.
fn libraries() -> Result<BTreeSet<PathBuf>> {
    let maps = "/proc/self/maps";
    let text = fs::read_to_string(maps).map_err(Error::file("read", maps))?;
    let program = fs::read_link(PROGRAM).map_err(Error::file("read", PROGRAM))?;
    // proc_pid_maps(5): the rights are the second field, and a path the sixth.
    let paths = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let executable = fields.nth(1)?.contains('x');
        let path = PathBuf::from(fields.nth(3)?);
        (executable && path.is_file() && path != program).then_some(path)
    });
    Ok(paths.collect())
}

/// Where the dynamic linker looks for a library, whose name may be that of a link to its file.
fn by_soname(path: &Path, bytes: &[u8]) -> PathBuf {
    let soname = || {
        let header = object::elf::FileHeader64::<Endianness>::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, bytes).ok()?;
        let table = sections.dynamic_table(endian, bytes).ok()?;
        let entry = table
            .iter()
            .find(|entry| entry.tag == object::elf::DT_SONAME)?;
        std::str::from_utf8(table.string(entry).ok()?).ok()
    };
    soname().map_or(path.to_owned(), |name| path.with_file_name(name))
}

fn archive(mut to: impl Write, files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    let mut number = 0;
    for (path, bytes) in files {
        let name = path.strip_prefix("/").unwrap_or(path);
        let above: Vec<&Path> = name.ancestors().skip(1).collect();
        for folder in above.into_iter().rev() {
            if folder != Path::new("") && folders.insert(folder) {
                number += 1;
                let entry = Builder::new(&folder.to_string_lossy()).ino(number);
                let entry = entry
                    .mode(0o755)
                    .set_mode_file_type(ModeFileType::Directory);
                to = entry.nlink(2).write(to, 0).finish()?;
            }
        }
        number += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let entry = Builder::new(&name.to_string_lossy()).ino(number);
        let entry = entry.mode(0o755).set_mode_file_type(ModeFileType::Regular);
        let mut file = entry.nlink(1).write(to, size);
        file.write_all(bytes)?;
        to = file.finish()?;
    }
    trailer(to)?.flush()
}
