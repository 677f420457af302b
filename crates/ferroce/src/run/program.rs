// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program to run, as far as it can be told beforehand that it will not see the devices.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, IoSlice};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use ferroce_lab::provider::Libibverbs;
use nix::sys::uio::{process_vm_writev, RemoteIoVec};
use nix::unistd::Pid;
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, ReadCache, ReadRef};
use rustix::fs::MemfdFlags;
use rustix::thread::CapabilitySet;

/// The way that a script names its interpreter has this much of the file (Linux: `BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;
/// How many interpreters of interpreters are looked at, as the kernel does.
const DEPTH: usize = 4;

/// A program.
#[derive(Debug)]
pub struct Program {
    file: PathBuf,
}

impl Program {
    /// Looks it up as `execvp` does.
    pub fn find(name: &OsStr) -> io::Result<Self> {
        if name.as_bytes().contains(&b'/') {
            let file = PathBuf::from(name);
            return executable(&file).map(|()| Self { file });
        }
        let mut error = io::Error::from(ErrorKind::NotFound);
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
        for folder in std::env::split_paths(&path) {
            let file = folder.join(name);
            match executable(&file) {
                Ok(()) => return Ok(Self { file }),
                Err(e) if e.kind() == ErrorKind::PermissionDenied => error = e,
                Err(_) => {}
            }
        }
        Err(error)
    }

    /// Why it will not see the devices, or not be able to open them: each reason with what to do.
    pub fn obstacles(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        // One that cannot be read says nothing about itself.
        let file = interpreter_of_script(&self.file).unwrap_or_else(|| self.file.clone());
        let shown = file.display();
        if has_other_rights(&file) {
            reasons.push(format!(
                "{shown} will see no devices: it runs with rights that its caller does not have (setuid, \
                 setgid or file capabilities), and such programs load nothing that their caller \
                 chooses. Run a copy of it: the copy has the caller's rights"
            ));
        }
        match Image::read(&file) {
            Ok(Image::Static) => reasons.push(format!(
                "{shown} will see no devices: it is statically linked, so that nothing can answer for \
                 its libc. Link it dynamically"
            )),
            Ok(Image::Interpreted { interpreter, .. }) if interpreter.contains("musl") => {
                reasons.push(format!(
                    "{shown} will see no devices: it is linked to musl ({interpreter}), and ferroce's \
                     libraries are for glibc. Use one that was built for glibc"
                ));
            }
            Ok(Image::Interpreted { needed, .. }) => {
                if needed.iter().any(|library| is_of_verbs(library)) {
                    reasons.extend(obstacles_in_libibverbs());
                }
            }
            Ok(Image::Other) | Err(_) => {}
        }
        reasons.extend(obstacle_in_memory());
        reasons
    }
}

/// Whether a file can be executed by this process.
fn executable(file: &Path) -> io::Result<()> {
    let found = fs::metadata(file)?;
    if found.is_dir() {
        return Err(io::Error::from(ErrorKind::IsADirectory));
    }
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK)?;
    Ok(())
}

/// The program that reads a script, and the one that reads that.
fn interpreter_of_script(file: &Path) -> Option<PathBuf> {
    let mut found = None;
    let mut file = file.to_owned();
    for _ in 0..DEPTH {
        let mut line = Vec::new();
        let script = io::Read::take(File::open(&file).ok()?, FIRST_LINE);
        BufReader::new(script).read_until(b'\n', &mut line).ok()?;
        let Some(line) = line.strip_prefix(b"#!") else {
            break;
        };
        let mut words = line
            .split(u8::is_ascii_whitespace)
            .filter(|word| !word.is_empty());
        let interpreter = Path::new(OsStr::from_bytes(words.next()?));
        file = match words.next() {
            // `#!/usr/bin/env python3`
            Some(name) if interpreter.ends_with("env") => {
                Program::find(OsStr::from_bytes(name)).ok()?.file
            }
            _ => interpreter.to_owned(),
        };
        found = Some(file.clone());
    }
    found
}

/// Whether the dynamic linker ignores the caller's environment (`AT_SECURE`).
fn has_other_rights(file: &Path) -> bool {
    let Ok(found) = fs::metadata(file) else {
        return false;
    };
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let setuid = found.mode() & 0o4000 != 0 && found.uid() != user;
    let setgid = found.mode() & 0o2010 == 0o2010 && found.gid() != group;
    let mut capabilities = [0_u8; 64];
    let capable = user != 0
        && rustix::fs::getxattr(file, "security.capability", &mut capabilities[..]).is_ok();
    setuid || setgid || capable
}

/// What a file is to the kernel.
#[derive(Debug, PartialEq, Eq)]
enum Image {
    /// A program without a dynamic linker.
    Static,
    /// A program with one.
    Interpreted {
        interpreter: String,
        /// The libraries that it is linked to.
        needed: Vec<String>,
    },
    /// Something else: another architecture's, or no ELF file.
    Other,
}

impl Image {
    fn read(file: &Path) -> io::Result<Self> {
        let cache = ReadCache::new(File::open(file)?);
        Ok(Self::parse(&cache).unwrap_or(Self::Other))
    }

    fn parse<'data>(data: impl ReadRef<'data>) -> Option<Self> {
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
            return None;
        }
        let segments = header.program_headers(endian, data).ok()?;
        let mut interpreter = None;
        let mut needed = Vec::new();
        for segment in segments {
            if let Ok(Some(path)) = segment.interpreter(endian, data) {
                interpreter = Some(String::from_utf8_lossy(path).into_owned());
            }
            if let Ok(Some(entries)) = segment.dynamic(endian, data) {
                needed = libraries(endian, data, segments, entries).unwrap_or_default();
            }
        }
        Some(match interpreter {
            Some(interpreter) => Self::Interpreted {
                interpreter,
                needed,
            },
            // The dynamic linker itself, called as a program, has none either.
            None if !needed.is_empty() => Self::Other,
            None => Self::Static,
        })
    }
}

/// The names of the libraries in a dynamic section.
fn libraries<'data>(
    endian: Endianness,
    data: impl ReadRef<'data>,
    segments: &[elf::ProgramHeader64<Endianness>],
    entries: &[elf::Dyn64<Endianness>],
) -> Option<Vec<String>> {
    let value = |tag: elf::DynamicTag| {
        let mut equal = entries.iter().filter(|entry| entry.d_tag(endian) == tag);
        equal.next().map(|entry| entry.d_val(endian))
    };
    let (address, size) = (value(elf::DT_STRTAB)?, value(elf::DT_STRSZ)?);
    let strings = segments
        .iter()
        .find_map(|segment| segment.data_range(endian, data, address, size).ok()?)?;
    let needed = entries
        .iter()
        .filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED);
    let names = needed.filter_map(|entry| {
        let start = usize::try_from(entry.d_val(endian)).ok()?;
        let name = strings.get(start..)?.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(name).into_owned())
    });
    Some(names.collect())
}

/// Whether a library is rdma-core's.
fn is_of_verbs(library: &str) -> bool {
    library.starts_with("libibverbs.so") || library.starts_with("librdmacm.so")
}

/// What a program that is linked to libibverbs will not find.
fn obstacles_in_libibverbs() -> Option<String> {
    match Libibverbs::find() {
        Ok(Some(libibverbs)) => libibverbs.known().err().map(|error| error.to_string()),
        Ok(None) => Some(
            "this machine has no libibverbs, to which the program is linked: install it (on Debian and \
             Ubuntu: apt-get install libibverbs1; on Fedora and its relatives: dnf install libibverbs)"
                .to_owned(),
        ),
        // Without ldconfig, say: the program may find it all the same.
        Err(_) => None,
    }
}

/// What keeps programs from sharing memory, or from reaching each other's the short way.
fn obstacle_in_memory() -> Option<String> {
    if let Err(error) = rustix::fs::memfd_create("ferroce", MemfdFlags::CLOEXEC) {
        return Some(format!(
            "programs will not be able to open the devices: memfd_create, by which they share memory, is \
             refused here: {error}. Have the container's seccomp profile allow it, as Docker's own does"
        ));
    }
    let Err(error) = write_to_itself() else {
        return obstacle_in_yama();
    };
    // The other way: the descriptor that each process passes.
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem");
    let (what, other) = match memory {
        Ok(_) => (
            "programs reach each other's memory by a slower way",
            String::new(),
        ),
        Err(error) => (
            "programs will not reach each other's memory",
            format!(", and /proc/self/mem cannot be opened: {error}"),
        ),
    };
    Some(format!(
        "{what}: process_vm_writev is refused here: {error}{other}. Have the container's seccomp profile \
         allow process_vm_readv and process_vm_writev, as Docker's own does"
    ))
}

/// Writes to memory of this process as to a peer's. (Yama lets a process do that to itself.)
fn write_to_itself() -> io::Result<()> {
    let target = AtomicU64::new(0);
    let remote = RemoteIoVec {
        base: target.as_ptr().addr(),
        len: size_of::<u64>(),
    };
    let bytes = 1_u64.to_ne_bytes();
    process_vm_writev(Pid::this(), &[IoSlice::new(&bytes)], &[remote])?;
    Ok(())
}

/// Where the kernel keeps processes of one user from reaching each other's memory.
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Yama's scope, if the kernel has that.
pub fn yama() -> Option<u32> {
    fs::read_to_string(YAMA).ok()?.trim().parse().ok()
}

fn obstacle_in_yama() -> Option<String> {
    let scope = yama().filter(|scope| *scope >= 2)?;
    // At 2 those may that have the right to trace all processes.
    let own = rustix::thread::capabilities(None).ok()?.effective;
    if scope == 2 && own.contains(CapabilitySet::SYS_PTRACE) {
        return None;
    }
    Some(format!(
        "programs reach each other's memory by a slower way: {YAMA} is {scope}, by which the kernel \
         refuses process_vm_writev. As root: sysctl kernel.yama.ptrace_scope=1 (after 3 it takes a \
         restart of the machine)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let file = dir.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    #[test]
    fn programs_are_found_as_execvp_does() {
        assert!(Program::find("sh".as_ref()).unwrap().file.ends_with("sh"));
        assert!(Program::find("/bin/sh".as_ref()).is_ok());
        let kind = |name: &str| Program::find(name.as_ref()).unwrap_err().kind();
        assert_eq!(kind("no-such-program-anywhere"), ErrorKind::NotFound);
        assert_eq!(kind("/"), ErrorKind::IsADirectory);
        assert_eq!(kind("/etc/passwd"), ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_script_is_what_its_interpreter_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = script(dir.path(), "first", "#! /bin/sh -e\nexit 1\n");
        assert_eq!(interpreter_of_script(&first), Some("/bin/sh".into()));
        let second = script(dir.path(), "second", &format!("#!{}\n", first.display()));
        assert_eq!(interpreter_of_script(&second), Some("/bin/sh".into()));
        let env = script(dir.path(), "env-script", "#!/usr/bin/env sh\n");
        assert!(interpreter_of_script(&env).unwrap().ends_with("sh"));
        let itself = dir.path().join("itself");
        script(dir.path(), "itself", &format!("#!{}\n", itself.display()));
        assert_eq!(interpreter_of_script(&itself), Some(itself));
        assert_eq!(interpreter_of_script(Path::new("/bin/sh")), None);
    }

    #[test]
    fn a_program_names_its_libraries() {
        let Image::Interpreted {
            interpreter,
            needed,
        } = Image::read(&std::env::current_exe().unwrap()).unwrap()
        else {
            panic!("the tests are dynamically linked");
        };
        assert!(interpreter.contains("ld-linux"), "{interpreter}");
        assert!(
            needed.iter().any(|name| name.starts_with("libc.so")),
            "{needed:?}"
        );
        assert_eq!(Image::read(Path::new("/etc/passwd")).unwrap(), Image::Other);
    }
}
